"""A batch detector for the Gumbel watermark that vLLM itself writes (``--watermark-config``). Needs no vLLM.

vLLM's own detector takes one document at a time, in Python; this one takes a batch, on threads, with the same scores.
The scheme is "philox4x32-10-v1" as in vLLM 0.30 to 0.33. SGLang and TensorRT-LLM document a watermark of the same
kind; whether their numbers are the same was not tested here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wmcore.bindings import _gumbel
from wmcore.checks import thread_count, token_ids, whole_number
from wmcore.errors import WatermarkError


@dataclass(frozen=True)
class GumbelDetection:
    """One document. The first four fields are those of vLLM's ``WatermarkDetection``.

    score : float, the sum of -log(1 - u); p_value : float, P(score or more) without the watermark;
    num_scored_tokens : int; is_watermarked : bool, p_value <= p_value_threshold; error : str, why there is no
    answer (then p_value is 1), or None.
    """

    score: float
    p_value: float
    num_scored_tokens: int
    is_watermarked: bool
    error: str | None = None


class GumbelDetector:
    """Finds the watermark of vLLM's ``gumbel`` or ``dual_key_gumbel`` algorithm in a batch of token sequences.

    Parameters
    ----------
    key : int
        64 bits, as in ``--watermark-config``.
    context_width : int
        Tokens that a token's number depends on.
    p_value_threshold : float
        The largest p-value that counts as watermarked.
    deduplicate_contexts : bool
        Count a token only where its context is new in the document; without it p-values are not valid.
    alpha : float, optional
        For ``dual_key_gumbel``: the share of tokens that key B drew, and its weight. None: one key.
    threads : int, optional
        Default: the cores this process may use. No result depends on it.

    Raises
    ------
    WatermarkError
        For a parameter out of range.

    Examples
    --------
    >>> found = GumbelDetector(42).detect([[1, 2, 3], [4, 5]])
    >>> [one.num_scored_tokens for one in found]
    [3, 2]
    """

    def __init__(
        self,
        key: int,
        context_width: int = 4,
        p_value_threshold: float = 0.01,
        deduplicate_contexts: bool = True,
        *,
        alpha: float | None = None,
        threads: int | None = None,
    ) -> None:
        if not isinstance(key, int) or not 0 <= key < 2**64:
            raise WatermarkError(
                "key is outside 0 to 2**64 - 1: give the key of --watermark-config"
            )
        if not 0 < p_value_threshold < 1:
            raise WatermarkError(
                f"p_value_threshold {p_value_threshold} is outside (0, 1): 0.01 accuses one text in a hundred"
            )
        if alpha is not None and not 0 <= alpha <= 1:
            raise WatermarkError(f"alpha {alpha} is outside 0 to 1, the share of key B")
        self._keys = (key,) if alpha is None else _gumbel.dual_keys(key)
        self._weights = (1.0,) if alpha is None else (1 - alpha, alpha)
        self.context_width = whole_number("context_width", context_width, 1)
        self.p_value_threshold = p_value_threshold
        self.deduplicate_contexts = deduplicate_contexts
        self.threads = thread_count(threads)

    def detect(self, batch: Sequence[Any]) -> list[GumbelDetection]:
        """Test each document, a sequence of generated token ids (list, NumPy, torch, CuPy).

        As for vLLM's own detector, a document is what was generated, without its prompt: its first contexts are
        filled up with -1.
        """
        arrays, places = [], []
        results = [GumbelDetection(0.0, 1.0, 0, False)] * len(batch)
        for place, document in enumerate(batch):
            try:
                array = token_ids(document)
                if array.size and not 0 <= array.min() <= array.max() < 2**32 - 1:
                    raise ValueError("a token is outside 0 to 2**32 - 2")
            except Exception as error:  # a foreign array's own, too
                message = f"the document is not a sequence of token ids: {error}"
                results[place] = GumbelDetection(0.0, 1.0, 0, False, message)
                continue
            arrays.append(array)
            places.append(place)
        score, counted = _gumbel.scores(
            arrays,
            self._keys,
            self._weights,
            context_width=self.context_width,
            deduplicate=self.deduplicate_contexts,
            threads=self.threads,
        )
        p_value = _gumbel.p_values(score, counted, self._weights)
        for i, place in enumerate(places):
            found = counted[i] > 0 and bool(p_value[i] <= self.p_value_threshold)
            results[place] = GumbelDetection(
                float(score[i]), float(p_value[i]), int(counted[i]), found
            )
        return results


def stack(detections: Sequence[GumbelDetection]) -> dict[str, np.ndarray]:
    """Columns of detections, for a frame: score, p_value, num_scored_tokens, is_watermarked."""
    names = ("score", "p_value", "num_scored_tokens", "is_watermarked")
    return {name: np.array([getattr(one, name) for one in detections]) for name in names}
