"""`Detection`: what a detector says of one text, in numbers and in words."""

import math
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from wmcore.checks import real_number
from wmcore.engine import Alignment

LEVEL = 0.001
"""The default level: one text in a thousand without the watermark is found by chance."""
LEAST_TOKENS = 25
"""A shorter text that is not found is too short to tell."""
MEANING = "p = 0.03: 3 of 100 unrelated texts look this good. It is not the probability that the text is ours."
"""What p means, for people who see one for the first time."""


@dataclass(frozen=True)
class Detection:
    """What a detector says of one text. Fields are None where `error` says why there is no answer.

    A detection is neither true nor false: ask `found` or `verdict` at a level, or compare `p_value`.

    Attributes
    ----------
    p_value : float or None
        Probability of a statistic this low if the text does not depend on the key.
    statistic : float or None
        phi, the least alignment cost (nats for exp); lower means a better fit.
    shift : int or None
        The key row at which the best window starts, which the first token of the best block meets.
    block : int or None
        The first token of the best block (0 when the whole text is aligned).
    length : int or None
        Tokens in the text.
    resamples : int
        Resampled keys that were used.
    hits : int
        How many of them fit the text at least as well as the key.
    backend : str
        Which backend ran.
    method : str or None
        Where p comes from. "bound": a proven bound, no resamples. "permutation":
        (1 + hits) / (resamples + 1), exact. "sequential": hits / resamples, stopped early, exact. (With a plan that
        may use the bound, its `epsilon` is added to these two.) "first": as "sequential", in a short first pass.
        "calibrated": from stored statistics of other texts, approximate.
    p_error : float or None
        Standard error of a calibrated p from the size of its sample (the rest of its error is not in it).
    error : str or None
        Why there is no answer.
    alignment : Alignment or None
        On request.
    windows : int
        In how many windows the text was tested: 1 unless it is too long to be aligned at once. p_value is then their
        number times the least p of a window, at most 1, and statistic, shift, block, resamples, hits and method are
        those of the window that fits best.
    window : tuple of int or None
        Tokens window[0] .. window[1] - 1 are the window that fits best; None for a text that was tested whole.
    """

    p_value: float | None
    statistic: float | None
    shift: int | None
    block: int | None
    length: int | None
    resamples: int
    hits: int
    backend: str
    method: str | None = "permutation"
    p_error: float | None = None
    error: str | None = None
    alignment: Alignment | None = None
    windows: int = 1
    window: tuple[int, int] | None = None

    @classmethod
    def failed(cls, error: str, backend: str, length: int | None = None) -> "Detection":
        """The record of a text that could not be tested."""
        return cls(None, None, None, None, length, 0, 0, backend, method=None, error=error)

    def __bool__(self) -> NoReturn:
        """Always a TypeError: `if detection` would be true of every text."""
        raise TypeError(
            "a Detection is neither true nor false: use detection.p_value <= level, or detection.verdict()"
        )

    def found(self, level: float = LEVEL) -> bool | None:
        """Whether p <= level; None where the test could not have told, or there is an error.

        False does not say that the text is not ours: it may be edited too much, or its words were too certain.
        """
        level = real_number("level", level, 0, 1)
        if self.p_value is None:
            return None
        if self.p_value <= level:
            return True
        return None if self._too_short or self._too_few_resamples(level) else False

    def verdict(self, level: float = LEVEL) -> str:
        """`found` in words, with the threshold.

        Parameters
        ----------
        level : float
            The largest p of a text that counts as found, 0 to 1: the chance that a text without the watermark does.

        Returns
        -------
        str
            "found (p <= 0.001)", "not found (p > 0.001): this does not say that the text is not ours", "too short to
            tell …" for a text of fewer than `LEAST_TOKENS` tokens that is not found, "too few resamples to tell …"
            where no p could have been so small, "not tested: …" with an error.

        Raises
        ------
        WatermarkError
            For a level out of range.
        """
        answer = self.found(level)
        if self.p_value is None:
            return f"not tested: {self.error}"
        if answer is None and self._too_short:
            return f"too short to tell (p > {level:g}): {self.length} tokens, but {LEAST_TOKENS} are needed"
        if answer is None:
            if not level:
                return "too few resamples to tell (p > 0): no number of them gives 0"
            needed = math.ceil(1.02 * self.windows / level)
            return f"too few resamples to tell (p > {level:g}): use at least {needed} (--resamples {needed})"
        return verdict_words(answer, level)

    @property
    def _too_short(self) -> bool:
        return self.length is not None and self.length < LEAST_TOKENS

    def _too_few_resamples(self, level: float) -> bool:
        """Whether the test used all its resamples, none fits so well, and p is above the level even so."""
        whole = self.method in ("permutation", "calibrated")
        return whole and not self.hits and (self.p_value or 0.0) > level

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values; a gap's cost is null."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        if self.window is not None:
            fields["window"] = list(self.window)
        if self.alignment is None:
            del fields["alignment"]
        else:
            fields["alignment"] = {
                "positions": self.alignment.positions.tolist(),
                "rows": self.alignment.rows.tolist(),
                "costs": [None if np.isnan(c) else c for c in self.alignment.costs.tolist()],
            }
        return fields


def verdict_words(found: bool, level: float) -> str:
    """Found or not found, with the threshold, and without more than is known."""
    if found:
        return f"found (p <= {level:g})"
    return f"not found (p > {level:g}): this does not say that the text is not ours"
