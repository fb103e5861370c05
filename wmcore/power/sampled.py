"""`SampledText`: a text that was sampled without a watermark, and how likely each of its tokens was."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from wmcore.checks import token_ids
from wmcore.errors import WatermarkError, reason

NONE = -1
"""The token id of an alternative that there is not."""
_LEAST = math.log(1e-12)
_ROUNDING = 1e-3  # log-probabilities are often written with few digits


class SampledText:
    """Tokens, and the law that each was drawn from, as far as it is known.

    Parameters
    ----------
    tokens : sequence of int
        Token ids, m of them. For exp schemes any numbers do, as long as equal tokens have equal ones.
    log_p : sequence of float
        The log-probability of each token, in nats, under the law that it was *sampled from*: after temperature, top-p
        and the like.
    others : array of int [m, K], optional
        Ids of other tokens that could have been drawn; -1 where there are fewer. its schemes need them.
    others_log_p : array of float [m, K], optional
        Their log-probabilities.

    Raises
    ------
    WatermarkError
        For no tokens, other lengths, a number that is no log-probability, or probabilities that add up to more than 1.
    """

    def __init__(
        self,
        tokens: Any,
        log_p: Sequence[float] | np.ndarray,
        others: Any = None,
        others_log_p: Any = None,
    ) -> None:
        try:
            self.tokens = token_ids(tokens).astype(np.int64)
            self.log_p = np.array(log_p, np.float64)
        except Exception as error:  # a foreign array's own, too
            raise WatermarkError(f"tokens or log_p cannot be read: {reason(error)}") from None
        m = len(self.tokens)
        if not m or self.log_p.shape != (m,) or self.tokens.min() < 0:
            raise WatermarkError(
                f"there are {m} tokens and log_p has the shape {self.log_p.shape}: give a log-probability for each "
                "token, at least one, and ids of at least 0"
            )
        self.log_p = _checked("log_p", self.log_p)
        if (others is None) != (others_log_p is None):
            raise WatermarkError("give others and others_log_p, or neither")
        shape = (m, 0)
        self.others = np.zeros(shape, np.int64) if others is None else np.array(others, np.int64)
        known = np.zeros(shape) if others is None else np.array(others_log_p, np.float64)
        if self.others.ndim != 2 or len(self.others) != m or known.shape != self.others.shape:
            raise WatermarkError(
                f"others has the shape {self.others.shape} and others_log_p {known.shape}, but both must be [{m}, K]"
            )
        there = (self.others >= 0) & (self.others != self.tokens[:, None])
        self.others = np.where(there, self.others, NONE)
        self.others_log_p = np.where(there, _checked("others_log_p", known, there), -np.inf)
        self.rest = 1 - np.exp(self.log_p) - np.exp(self.others_log_p).sum(axis=1)
        if (self.rest < -_ROUNDING).any():
            at = int(self.rest.argmin())
            raise WatermarkError(
                f"the probabilities at token {at} add up to {1 - self.rest[at]:.3f}, but may not exceed 1: are these "
                "log-probabilities to the base e, of one law?"
            )
        self.rest = np.maximum(self.rest, 0.0)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def complete(self) -> bool:
        """Whether there are alternatives wherever the token was not nearly certain."""
        return bool(((self.others >= 0).any(axis=1) | (self.log_p > math.log(0.99))).all())

    def cut(self, length: int) -> "SampledText":
        """The first tokens."""
        return SampledText(
            self.tokens[:length],
            self.log_p[:length],
            self.others[:length],
            self.others_log_p[:length],
        )


def likeliest(texts: Sequence[SampledText]) -> tuple[int, float, float]:
    """(how often the likeliest token was drawn, how often it should have been, the standard deviation of that).

    Whatever was written before, the likeliest token is drawn as often as its probability says: the difference is a
    martingale, far from 0 where these are not the laws that were sampled from. Of texts with others alone.
    """
    drawn, expected, variance = 0, 0.0, 0.0
    for text in texts:
        if (text.others >= 0).any():
            top = np.maximum(text.log_p, text.others_log_p.max(axis=1))
            drawn += int((text.log_p == top).sum())
            expected += float(np.exp(top).sum())
            variance += float((np.exp(top) * -np.expm1(top)).sum())
    return drawn, expected, math.sqrt(variance)


def _checked(name: str, values: np.ndarray, there: np.ndarray | bool = True) -> np.ndarray:
    """Log-probabilities, at most 0 and at least log 1e-12; what is not `there` may be anything."""
    wrong = there & ~((values <= _ROUNDING) & (values > -100))
    if wrong.any():
        raise WatermarkError(
            f"{name} holds {values[wrong][0]:g}, but must hold log-probabilities in nats, from -100 to 0 (services may "
            "write -9999 where it does not say)"
        )
    return np.clip(values, _LEAST, 0.0)
