"""Compressed streams that give all they hold up to a break, and then say that they broke."""

import gzip
import io
from typing import Any

_CHUNK = 1 << 17


def unpacked(raw: Any, kind: str | None) -> Any:
    """A buffered binary stream of what `raw` holds. kind: "gzip", "zstd" or None.

    A stream that breaks off raises EOFError, a damaged one an error of its library, once all before it was read.
    """
    if kind == "gzip":
        return gzip.GzipFile(fileobj=raw, mode="rb")
    if kind == "zstd":
        return io.BufferedReader(_Zstd(raw), _CHUNK)
    return io.BufferedReader(raw, 1 << 18)


class _Zstd(io.RawIOBase):
    """All frames of a zstd file, one after the other."""

    def __init__(self, raw: Any) -> None:
        try:
            import zstandard
        except ImportError:
            from wmcore.errors import WatermarkError

            raise WatermarkError(
                "package zstandard is not installed, which .zst needs: run pip install 'wmcore[scan]'"
            ) from None
        self._raw = raw
        self._library = zstandard.ZstdDecompressor()
        self._frame: Any = None
        self._ready = memoryview(b"")
        self._failed: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            # A buffered reader drops what came before an error in the same call: the error waits for its own.
            if self._failed is not None:
                raise self._failed
            packed = self._raw.read(_CHUNK)
            if not packed:
                if self._frame is not None:
                    raise EOFError("the zstd frame is cut off")
                return 0
            self._ready = memoryview(self._decompress(packed))
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _decompress(self, packed: bytes) -> bytes:
        import zstandard

        parts = []
        try:
            while packed:
                if self._frame is None:
                    self._frame = self._library.decompressobj()
                parts.append(self._frame.decompress(packed))
                if not self._frame.eof:
                    break
                packed, self._frame = self._frame.unused_data, None
        except zstandard.ZstdError as error:
            self._failed = EOFError(f"zstd: {error}")
        return b"".join(parts)
