"""`Binning`: what a free or local alignment takes of a statistic and a key beside the key's numbers."""

import math

import numpy as np

from wmcore.costs import CostSource, RankCosts
from wmcore.kernels.constants import ITS_SCALE, SCORE_SCALE
from wmcore.kernels.problem import Scoring
from wmcore.scores import ETA_BINS, Scores
from wmcore.statistic import Statistic


class Binning:
    """The scores of a statistic, for the kernels.

    Parameters
    ----------
    scores : Scores
    source : CostSource
        Of the key: its etas, where scores are by eta.
    """

    def __init__(self, scores: Scores, source: CostSource) -> None:
        self.scores = scores
        self._source = source
        self.scoring: Scoring = scores.table.scoring()

    def bins(self, tokens: np.ndarray) -> np.ndarray:
        """The bin of each token of a text (int64 [m]): uint8 [m]."""
        if not self.scores.by_eta:
            return self.scores.bins(tokens)
        assert isinstance(self._source, RankCosts)
        _, eta = self._source.parts()
        bins = eta[tokens].astype(np.int64) * ETA_BINS // ITS_SCALE
        return np.minimum(bins, ETA_BINS - 1).astype(np.uint8)

    @staticmethod
    def bonus(length: int) -> int:
        """What an alignment of that many tokens gets for having no gap, in units.

        With gaps there are many more alignments, so the best of them is better by chance. This is about what the least
        costs of the two kinds differ by under the null, so that neither hides the other (fitted; any number is exact).
        """
        nats = 0.088 * length - 0.46 * math.sqrt(length) + 1.36
        return round(SCORE_SCALE * max(0.0, nats))


def binning(statistic: Statistic, source: CostSource) -> Binning | None:
    """That of a statistic; None where no scores are added up."""
    scores = statistic.scores
    return Binning(scores, source) if isinstance(scores, Scores) else None
