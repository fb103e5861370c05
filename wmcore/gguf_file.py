"""The metadata of a GGUF file, read without its tensors.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

import mmap
import struct
from pathlib import Path
from typing import Any

from wmcore.errors import WatermarkError

_NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""{type code: the letter of `struct`}."""
_STRING, _ARRAY = 8, 9


def read_metadata(path: Path) -> dict[str, Any]:
    """{key: number, bool, string, or list of them} of a file; WatermarkError if it is damaged or none."""
    try:
        with (
            open(path, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return _Reader(data).metadata()
    except (
        struct.error,
        ValueError,
    ) as error:  # ValueError: an empty file, or text that is not UTF-8
        raise WatermarkError(
            f"{path}: not a GGUF file that can be read ({error}); fetch it again"
        ) from error


class _Reader:
    """Reads values one after the other. struct.error: beyond the end; ValueError: anything else that is wrong."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def metadata(self) -> dict[str, Any]:
        if self._data[:4] != b"GGUF":
            raise ValueError("it does not start with GGUF")
        self._at = 4
        (version,) = self._numbers("I", 1)
        if version not in (2, 3):
            raise ValueError(f"version {version}, but 2 and 3 are known")
        _, count = self._numbers("Q", 2)  # of tensors and of keys
        found = {}
        for _ in range(count):
            key = self._string()
            found[key] = self._value(self._kind())
        return found

    def _kind(self) -> int:
        return int(self._numbers("I", 1)[0])

    def _value(self, kind: int) -> Any:
        if kind != _ARRAY:
            return self._items(kind, 1)[0]
        item = self._kind()
        (count,) = self._numbers("Q", 1)
        return self._items(item, count)

    def _items(self, kind: int, count: int) -> list[Any]:
        if kind == _STRING:
            return [self._string() for _ in range(count)]
        if kind not in _NUMBERS:
            raise ValueError(f"a value of type {kind}, which is unknown here")
        return list(self._numbers(_NUMBERS[kind], count))

    def _numbers(self, letter: str, count: int) -> tuple[Any, ...]:
        layout = struct.Struct(f"<{count}{letter}")
        numbers = layout.unpack_from(self._data, self._at)
        self._at += layout.size
        return numbers

    def _string(self) -> str:
        (length,) = self._numbers("Q", 1)
        (raw,) = self._numbers("s", length)
        return str(raw, "utf-8")
