"""What the readers of all formats share: how records are read, how far a reader is, and what it hands over."""

import codecs
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

MAX_BYTES = 4_000_000
"""The longest line, record or text that is read, in bytes, unless another limit is given."""


_HALF = re.compile("[\ud800-\udfff]")


class Fault(NamedTuple):
    """In place of a record: why there is none."""

    error: str


class Page(NamedTuple):
    """A page as it was sent: its bytes, whether they are HTML, the encoding that was named, and the record's id."""

    raw: bytes
    is_html: bool
    charset: str | None = None
    id: str | None = None


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


def clean(text: str) -> str:
    """The text with U+FFFD for halves of surrogate pairs (of JSON, or of a file name that is not UTF-8)."""
    return _HALF.sub("\ufffd", text)


def too_long(limit: int) -> str:
    """What is wrong with more bytes than the limit."""
    return f"longer than {limit:,} bytes: split it, or raise the limit (--max-bytes of detect and scan)"


def decode(raw: bytes, limit: int) -> tuple[str | None, str | None]:
    """Text from bytes (UTF-8, with or without its mark), or None and what is wrong with them."""
    if len(raw) > limit:
        return None, too_long(limit)
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return None, "UTF-16, by its first bytes: convert it to UTF-8"
    if b"\0" in raw:
        return None, "binary data, not text: it contains a zero byte"
    try:
        return raw.decode("utf-8-sig"), None
    except UnicodeDecodeError as e:
        return (
            None,
            f"not UTF-8: byte 0x{raw[e.start]:02x} at offset {e.start:,}: convert it to UTF-8",
        )
