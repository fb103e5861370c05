"""Checks of what a caller gives: numbers, truth values, strings, threads, token ids, optional packages.

Each returns the value as a plain Python (or NumPy) one, or raises with the parameter, the value, the limit and the
remedy. Plain, because a NumPy integer of few bits would wrap in later arithmetic.
"""

import io
import math
import re
from collections.abc import Mapping, Set
from importlib.metadata import PackageNotFoundError, version
from numbers import Integral, Real
from typing import Any

import numpy as np

from wmcore.errors import WatermarkError, shown

_TRUTHS = {bool, np.bool_}


def whole_number(name: str, value: object, least: int = 0, most: int | None = None) -> int:
    """value as an int; WatermarkError unless it is a whole number (not a bool) from least to most."""
    limit = f"of at least {least}" if most is None else f"from {least} to {most}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral):
        raise WatermarkError(f"{name} is {shown(value)}, but must be a whole number {limit}")
    number = int(value)
    if number < least or (most is not None and number > most):
        raise WatermarkError(f"{name} is {shown(number)}, but must be a whole number {limit}")
    return number


def real_number(name: str, value: object, least: float, most: float = math.inf) -> float:
    """value as a float; WatermarkError unless it is a finite number (not a bool) from least to most."""
    limit = f"of at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise WatermarkError(f"{name} is {shown(value)}, but must be a number {limit}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not (math.isfinite(number) and least <= number <= most):
        raise WatermarkError(
            f"{name} is {shown(value if isinstance(value, int) else number)}, but must be a number {limit}"
        )
    return number


def truth(name: str, value: object) -> bool:
    """value as a bool; WatermarkError unless it is True or False, Python's or NumPy's."""
    if not isinstance(value, (bool, np.bool_)):
        raise WatermarkError(f"{name} is {shown(value)}, but must be True or False")
    return bool(value)


def string(name: str, value: object) -> str:
    """value as a str; WatermarkError unless it is one."""
    if not isinstance(value, str):
        raise WatermarkError(f"{name} is {shown(value)}, but must be a string")
    return str(value)


LARGEST_TABLE = 1 << 32
"""The most bytes that one table may take: what needs more is refused before it is asked for."""


def memory_error(what: str, size: int, remedy: str) -> str | None:
    """What is wrong with a table of `size` bytes, if it is larger than `LARGEST_TABLE`."""
    if size <= LARGEST_TABLE:
        return None
    return f"{what} needs {size:,} bytes, but a table may take at most {LARGEST_TABLE:,}: {remedy}"


def thread_count(threads: int | None) -> int:
    """threads, checked, or (None) the cores that this process may use."""
    from wmcore.kernels.cpu.threads import available

    return available() if threads is None else whole_number("threads", threads, 1)


def text_list(name: str, texts: Any) -> list[Any]:
    """The texts as a list, of an array its rows; TypeError for what has another shape: one text, a dict such
    as a tokenizer's output, a table, an open file, something without order, a path."""
    if isinstance(texts, (str, bytes)):
        raise TypeError(f"{name} is one string: give a list of texts, as in [text]")
    if isinstance(texts, Mapping):
        ids = "as in tokenizer(texts)['input_ids']" if "input_ids" in texts else "as a list"
        raise TypeError(
            f"{name} is a {type(texts).__name__}, which maps names to values: give the texts or token ids in it, {ids}"
        )
    if isinstance(texts, Set):
        raise TypeError(f"{name} is a {type(texts).__name__}, which has no order: give a list")
    if hasattr(texts, "columns"):
        raise TypeError(
            f"{name} is a {type(texts).__name__}, a table: give one of its columns, as in list(table['text'])"
        )
    if isinstance(texts, io.IOBase):
        raise TypeError(f"{name} is an open file: give a list of texts, as in [file.read()]")
    kind = str(getattr(getattr(texts, "dtype", None), "kind", "i"))  # "i": torch's, or none
    one_text = getattr(texts, "ndim", 0) == 1 and kind in "iuf"
    if not one_text:  # some arrays cannot even be listed
        try:
            texts = [one.as_py() if hasattr(one, "as_py") else one for one in texts]  # of Arrow
        except TypeError:
            raise TypeError(
                f"{name} is a {type(texts).__name__}, but must be a list of texts, each a string or token ids"
            ) from None
        one_text = bool(texts) and all(isinstance(t, (int, np.integer)) for t in texts)
    if one_text:
        raise TypeError(f"{name} is one text of token ids: give a list of texts, as in [ids]")
    return texts


def token_ids(text: Any) -> np.ndarray:
    """Token ids as a one-dimensional integer array (any integer dtype); TypeError or ValueError otherwise."""
    if isinstance(text, (bytes, bytearray)):
        raise TypeError("it is bytes, but integers are needed")
    if isinstance(text, Mapping):
        raise TypeError(
            f"it is a {type(text).__name__}, which maps names to values: give the token ids in it, such as its "
            "['input_ids']"
        )
    if hasattr(text, "as_py"):  # NumPy would take the bytes of an Arrow string for integers
        raise TypeError("it is a scalar of Arrow: give its as_py()")
    # Beside integers they would count as 0 and 1.
    if isinstance(text, (list, tuple)) and not _TRUTHS.isdisjoint(map(type, text)):
        raise TypeError("one of its items is a truth value, but integers are needed")
    if hasattr(text, "detach"):  # torch, on any device
        text = text.detach().cpu().numpy()
    elif hasattr(text, "__cuda_array_interface__"):  # CuPy
        text = text.get()
    array = np.asanyarray(text)
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            "it is a masked array: give the token ids that are meant, as in text.compressed()"
        )
    array = np.asarray(array)
    if array.ndim != 1:
        remedy = ": give its rows as texts, without padding" if array.ndim == 2 else ""
        raise ValueError(f"it has {array.ndim} dimensions, but one is needed{remedy}")
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.dtype.kind in "US":
        raise TypeError(
            "its items are strings, but integers are needed: give a text as one string, or its token ids"
        )
    if array.dtype.kind not in "iu":
        raise TypeError(f"its items are of type {array.dtype}, but integers are needed")
    if array.dtype == np.uint64 and array.max() > np.iinfo(np.int64).max:
        raise ValueError("an item exceeds 64 bits")
    return array


def require(package: str, remedy: str, least: str = "0", below: str | None = None) -> str:
    """The installed version of a package; WatermarkError if it is missing or outside [least, below).

    Parameters
    ----------
    package : str
        Its name on PyPI.
    remedy : str
        What to do, as in "run pip install 'wmcore-lm[scan]'".
    least, below : str
        Versions as numbers and dots.
    """
    try:
        found = version(package)
    except PackageNotFoundError:
        raise WatermarkError(f"package {package} is not installed: {remedy}") from None
    if _numbers(found) < _numbers(least) or (below and _numbers(found) >= _numbers(below)):
        limit = f"at least {least}" + (f" and below {below}" if below else "")
        raise WatermarkError(
            f"package {package} is version {found}, but {limit} is needed: {remedy}"
        )
    return found


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.split("+")[0])[:3])
