"""What the kernels are told about a scheme (`Problem`) and about a batch of texts (`Texts`): plain arrays, no objects.

Both backends take these; everything here is host logic that must not be written twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .constants import EXP_COST_MIN, EXP_SCALE, ITS_SCALE, MAX_BLOCK

_INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class Problem:
    """One scheme in integers.

    its: inverse transform (else exponential) costs; edits: edit alignment (else plain); n: key length;
    gamma: gap cost in cost units; vocab_size: V; denominator: of eta(r) = r / denominator (its).
    """

    its: bool
    edits: bool
    n: int
    gamma: int
    vocab_size: int
    denominator: int

    @property
    def scale(self) -> int:
        """Cost units per 1.0 (nats for exp)."""
        return ITS_SCALE if self.its else EXP_SCALE

    @property
    def largest_cost(self) -> int:
        """The largest absolute token cost, in units; also the range of token costs."""
        return ITS_SCALE if self.its else -EXP_COST_MIN

    @property
    def offset(self) -> int:
        """What is added to every token cost before an edit alignment (see `cpu/edit.py`)."""
        return -2 * self.gamma if self.edits else 0

    def largest_gamma(self, k: int) -> int:
        """The largest gap cost, in units, with which no partial sum of a block of k tokens leaves int32."""
        return (_INT32_MAX - k * self.largest_cost) // (3 * k + (self.n + 15) // 16)

    def gaps_useless(self, k: int) -> bool:
        """Whether no alignment of k tokens with k rows can gain from a gap: then it equals the plain one."""
        return 2 * self.gamma >= k * self.largest_cost

    def needs_edits(self, k: np.ndarray) -> np.ndarray:
        """Which blocks of k tokens (int64 [N]) need an edit alignment: bool [N]; the others have an equal plain one."""
        return np.array([self.edits and not self.gaps_useless(int(x)) for x in k], bool)

    def taken_off(self, k: int) -> int:
        """What the kernels leave out of the statistic of a block of k tokens (<= 0; see `cpu/edit.py`)."""
        return 0 if self.gaps_useless(k) else self.offset * k

    def windows(self, k: int) -> int:
        """How many windows of k rows one int16 bound covers: more are cheaper, but bounded less tightly."""
        pieces = max(1, self.n // max(64, k))
        return -(-self.n // pieces)

    def shift(self, k: int) -> int:
        """Bits that costs lose in the int16 bounds of a block of k tokens, so that they seldom saturate."""
        per_token = self.scale * (1.0 if self.its else 2.5)
        gamma = self.gamma if self.edits and not self.gaps_useless(k) else 0
        gaps = gamma * (self.windows(k) + k)
        most = max(k * per_token, gaps, self.largest_cost + 2 * gamma)
        return max(1, int(np.ceil(np.log2(most / 32_000))))


@dataclass(frozen=True)
class Texts:
    """Packed texts. Text a has tokens distinct[distinct_offsets[a]:...][inverse[offsets[a]:...]].

    inverse: int64 [sum m]; offsets: int64 [N + 1]; distinct: int64 [sum U], token ids;
    distinct_offsets: int64 [N + 1]; k: int64 [N], block lengths.
    """

    inverse: np.ndarray
    offsets: np.ndarray
    distinct: np.ndarray
    distinct_offsets: np.ndarray
    k: np.ndarray

    def __len__(self) -> int:
        return len(self.k)

    @property
    def rows(self) -> np.ndarray:
        """Distinct tokens of each text: int64 [N]."""
        return np.diff(self.distinct_offsets)


def distinct_tokens(text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(distinct tokens in order of first occurrence, inverse): text == distinct[inverse], both int64.

    In this order a prefix of a text has a prefix of its distinct tokens, and so the same resampled keys.
    """
    tokens, first, inverse = np.unique(text, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return tokens[order], rank[inverse]


def pack(texts: Sequence[np.ndarray], block_length: int | None) -> Texts:
    """Pack int64 token sequences: at least one, each of at least one token and of at least block_length."""
    parts = [distinct_tokens(text) for text in texts]
    lengths = np.array([len(text) for text in texts], np.int64)
    rows = np.array([len(distinct) for distinct, _ in parts], np.int64)
    k = np.full(len(texts), block_length, np.int64) if block_length else lengths
    return Texts(
        inverse=np.concatenate([inverse for _, inverse in parts]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        distinct=np.concatenate([distinct for distinct, _ in parts]),
        distinct_offsets=np.concatenate([[0], np.cumsum(rows)]).astype(np.int64),
        k=k,
    )


def block_error(problem: Problem, length: int, k: int) -> str | None:
    """Why a text of `length` tokens cannot be aligned in blocks of k, or None."""
    if length == 0:
        return "the text has no tokens: at least one is needed"
    if k > length:
        return (
            f"block_length {k} exceeds the text's {length} tokens: "
            "use a longer text or a smaller block_length"
        )
    if k > MAX_BLOCK:
        return (
            f"a block of {k} tokens exceeds the limit of {MAX_BLOCK}: "
            f"set block_length to at most {MAX_BLOCK}"
        )
    if problem.edits and not problem.gaps_useless(k):
        most = problem.largest_gamma(k)
        if problem.gamma > most:
            return (
                f"gap {problem.gamma / problem.scale:g} exceeds {most / problem.scale:.6g}, the most that "
                f"32-bit sums hold for a block of {k} tokens: use a smaller gap or a smaller block_length"
            )
    return None
