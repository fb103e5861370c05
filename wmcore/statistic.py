"""`Statistic`: how a text is tested, chosen at detection. How it was written is the watermark's."""

from dataclasses import dataclass

from wmcore.checks import real_number, whole_number
from wmcore.errors import WatermarkError
from wmcore.kernels.constants import MAX_BLOCK, MOST_SCORE_GAP, SCORE_SCALE
from wmcore.kernels.problem import COSTS, Problem
from wmcore.schemes import EDIT, Scheme, named
from wmcore.scores import Scores, named_scores

WHOLE_TEXT = 0
"""As a block length: the whole text."""


@dataclass(frozen=True)
class Statistic:
    """A scheme's token cost and alignment, a gap cost, a block length and scores.

    Attributes
    ----------
    scheme : Scheme
    gap : float
        gamma, the cost of an insertion or deletion, in the cost's unit; 0.0 where the alignment has no gaps.
    block_length : int or None
        k, the tokens aligned at a time; None aligns the whole text, which is all that free and local alignments do.
    scores : Scores or None
        What a free or local alignment adds up; given as None, the scheme's own. None for other alignments.

    Raises
    ------
    WatermarkError
        For a gap, a block length or scores that cannot be used.
    """

    scheme: Scheme
    gap: float
    block_length: int | None
    scores: Scores | None = None

    def __post_init__(self) -> None:
        gap = real_number("gap", self.gap, 0)
        if gap and not self.scheme.alignment.gaps:
            other = named(self.scheme.cost, EDIT)
            remedy = f", or use scheme {other.name!r}" if other else ""
            raise WatermarkError(
                f"gap is {gap!r}, but scheme {self.scheme.name!r} has no edits: leave gap out{remedy}"
            )
        object.__setattr__(self, "gap", gap)
        if self.block_length is not None:
            k = whole_number("block_length", self.block_length, 1, MAX_BLOCK)
            object.__setattr__(self, "block_length", k)
        if self.scheme.alignment.scored:
            self._check_scored()
        elif self.scores is not None:
            raise WatermarkError(
                f"a score or proxy is given, but scheme {self.scheme.name!r} adds up the token cost itself: leave it "
                f"out, or use a scheme with scores, such as '{self.scheme.sampler}-free'"
            )

    def _check_scored(self) -> None:
        if self.block_length is not None:
            raise WatermarkError(
                f"block_length is {self.block_length}, but scheme {self.scheme.name!r} aligns whole texts: leave it "
                f"out, or use scheme {self.scheme.sampler!r} or '{self.scheme.sampler}-edit'"
            )
        scores = self.scores
        if scores is None:
            scores = named_scores(self.scheme.sampler, str(self.scheme.score))
        if not isinstance(scores, Scores):
            raise TypeError(f"score is a {type(scores).__name__}, but must be a name or Scores")
        if scores.table.sampler != self.scheme.sampler:
            raise WatermarkError(
                f"the scores are for the sampler {scores.table.sampler!r}, but scheme {self.scheme.name!r} tests text "
                f"of {self.scheme.sampler!r}: use scores learnt for it"
            )
        object.__setattr__(self, "scores", scores)

    def problem(self, key_length: int, vocab_size: int, denominator: int) -> Problem:
        """The test in the integers that the kernels take; denominator: of eta(r) = r / denominator."""
        cost = self.scheme.cost
        ranked = COSTS[
            cost.code
        ].ranked  # else problems that differ in it alone would count as different
        if self.scheme.alignment.scored:
            gamma = min(self.gap * SCORE_SCALE, MOST_SCORE_GAP)
        else:
            gamma = min(self.gap * cost.scale, MAX_BLOCK * cost.largest)  # no alignment uses more
        return Problem(
            cost=cost.code,
            alignment=self.scheme.alignment.code,
            n=key_length,
            gamma=round(gamma),
            vocab_size=vocab_size,
            denominator=denominator if ranked else 0,
        )
