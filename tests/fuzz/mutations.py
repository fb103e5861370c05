"""Strategies that damage good inputs: bytes, and the values in JSON."""

import copy
import json
import math
import re

from hypothesis import strategies as st

DEEP = "[" * 3000
TOKENS = [
    *(b"\x00", b"\n", b"\r\n", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x1b]0;x\x07"),
    *("\u2028".encode(), "\u202e".encode(), b"\x9b1m", b"\\ud800", b"\\udfff\\ud800", b"\\", b'"'),
    *(b"[", b"]", b"{", b"}", b",", b":", b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-0"),
    *(b"9" * 400, b"9" * 5000, b"0.1", b"18446744073709551616", b"-9223372036854775809"),
    *(DEEP.encode(), b'{"a":' * 3000, b"\xff\xfe", b"PAR1", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"),
    *(b'{"text": "a"}', b'{"text": "a"}\n', b'{"text": 1, "text": "b"}', b"x" * 5000),
]
"""What parsers trip over."""


@st.composite
def damaged(draw, seeds, most=4):
    """Bytes made of one of the seeds (a list of bytes, or a strategy of bytes) by one to `most` mutations."""
    data = draw(seeds if isinstance(seeds, st.SearchStrategy) else st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, most))):
        mutate = draw(st.sampled_from(MUTATIONS))
        data = mutate(draw, data)
    return data


def _place(draw, data):
    return draw(st.integers(0, len(data)))


def _slice(draw, data):
    a, length = _place(draw, data), draw(st.integers(0, 64))
    return a, min(len(data), a + length)


def flip(draw, data):
    """One bit is another."""
    if not data:
        return data
    at = draw(st.integers(0, len(data) - 1))
    return data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]


def overwrite(draw, data):
    """A few bytes are others."""
    a, b = _slice(draw, data)
    return data[:a] + draw(st.binary(min_size=b - a, max_size=b - a)) + data[b:]


def truncate(draw, data):
    """The end is missing."""
    return data[: _place(draw, data)]


def remove(draw, data):
    """A piece is missing."""
    a, b = _slice(draw, data)
    return data[:a] + data[b:]


def repeat(draw, data):
    """A piece comes up to 200 times."""
    a, b = _slice(draw, data)
    return data[:a] + data[a:b] * draw(st.sampled_from([2, 3, 200])) + data[b:]


def double(_, data):
    """Everything comes twice."""
    return data + data


def swap(draw, data):
    """The two parts change places."""
    at = _place(draw, data)
    return data[at:] + data[:at]


def insert(draw, data):
    """Something that parsers trip over is put in."""
    at = _place(draw, data)
    return data[:at] + draw(st.sampled_from(TOKENS)) + data[at:]


def replace_number(draw, data):
    """A number is another value."""
    numbers = list(re.finditer(rb"-?\d+(\.\d+)?", data[:20_000]))
    if not numbers:
        return data
    number = draw(st.sampled_from(numbers))
    return data[: number.start()] + draw(st.sampled_from(TOKENS)) + data[number.end() :]


MUTATIONS = [flip, overwrite, truncate, remove, repeat, double, swap, insert, replace_number]

ODD = [
    *(None, True, False, 0, -1, 1, 2, 255, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63) - 1),
    *(10**400, -(10**400), 0.5, -0.0, 1.0, 1e-320, 1e308, math.nan, math.inf, -math.inf),
    *(
        "",
        "x",
        "1",
        "a\nwmcore: b",
        "\x1b]0;t\x07",
        "\ud800",
        "\u202e",
        "\x00",
        "é" * 200,
        "9" * 5000,
    ),
    *([], {}, [[]], [1, "2", None], {"a": 1}, [[[[[[[[1]]]]]]]], {"\ud800": "\ud800"}, [2**70] * 3),
]
"""Values of JSON that nobody asked for."""


def values():
    """A value of JSON."""
    return (
        st.sampled_from(ODD).map(copy.deepcopy) | st.text(max_size=8) | st.integers() | st.floats()
    )


@st.composite
def altered(draw, document):
    """A JSON document with one or two of its values changed, removed or renamed."""
    made = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 2))):
        inside, name = draw(st.sampled_from(list(_places(made)) or [(None, None)]))
        if inside is None:
            return draw(values())
        how = draw(st.sampled_from(["change", "change", "change", "remove", "rename"]))
        if how == "change":
            inside[name] = draw(values())
        elif isinstance(inside, dict) and how == "rename":
            inside[draw(st.text(max_size=5))] = inside.pop(name)
        else:
            del inside[name]
    return made


def _places(value):
    """(container, key or index) of every value inside a value."""
    if isinstance(value, (dict, list)):
        for name in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, name
            yield from _places(value[name])
