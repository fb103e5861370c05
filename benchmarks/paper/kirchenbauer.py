"""The baseline of Kirchenbauer et al. (arXiv 2301.10226), by transformers' own `WatermarkLogitsProcessor`.

The token before (lefthash, context width 1) and the key choose the green list, gamma of the vocabulary, whose logits
gain delta; a text is tested by how many of its tokens are green. Green lists are made on the CPU, as torch's generators
of other devices make others from the same key.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from wmcore.paper.baselines import key_numbers, permutation_p_values
from wmcore.paper.contract import Batch, Trial, Writer
from wmcore.sampling import ordinary


def hashing_key(secret: bytes) -> int:
    """transformers' `hashing_key` of a text. Odd: the seed is key * token, of which the generator uses 32 bits."""
    return key_numbers(secret, "kirchenbauer", 1)[0] | 1


def kgw_writer(gamma: float, delta: float) -> Callable[[Batch], Writer]:
    """Writers of texts whose green tokens (a share `gamma` of the vocabulary) have logits raised by `delta`.

    The first token's context is the last of the prompt, so that padding on the left matters to an empty prompt alone.
    """
    return lambda batch: _Writer(batch, gamma, delta)


class _Writer:
    """One processor for all texts: lefthash needs its `hash_key` alone, not the table that takes 7 ms to make."""

    def __init__(self, batch: Batch, gamma: float, delta: float) -> None:
        self._processor = _processor(batch.vocab_size, gamma, delta)
        self._keys = [hashing_key(secret) for secret in batch.secrets]
        self._rows = batch.rows
        self._draw = ordinary(batch.draws)

    def __call__(self, ids: Any, logits: Any, step: int) -> Any:
        last = ids[:, -1:].cpu()
        for b, key in enumerate(self._keys):
            self._processor.hash_key = key
            logits[b : b + 1] = self._processor(last[b : b + 1], logits[b : b + 1])
        return self._draw(logits, self._rows + step, 1.0)


def kgw_p_values(
    gamma: float, once: bool = False
) -> Callable[[Sequence[np.ndarray], Sequence[bytes], Trial], np.ndarray]:
    """The test of texts with green lists of a share `gamma`: `Test.p_values`.

    The statistic is the number of green tokens among all but the first, as transformers' `WatermarkDetector` counts
    them (but it cuts off a beginning-of-text token first); with `once`, a repeated (context, token) counts once, as
    with its `ignore_repeated_ngrams`.

    Under another key, contexts have independent green lists, each a uniformly random subset of `greenlist_size` tokens:
    a distinct (context, token) is green with probability greenlist_size / V, and the tokens of one context are drawn
    without replacement. That law is simulated, given which pairs the text repeats; real keys would cost a permutation
    of the vocabulary for each context and key. It is exact for an ideal generator. The list after token 0 is the same
    under every key (the seed is key * token), so that it adds the same to every statistic and is left out. A text
    without a token to count has p NaN. Memory O(m T).
    """

    def p_values(texts: Sequence[np.ndarray], secrets: Sequence[bytes], trial: Trial) -> np.ndarray:
        processor = _processor(trial.vocab_size, gamma, 0.0)

        def statistic(
            text: np.ndarray, secret: bytes, rng: np.random.Generator
        ) -> tuple[int, np.ndarray] | None:
            contexts, tokens, counts = _pairs(text, trial.vocab_size)
            if not len(counts):
                return None
            if once:
                counts = np.ones_like(counts)
            processor.hash_key = hashing_key(secret)
            green = _green(processor, contexts, tokens)
            share = (processor.greenlist_size, trial.vocab_size)
            return int(counts[green].sum()), _other_keys(contexts, counts, share, trial, rng)

        return permutation_p_values(texts, secrets, trial, statistic)

    return p_values


def _processor(vocab_size: int, gamma: float, delta: float) -> Any:
    from transformers import WatermarkLogitsProcessor

    return WatermarkLogitsProcessor(vocab_size, "cpu", greenlist_ratio=gamma, bias=delta)


def _pairs(text: np.ndarray, vocab_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct (context, token) of a text in ascending order, and how often each is there: int64 [P] each."""
    pairs = text[:-1] * vocab_size + text[1:]
    pairs, counts = np.unique(pairs[text[:-1] != 0], return_counts=True)
    return pairs // vocab_size, pairs % vocab_size, counts


def _green(processor: Any, contexts: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Whether each token is in the green list of its context, bool [P]."""
    import torch

    green = np.empty(len(tokens), bool)
    for context in np.unique(contexts):
        of_it = contexts == context
        ids = processor._get_greenlist_ids(torch.tensor([context])).numpy()
        green[of_it] = (tokens[of_it, None] == ids).any(1)
    return green


def _other_keys(
    contexts: np.ndarray,
    counts: np.ndarray,
    share: tuple[int, int],
    trial: Trial,
    rng: np.random.Generator,
) -> np.ndarray:
    """The statistic under T other keys, int64 [T]; share: (greenlist_size, V)."""
    _, first, place = np.unique(contexts, return_index=True, return_inverse=True)
    rank = np.arange(len(contexts)) - first[place]
    size, vocab_size = share
    left = np.full((len(first), trial.resamples), size)  # green tokens that no pair before has
    total = np.zeros(trial.resamples, np.int64)
    for r in range(rank.max() + 1):
        now = np.flatnonzero(rank == r)
        of_it = place[now]
        green = rng.random((len(now), trial.resamples)) * (vocab_size - r) < left[of_it]
        left[of_it] -= green
        total += counts[now] @ green
    return total
