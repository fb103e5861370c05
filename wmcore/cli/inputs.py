"""The documents of the files that `detect` is given, and how far they are read."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from wmcore.errors import WatermarkError
from wmcore.formats import given_format
from wmcore.reading import Cursor, Reading, clean
from wmcore.records import Document, read_documents


@dataclass
class Inputs:
    """Files, one after the other, or ``-`` for standard input.

    Parameters
    ----------
    files : list of str
    records : bool
        Whether a field is named: see `given_format`.
    reading : Reading
    """

    files: list[str]
    records: bool
    reading: Reading

    def __post_init__(self) -> None:
        # What a file weighs: a byte more than it has, so that an empty one counts.
        self._sizes = [1 if f == "-" else 1 + os.path.getsize(f) for f in self.files]
        self._read = 0
        self._size = 0
        self._cursor = Cursor()

    @property
    def share(self) -> float | None:
        """The share that was read, 0 to 1; None where standard input is among the files, which may go on for ever."""
        if "-" in self.files:
            return None
        return (self._read + self._size * self._cursor.share) / sum(self._sizes)

    def __iter__(self) -> Iterator[Document]:
        for path, size in zip(self.files, self._sizes, strict=True):
            self._size, self._cursor = size, Cursor(total=size)
            try:
                form = given_format(path, self.records)
            except WatermarkError as error:
                yield Document(0, clean(path), error=str(error).removeprefix(f"{path}: "))
            else:
                yield from read_documents(path, form, self.reading, self._cursor)
            self._read += size
            self._size = 0
