"""The .npz file of a calibration: what it holds is checked before it is believed, and its size before it is read."""

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from wmcore import whole_file
from wmcore.errors import WatermarkError, shown

VERSION = 2
LARGEST = 1 << 28
"""The most bytes of statistics: 33 million of them, hours of fitting."""

_LIMITS = {"header": 1 << 16, "lengths": 1 << 24, "statistics": LARGEST + (1 << 16)}
_TEXT, _COUNT, _MAYBE = (str,), (int,), (int, type(None))
_TEST = {
    "score": (str, type(None)),
    "cost": _TEXT,
    "alignment": _TEXT,
    "n": _COUNT,
    "gamma": _COUNT,
    "vocab_size": _MAYBE,
    "denominator": _MAYBE,
    "block_length": _MAYBE,
}


def check_size(lengths: int, resamples: int) -> None:
    """WatermarkError if so many statistics would make a file too large to be read."""
    if 8 * lengths * resamples > LARGEST:
        raise WatermarkError(
            f"{lengths:,} lengths with {resamples:,} resamples make {8 * lengths * resamples:,} bytes of statistics, "
            f"but a calibration may have at most {LARGEST:,}: give fewer lengths or resamples"
        )


def write(
    path: str | os.PathLike[str], test: dict[str, Any], lengths: np.ndarray, statistics: np.ndarray
) -> None:
    """Write the fields of a `Calibration`: arrays and a JSON string, no pickle; whole or not at all."""
    check_size(*statistics.shape)
    header = json.dumps({"version": VERSION, "test": test})
    packed = io.BytesIO()
    np.savez_compressed(packed, header=np.array(header), lengths=lengths, statistics=statistics)
    whole_file.write(path, packed.getvalue())


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """What `write` wrote, as (test, lengths int64, statistics float64); WatermarkError for anything else."""
    try:
        if os.path.getsize(path) > sum(_LIMITS.values()):
            raise ValueError
        with zipfile.ZipFile(path) as file:
            header = json.loads(str(_array(file, "header", "U", 0)))
            test = _test_of(path, header)
            lengths = _array(file, "lengths", "iu", 1)
            statistics = _array(file, "statistics", "f", 2)
        _check(lengths, statistics)
        return test, lengths.astype(np.int64), statistics.astype(np.float64)
    except WatermarkError:
        raise
    except OSError as error:
        reason = error.strerror or "not an .npz file"
    except Exception:  # zipfile, zlib, json and NumPy each have their own for a damaged file
        reason = "damaged, or not a calibration"
    raise WatermarkError(
        f"calibration file {Path(path)} cannot be read ({reason}): fit it again with Calibration.fit, or "
        "'wmcore calibrate'"
    )


def _array(file: zipfile.ZipFile, name: str, kinds: str, dimensions: int) -> np.ndarray:
    """An array of the file; ValueError unless it is of the size, kind and shape that `write` gives it."""
    member = file.getinfo(f"{name}.npy")
    # The other methods of a zip can unpack more than the directory says.
    known = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    if not known or member.file_size > _LIMITS[name]:
        raise ValueError
    with file.open(member) as packed:
        raw = io.BytesIO(packed.read(member.file_size))  # and no more, whatever it unpacks to
    stated = _stated_bytes(raw)
    if stated != len(raw.getbuffer()) - raw.tell():
        raise ValueError
    raw.seek(0)
    array = np.lib.format.read_array(raw, allow_pickle=False)
    if array.ndim != dimensions or array.dtype.kind not in kinds or not array.size:
        raise ValueError
    return array


def _stated_bytes(raw: io.BytesIO) -> int:
    """The bytes that the header of an .npy says follow; an object array's, which would be pickled, are refused."""
    version = np.lib.format.read_magic(raw)
    if version != (1, 0):
        raise ValueError
    shape, _, dtype = np.lib.format.read_array_header_1_0(raw)
    if dtype.hasobject:
        raise ValueError
    count = 1
    for side in shape:  # not in NumPy's integers, which wrap
        count *= int(side)
    return count * dtype.itemsize


def _check(lengths: np.ndarray, statistics: np.ndarray) -> None:
    """ValueError unless lengths ascend from 1 on, and each has a row of finite statistics in order."""
    double = statistics.dtype.itemsize <= 8  # a longer float may not fit one
    in_order = (lengths[1:] > lengths[:-1]).all() and (
        statistics[:, 1:] >= statistics[:, :-1]
    ).all()
    in_range = lengths[0] >= 1 and lengths[-1] < 2**31 and np.isfinite(statistics).all()
    if not (double and in_order and in_range) or lengths.shape != statistics.shape[:1]:
        raise ValueError


def _test_of(path: str | os.PathLike[str], header: Any) -> dict[str, Any]:
    """The test that a header names; ValueError for one that `write` would not write."""
    version = header["version"]
    if type(version) is not int:
        raise ValueError
    test = _upgraded(header["scheme"]) if version == 1 else header.get("test")
    if version not in (1, VERSION):
        raise WatermarkError(
            f"calibration file {Path(path)} has version {shown(version)}, but this wmcore reads version {VERSION}: "
            "fit it again"
        )
    test = {"score": None, **test}  # which a file of the first schemes lacks
    if set(test) != set(_TEST) or any(type(test[name]) not in _TEST[name] for name in _TEST):
        raise ValueError
    return dict(test)


def _upgraded(scheme: dict[str, Any]) -> dict[str, Any]:
    """The test of a calibration file of version 1."""
    rest = dict(scheme)
    cost = ("exp", "its")[bool(rest.pop("its"))]
    alignment = ("plain", "edit")[bool(rest.pop("edits"))]
    return {"cost": cost, "alignment": alignment, **rest}
