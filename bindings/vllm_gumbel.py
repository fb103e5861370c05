"""A batch detector for the Gumbel watermark that vLLM itself writes (``--watermark-config``). Needs no vLLM.

vLLM's own detector takes one document at a time, in Python; this one takes a batch, on threads, with the same scores.
The scheme is "philox4x32-10-v1" as in vLLM 0.30 to 0.33. SGLang writes one of the same kind with other numbers: see
`wmcore.bindings.sglang_gumbel`.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from wmcore.bindings import _gumbel
from wmcore.bindings._gumbel import GumbelDetection, stack
from wmcore.checks import thread_count, whole_number
from wmcore.errors import WatermarkError

__all__ = ["GumbelDetection", "GumbelDetector", "dual_keys", "stack"]


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
        if alpha is not None and not 0 <= alpha <= 1:
            raise WatermarkError(f"alpha {alpha} is outside 0 to 1, the share of key B")
        self._keys = (key,) if alpha is None else dual_keys(key)
        self._weights = (1.0,) if alpha is None else (1 - alpha, alpha)
        self.context_width = whole_number("context_width", context_width, 1)
        self.p_value_threshold = _gumbel.threshold(p_value_threshold)
        self.deduplicate_contexts = deduplicate_contexts
        self.threads = thread_count(threads)

    def detect(self, batch: Sequence[Any]) -> list[GumbelDetection]:
        """Test each document, a sequence of generated token ids (list, NumPy, torch, CuPy).

        As for vLLM's own detector, a document is what was generated, without its prompt: its first contexts are
        filled up with -1. p is exact for one key; a weighted sum of two independent Gamma variables has no such form
        unless the weights are equal or one is 0: then, as vLLM does, a Gamma tail of equal mean and variance is taken.
        About 40 ns a token, key and four tokens of context on one core.
        """
        from wmcore.kernels.cpu.philox import PAD, Contexts, gumbel_scores

        before = np.full(self.context_width, PAD, np.uint32)

        def read(document: Any) -> tuple[np.ndarray, np.ndarray, int]:
            return before, _gumbel.tokens_of("document", document, PAD - 1), before.size

        keys, weights = np.array(self._keys, np.uint64), np.array(self._weights, np.float64)
        return _gumbel.detect(
            batch,
            read,
            gumbel_scores,
            Contexts(self.context_width, keys, weights, self.deduplicate_contexts),
            variance=float(np.sum(np.square(weights))),
            p_value_threshold=self.p_value_threshold,
            threads=self.threads,
        )


def dual_keys(key: int) -> tuple[int, int]:
    """The two keys that vLLM derives from one: SHA-256 of a label and of the key, eight bytes each."""
    parts = (hashlib.sha256(label + key.to_bytes(8, "big")) for label in (b"key_a", b"key_b"))
    key_a, key_b = (int.from_bytes(part.digest()[:8], "big") for part in parts)
    return key_a, key_b
