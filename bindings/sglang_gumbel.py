"""A batch detector for the Gumbel watermark that SGLang itself writes (``--enable-watermark``). Needs no SGLang.

SGLang's own detector takes one document at a time, in Python; this one takes a batch, on threads, with the same scores
and p-values. The scheme (MurmurHash3, log(u) / p) is that of SGLang 0.5.23.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from wmcore.bindings import _gumbel
from wmcore.bindings._gumbel import GumbelDetection, stack
from wmcore.checks import real_number, thread_count, whole_number
from wmcore.errors import WatermarkError

__all__ = ["GumbelDetection", "SglangGumbelDetector", "stack"]

_LONGEST_WINDOW = 64
_MOST_CONTEXTS = 4096
_LARGEST_TOKEN = 2**32 - 1


class SglangGumbelDetector:
    """Finds SGLang's watermark in a batch of token sequences.

    Parameters
    ----------
    key, key_b : str
        1 to 16 hexadecimal digits, with or without "0x", as in ``--watermark-config`` or in a request (no numbers: 42
        is not "42"). key_b: None unless the server has one.
    context_window : int
        Tokens that a token's number depends on, 1 to 64.
    p_value_threshold : float
        The largest p-value that counts as watermarked.
    mixing_probability : float
        With key_b: the share of contexts after which `key` draws, inside (0, 1).
    max_contexts : int
        Different contexts of a document that are marked, from the first on, 1 to 4,096: fewer where the server's token
        pool has room for fewer tokens of a request.
    threads : int, optional
        Default: the cores this process may use. No result depends on it.

    Raises
    ------
    WatermarkError
        For a parameter out of range.

    Examples
    --------
    >>> detector = SglangGumbelDetector("0123456789abcdef")
    >>> found = detector.detect([[1, 2, 3, 4, 5], [6, 7]], prompts=[None, [8, 9]])
    >>> [one.num_scored_tokens for one in found]
    [1, 2]
    """

    def __init__(
        self,
        key: str,
        context_window: int = 4,
        p_value_threshold: float = 0.01,
        *,
        key_b: str | None = None,
        mixing_probability: float = 0.5,
        max_contexts: int = _MOST_CONTEXTS,
        threads: int | None = None,
    ) -> None:
        self._keys = [_key("key", key)]
        if key_b is not None:
            self._keys.append(_key("key_b", key_b))
        self.mixing_probability = real_number("mixing_probability", mixing_probability, 0, 1)
        if mixing_probability in (0, 1):
            raise WatermarkError(
                f"mixing_probability {mixing_probability} is outside (0, 1): without key_b one key draws everywhere"
            )
        self.context_window = whole_number("context_window", context_window, 1, _LONGEST_WINDOW)
        self.p_value_threshold = _gumbel.threshold(p_value_threshold)
        self.max_contexts = whole_number("max_contexts", max_contexts, 1, _MOST_CONTEXTS)
        self.threads = thread_count(threads)

    def detect(
        self, batch: Sequence[Any], prompts: Sequence[Any] | None = None
    ) -> list[GumbelDetection]:
        """Test each document, a sequence of generated token ids (list, NumPy, torch, CuPy) from 0 to 2**32 - 1.

        prompts holds the token ids before each document (their end suffices: `context_window` of them), or None where
        they are unknown: then the first `context_window` tokens are context alone, as an empty prompt has it, too. p is
        a Gamma tail, exact up to the 32 bits of a hash; with two keys each token counts under the one that drew it.

        Raises WatermarkError unless there are as many prompts as documents.
        """
        from wmcore.kernels.cpu.murmur import Marks, murmur_scores

        if prompts is None:
            prompts = [None] * len(batch)
        if len(prompts) != len(batch):
            raise WatermarkError(
                f"there are {len(prompts)} prompts for {len(batch)} documents: give one each, None where it is unknown"
            )
        share = np.uint64(int(self.mixing_probability * 2**32))
        return _gumbel.detect(
            zip(batch, prompts, strict=True),
            self._read,
            murmur_scores,
            Marks(self.context_window, np.array(self._keys, np.uint64), share, self.max_contexts),
            variance=1.0,
            p_value_threshold=self.p_value_threshold,
            threads=self.threads,
        )

    def _read(self, pair: tuple[Any, Any]) -> tuple[np.ndarray, np.ndarray, int]:
        document, prompt = pair
        text = _gumbel.tokens_of("document", document, _LARGEST_TOKEN)
        before = np.empty(0, np.uint32)
        if prompt is not None:
            before = _gumbel.tokens_of("prompt", prompt, _LARGEST_TOKEN)[-self.context_window :]
        unknown = min(self.context_window, text.size)
        return before, text, before.size or unknown


def _key(name: str, key: object) -> int:
    """The 64 bits of a key; WatermarkError, without the key, unless it is hexadecimal digits."""
    if not isinstance(key, str) or not re.fullmatch(r"(0[xX])?[0-9a-fA-F]{1,16}", key):
        raise WatermarkError(
            f"{name} is not a string of 1 to 16 hexadecimal digits: give that of SGLang's --watermark-config"
        )
    return int(key, 16)
