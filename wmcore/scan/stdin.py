"""Standard input as an input of a scan: it is read once, but its head can be looked at before."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

STDIN = "-"


class StandardInput:
    """In the place of a file system that holds one file.

    Parameters
    ----------
    stream : binary file
    head : int
        Bytes that are read at once, and may be read again.
    """

    protocol = ("stdin",)

    def __init__(self, stream: Any, head: int) -> None:
        self.stream = stream
        self.head: bytes = stream.read(head)

    def info(self, path: str) -> dict[str, Any]:
        """Nothing is known of it."""
        return {}

    @contextlib.contextmanager
    def open(self, path: str, mode: str) -> Iterator["_Stream"]:
        """The head, and then what follows."""
        yield _Stream(self)


class _Stream(io.RawIOBase):
    """Reads the head from memory; only who goes beyond it takes bytes off standard input."""

    def __init__(self, source: StandardInput) -> None:
        self._source = source
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        raw = self._source.head[self._at : self._at + len(buffer)]
        raw = raw or self._source.stream.read(len(buffer))
        self._at += len(raw)
        buffer[: len(raw)] = raw
        return len(raw)
