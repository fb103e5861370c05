"""Texts and batches as the array and frame libraries hold them: the answer does not depend on who holds the tokens."""

import numpy as np
import pytest
import torch

from wmcore import Detector
from wmcore.bindings.transformers import WatermarkDetector
from wmcore.bindings.vllm_gumbel import GumbelDetector
from wmcore.key import Key
from wmcore.watermark import Watermark

TOKENS = np.random.default_rng(1).integers(0, 200, 30).tolist()


class OnDevice:
    """The two names that a CuPy array is known by."""

    __cuda_array_interface__ = {"version": 3}  # noqa: RUF012

    def get(self):
        return np.array(TOKENS)


def holders():
    array = np.array(TOKENS)
    yield from (TOKENS, tuple(TOKENS), array, array.astype(np.uint8), array.astype(">i4"))
    yield from (
        np.repeat(array, 2)[::2],
        torch.tensor(TOKENS),
        torch.tensor(TOKENS, dtype=torch.int32),
    )
    yield torch.tensor(TOKENS * 2).reshape(2, -1)[1]
    yield OnDevice()


@pytest.fixture
def detector():
    key = Key(bytes(range(32)))
    return Detector(Watermark.create("exp-edit", vocab_size=200, key_length=20, key=key))


def test_one_text_in_any_array(detector):
    found = detector.detect(list(holders()), resamples=99, seed=1)
    assert len({(one.statistic, one.p_value) for one in found}) == 1
    assert found[0].error is None
    assert len({one.score for one in GumbelDetector(1).detect(list(holders()))}) == 1


def test_batches_as_matrices(detector):
    rows = [TOKENS, TOKENS[::-1]]
    wanted = detector.detect(rows, resamples=99, seed=1)
    for batch in (np.array(rows), torch.tensor(rows), tuple(rows)):
        assert detector.detect(batch, resamples=99, seed=1) == wanted
        shaped = WatermarkDetector(detector.watermark, resamples=99, seed=1)
        assert shaped(batch, return_dict=True).p_value.tolist() == [one.p_value for one in wanted]
        assert len(GumbelDetector(1).detect(batch)) == 2


@pytest.mark.gpu
def test_texts_on_a_gpu(detector):
    cupy = pytest.importorskip("cupy")
    wanted = detector.detect([TOKENS], resamples=99, seed=1)
    for text in (torch.tensor(TOKENS, device="cuda"), cupy.asarray(TOKENS)):
        assert detector.detect([text], resamples=99, seed=1) == wanted


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frame_columns(detector, library):
    """The example of docs/bindings/arrays.md."""
    frames = pytest.importorskip(library)
    frame = frames.DataFrame({"tokens": [TOKENS, TOKENS[::-1]]})
    found = detector.detect(frame["tokens"].to_list(), resamples=99, seed=1)
    assert detector.detect(frame["tokens"], resamples=99, seed=1) == found
    p_values = [one.p_value for one in found]
    if library == "pandas":
        frame = frame.assign(p_value=p_values)
    else:
        frame = frame.with_columns(frames.Series("p_value", p_values))
    assert frame["p_value"].to_list() == p_values
