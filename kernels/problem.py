"""What kernels are told: a test in integers (`Problem`), a batch of texts (`Texts`), what belongs together in a call.

All are NamedTuples: Numba compiles them, CUDA gets the same fields as structs. Both backends take these; everything
here is host logic that must not be written twice.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .constants import EXP_COST_MIN, EXP_SCALE, ITS_SCALE, MAX_BLOCK, NOTHING, SCORE_SCALE

# Alignments: how a block of text is laid along the key.
PLAIN = 0
"""Token by token."""
EDIT = 1
"""With insertions and deletions, each of cost gamma (paper, Definition 4)."""
FREE = 2
"""The whole text along any stretch of the cyclic key, with gaps; scores from a table."""
LOCAL = 3
"""Any stretch of the text along any stretch of the cyclic key, with gaps; scores from a table."""
SCORED = (FREE, LOCAL)
"""The alignments whose token costs come from a `Scoring`."""

# Token costs, by the numbers they are made from.
EXP = 0
"""log(1 - u), u of (row, token) (paper, section 2.3)."""
ITS = 1
"""abs(u - eta), u of the row, eta of the token's rank (paper, section 2.2)."""


class Cost(NamedTuple):
    """The range of an integer token cost.

    scale: units per 1.0 (nats for exp); least, most: in units; drift: what a resample reaches per token, about, in
    units (int16 bounds are centred on it); ranked: whether the numbers are a row's u and a token's rank, shared by
    all tokens, instead of a word for each (row, token).
    """

    scale: int
    least: int
    most: int
    drift: float
    ranked: bool


COSTS = (
    Cost(EXP_SCALE, EXP_COST_MIN, 0, 2.5 * EXP_SCALE, False),
    Cost(ITS_SCALE, 0, ITS_SCALE, 1.0 * ITS_SCALE, True),
)
"""By code: COSTS[EXP], COSTS[ITS]."""


class Problem(NamedTuple):
    """One test in integers.

    cost, alignment: codes; n: key length; gamma: gap cost in cost units, 0 where the alignment has no gaps;
    vocab_size: V; denominator: of eta(r) = r / denominator (ranked costs).
    """

    cost: int
    alignment: int
    n: int
    gamma: int
    vocab_size: int
    denominator: int

    @property
    def scale(self) -> int:
        """Cost units per 1.0 (nats for exp)."""
        return SCORE_SCALE if self.scored else COSTS[self.cost].scale

    @property
    def scored(self) -> bool:
        """Whether token costs are looked up in a `Scoring`, and texts are `ScoredTexts`."""
        return self.alignment in SCORED

    @property
    def span(self) -> int:
        """The largest absolute token cost, in units; also the range of token costs."""
        cost = COSTS[self.cost]
        return max(cost.most, -cost.least)

    def largest_gamma(self, k: int) -> int:
        """The largest gap cost, in units, with which no partial sum of a block of k tokens leaves int32."""
        return (NOTHING - k * self.span) // (3 * k + (self.n + 15) // 16)

    def gaps_useless(self, k: int | np.ndarray) -> bool | np.ndarray:
        """Whether no alignment of k tokens with k rows can gain from a gap: then it equals the plain one. For each of
        several k, if they are an array."""
        return 2 * self.gamma >= k * self.span

    def of_block(self, k: int) -> "Problem":
        """The problem that a block of k tokens poses: the plain one where gaps are useless."""
        if self.alignment == EDIT and self.gaps_useless(k):
            return self._replace(alignment=PLAIN, gamma=0)
        return self

    def parts(self, texts: "Texts", members: np.ndarray) -> list[tuple["Problem", np.ndarray]]:
        """The problems that these texts (int64) pose, each with its texts: what `of_block` says of each."""
        if self.alignment != EDIT:
            return [(self, members)] if len(members) else []
        useless = np.asarray(self.gaps_useless(texts.k[members]))
        found = [(self, members[~useless])]
        if useless.any():
            found.append((self._replace(alignment=PLAIN, gamma=0), members[useless]))
        return [(problem, part) for problem, part in found if len(part)]

    def windows(self, k: int) -> int:
        """How many windows of k rows one int16 bound covers: more are cheaper, but bounded less tightly."""
        pieces = max(1, self.n // max(64, k))
        return -(-self.n // pieces)

    def bits_lost(self, k: int) -> int:
        """Bits that costs lose in the int16 bounds of a block of k tokens, so that they seldom saturate."""
        per_token = COSTS[self.cost].drift
        gaps = self.gamma * (self.windows(k) + k)
        most = max(k * per_token, gaps, self.span + 2 * self.gamma)
        return max(1, int(np.ceil(np.log2(most / 32_000))))


class Texts(NamedTuple):
    """Packed texts. Text a has tokens distinct[distinct_offsets[a]:...][inverse[offsets[a]:...]].

    inverse: int64 [sum m]; offsets: int64 [N + 1]; distinct: int64 [sum U], token ids;
    distinct_offsets: int64 [N + 1]; k: int64 [N], block lengths.
    """

    inverse: np.ndarray
    offsets: np.ndarray
    distinct: np.ndarray
    distinct_offsets: np.ndarray
    k: np.ndarray

    @property
    def size(self) -> int:
        """N, the number of texts."""
        return len(self.k)

    @property
    def rows(self) -> np.ndarray:
        """Distinct tokens of each text: int64 [N]."""
        return np.diff(self.distinct_offsets)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text: int64 [N]."""
        return np.diff(self.offsets)

    def take(self, members: np.ndarray) -> "Texts":
        """Some of the texts (int64), in that order."""

        def pieces(values: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            parts = [values[edges[a] : edges[a + 1]] for a in members]
            sizes = np.array([len(part) for part in parts], np.int64)
            return np.concatenate([values[:0], *parts]), np.concatenate([[0], np.cumsum(sizes)])

        inverse, offsets = pieces(self.inverse, self.offsets)
        distinct, distinct_offsets = pieces(self.distinct, self.distinct_offsets)
        return Texts(inverse, offsets, distinct, distinct_offsets, self.k[members])


class Scoring(NamedTuple):
    """What a key's 16-bit number says of a token: its level, and what that level costs in each bin of tokens.

    levels: uint8 [65536]; costs: int16 [B, LEVELS], minus a score, in units of 1 / SCORE_SCALE nat; factors: float64
    [B, LEVELS], e to the score, whose mean over a number drawn by chance is at most 1.
    """

    levels: np.ndarray
    costs: np.ndarray
    factors: np.ndarray


class ScoredTexts(NamedTuple):
    """Packed texts, and what a scored alignment takes beside them.

    bins: uint8 [sum m], the bin of each token of each text; bonus: int32 [N], what an alignment without gaps gets, in
    units.
    """

    texts: Texts
    bins: np.ndarray
    bonus: np.ndarray
    scoring: Scoring

    @property
    def size(self) -> int:
        """N, the number of texts."""
        return self.texts.size

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text: int64 [N]."""
        return self.texts.lengths

    @property
    def distinct(self) -> np.ndarray:
        """Distinct tokens of each text: int64 [sum U]."""
        return self.texts.distinct

    @property
    def distinct_offsets(self) -> np.ndarray:
        """Where the distinct tokens of each text are: int64 [N + 1]."""
        return self.texts.distinct_offsets

    def take(self, members: np.ndarray) -> "ScoredTexts":
        """Some of the texts (int64), in that order."""
        edges = self.texts.offsets
        bins = [self.bins[edges[a] : edges[a + 1]] for a in members]
        return self._replace(
            texts=self.texts.take(members),
            bins=np.concatenate([self.bins[:0], *bins]),
            bonus=self.bonus[members],
        )

    def cut(self, first: int, stop: int) -> "ScoredTexts":
        """Tokens first .. stop - 1 of the only text as a text, in the bins that they have there."""
        tokens = self.distinct[self.texts.inverse[first:stop]]
        return self._replace(texts=pack([tokens], None), bins=self.bins[first:stop])


class CostTable(NamedTuple):
    """Costs of one key. matrix: int32 [R, >= n], on the host or where the backend keeps it; source: int64 [sum U],
    the row of matrix of each distinct token of each text. For a scored alignment: the key's 16-bit numbers in place
    of costs, uint16 [R, n], on the host."""

    matrix: Any
    source: np.ndarray


class Resamples(NamedTuple):
    """Resamples first .. stop - 1 of a seed. seed_key: uint32 [8], a ChaCha key; first: a multiple of 32 for counts,
    even for statistics."""

    seed_key: np.ndarray
    first: int
    stop: int


class Fits(NamedTuple):
    """The statistic of each text and where it is: value int32, in cost units; block, stop, tau int64 [N].

    Tokens block .. stop - 1 are aligned, from key row tau on. (NOTHING, -1, -1, -1) where the statistic exceeds what
    was asked for.
    """

    value: np.ndarray
    block: np.ndarray
    stop: np.ndarray
    tau: np.ndarray

    @classmethod
    def nothing(cls, count: int) -> "Fits":
        """Of `count` texts, to be filled in."""
        place = (np.full(count, -1, np.int64) for _ in range(3))
        return cls(np.full(count, NOTHING, np.int32), *place)


def distinct_tokens(text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(distinct tokens in order of first occurrence, inverse): text == distinct[inverse], both int64.

    In this order a prefix of a text has a prefix of its distinct tokens, and so the same resampled keys.
    """
    first, inverse = _first_places(text)
    return text[first], inverse


def _first_places(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(where each number is for the first time, in that order; which of these each number is), both int64."""
    _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return first[order], rank[inverse]


def pack(texts: Sequence[np.ndarray], block_length: int | None) -> Texts:
    """Pack int64 token sequences: at least one, each of at least one token and of at least block_length."""
    lengths = np.array([len(text) for text in texts], np.int64)
    tokens = np.concatenate(texts)
    owner = np.repeat(np.arange(len(texts)), lengths)
    # One sort for all texts: a token of another text is another number.
    first, inverse = _first_places(owner * (int(tokens.max()) + 1) + tokens)
    rows = np.bincount(owner[first], minlength=len(texts))
    distinct_offsets = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
    return Texts(
        inverse=inverse - distinct_offsets[owner],
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        distinct=tokens[first],
        distinct_offsets=distinct_offsets,
        k=np.full(len(texts), block_length, np.int64) if block_length else lengths,
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
    most = problem.largest_gamma(k)
    if problem.of_block(k).gamma > most:
        return (
            f"gap {problem.gamma / problem.scale:g} exceeds {most / problem.scale:.6g}, the most that "
            f"32-bit sums hold for a block of {k} tokens: use a smaller gap or a smaller block_length"
        )
    return None
