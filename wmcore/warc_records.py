"""WARC files (ISO 28500, versions 1.0 and 1.1) as pages: what servers answered, or the text that was made of it.

Memory is bounded whatever a file claims: headers and bodies are read, and packed bodies unpacked, up to limits.
"""

import zlib
from collections.abc import Iterator
from typing import Any

from wmcore.reading import Fault, Page, Reading, too_long

_HEADERS = 1 << 16
"""Bytes of the longest block of header lines."""
_CHUNK = 1 << 16
_PAGES = ("text/html", "application/xhtml+xml")
_TEXTS = ("text/plain", "text/markdown")


def warc_records(stream: Any, reading: Reading) -> Iterator[Any]:
    """A `Page` or a `Fault` for each record with an answer or a text, b"" for each of the others (requests, …).

    A `Page` has the record's header that `reading.id_field` names, such as WARC-Target-URI, as its id. Raises EOFError
    where the file breaks off.
    """
    while (version := _first_line(stream)) is not None:
        if not version.startswith(b"WARC/"):
            raise EOFError("no WARC record where one should begin")
        try:
            headers = _headers(stream.readline, _HEADERS)
        except ValueError as error:
            raise EOFError(str(error)) from None
        length = headers.get("content-length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 19):
            raise EOFError("a WARC record without a length")
        body = _Body(stream, int(length))
        yield _record(headers, body, reading)
        while body.read(_CHUNK):
            pass


def _first_line(stream: Any) -> bytes | None:
    """The next line that is not blank, cut at a limit; None at the end."""
    while line := stream.readline(_HEADERS):
        if line.strip():
            return bytes(line)
    return None


def _headers(readline: Any, limit: int) -> dict[str, str]:
    """Header lines up to a blank one: {name in lower case: value}, the first of a name; ValueError if too long."""
    found: dict[str, str] = {}
    name = ""
    while line := readline(limit + 1):
        limit -= len(line)
        if limit < 0:
            raise ValueError("the headers of a record are too long")
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if not text:
            return found
        if text[0] in " \t" and name:
            found[name] += " " + text.strip()
            continue
        name, _, value = text.partition(":")
        name = name.strip().lower()
        found.setdefault(name, value.strip())
    return found


class _Body:
    """The block of a record: as many bytes of the stream as its header says."""

    def __init__(self, stream: Any, length: int) -> None:
        self._stream = stream
        self.left = length

    def read(self, size: int) -> bytes:
        """So many bytes, or all that are left; EOFError where the file ends before."""
        raw: bytes = self._stream.read(min(size, self.left))
        if len(raw) < min(size, self.left):
            raise EOFError("a WARC record is cut off")
        self.left -= len(raw)
        return raw

    def readline(self, limit: int) -> bytes:
        """The next line, cut at the limit."""
        raw: bytes = self._stream.readline(min(limit, self.left))
        if not raw and self.left:
            raise EOFError("a WARC record is cut off")
        self.left -= len(raw)
        return raw


def _record(headers: dict[str, str], body: _Body, reading: Reading) -> Any:
    kind = headers.get("warc-type", "").lower()
    content = headers.get("content-type", "")
    name = None if reading.id_field is None else headers.get(reading.id_field.lower())
    if kind in ("conversion", "resource"):
        return _page(body.read(reading.max_bytes + 1), content, name, reading)
    if kind != "response":
        return b""
    if not content.lower().startswith("application/http"):
        return b"" if content.lower().startswith("text/dns") else Fault(f"{content[:80]}: no page")
    body.readline(_HEADERS)  # the status: what a page says is read whatever its status is
    try:
        answer = _headers(body.readline, _HEADERS)
    except ValueError as error:
        return Fault(str(error))
    content = answer.get("content-type", "")
    if _type(content) not in (*_PAGES, *_TEXTS):
        return _page(b"", content, name, reading)
    raw = body.read(reading.max_bytes + 1)
    if len(raw) > reading.max_bytes:
        return Fault(too_long(reading.max_bytes))
    try:
        if "chunked" in answer.get("transfer-encoding", "").lower():
            raw = _joined(raw)
        packing = answer.get("content-encoding", "").strip().lower()
        if packing in ("gzip", "x-gzip", "deflate"):
            raw = _unpacked(raw, packing, reading.max_bytes + 1)
        elif packing not in ("", "identity", "utf-8"):
            return Fault(f"content encoding {packing[:40]} is not read")
    except (ValueError, zlib.error):
        return Fault("the page's bytes are damaged: its chunks or its packing")
    return _page(raw, content, name, reading)


def _type(content: str) -> str:
    return content.partition(";")[0].strip().lower()


def _page(raw: bytes, content: str, name: str | None, reading: Reading) -> Page | Fault:
    kind = _type(content)
    if kind not in (*_PAGES, *_TEXTS):
        return Fault(f"{kind[:80] or 'a page of no type'}: no text is read of it")
    if reading.tokens_field is not None:
        return Fault(f"a page, which has no field {reading.tokens_field!r}: give records")
    if len(raw) > reading.max_bytes:
        return Fault(too_long(reading.max_bytes))
    _, _, charset = content.lower().partition("charset=")
    return Page(raw, kind in _PAGES, charset.partition(";")[0].strip() or None, name)


def _joined(raw: bytes) -> bytes:
    """A body without the lengths of its chunks; as it is where it has none, which some archives write."""
    parts: list[bytes] = []
    at = 0
    while True:
        end = raw.find(b"\n", at, at + 64)
        size = raw[at:end].partition(b";")[0].strip() if end >= 0 else b""
        if not size or not all(c in b"0123456789abcdefABCDEF" for c in size):
            if parts:
                raise ValueError("a chunk without a length")
            return raw
        if (length := int(size, 16)) == 0:
            return b"".join(parts)
        part = raw[end + 1 : end + 1 + length]
        if len(part) < length:
            raise ValueError("a chunk is cut off")
        parts.append(part)
        at = end + 1 + length
        at += 2 if raw[at : at + 2] == b"\r\n" else 1


def _unpacked(raw: bytes, packing: str, limit: int) -> bytes:
    """At most so many bytes of a packed body; as it is where it is not packed, which some archives write."""
    if packing != "deflate":
        if not raw.startswith(b"\x1f\x8b"):
            return raw
        return _inflated(raw, 31, limit)
    try:
        return _inflated(raw, 15, limit)
    except zlib.error:
        return _inflated(raw, -15, limit)


def _inflated(raw: bytes, window: int, limit: int) -> bytes:
    unpacker = zlib.decompressobj(window)
    made = unpacker.decompress(raw, limit)
    if not unpacker.eof and len(made) < limit:
        raise ValueError("what is packed is cut off")
    return made
