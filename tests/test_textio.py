"""Bad bytes become errors of one document, good ones come through."""

import io
import json
import sys
from types import SimpleNamespace

import pytest

from wmcore.textio import MAX_BYTES, Document, open_output, read_documents, write_record


def documents(path, **fields):
    return list(read_documents(str(path), **fields))


def only_error(path, **fields) -> str:
    (document,) = documents(path, **fields)
    assert document.content is None
    return document.error


def test_text_file_is_one_document(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffGrüße,\n\nWelt\n".encode())
    assert documents(path) == [Document(str(path), "Grüße,\n\nWelt\n")]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\x7fELF\x02\x00\x00", "binary data, not text: it contains a zero byte"),
        (b"caf\xe9", "not UTF-8: byte 0xe9 at offset 3: convert it"),
        (b"a" * (MAX_BYTES + 1), "longer than 1,000,000 bytes: split it into texts of a few pages"),
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
        (b"[1]", "a JSON list, not an object: give one JSON object a line"),
        (b'{"body": "x", "id": 1}', "no field 'text' (fields: body, id): name the right one"),
        (b"{}", "no field 'text' (fields: none): name the right one"),
        (b'{"text": 3}', "field 'text' is a int, not a string"),
        (rb'{"text": "\ud800"}', "field 'text' holds half of a surrogate pair, which is not text"),
        (b'{"text": "caf\xe9"}', "not UTF-8: byte 0xe9 at offset 13: convert it"),
        (b'{"text": "\x00"}', "binary data, not text: it contains a zero byte"),
    ],
)
def test_bad_line_does_not_end_the_file(tmp_path, line, message):
    path = tmp_path / "mixed.jsonl"
    path.write_bytes(b'{"text": "first"}\n\n' + line + b'\n{"text": "last"}')
    first, bad, last = documents(path)
    assert first == Document(f"{path}:1", "first")
    assert bad == Document(f"{path}:3", error=message)
    assert last == Document(f"{path}:4", "last")


def test_line_of_ten_megabytes_is_passed_over(tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_bytes(b'{"text": "' + b"a" * 10_000_000 + b'"}\n{"text": "last"}\n')
    long, last = documents(path)
    assert long.error.startswith("longer than 1,000,000 bytes")
    assert last == Document(f"{path}:2", "last")


def test_line_at_the_limit_is_read(tmp_path):
    path = tmp_path / "limit.jsonl"
    filler = MAX_BYTES - len('{"text": ""}\n')
    path.write_text('{"text": "' + "a" * filler + '"}\n{"text": "last"}\n')
    assert [len(d.content) for d in documents(path)] == [filler, 4]


@pytest.mark.parametrize("value", [None, 3, "1 2", [1, "2"], [1.0], [True], [[1]]])
def test_tokens_must_be_a_list_of_integers(tmp_path, value):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"tokens": value}))
    assert only_error(path, tokens_field="tokens") == "field 'tokens' is not a list of token ids"


def test_standard_input_is_json_lines_when_a_field_is_named(monkeypatch):
    def stdin(raw):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(raw)))

    stdin(b'{"tokens": [1, 2]}')
    assert documents("-", tokens_field="tokens") == [Document("stdin:1", [1, 2])]
    stdin(b'{"tokens": [1, 2]}')
    assert documents("-") == [Document("stdin", '{"tokens": [1, 2]}')]


def test_written_lines_are_on_disk_at_once(tmp_path):
    path = tmp_path / "out.jsonl"
    with open_output(str(path)) as out:
        write_record(out, {"text": "zwei\nZeilen ≤"})
        assert json.loads(path.read_text(encoding="utf-8")) == {"text": "zwei\nZeilen ≤"}
