"""Watermark files and calibrations that are damaged or hostile: they are refused in one sentence, or they work."""

import io
import json
import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from fuzz.budget import inputs
from fuzz.holds import is_plain, only_refusals
from fuzz.marks import HEX, OPTIONS, SIZES, mark
from fuzz.mutations import altered, damaged, values
from wmcore import Detector, PublishedKey, Watermark
from wmcore.calibration import Calibration
from wmcore.schemes import SCHEMES

TEXT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3]
SEED = 817263549081726
"""Of the published key: its secret."""
SECRETS = (HEX, str(SEED))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


def _written():
    """The bytes of a watermark file of each kind."""
    blocks = {"exp-edit": 4, "its-edit": 8}
    marks = [mark(scheme, blocks.get(scheme)) for scheme in SCHEMES]
    marks.append(Watermark.create("exp", key=PublishedKey(SEED), **SIZES))
    files = []
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "mark.json")
        for one in marks:
            one.save(path, replace=True)
            files.append(Path(path).read_bytes())
        mark("exp").save(path, key_from_env="WMCORE_FUZZ_SECRET", replace=True)
        files.append(Path(path).read_bytes())
    return files


FILES = _written()
DOCUMENTS = [json.loads(data) for data in FILES]


def loads(path):
    """What is in a watermark file, if anything is, works."""
    with only_refusals(*SECRETS):
        made = Watermark.load(path)
        is_plain(repr(made), *SECRETS)
        made.save(path, replace=True)
        assert Watermark.load(path) == made
        if made.vocab_size * made.key_length <= 1 << 20:
            (found,) = Detector(made, threads=1).detect([TEXT], **OPTIONS)
            assert (found.p_value is None) != (found.error is None)


def write(path, data):
    path.write_bytes(data)
    path.chmod(0o600)


@inputs(0.04, data=damaged(FILES))
def test_damaged_watermark_files(folder, data):
    write(folder / "mark.json", data)
    loads(folder / "mark.json")


@inputs(0.04, document=st.sampled_from(DOCUMENTS).flatmap(altered), secret=st.just(HEX) | st.text())
def test_altered_watermark_files(folder, document, secret):
    write(folder / "mark.json", json.dumps(document).encode())
    with pytest.MonkeyPatch.context() as patch:
        if "\x00" not in secret and secret.isascii():
            patch.setenv("WMCORE_FUZZ_SECRET", secret)
        loads(folder / "mark.json")


TEXTS_OF_CALIBRATION = [TEXT, TEXT[:8], TEXT * 4]


def _calibrations():
    """The bytes of a calibration of two schemes."""
    made = []
    for scheme in ("exp", "its-edit"):
        null = Calibration.fit(mark(scheme), [8, 12, 24], 20, seed=1, threads=1)
        made.append(_npz(null.test, null.lengths, null.statistics))
    return made


def _npz(test, lengths, statistics, version=2, pack=np.savez_compressed):
    held = io.BytesIO()
    header = np.array(json.dumps({"version": version, "test": test}))
    pack(held, header=header, lengths=lengths, statistics=statistics)
    return held.getvalue()


CALIBRATIONS = _calibrations()
HEADER = {**Calibration.fit(mark("exp"), [8], 2, seed=1, threads=1).test}


def answers_with(path):
    """A calibration, if it is one, gives p-values or refusals."""
    with only_refusals(HEX):
        null = Calibration.load(path)
        for scheme in ("exp", "its-edit"):
            with only_refusals(HEX):
                for found in Detector(mark(scheme), threads=1).detect(
                    TEXTS_OF_CALIBRATION, calibration=null
                ):
                    assert (found.error is None) == (0 < (found.p_value or -1) <= 1)


@inputs(0.03, data=damaged(CALIBRATIONS))
def test_damaged_calibrations(folder, data):
    (folder / "null.npz").write_bytes(data)
    answers_with(folder / "null.npz")


ARRAYS = {
    "lengths": [8, 12, 24],
    "statistics": np.sort(np.linspace(-30, 0, 30).reshape(3, 10), axis=1),
}
KINDS = ["int8", "uint64", "float16", "float64", "complex64", "bool", "U4", "S3", "M8[s]", "object"]


@st.composite
def forged(draw):
    """A calibration of other shapes, types and values."""
    arrays = {name: np.array(value) for name, value in ARRAYS.items()}
    test, version = dict(HEADER), 2
    for _ in range(draw(st.integers(1, 2))):
        what = draw(st.sampled_from(["shape", "kind", "value", "order", "header", "version"]))
        name = draw(st.sampled_from(list(arrays)))
        array = arrays[name]
        if what == "shape":
            shape = draw(
                st.sampled_from([(), (0,), (1,), (3, 0), (0, 3), (30,), (3, 1), (1, 3), (3, 1, 1)])
            )
            arrays[name] = np.resize(array, shape)
        elif what == "kind" and array.dtype.kind in "iuf":
            arrays[name] = array.astype(draw(st.sampled_from(KINDS)))
        elif what == "value" and array.size and array.dtype.kind in "iuf":
            value = draw(st.sampled_from([-1, 0, 2**62, np.nan, np.inf, -np.inf, 1e300, 8.5]))
            array = array.astype(float) if draw(st.booleans()) else array.copy()
            at = draw(st.integers(0, array.size - 1))
            with np.errstate(invalid="ignore"):
                array.reshape(-1)[at : at + 1] = np.array([value]).astype(array.dtype)
            arrays[name] = array
        elif what == "order":
            arrays[name] = array[::-1] if array.ndim else array
        elif what == "header":
            test = draw(altered(HEADER))
        else:
            version = draw(values())
    return _npz(test, arrays["lengths"], arrays["statistics"], version, np.savez)


@inputs(0.03, data=forged())
def test_forged_calibrations(folder, data):
    (folder / "null.npz").write_bytes(data)
    answers_with(folder / "null.npz")


@inputs(0.001, claims=st.sampled_from([(2**40,), (2**20, 2**20), (2**62, 4), (-1,), (2**33, 0)]))
def test_calibrations_that_claim_to_be_huge(folder, claims):
    """The header of an array promises terabytes that are not in the file."""
    held = io.BytesIO()
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {claims}, }}".ljust(117) + "\n"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    with zipfile.ZipFile(held, "w") as pack, np.load(io.BytesIO(CALIBRATIONS[0])) as good:
        for name in good:
            member = io.BytesIO()
            np.save(member, good[name])
            pack.writestr(f"{name}.npy", array if name == "statistics" else member.getvalue())
    (folder / "null.npz").write_bytes(held.getvalue())
    answers_with(folder / "null.npz")
