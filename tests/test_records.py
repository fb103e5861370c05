"""One reader: what a file is, bad bytes become errors of one document, good ones come through, memory stays bounded."""

import gzip
import io
import json
import os
import random
import re
import sys
import tracemalloc
from types import SimpleNamespace

import pytest

from wmcore import WatermarkError, json_records
from wmcore.cli.console import write_record
from wmcore.formats import Format, format_of, given_format
from wmcore.reading import MAX_BYTES, Reading
from wmcore.records import printable, read_documents


def documents(path, records=False, **reading):
    form = given_format(str(path), records)
    return list(read_documents(str(path), form, Reading(**reading)))


def contents(path, **reading):
    """(id after the file's name, text or token ids or error) of each document."""
    found = []
    for d in documents(path, **reading):
        tokens = None if d.tokens is None else d.tokens.tolist()
        found.append((d.id.removeprefix(str(path)), d.text or tokens or d.error))
    return found


def only_error(path, **reading) -> str:
    (document,) = documents(path, **reading)
    with pytest.raises(WatermarkError, match=re.escape(document.error)):
        _ = document.content
    return document.error


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jsonl", ("jsonl", None)),
        ("A.JSONL", ("jsonl", None)),
        ("a.ndjson.GZ", ("jsonl", "gzip")),
        ("c4-train.00000-of-01024.json.gz", ("json", "gzip")),
        ("a.Json.zst", ("json", "zstd")),
        ("a.json.zstd", ("json", "zstd")),
        ("x/a.PARQUET", ("parquet", None)),
        ("a.md", ("text", None)),
        ("a.txt.gz", ("text", "gzip")),
        ("a.HTM", ("html", None)),
        ("a.csv.zst", ("csv", "zstd")),
        ("a.tab", ("tsv", None)),
        ("CC-MAIN-2026.warc.wet.gz", ("warc", "gzip")),
        ("a.parquet.gz", None),
        ("a", None),
        ("jsonl", None),
        ("a.jsonl.bak", None),
    ],
)
def test_the_name_says_what_a_file_is(name, expected):
    assert format_of(name) == (expected and Format(*expected))


@pytest.mark.parametrize("end", [".PDF", ".docx", ".tar.gz", ".txt.lz4", ".parquet.xz", ".npz"])
def test_other_files_are_refused_by_name(end):
    with pytest.raises(WatermarkError, match=r"a.*: \.[\w.]+ is not read: convert it to \.txt"):
        given_format("a" + end, False)


def test_a_name_that_says_nothing(tmp_path):
    """It is a text, unless a field is named or looks like JSON or HTML: no plausible p of many records or of tags."""
    path = tmp_path / "part-00000"
    path.write_text("Some text.")
    assert contents(path) == [("", "Some text.")]
    for raw in ('{"text": "a"}\n', '[\n  {"text": "a"}]', '\ufeff{\n "text": "a"}'):
        path.write_text(raw, encoding="utf-8")
        assert only_error(path).startswith("JSON, it seems, not a text: give --text-field")
        assert contents(path, records=True) == [(":1", "a")]
    for raw in ("<!DOCTYPE html>\n<title>a</title>", "\ufeff\n<HTML lang=en><p>a"):
        path.write_text(raw, encoding="utf-8")
        assert only_error(path).startswith(
            "HTML, it seems, not a text: give a file whose name ends in .html"
        )
    path.write_text("<p>An answer with its tags.</p>")
    assert contents(path) == [("", "<p>An answer with its tags.</p>")]
    path.write_text("[sic] {as it were}")
    assert contents(path) == [("", "[sic] {as it were}")]


def test_text_file_is_one_document(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffGrüße,\n\nWelt\n".encode())
    assert contents(path) == [("", "Grüße,\n\nWelt\n")]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\x7fELF\x02\x00\x00", "binary data, not text: it contains a zero byte"),
        ("caf\xe9".encode("utf-16"), "UTF-16, by its first bytes: convert it to UTF-8"),
        (b"caf\xe9", "not UTF-8: byte 0xe9 at offset 3: convert it to UTF-8"),
        (
            b"a" * (MAX_BYTES + 1),
            "longer than 4,000,000 bytes: split it, or raise the limit (--max-bytes of detect and scan)",
        ),
    ],
)
def test_bad_text_file(tmp_path, raw, message):
    path = tmp_path / "bad.txt"
    path.write_bytes(raw)
    assert only_error(path) == message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not JSON: give one JSON object a line"),
        (b"[" * 100_000, "not JSON: give one JSON object a line"),
        (
            b"[1, true]",
            "an array, not an object, a text or a list of token ids: give one a line",
        ),
        (b'{"body": "x", "id": 1}', "no field 'text' (fields: body, id): name the right one"),
        (b"{}", "no field 'text' (fields: none): name the right one"),
        (b'{"text": 3}', "field 'text' is a number, not a string"),
        (rb'{"text": "\ud800"}', "field 'text' holds half of a surrogate pair, which is not text"),
        (rb'{"\udcff": 1}', "no field 'text' (fields: \ufffd): name the right one"),
        (b'{"text": "caf\xe9"}', "not UTF-8: byte 0xe9 at offset 13: convert it to UTF-8"),
        (b'{"text": "\x00"}', "binary data, not text: it contains a zero byte"),
        (b'{"text": ' + b"9" * 5000 + b"}", "not JSON: give one JSON object a line"),
    ],
)
def test_bad_line_does_not_end_the_file(tmp_path, line, message):
    path = tmp_path / "mixed.jsonl"
    path.write_bytes(b'{"text": "first"}\n\n' + line + b'\n{"text": "last"}')
    assert contents(path) == [(":1", "first"), (":3", message), (":4", "last")]


def test_line_of_ten_megabytes_is_passed_over(tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_bytes(b'{"text": "' + b"a" * 10_000_000 + b'"}\n{"text": "last"}\n')
    (_, error), last = contents(path)
    assert error.startswith("longer than 4,000,000 bytes")
    assert last == (":2", "last")
    assert [len(d.text) for d in documents(path, max_bytes=11_000_000)] == [10_000_000, 4]


def test_line_at_the_limit_is_read(tmp_path):
    path = tmp_path / "limit.jsonl"
    filler = MAX_BYTES - len('{"text": ""}\n')
    path.write_text('{"text": "' + "a" * filler + '"}\n{"text": "last"}\n')
    assert [len(d.text) for d in documents(path)] == [filler, 4]


@pytest.mark.parametrize("value", [None, 3, "1 2", [1, "2"], [1.0], [True], [[1]]])
def test_tokens_must_be_a_list_of_integers(tmp_path, value):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"tokens": value}))
    assert only_error(path, tokens_field="tokens") == "field 'tokens' is not a list of token ids"
    path.write_text(json.dumps({"tokens": [10**30]}))
    assert only_error(path, tokens_field="tokens") == "field 'tokens' holds a number beyond 64 bits"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a\ud800b", "a\ufffdb"),
        ("\ud83d\ude00", "\N{GRINNING FACE}"),
        (7, "7"),
        ("x" * 9000, "x" * 4096),
        (None, "{path}:1"),
    ],
)
def test_ids_are_text(tmp_path, value, expected):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"text": "a", "id": value}))
    (found,) = documents(path, id_field="id")
    assert found.id == expected.format(path=path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_file_name_that_is_not_utf8(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    with open(path, "w") as file:
        file.write("text")
    (found,) = documents(os.fsdecode(path))
    assert found.id == f"{tmp_path}/caf\ufffd.txt"
    assert found.text == "text"


# .json


ROWS = [{"text": "one"}, {"text": 'tw"o, [and] {a} \\ half', "n": [1, {"a": []}]}, {"text": "ü\n"}]


@pytest.mark.parametrize(
    "raw",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        "\ufeff\n\n" + json.dumps(ROWS, ensure_ascii=False) + "\n\n",
        "\n".join(map(json.dumps, ROWS)),
    ],
)
@pytest.mark.parametrize("end", [".json", ".JSON.gz"])
def test_json_of_every_layout(tmp_path, raw, end):
    path = tmp_path / f"a{end}"
    data = raw.encode()
    path.write_bytes(gzip.compress(data) if end.lower().endswith("gz") else data)
    found = documents(path)
    assert [d.text for d in found] == [row["text"] for row in ROWS]
    assert [d.id for d in found] == [f"{path}:{i}" for i in (1, 2, 3)]


@pytest.mark.parametrize("indent", [None, 2])
def test_json_of_one_object(tmp_path, indent):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"text": "alone", "tokens": [1, 2]}, indent=indent))
    assert contents(path) == [(":1", "alone")]
    assert contents(path, tokens_field="tokens") == [(":1", [1, 2])]
    path.write_text(json.dumps({"rows": [{"text": "a"}]}, indent=indent))
    assert only_error(path) == "no field 'text' (fields: rows): name the right one"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("", ["no documents in it"]),
        ("  \n", ["no documents in it"]),
        ("[]", ["no documents in it"]),
        (
            '[{"text": "a"}, 5, "x", {"text": "b"}]',
            ["a", "a number, not", "x", "b"],
        ),
        ('[{"text": "a"}, {"text": b}, {"text": "c"}]', ["a", "not JSON", "c"]),
        ('[{"text": "a"}, {"text": "b', ["a", "breaks off here (the JSON array is not closed)"]),
        ('[{"text": "a"}] [1]', ["a", "breaks off here (something follows the JSON array)"]),
        ('{"text": "a\n{"text": "b"}\n', ["not JSON", "b"]),
        ("plain words\n", ["not JSON"]),
        ('{\n"text": 1\n}{\n"text": 2\n}', ["not JSON"]),
    ],
)
def test_json_that_is_wrong(tmp_path, raw, expected):
    path = tmp_path / "a.json"
    path.write_text(raw)
    found = [text for _, text in contents(path)]
    assert len(found) == len(expected)
    assert all(part in text for part, text in zip(expected, found, strict=True))


def test_array_elements_at_all_chunk_sizes(monkeypatch):
    """Against the standard library, with strings full of quotes, brackets and backslashes."""
    rng = random.Random(1)

    def value(depth=0):
        kind = rng.random()
        text = "".join(
            rng.choice('ab\\"[]{},\n\tü\N{GRINNING FACE}') for _ in range(rng.randrange(9))
        )
        if depth < 4 and kind < 0.25:
            return [value(depth + 1) for _ in range(rng.randrange(4))]
        if depth < 4 and kind < 0.6:
            return {text + str(i): value(depth + 1) for i in range(rng.randrange(4))}
        return rng.choice([1, -2.5, None, True, text, text])

    for chunk in [1, 2, 3, 7, 100] * 100:
        monkeypatch.setattr(json_records, "_CHUNK", chunk)
        values = [value() for _ in range(rng.randrange(6))]
        raw = json.dumps(values, indent=rng.choice([None, 2]), ensure_ascii=False).encode()
        stream = io.BytesIO(b"[\n" + raw[1:])
        got = [json.loads(part) for part in json_records.json_records(stream, 10**6)]
        assert got == values


def test_an_array_takes_bounded_memory(tmp_path):
    """100 MB of array, an element of 50 MB among them."""
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.write(b"[")
        for _ in range(50):
            file.write(json.dumps({"text": "word " * 200_000}).encode() + b",\n")
        file.write(b'{"text": "' + b"x" * 50_000_000 + b'"}, {"text": "last"}]')
    tracemalloc.start()
    sizes = [len(d.text or d.error) for d in read_documents(str(path), Format("json"), Reading())]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sizes[:50] == [1_000_000] * 50
    assert (len(sizes), sizes[-1]) == (52, 4)
    assert peak < 30_000_000


# .zst


def zstd_frame(window_log, *blocks):
    """A frame without a stated size, written by hand; a block is (type, size, payload): 0 raw, 1 repeated."""
    out = b"\x28\xb5\x2f\xfd\x00" + bytes([(window_log - 10) << 3])
    for i, (kind, size, payload) in enumerate(blocks):
        last = i == len(blocks) - 1
        out += (last | kind << 1 | size << 3).to_bytes(3, "little") + payload
    return out


@pytest.mark.parametrize("window_log", [10, 27, 28, 31])
def test_zstd_of_every_legal_window(tmp_path, window_log):
    pytest.importorskip("zstandard")
    path = tmp_path / "a.jsonl.zst"
    line = b'{"text": "far"}\n'
    path.write_bytes(zstd_frame(window_log, (0, len(line), line)) * 2)
    assert contents(path) == [(":1", "far"), (":2", "far")]


def test_zstd_of_a_larger_window_says_so(tmp_path):
    pytest.importorskip("zstandard")
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstd_frame(33, (0, 3, b"{}\n")))
    assert "needs a window of more than 2 GiB: compress it with --long=31 or less" in only_error(
        path
    )


def test_zstd_bomb_takes_bounded_memory(tmp_path):
    """8 KB that hold 256 MiB."""
    pytest.importorskip("zstandard")
    path = tmp_path / "a.jsonl.zst"
    end = b'\n{"text": "last"}\n'
    blocks = [(1, 1 << 17, b"x")] * 2048 + [(0, len(end), end)]
    path.write_bytes(zstd_frame(20, *blocks))
    tracemalloc.start()
    found = contents(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[0][1].startswith("longer than 4,000,000 bytes")
    assert found[1] == (":2", "last")
    assert peak < 60_000_000


def test_broken_compression_is_one_error(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n' * 9)[:-6])
    found = contents(path)
    assert [text for _, text in found[:-1]] == ["a"] * 9
    assert "breaks off here (Compressed file ended" in found[-1][1]


# .parquet


def test_parquet_rows_with_values_that_python_has_not(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    texts = pa.array([b"one", b"tw\xff", b"three", b"four", None]).cast(pa.binary())
    texts = pa.Array.from_buffers(pa.string(), 5, texts.buffers())
    ids = pa.array([1000, 2, 2**62, 4, 5], pa.timestamp("ms"))
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": texts, "id": ids}), path)
    found = documents(path, id_field="id")
    assert [d.text for d in found] == ["one", None, None, "four", None]
    assert "column 'text' cannot be read ('utf-8' codec" in found[1].error
    assert "column 'id' cannot be read" in found[2].error
    assert found[4].error == "field 'text' is null, not a string"
    assert found[0].id == "1970-01-01 00:00:01"
    assert contents(path, text_field="body") == [
        (":1", f"{path} has no column 'body' (columns: text, id): name the right one")
    ]


def test_missing_packages_name_the_extra(tmp_path, monkeypatch):
    from wmcore import checks

    def missing(name):
        raise checks.PackageNotFoundError

    monkeypatch.setattr(checks, "version", missing)
    for name, package in (("a.parquet", "pyarrow"), ("a.json.zst", "zstandard")):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(WatermarkError, match=rf"package {package} is not installed.*\[scan\]"):
            documents(tmp_path / name)


# standard input and output


def test_standard_input(monkeypatch):
    def stdin(raw):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(raw)))

    stdin(b'{"tokens": [1, 2]}')
    (found,) = documents("-", records=True, tokens_field="tokens")
    assert (found.id, found.tokens.tolist()) == ("stdin:1", [1, 2])
    stdin(b"a text")
    assert [(d.id, d.text) for d in documents("-")] == [("stdin", "a text")]
    stdin(b'{"tokens": [1, 2]}')
    assert only_error("-").startswith("JSON, it seems")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(WatermarkError, match="standard input is closed"):
        documents("-")


def test_written_lines_are_on_disk_at_once(tmp_path):
    path = tmp_path / "out.jsonl"
    record = {"text": "zwei\nZeilen ≤ \x9b31m \x7f \u202e \u2028 \x1b]0;x\x07"}
    with path.open("wb") as out:
        write_record(out, record)
        written = path.read_text(encoding="utf-8")
    assert json.loads(written) == record
    assert "≤" in written
    assert written.removesuffix("\n").isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Grüße ≤ 日本\u3000\N{WOMAN}\u200d\N{PERSONAL COMPUTER}",) * 2,
        ("a\nwmcore: b\r", "a\\nwmcore: b\\r"),
        ("\x1b]0;title\x07\x9b1m", "\\x1b]0;title\\x07\\x9b1m"),
        ("\u202etxt\u2028\udcff\x00", "\\u202etxt\\u2028\\udcff\\x00"),
    ],
)
def test_printable(text, shown):
    assert printable(text) == shown
