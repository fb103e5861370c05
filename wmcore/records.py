"""Documents out of files: `wmcore detect`, `generate` and `scan` all read through here, so that they never disagree.

A file's name says what it is (`format_of`); `read_items` gives its records as they are found, and `document` makes a
`Document` of each. A record that cannot be used becomes a document with an error; it never ends a batch. A file that
breaks off gives all that stands before the break, and then one document that says so.
"""

import json
import lzma
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from wmcore.csv_records import csv_records
from wmcore.errors import WatermarkError, reason
from wmcore.formats import WHOLE, Format
from wmcore.html_text import html_text, page_text
from wmcore.json_records import json_records, lines, records_in_text
from wmcore.parquet_records import parquet_records
from wmcore.reading import Cursor, Fault, Page, Reading, clean, decode, too_long
from wmcore.unpack import unpacked
from wmcore.warc_records import warc_records

if TYPE_CHECKING:
    import numpy as np

LONGEST_ID = 4096
"""Characters of an id that are kept."""

# Both sets of control characters, ends of lines and paragraphs, and marks that turn the direction of writing.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_JSON_KINDS = {int: "a number", float: "a number", str: "a string", list: "an array"}
_LIKE_JSON = re.compile(r'\s*(\[\s*)?\{\s*"[^"\n]*"\s*:')
_LIKE_HTML = re.compile(r"\s*<(!doctype\s+html|html)\b", re.IGNORECASE)


@dataclass(slots=True)
class Document:
    """One record of an input: its position there, its id, and a text, token ids (int64 [m]) or an error."""

    position: int
    id: str
    text: str | None = None
    tokens: "np.ndarray | None" = None
    error: str | None = None

    @property
    def content(self) -> "str | np.ndarray":
        """The text or the token ids; WatermarkError where there is an error instead."""
        found = self.tokens if self.text is None else self.text
        if found is None:
            raise WatermarkError(f"{self.id}: {self.error}")
        return found

    @property
    def size(self) -> int:
        """Roughly how much memory it takes: characters, or tokens times eight."""
        if self.text is not None:
            return len(self.text)
        return 0 if self.tokens is None else 8 * len(self.tokens)


def read_documents(
    path: str, form: Format, reading: Reading, cursor: Cursor | None = None
) -> Iterator[Document]:
    """The documents of a file, or of standard input for ``-``, as they are read; one for a text or a page.

    Their ids are the file's name, for records with ``:`` and the number from 1 (of the line, element, row or WARC
    record). The cursor, where one is given, says how far they are.
    """
    name = "stdin" if path == "-" else path
    with open_input(path) as stream:
        if form.kind in (*WHOLE, "guess"):
            yield text_document(name, 0, stream, form, reading)
            return
        for position, item in read_items(name, stream, form, reading, cursor or Cursor()):
            made = document(name, position, item, reading)
            if made is not None:
                yield made


def read_items(
    name: str, raw: Any, form: Format, reading: Reading, cursor: Cursor
) -> Iterator[tuple[int, Any]]:
    """(position, what `document` makes a document of) for each record of a file, without those that the cursor skips.

    Trouble with the disk or the network is raised; damage in the file itself becomes a last item that says so, and
    so does a file of nothing but blanks.
    """
    empty = True
    try:
        with _found(name, raw, form, reading, cursor) as found:
            for item in found:
                empty = empty and isinstance(item, bytes) and not item.strip()
                if not cursor.skips(cursor.position, cursor.position):
                    yield cursor.position, item
                cursor.position += 1
                if cursor.total and form.kind != "parquet" and cursor.position % 256 == 0:
                    cursor.share = min(raw.tell() / cursor.total, 1.0)
        skipped = form.kind == "parquet" and cursor.position > 0  # row groups that were not read
        if empty and not skipped:
            yield cursor.position, Fault("no documents in it")
    except Exception as error:
        if not _is_damage(error):
            raise
        yield (
            cursor.position,
            Fault(
                f"{name} breaks off here ({reason(error)}): what follows was not read; mend the file and read it anew"
            ),
        )


@contextmanager
def _found(
    name: str, raw: Any, form: Format, reading: Reading, cursor: Cursor
) -> Iterator[Iterator[Any]]:
    """The records of a file, as bytes of JSON, dicts, pages or faults."""
    if form.kind == "parquet":
        yield parquet_records(name, raw, reading, cursor)
        return
    with unpacked(raw, form.packing) as stream:
        if form.kind == "warc":
            yield warc_records(stream, reading)
        elif form.kind in ("csv", "tsv"):
            yield csv_records(name, stream, form.kind, reading)
        else:
            split = lines if form.kind == "jsonl" else json_records
            yield split(stream, reading.max_bytes)


def document(name: str, position: int, item: Any, reading: Reading) -> Document | None:
    """The document of an item of `read_items`, or None for a blank line."""
    place = clean(f"{name}:{position + 1}")
    if isinstance(item, bytes):
        text, error = decode(item, reading.max_bytes)
        if text is not None and not text.strip():
            return None
        item = Fault(str(error)) if text is None else _record(text)
    if isinstance(item, Fault):
        return Document(position, place, error=clean(item.error))
    if isinstance(item, Page):
        text, error = page_text(item, reading.max_bytes)
        return Document(position, clean(item.id or place)[:LONGEST_ID], text, error=error)
    if isinstance(item, str):
        return _bare_text(position, place, item, reading)
    if isinstance(item, list):
        tokens, error = token_ids(item, "ids")
        return Document(position, place, tokens=tokens, error=error)
    given = item.get(reading.id_field) if reading.id_field else None
    if given is not None:
        try:
            place = clean(str(given))[:LONGEST_ID]
        except (
            ValueError,
            RecursionError,
        ):  # a number of thousands of digits, a list of lists of lists
            return Document(position, place, error=f"field {reading.id_field!r} is no id")
    if reading.tokens_field is not None:
        tokens, error = token_ids(item.get(reading.tokens_field), reading.tokens_field)
        return Document(position, place, tokens=tokens, error=error)
    text, error = text_of(item, reading.text_field, reading.max_bytes)
    return Document(position, place, text, error=error)


def text_document(name: str, position: int, raw: Any, form: Format, reading: Reading) -> Document:
    """The document of a text or page, from a stream of its file, of which no more is read than the limit."""
    place = clean(name)
    try:
        with unpacked(raw, form.packing) as stream:
            data = stream.read(reading.max_bytes + 1)
    except Exception as damage:
        if not _is_damage(damage):
            raise
        return Document(position, place, error=f"breaks off ({reason(damage)}): mend the file")
    if reading.tokens_field is not None:
        return Document(position, place, error=_no_tokens(reading))
    if form.kind == "html":
        text, error = html_text(data, None, reading.max_bytes)
        return Document(position, place, text, error=error)
    text, error = decode(data, reading.max_bytes)
    if text is not None and form.kind == "guess" and _LIKE_JSON.match(text):
        error = (
            "JSON, it seems, not a text: give --text-field or --tokens-field, or a file whose name ends in .jsonl, "
            ".json or .txt"
        )
    elif text is not None and form.kind == "guess" and _LIKE_HTML.match(text):
        error = "HTML, it seems, not a text: give a file whose name ends in .html, or .txt to test the tags, too"
    elif text is not None:
        error = records_in_text(text)
    return Document(position, place, None if error else text, error=error)


def _bare_text(position: int, place: str, text: str, reading: Reading) -> Document:
    """The document of a JSON string."""
    if reading.tokens_field is not None:
        return Document(position, place, error=_no_tokens(reading))
    made, error = text_of({"": text}, "", reading.max_bytes)
    return Document(position, place, made, error=error and error.replace("field ''", "the string"))


def _no_tokens(reading: Reading) -> str:
    return f"a text, which has no field {reading.tokens_field!r}: give records"


def text_of(record: dict[str, Any], field: str, limit: int) -> tuple[str | None, str | None]:
    """The text in a field of a record, or None and what is wrong with it."""
    if field not in record:
        names = ", ".join(clean(str(name))[:80] for name in sorted(record)[:8]) or "none"
        return None, f"no field {field!r} (fields: {names}): name the right one"
    value = record[field]
    if not isinstance(value, str):
        return None, f"field {field!r} is {_kind(value)}, not a string"
    try:
        over = len(value.encode()) > limit
    except UnicodeEncodeError:
        return None, f"field {field!r} holds half of a surrogate pair, which is not text"
    return (None, too_long(limit)) if over else (value, None)


def token_ids(value: Any, field: str) -> "tuple[np.ndarray | None, str | None]":
    """(token ids int64 [m], None), or (None, what is wrong with the value of this field)."""
    import numpy as np

    if isinstance(value, str) and value.startswith("["):  # a cell of a table
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None, f"field {field!r} is not a list of token ids"
    if not isinstance(value, list) or not all(type(t) is int for t in value):
        return None, f"field {field!r} is not a list of token ids"
    try:
        return np.array(value, np.int64), None
    except OverflowError:
        return None, f"field {field!r} holds a number beyond 64 bits"


def printable(text: str) -> str:
    """The text with an escape for all that a terminal or a log could take for a command, or for the end of a line."""
    return _CONTROL.sub(lambda m: m[0].encode("unicode_escape").decode(), text)


@contextmanager
def open_input(path: str) -> Iterator[BinaryIO]:
    """A file, or standard input for ``-``, as bytes."""
    if path != "-":
        with open(path, "rb") as stream:
            yield stream
    elif sys.stdin is None:
        raise WatermarkError("-: standard input is closed: pipe something in, or name a file")
    else:
        yield sys.stdin.buffer


def _kind(value: Any) -> str:
    """What JSON calls a value, or else Python."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return _JSON_KINDS.get(type(value), f"a {type(value).__name__}")


def _record(text: str) -> Any:
    """The JSON value of a line or element: an object, a text or a list of token ids; or a `Fault`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return Fault("not JSON: give one JSON object a line")
    if isinstance(value, (dict, str)):
        return value
    if isinstance(value, list) and value and all(type(t) is int for t in value):
        return value
    return Fault(f"{_kind(value)}, not an object, a text or a list of token ids: give one a line")


def _is_damage(error: Exception) -> bool:
    """Whether an error says that a file is damaged, not that disk or network failed."""
    arrow = sys.modules.get("pyarrow")
    if isinstance(error, (EOFError, zlib.error, lzma.LZMAError)) or (
        arrow is not None and isinstance(error, arrow.ArrowException)
    ):
        return True
    return isinstance(error, OSError) and error.errno is None
