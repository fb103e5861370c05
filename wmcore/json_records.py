"""JSON Lines and .json files cut into the bytes of their records, in bounded memory and without parsing them.

A record that is too long is cut just past the limit, so that whoever decodes it sees that.
"""

import json
import re
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, repeat
from typing import Any

_MARK = b"\xef\xbb\xbf"
_CHUNK = 1 << 16
_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)  # up to its end or the chunk's
_BRACKETS, _WITH_COMMAS = re.compile(rb'["\[\]{}]'), re.compile(rb'["\[\]{},]')


def lines(stream: Any, limit: int, begun: Iterable[bytes] = ()) -> Iterator[bytes]:
    """The lines of a stream, after those that were read before with ``readline(limit + 1)``."""
    for line in chain(begun, iter(partial(stream.readline, limit + 1), b"")):
        tail = line
        while tail and not tail.endswith(b"\n"):
            tail = stream.readline(1 << 20)
        yield line


def json_records(stream: Any, limit: int) -> Iterator[bytes]:
    """The records of a .json file: the elements of an array, one object over many lines, or JSON Lines."""
    blank = 0
    while (line := stream.readline(limit + 1)) and not line.removeprefix(_MARK).strip():
        blank += 1
    start = line.removeprefix(_MARK).lstrip()
    if start.startswith(b"["):
        return _elements(chain([start], iter(partial(stream.read, _CHUNK), b"")), limit)
    following = b""
    if start.startswith(b"{") and line.endswith(b"\n") and not _is_json(start):
        following = stream.readline(limit + 1)
        if not following.lstrip().startswith(
            b"{"
        ):  # else another object begins: this line is broken
            return iter([(line + following + stream.read(limit + 1))[: limit + 1]])
    return lines(stream, limit, chain(repeat(b"\n", blank), filter(None, [line, following])))


def records_in_text(text: str) -> str | None:
    """What is wrong with a text that is nothing but JSON records; None for any other.

    Records are two lines or more, each of them an object, or an array of objects and strings.
    """
    text = text.strip()
    if text[:1] not in ("{", "["):
        return None
    given = [line for line in text.splitlines() if line.strip()]
    if len(given) > 1 and all(line.startswith("{") and _is_json(line) for line in given):
        return "JSON Lines, not a text: every line is a JSON object; give it a name that ends in .jsonl"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, list) and value and all(isinstance(one, (dict, str)) for one in value):
        return "a JSON array, not a text: give it a name that ends in .json"
    return None


def _is_json(raw: bytes | str) -> bool:
    try:
        json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return True


def _elements(chunks: Iterator[bytes], limit: int) -> Iterator[bytes]:
    """The elements of a JSON array; the first chunk begins with its bracket."""
    element = bytearray()
    depth = 0  # open brackets, that of the array among them
    in_string = escaped = False
    for chunk in chunks:
        at = 0
        while at < len(chunk):
            mark, end = b"", len(chunk)
            if escaped:  # one byte after a backslash that ended the last chunk
                escaped, end = False, at + 1
            elif in_string:
                stop = _STRING.match(chunk, at).end()  # type: ignore[union-attr]
                if stop < len(chunk):
                    end = stop + 1
                    in_string = escaped = chunk[stop:end] == b"\\"
            elif found := (_WITH_COMMAS if depth == 1 else _BRACKETS).search(chunk, at):
                mark, end = found[0], found.end()
                in_string = mark == b'"'
                depth += (mark in (b"[", b"{")) - (mark in (b"]", b"}"))
            opens = mark == b"[" and depth == 1
            closes = mark == b"," or (mark != b"" and depth == 0)
            if not opens:
                piece = chunk[at : end - closes]
                element += piece[: max(0, limit + 1 - len(element))]
            if mark == b"," or (closes and element.strip()):
                yield bytes(element)
            if opens or closes:
                element.clear()
            at = end
            if closes and depth == 0:
                if chunk[at:].strip() or any(more.strip() for more in chunks):
                    raise EOFError("something follows the JSON array")
                return
    raise EOFError("the JSON array is not closed")
