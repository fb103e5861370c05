"""Documents out of files: `wmcore detect`, `generate` and `scan` all read through here, so that they never disagree.

A file's name says what it is (`format_of`); `read_items` gives its records as they are found, and `document` makes a
`Document` of each. A record that cannot be used becomes a document with an error; it never ends a batch. A file that
breaks off gives all that stands before the break, and then one document that says so.
"""

import json
import posixpath
import re
import sys
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from wmcore.errors import WatermarkError, reason
from wmcore.json_records import json_records, lines
from wmcore.unpack import unpacked

if TYPE_CHECKING:
    import numpy as np

MAX_BYTES = 4_000_000
"""The longest line, record or text that is read, in bytes, unless another limit is given."""

LONGEST_ID = 4096
"""Characters of an id that are kept."""

JSON_LINES, JSON = (".jsonl", ".ndjson"), (".json",)
PARQUET, TEXTS = (".parquet", ".pq"), (".txt", ".text", ".md")
PACKED = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
_KINDS = {"jsonl": JSON_LINES, "json": JSON, "parquet": PARQUET, "text": TEXTS}
_OTHERS = (
    "7z arrow avro bz2 csv doc docx eml epub feather gguf gif gz htm html ipynb jpeg jpg mbox npy npz odt orc pdf"
    " pickle pkl png ppt pptx pt rar rtf safetensors tar tgz tsv warc xhtml xls xlsx xml xz yaml yml zip zst zstd"
)
_NO_TEXT = {f".{end}" for end in _OTHERS.split()}
_HALF = re.compile("[\ud800-\udfff]")
# Both sets of control characters, ends of lines and paragraphs, and marks that turn the direction of writing.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_LIKE_JSON = re.compile(r'\s*(\[\s*)?\{\s*"[^"\n]*"\s*:')


class Format(NamedTuple):
    """What a file is. kind: "jsonl", "json", "parquet", "text" or "guess" (a text unless it looks like JSON)."""

    kind: str
    packing: str | None = None


class Fault(NamedTuple):
    """In place of a record: why there is none."""

    error: str


@dataclass(frozen=True)
class Reading:
    """How records are read: their fields with the text, the id and (instead of a text) token ids; the byte limit."""

    text_field: str = "text"
    id_field: str | None = None
    tokens_field: str | None = None
    max_bytes: int = MAX_BYTES


@dataclass
class Cursor:
    """How far a reader is, and what it leaves out.

    Attributes
    ----------
    done, size : collection of int, int
        Positions i with i // size in done are left out.
    total : int
        Bytes of the file, or 0 where the share read does not matter.
    share, position : float, int
        The share of the file that was read, and the position that comes next, left out or not.
    """

    done: Collection[int] = ()
    size: int = 1
    total: int = 0
    share: float = 0.0
    position: int = 0

    def skips(self, first: int, last: int) -> bool:
        """Whether all positions from first to last are left out."""
        return bool(self.done) and all(
            s in self.done for s in range(first // self.size, last // self.size + 1)
        )


@dataclass(slots=True)
class Document:
    """One record of an input: its position there, its id, and a text, token ids (int64 [m]) or an error."""

    position: int
    id: str
    text: str | None = None
    tokens: "np.ndarray | None" = None
    error: str | None = None

    @property
    def content(self) -> "str | np.ndarray | None":
        """The text or the token ids; None with an error."""
        return self.tokens if self.text is None else self.text

    @property
    def size(self) -> int:
        """Roughly how much memory it takes: characters, or tokens times eight."""
        if self.text is not None:
            return len(self.text)
        return 0 if self.tokens is None else 8 * len(self.tokens)


def format_of(name: str) -> Format | None:
    """The format that the end of a file's name stands for, in whatever case; None for any other name."""
    stem, end = posixpath.splitext(name.lower())
    packing = PACKED.get(end)
    if packing is not None:
        end = posixpath.splitext(stem)[1]
    kind = next((kind for kind, ends in _KINDS.items() if end in ends), None)
    if kind is None or (packing is not None and kind in ("parquet", "text")):
        return None
    return Format(kind, packing)


def given_format(path: str, records: bool) -> Format:
    """The format of a file given by name, or of ``-``, standard input.

    Parameters
    ----------
    path : str
    records : bool
        Whether a field is named, so that a name that says nothing means records, not a text.

    Raises
    ------
    WatermarkError
        For the name of something that is neither text nor records.
    """
    known = format_of(path)
    if known is not None:
        return known
    end = posixpath.splitext(path.lower())[1]
    if end in _NO_TEXT:
        raise WatermarkError(
            f"{path}: {end} is not read: convert it to text (.txt), .jsonl, .json (these two also with .gz or .zst) "
            "or .parquet"
        )
    return Format("json" if records else "guess")


def read_documents(path: str, form: Format, reading: Reading) -> Iterator[Document]:
    """The documents of a file, or of standard input for ``-``, as they are read; one for a text.

    Their ids are the file's name, for records with ``:`` and the number from 1 (of the line, element or row).
    """
    name = "stdin" if path == "-" else path
    with open_input(path) as stream:
        if form.kind in ("text", "guess"):
            yield text_document(name, 0, stream.read(reading.max_bytes + 1), form, reading)
            return
        for position, item in read_items(name, stream, form, reading, Cursor()):
            made = document(name, position, item, reading)
            if made is not None:
                yield made


def read_items(
    name: str, raw: Any, form: Format, reading: Reading, cursor: Cursor
) -> Iterator[tuple[int, Any]]:
    """(position, what `document` makes a document of) for each record of a file, without those that the cursor skips.

    Trouble with the disk or the network is raised; damage in the file itself becomes a last item that says so.
    """
    try:
        with _found(name, raw, form, reading, cursor) as found:
            for item in found:
                if not cursor.skips(cursor.position, cursor.position):
                    yield cursor.position, item
                cursor.position += 1
                if cursor.total and form.kind != "parquet" and cursor.position % 256 == 0:
                    cursor.share = min(raw.tell() / cursor.total, 1.0)
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
    """The records of a file, as bytes or (of Parquet) dicts."""
    if form.kind == "parquet":
        yield _rows(name, raw, reading, cursor)
    else:
        with unpacked(raw, form.packing) as stream:
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


def text_document(name: str, position: int, raw: bytes, form: Format, reading: Reading) -> Document:
    """The document of a text file that begins with these bytes (one more than the limit, where it has so many)."""
    text, error = decode(raw, reading.max_bytes)
    if reading.tokens_field is not None:
        text, error = None, f"a text, which has no field {reading.tokens_field!r}: give records"
    elif text is not None and form.kind == "guess" and _LIKE_JSON.match(text):
        text = None
        error = (
            "JSON, it seems, not a text: give --text-field or --tokens-field, or a name that ends in .jsonl, .json "
            "or .txt"
        )
    return Document(position, clean(name), text, error=error)


def text_of(record: dict[str, Any], field: str, limit: int) -> tuple[str | None, str | None]:
    """The text in a field of a record, or None and what is wrong with it."""
    if field not in record:
        names = ", ".join(clean(str(name))[:80] for name in sorted(record)[:8]) or "none"
        return None, f"no field {field!r} (fields: {names}): name the right one"
    value = record[field]
    if not isinstance(value, str):
        return None, f"field {field!r} is a {type(value).__name__}, not a string"
    try:
        too_long = len(value.encode()) > limit
    except UnicodeEncodeError:
        return None, f"field {field!r} holds half of a surrogate pair, which is not text"
    return (None, _too_long(limit)) if too_long else (value, None)


def token_ids(value: Any, field: str) -> "tuple[np.ndarray | None, str | None]":
    """(token ids int64 [m], None), or (None, what is wrong with the value of this field)."""
    import numpy as np

    if not isinstance(value, list) or not all(type(t) is int for t in value):
        return None, f"field {field!r} is not a list of token ids"
    try:
        return np.array(value, np.int64), None
    except OverflowError:
        return None, f"field {field!r} holds a number beyond 64 bits"


def decode(raw: bytes, limit: int) -> tuple[str | None, str | None]:
    """Text from bytes (UTF-8, with or without its mark), or None and what is wrong with them."""
    if len(raw) > limit:
        return None, _too_long(limit)
    if b"\0" in raw:
        return None, "binary data, not text: it contains a zero byte"
    try:
        return raw.decode("utf-8-sig"), None
    except UnicodeDecodeError as e:
        return None, f"not UTF-8: byte 0x{raw[e.start]:02x} at offset {e.start:,}: convert it"


def clean(text: str) -> str:
    """The text with U+FFFD for halves of surrogate pairs (of JSON, or of a file name that is not UTF-8)."""
    return _HALF.sub("\ufffd", text)


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


def _record(text: str) -> Any:
    """The JSON object of a line or element, or a `Fault`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return Fault("not JSON: give one JSON object a line")
    if isinstance(value, dict):
        return value
    kind = type(value).__name__
    return Fault(f"a JSON {kind}, not an object: give one a line")


def _too_long(limit: int) -> str:
    return f"longer than {limit:,} bytes: split it, or raise the limit (--max-bytes of detect and scan)"


def _is_damage(error: Exception) -> bool:
    """Whether an error says that a file is damaged, not that disk or network failed."""
    arrow = sys.modules.get("pyarrow")
    if isinstance(error, (EOFError, zlib.error)) or (
        arrow is not None and isinstance(error, arrow.ArrowException)
    ):
        return True
    return isinstance(error, OSError) and error.errno is None


def _rows(name: str, raw: Any, reading: Reading, cursor: Cursor) -> Iterator[Any]:
    """The rows of a Parquet file as dicts of the columns asked for; row groups that are done are passed over."""
    from wmcore.checks import require

    require("pyarrow", "run pip install 'wmcore-lm[scan]', which reads Parquet")
    import pyarrow.parquet as pq

    table = pq.ParquetFile(raw)
    columns = [reading.tokens_field or reading.text_field, *filter(None, [reading.id_field])]
    for column in columns:
        if column not in table.schema_arrow.names:
            names = ", ".join(table.schema_arrow.names[:8])
            yield Fault(f"{name} has no column {column!r} (columns: {names}): name the right one")
            return
    for group in range(table.metadata.num_row_groups):
        rows = table.metadata.row_group(group).num_rows
        if rows and cursor.skips(cursor.position, cursor.position + rows - 1):
            cursor.position += rows
            continue
        for part in table.iter_batches(
            1024, row_groups=[group], columns=columns, use_threads=False
        ):
            yield from _values(part)
            cursor.share = cursor.position / max(table.metadata.num_rows, 1)


def _values(part: Any) -> list[Any]:
    """The rows of a record batch; a `Fault` for one with a value that Arrow cannot hand to Python."""
    try:
        return list(part.to_pylist())
    except (
        Exception
    ):  # not UTF-8, a date beyond Python's, a time zone that is not known: each type has its own
        return [_value(part.slice(i, 1)) for i in range(part.num_rows)]


def _value(row: Any) -> Any:
    for name in row.schema.names:
        try:
            row.column(name).to_pylist()
        except Exception as error:
            return Fault(f"column {name!r} cannot be read ({reason(error)})")
    return row.to_pylist()[0]
