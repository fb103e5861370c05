"""The calibrated null: close to the exact test, labelled, and refused where it does not fit."""

import io
import json
import math
import tracemalloc
import zipfile

import numpy as np
import pytest
from matrices import PAPER

from wmcore import Detector, Watermark, WatermarkError
from wmcore.calibration import Calibration
from wmcore.calibration_file import LARGEST

V = 400


def make(scheme="exp-edit", **settings):
    return Watermark.create(scheme, vocab_size=V, **{"key_length": 32, **settings})


@pytest.mark.parametrize(
    ("scheme", "block_length"),
    [*((s, None) for s in [*PAPER, "exp-free", "exp-local"]), *((s, 10) for s in PAPER)],
)
def test_calibrated_p_values_are_close_to_exact_ones(scheme, block_length):
    watermark = make(scheme, block_length=block_length)
    calibration = Calibration.fit(watermark, [20, 30, 40], 3000, seed=1)
    rng = np.random.default_rng(2)
    texts = [rng.integers(0, V, size=m) for m in (20, 25, 30, 33, 40) for _ in range(20)]
    detector = Detector(watermark)
    exact = detector.detect(texts, resamples=3000, stop_after=None, seed=3)
    found = detector.detect(texts, calibration=calibration)
    for a, b in zip(found, exact, strict=True):
        assert (a.statistic, a.shift, a.block) == (b.statistic, b.shift, b.block)
        assert (a.method, b.method) == ("calibrated", "permutation")
        assert a.resamples == 3000
        assert a.p_error == pytest.approx(math.sqrt(a.p_value * (1 - a.p_value) / 3001))
        assert b.p_error is None
        # Two samples of 3,000 of nearly the same law: standard error at most 0.013; six of them, and 0.02 for
        # other repetitions and for lengths between the calibrated ones.
        assert abs(a.p_value - b.p_value) < 6 * 0.013 + 0.02


def test_the_sample_is_the_exact_null_of_its_texts():
    watermark = make(key_length=17)
    text = np.arange(12)
    calibration = Calibration.fit(watermark, [12], 501, tokens=[text] * 3, seed=7)
    for level in (0, 250, 500):
        phi = calibration.statistics[0, level]
        assert calibration.hits(phi, 12) >= level + 1
        assert calibration.hits(phi - 0.001, 12) <= level
    # The same resamples as a detector's with this seed.
    (found,) = Detector(watermark).detect([text], resamples=501, stop_after=None, seed=7)
    (looked_up,) = Detector(watermark).detect([text], calibration=calibration)
    assert (found.hits, found.p_value) == (looked_up.hits, looked_up.p_value)


def test_saved_and_loaded(tmp_path):
    watermark = make("its-edit")
    calibration = Calibration.fit(watermark, [10, 20], 60, seed=1)
    path = tmp_path / "null.npz"
    calibration.save(path)
    loaded = Calibration.load(path)
    assert loaded.test == calibration.test
    assert (loaded.statistics == calibration.statistics).all()
    assert (loaded.lengths == [10, 20]).all()
    assert watermark.key.secret_hex.encode() not in path.read_bytes()
    text = [np.arange(15)]
    by_each = [Detector(watermark).detect(text, calibration=c) for c in (calibration, loaded)]
    assert by_each[0] == by_each[1]


@pytest.mark.parametrize("rows", [slice(None, None, -1), slice(0, 0)])
def test_files_out_of_order(tmp_path, rows):
    fitted = Calibration.fit(make(), [10, 20], 60)
    path = tmp_path / "null.npz"
    Calibration(fitted.test, fitted.lengths[rows], fitted.statistics).save(path)
    with pytest.raises(WatermarkError, match="damaged, or not a calibration"):
        Calibration.load(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text", None])
def test_files_that_are_no_calibration(tmp_path, content):
    path = tmp_path / "null.npz"
    if content is None:
        with open(path, "wb") as file:
            np.savez(file, header=np.array({"a": 1}, dtype=object))  # a pickle inside
    else:
        path.write_bytes(content)
    with pytest.raises(WatermarkError, match="cannot be read"):
        Calibration.load(path)
    with pytest.raises(WatermarkError, match="No such file"):
        Calibration.load(tmp_path / "none.npz")


def test_what_does_not_fit_is_refused():
    watermark = make()
    calibration = Calibration.fit(watermark, [10, 20], 50)
    short, fine, long = Detector(watermark).detect(
        [np.arange(9), np.arange(10), np.arange(21)], calibration=calibration
    )
    assert "9 tokens are outside the calibrated lengths 10 to 20" in short.error
    assert "21 tokens" in long.error
    assert fine.error is None
    for other in (make("exp"), make(key_length=33), make(gap=1.0), make(block_length=5)):
        with pytest.raises(WatermarkError, match="the calibration was made for"):
            Detector(other).detect([np.arange(10)], calibration=calibration)
    for scheme in ({}, {**calibration.test, "more": 1}):
        with pytest.raises(WatermarkError, match="the calibration was made for"):
            Calibration(scheme, calibration.lengths, calibration.statistics).check(
                watermark.statistic, watermark.problem()
            )
    for lengths in ([-3], [0], [10.7], ["10"], [True], [2**40], [np.nan]):
        with pytest.raises(WatermarkError, match="a length in lengths is"):
            Calibration.fit(watermark, lengths)
    with pytest.raises(WatermarkError, match="fewer lengths or resamples"):
        Calibration.fit(watermark, range(1, 1000), 10**6)
    with pytest.raises(WatermarkError, match="tokens: text 1 is no sequence"):
        Calibration.fit(watermark, [2], tokens=[[1, 2, 3], "abcd"])
    with pytest.raises(WatermarkError, match="lengths is empty"):
        Calibration.fit(watermark, [])
    with pytest.raises(WatermarkError, match="lengths holds 9000: a block of 9000"):
        Calibration.fit(watermark, [9000])
    with pytest.raises(WatermarkError, match="no text of tokens is that long"):
        Calibration.fit(watermark, [50], tokens=[np.arange(49)])


TEST = {
    "cost": "exp",
    "alignment": "edit",
    "n": 32,
    "gamma": 0,
    "vocab_size": None,
    "denominator": None,
    "block_length": None,
}
LENGTHS = np.array([10, 20])
STATISTICS = np.arange(8.0).reshape(2, 4)


def calibration_file(path, lengths=LENGTHS, statistics=STATISTICS, header=None, **test):
    """Any file that looks like a calibration."""
    if header is None:
        header = json.dumps({"version": 2, "test": {**TEST, **test}})
    with open(path, "wb") as file:
        np.savez_compressed(file, header=header, lengths=lengths, statistics=statistics)
    return path


def refused(path):
    with pytest.raises(
        WatermarkError, match=r"cannot be read \(damaged, or not a calibration\): fit"
    ):
        Calibration.load(path)


def test_a_calibration_file_by_hand_loads(tmp_path):
    found = Calibration.load(calibration_file(tmp_path / "null.npz"))
    assert (found.test, found.lengths.tolist()) == ({**TEST, "score": None}, [10, 20])
    small = calibration_file(tmp_path / "null.npz", LENGTHS.astype(">u2"), STATISTICS.astype("f2"))
    found = Calibration.load(small)
    assert (found.lengths.dtype, found.statistics.dtype) == (np.int64, np.float64)


@pytest.mark.parametrize(
    "lengths",
    [
        np.array([10.0, 20.0]),
        np.array([10, np.inf]),
        np.array(["10", "20"]),
        np.array([-5, 20]),
        np.array([0, 20]),
        np.array([20, 10]),
        np.array([10, 10]),
        np.array([[10], [20]]),
        np.array([10]),
        np.array([10, 20, 30]),
        np.array([], np.int64),
        np.array(10),
        np.array([10, 2**31]),
        np.array([10, 2**63 + 1], np.uint64),
        np.array([True, False]),
        np.array([10, 20], "m8[s]"),
        np.array([10 + 0j, 20]),
        np.array([(10,), (20,)], [("a", int)]),
        np.array([10, 20], object),
    ],
)
def test_hostile_lengths(tmp_path, lengths):
    refused(calibration_file(tmp_path / "null.npz", lengths=lengths))


@pytest.mark.parametrize(
    "statistics",
    [
        np.arange(8).reshape(2, 4),
        np.arange(8.0),
        np.arange(8.0).reshape(2, 2, 2),
        np.empty((2, 0)),
        np.float64(3.0),
        np.array([[1.0, 2.0], [3.0, np.nan]]),
        np.array([[np.nan], [1.0]]),
        np.array([[1.0, 2.0], [3.0, np.inf]]),
        np.array([[-np.inf, 2.0], [3.0, 4.0]]),
        np.array([[2.0, 1.0], [3.0, 4.0]]),
        np.array([["a", "b"], ["c", "d"]]),
        np.array([[1, 2], [3, 4]], complex),
        np.array([[1.0, 2.0], [3.0, 4.0]], object),
        np.array([[1, np.finfo(np.longdouble).max]] * 2, np.longdouble),
    ],
)
def test_hostile_statistics(tmp_path, statistics):
    refused(calibration_file(tmp_path / "null.npz", statistics=statistics))


@pytest.mark.parametrize(
    "header",
    [
        "",
        "null",
        "[]",
        "3",
        '"version"',
        "{}",
        '{"version": 2}',
        '{"version": 2, "test": null}',
        '{"version": 2, "test": []}',
        '{"version": 2, "test": {}}',
        '{"version": 1, "scheme": 3}',
        '{"version": 1, "scheme": {}}',
        '{"version": "2", "test": {}}',
        '{"version": 2.0, "test": {}}',
        '{"version": true, "test": {}}',
        "[" * 10_000,
        "9" * 10_000,
        "x" * 100_000,
        np.array(["{}", "{}"]),
        np.array(b"{}"),
        np.array(3),
        np.array({"version": 2}, object),
        *[
            json.dumps({"version": 2, "test": {**TEST, **change}})
            for change in (
                {"n": "32"},
                {"n": 32.0},
                {"n": None},
                {"n": [32]},
                {"n": True},
                {"cost": 1},
                {"cost": {"name": "exp"}},
                {"gamma": None},
                {"vocab_size": 1.5},
                {"more": 1},
            )
        ],
    ],
)
def test_hostile_headers(tmp_path, header):
    refused(calibration_file(tmp_path / "null.npz", header=header))


def test_headers_that_do_not_fit_are_one_short_sentence(tmp_path):
    with pytest.raises(WatermarkError, match=r"has version 3, but .* version 2: fit it again"):
        Calibration.load(calibration_file(tmp_path / "null.npz", header='{"version": 3}'))
    for change in ({"n": 10**4000}, {"cost": "\x1b]0;" * 1000}):
        found = Calibration.load(calibration_file(tmp_path / "null.npz", **change))
        with pytest.raises(WatermarkError, match="was made for") as refusal:
            found.check(make().statistic, make().problem())
        assert len(str(refusal.value)) < 600
        assert "\x1b" not in str(refusal.value)


def npy(array):
    raw = io.BytesIO()
    np.save(raw, array)
    return raw.getvalue()


def zipped(path, method=zipfile.ZIP_DEFLATED, **changes):
    """A calibration with some of its members' bytes replaced; None leaves one out."""
    members = {
        "header": npy(np.array(json.dumps({"version": 2, "test": TEST}))),
        "lengths": npy(LENGTHS),
        "statistics": npy(STATISTICS),
    }
    with zipfile.ZipFile(path, "w", method) as file:
        for name, raw in (members | changes).items():
            if raw is not None:
                file.writestr(f"{name}.npy", raw)
    return path


def header_only(text):
    raw = b"\x93NUMPY\x01\x00"
    return raw + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_can_unpack_more_than_they_say_are_refused(tmp_path, method):
    Calibration.load(zipped(tmp_path / "null.npz"))
    refused(zipped(tmp_path / "null.npz", method))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"statistics",
        npy(STATISTICS)[:-1],
        npy(STATISTICS) + b"x",
        header_only("{'descr': '<f8', 'fortran_order': False, 'shape': (1 << 40, 4), }\n"),
        header_only("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776, 4), }\n"),
        header_only("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 1e999), }\n"),
        header_only("{'descr': '<f8', 'fortran_order': False, 'shape': (-2, -4), }\n") + bytes(64),
        header_only("{'descr': '|V0', 'fortran_order': False, 'shape': (10000000000, 9), }\n"),
        header_only("{'descr': '|O', 'fortran_order': False, 'shape': (2, 4), }\n") + bytes(64),
        header_only("(" * 5000),
        None,
    ],
)
def test_members_that_are_not_what_they_say(tmp_path, raw):
    refused(zipped(tmp_path / "null.npz", statistics=raw))


def test_a_zip_bomb_is_refused_by_its_directory(tmp_path):
    path = tmp_path / "null.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("header.npy", npy(np.array(json.dumps({"version": 2, "test": TEST}))))
        file.writestr("lengths.npy", npy(LENGTHS))
        with file.open("statistics.npy", "w") as member:
            member.write(npy(np.zeros((2, (LARGEST >> 4) + 2**14)))[:128])
            for _ in range((LARGEST >> 20) + 2):
                member.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    assert peak_of(lambda: refused(path)) < 1 << 24


def test_a_zip_bomb_that_lies_about_its_size_is_not_unpacked(tmp_path):
    path = zipped(tmp_path / "null.npz", statistics=npy(STATISTICS) + bytes(1 << 27))
    raw = path.read_bytes()
    true, stated = (len(npy(STATISTICS)) + (1 << 27)).to_bytes(4, "little"), len(npy(STATISTICS))
    assert raw.count(true) == 2  # beside the member and in the directory
    path.write_bytes(raw.replace(true, stated.to_bytes(4, "little")))
    assert peak_of(lambda: refused(path)) < 1 << 24


def peak_of(call):
    """The most bytes that Python and NumPy held at once."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_calibration_too_large_to_be_read_is_not_written(tmp_path):
    large = Calibration(TEST, LENGTHS, np.broadcast_to(0.0, (2, LARGEST // 8)))
    with pytest.raises(WatermarkError, match="fewer lengths or resamples"):
        large.save(tmp_path / "null.npz")
    assert list(tmp_path.iterdir()) == []
