"""The baseline SynthID-Text (Dathathri et al., Nature 634, 2024), by transformers' own processor.

Tournament sampling: the 4 tokens before, a candidate and each of 30 keys give a bit g, and 30 rounds favour candidates
with g = 1; not where the context has occurred. A text is tested by the mean of its g.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wmcore.errors import WatermarkError
from wmcore.paper.baselines import key_numbers, permutation_p_values
from wmcore.paper.contract import Batch, Trial, Writer
from wmcore.sampling import ordinary

if TYPE_CHECKING:
    from wmcore.paper.lean_synthid import LeanSynthId

NGRAM_LENGTH = 5
KEYS = 30


def synthid_keys(secret: bytes) -> list[int]:
    """transformers' `keys` of a text."""
    return key_numbers(secret, "synthid", KEYS)


def synthid_writer(batch: Batch) -> Writer:
    """A writer of texts by SynthID-Text.

    As in transformers, a context is of new tokens, after zeros at first: neither the prompt nor its padding matters.
    """
    return _Writer(batch)


class _Writer:
    """A processor for each text, as it keeps the text's contexts; they are made where the first logits are."""

    def __init__(self, batch: Batch) -> None:
        self._keys = [synthid_keys(secret) for secret in batch.secrets]
        self._rows = batch.rows
        self._draw = ordinary(batch.draws)
        self._processors: list[LeanSynthId] = []
        self._steps = 0

    def __call__(self, ids: Any, logits: Any, step: int) -> Any:
        if step != self._steps:
            raise WatermarkError(
                f"step is {step}, but must be {self._steps}: SynthID's processors follow a text from its start; "
                "make a new writer for it"
            )
        self._steps += 1
        if not self._processors:
            self._processors = [_processor(keys, logits.device) for keys in self._keys]
        for b, processor in enumerate(self._processors):
            logits[b : b + 1] = processor(ids[b : b + 1], logits[b : b + 1])
        return self._draw(logits, self._rows + step, 1.0)


def synthid_p_values(
    texts: Sequence[np.ndarray], secrets: Sequence[bytes], trial: Trial
) -> np.ndarray:
    """The test of texts by the plain mean of g over 30 keys and all 5-grams of new contexts: `Test.p_values`.

    The bits come from `compute_g_values`, the 5-grams from `compute_context_repetition_mask`.

    Under other keys, each distinct 5-gram has 30 independent bits. They come from a fixed table of 65,536, so that one
    is 1 with the table's own share of ones, not quite 1/2. That law is simulated, given the text's 5-grams; it is exact
    for an ideal hash. A text of fewer than 5 tokens has p NaN.
    """

    def statistic(
        text: np.ndarray, secret: bytes, rng: np.random.Generator
    ) -> tuple[int, np.ndarray] | None:
        import torch

        if len(text) < NGRAM_LENGTH:
            return None
        processor = _processor(synthid_keys(secret), "cpu")
        ids = torch.from_numpy(text)[None]
        new = processor.compute_context_repetition_mask(ids)[0]
        observed = int(processor.compute_g_values(ids)[0, new].sum())
        # A context counts as new again when it is not among the last 1,024, and so its 5-gram may come again.
        ngrams = np.lib.stride_tricks.sliding_window_view(text, NGRAM_LENGTH)[new.numpy()]
        _, counts = np.unique(ngrams, axis=0, return_counts=True)
        ones = float(processor.sampling_table.double().mean())
        others = np.zeros(trial.resamples, np.int64)
        for count, distinct in zip(*np.unique(counts, return_counts=True), strict=True):
            others += count * rng.binomial(KEYS * distinct, ones, trial.resamples)
        return observed, others

    return permutation_p_values(texts, secrets, trial, statistic)


def _processor(keys: list[int], device: Any) -> "LeanSynthId":
    from wmcore.paper.lean_synthid import LeanSynthId

    return LeanSynthId(NGRAM_LENGTH, keys, device)
