"""Documents and prompts in, JSON lines out: bytes are checked here, once.

A document that cannot be read becomes a `Document` with an ``error``; it never ends a batch.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

MAX_BYTES = 1_000_000
"""The longest line or text file that is read, in bytes: far beyond any key length."""

JSON_LINES = (".jsonl", ".ndjson")


class ReaderGone(Exception):
    """Whoever reads standard output, such as ``head``, has seen enough."""


@dataclass(frozen=True)
class Document:
    """One text to test: its name (``file`` or ``file:line``) and text, token ids or error."""

    name: str
    content: str | list[int] | None = None
    error: str | None = None


def read_documents(
    path: str, *, text_field: str | None = None, tokens_field: str | None = None
) -> Iterator[Document]:
    """The documents of a text file (one) or JSON Lines file (one a line), as they are read.

    Parameters
    ----------
    path
        A file, or ``-`` for standard input. It is JSON Lines when its name ends so, or when it is
        standard input and a field is named.
    text_field, tokens_field
        The field that holds the text (``text`` unless given), or the one that holds token ids.
    """
    name = "stdin" if path == "-" else path
    named = text_field is not None or tokens_field is not None
    with open_input(path) as stream:
        if path.endswith(JSON_LINES) or (path == "-" and named):
            for where, record, error in read_records(stream, name):
                if error is None:
                    yield _from_record(where, record, text_field or "text", tokens_field)
                else:
                    yield Document(where, error=error)
        else:
            text, error = decode(stream.read(MAX_BYTES + 1))
            yield Document(name, text, error)


def read_records(stream: BinaryIO, name: str) -> Iterator[tuple[str, dict[str, Any], str | None]]:
    """Each line of JSON Lines as (``name:line``, object, error); blank lines are passed over."""
    for number, raw in enumerate(_lines(stream), 1):
        where = f"{name}:{number}"
        text, error = decode(raw)
        if text is None:
            yield where, {}, error
        elif text.strip():
            try:
                record = json.loads(text)
            except (ValueError, RecursionError):
                yield where, {}, "not JSON: give one JSON object a line"
                continue
            if isinstance(record, dict):
                yield where, record, None
            else:
                kind = type(record).__name__
                yield where, {}, f"a JSON {kind}, not an object: give one JSON object a line"


def text_of(record: dict[str, Any], field: str) -> tuple[str | None, str | None]:
    """The text in a field of a record, or None and what is wrong with it."""
    if field not in record:
        names = ", ".join(sorted(record)[:8]) or "none"
        return None, f"no field {field!r} (fields: {names}): name the right one"
    value = record[field]
    if not isinstance(value, str):
        return None, f"field {field!r} is a {type(value).__name__}, not a string"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return None, f"field {field!r} holds half of a surrogate pair, which is not text"
    return value, None


def decode(raw: bytes) -> tuple[str | None, str | None]:
    """Text from bytes, or None and what is wrong with them."""
    if len(raw) > MAX_BYTES:
        return None, f"longer than {MAX_BYTES:,} bytes: split it into texts of a few pages"
    if b"\0" in raw:
        return None, "binary data, not text: it contains a zero byte"
    try:
        return raw.decode("utf-8-sig"), None
    except UnicodeDecodeError as e:
        return None, f"not UTF-8: byte 0x{raw[e.start]:02x} at offset {e.start:,}: convert it"


@contextmanager
def open_input(path: str) -> Iterator[BinaryIO]:
    """A file, or standard input for ``-``, as bytes."""
    if path == "-":
        yield sys.stdin.buffer
    else:
        with Path(path).open("rb") as stream:
            yield stream


@contextmanager
def open_output(path: str) -> Iterator[BinaryIO]:
    """A file, or standard output for ``-``, as bytes."""
    if path == "-":
        yield sys.stdout.buffer
    else:
        with Path(path).open("wb") as stream:
            yield stream


def write_record(stream: BinaryIO, record: dict[str, Any]) -> None:
    """Write one JSON object as a line and flush it, so that an interrupted file stays valid."""
    try:
        stream.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        stream.flush()
    except BrokenPipeError:
        raise ReaderGone from None


def _from_record(
    where: str, record: dict[str, Any], text_field: str, tokens_field: str | None
) -> Document:
    if tokens_field is None:
        return Document(where, *text_of(record, text_field))
    tokens = record.get(tokens_field)
    if not isinstance(tokens, list) or not all(type(t) is int for t in tokens):
        return Document(where, error=f"field {tokens_field!r} is not a list of token ids")
    return Document(where, tokens)


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines of bounded memory: one that is too long is cut just past the limit."""
    while line := stream.readline(MAX_BYTES + 1):
        tail = line
        while tail and not tail.endswith(b"\n"):
            tail = stream.readline(1 << 20)
        yield line
