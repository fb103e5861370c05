"""`Statistic`: how a text is tested, chosen at detection. How it was written is the watermark's."""

from dataclasses import dataclass

from wmcore.checks import real_number, whole_number
from wmcore.errors import WatermarkError
from wmcore.kernels.constants import MAX_BLOCK
from wmcore.kernels.problem import COSTS, Problem
from wmcore.schemes import EDIT, Scheme, named

WHOLE_TEXT = 0
"""As a block length: the whole text."""


@dataclass(frozen=True)
class Statistic:
    """A scheme's token cost and alignment, a gap cost and a block length.

    Attributes
    ----------
    scheme : Scheme
    gap : float
        gamma, the cost of an insertion or deletion, in the cost's unit; 0.0 where the alignment has no gaps.
    block_length : int or None
        k, the tokens aligned at a time; None aligns the whole text.

    Raises
    ------
    WatermarkError
        For a gap or a block length that cannot be used.
    """

    scheme: Scheme
    gap: float
    block_length: int | None

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

    def problem(self, key_length: int, vocab_size: int, denominator: int) -> Problem:
        """The test in the integers that the kernels take; denominator: of eta(r) = r / denominator."""
        cost = self.scheme.cost
        ranked = COSTS[
            cost.code
        ].ranked  # else problems that differ in it alone would count as different
        largest = MAX_BLOCK * cost.largest  # no alignment uses a larger gap cost
        return Problem(
            cost=cost.code,
            alignment=self.scheme.alignment.code,
            n=key_length,
            gamma=round(min(self.gap * cost.scale, largest)),
            vocab_size=vocab_size,
            denominator=denominator if ranked else 0,
        )
