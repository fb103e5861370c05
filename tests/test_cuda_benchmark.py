"""The GPU benchmark's own code, at small sizes on the host: it checks results before it times them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from cuda_shim.device import ShimDevice

from wmcore import Detector, Watermark
from wmcore.kernels import load
from wmcore.kernels.cuda.backend import CudaBackend

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(load("cuda"), "_given", ShimDevice())
    import gpu

    yield gpu
    sys.modules.pop("gpu", None)


def test_rates(gpu):
    rows = gpu.rates(
        CudaBackend(ShimDevice()), lambda: None, 1e9, n=10, m=12, texts=2, resamples=32
    )
    assert [row["n"] for row in rows] == [10, 10]
    assert all(row["Gcells_per_s"] > 0 and row["p20"] <= row["p80"] for row in rows)


def test_detections(gpu, monkeypatch):
    monkeypatch.setattr(gpu, "timed", lambda run, wait: run() and {"seconds": 1.0})
    monkeypatch.setattr(gpu, "make_texts", lambda w, count, marked: [np.arange(9)] * count)
    rows = gpu.detections(lambda: None, batch=2, resamples=40, compared=1, schemes=("exp",))
    assert [row["texts_per_s"] for row in rows] == [2.0] * 3


def test_marked_texts_carry_the_watermark(gpu):
    watermark = Watermark.create("exp", vocab_size=2000, key_length=50)
    marked = gpu.make_texts(watermark, 3, True, 40)
    found = Detector(watermark, backend="cpu").detect(marked, resamples=99)
    assert [d.p_value for d in found] == [0.01] * 3
    assert all(len(text) == 40 for text in gpu.make_texts(watermark, 3, False, 40))


def test_each_part_is_written_as_soon_as_it_is_measured(gpu, tmp_path):
    path, seen = tmp_path / "card.json", []

    def fails():
        seen.append(json.loads(path.read_text()))
        raise RuntimeError("the device is gone")

    parts = {"edit": lambda: [{"x": 1}], "detect": fails, "sample": lambda: [{"y": 2}]}
    with pytest.raises(SystemExit, match=r"failed: .*detect.*the device is gone"):
        gpu.measure(path, {"card": "a card"}, parts)
    assert seen == [{"card": "a card", "failed": {}, "edit": [{"x": 1}]}]
    assert json.loads(path.read_text()) == {
        "card": "a card",
        "failed": {"detect": "RuntimeError: the device is gone"},
        "edit": [{"x": 1}],
        "sample": [{"y": 2}],
    }


def test_without_a_gpu_it_says_so_and_fails(gpu, monkeypatch):
    monkeypatch.setattr(type(load("cuda")), "why_not", lambda self: "there is no driver")
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--check"])
    with pytest.raises(SystemExit, match="nothing was measured: there is no driver"):
        gpu.main()
