"""Compressed streams that give all they hold up to a break, and then say that they broke. Memory is bounded."""

import bz2
import contextlib
import gzip
import io
import lzma
from collections.abc import Iterator
from typing import Any

# A block of zstd has four bytes at least and gives 128 KiB at most, so that a piece of this size gives 16 MiB at most.
_PIECE = 512
_CHUNK = 1 << 17
_WINDOW = 1 << 31  # zstd --long=31; only the part that a file really fills takes memory


@contextlib.contextmanager
def unpacked(raw: Any, packing: str | None) -> Iterator[io.BufferedIOBase]:
    """A buffered binary stream of what `raw` holds, which stays open. packing: "gzip", "bzip2", "xz", "zstd" or None.

    A stream that breaks off raises EOFError, a damaged one an error of its library, once all before it was read.
    """
    if packing == "gzip":
        yield gzip.GzipFile(fileobj=raw, mode="rb")
    elif packing == "bzip2":
        yield bz2.BZ2File(raw, mode="rb")
    elif packing == "xz":
        yield lzma.LZMAFile(raw, mode="rb")  # noqa: SIM115
    elif packing == "zstd":
        yield io.BufferedReader(_Zstd(raw), _CHUNK)
    else:
        stream = io.BufferedReader(raw, 1 << 18)
        try:
            yield stream
        finally:
            with contextlib.suppress(ValueError):  # it was closed meanwhile
                stream.detach()


class _Zstd(io.RawIOBase):
    """All frames of a zstd file, one after the other."""

    def __init__(self, raw: Any) -> None:
        from wmcore.checks import require

        require("zstandard", "run pip install 'wmcore-lm[scan]', which reads .zst")
        import zstandard

        self._raw = raw
        self._library = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        self._error = zstandard.ZstdError
        self._frame: Any = None
        self._packed = memoryview(b"")
        self._ready = memoryview(b"")
        self._failed: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            # A buffered reader drops what came before an error in the same call: the error waits for its own.
            if self._failed is not None:
                raise self._failed
            self._packed = self._packed or memoryview(self._raw.read(_CHUNK))
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("the zstd frame is cut off")
                return 0
            piece, self._packed = self._packed[:_PIECE], self._packed[_PIECE:]
            self._ready = memoryview(self._decompress(piece))
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _decompress(self, packed: memoryview | bytes) -> bytes:
        parts = []
        try:
            while packed:
                if self._frame is None:
                    self._frame = self._library.decompressobj()
                parts.append(self._frame.decompress(packed))
                if not self._frame.eof:
                    break
                packed, self._frame = self._frame.unused_data, None
        except self._error as error:
            reason = str(error)
            if "too much memory" in reason:
                reason = "it needs a window of more than 2 GiB: compress it with --long=31 or less"
            self._failed = EOFError(f"zstd: {reason}")
        return b"".join(parts)
