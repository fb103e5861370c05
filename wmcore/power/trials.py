"""Simulated texts, tested: p of a text at several lengths and edit rates, each by `Detector.detect` itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wmcore import attacks
from wmcore.detect import Detector
from wmcore.errors import WatermarkError, shown
from wmcore.kernels.constants import SCORE_SCALE
from wmcore.kernels.problem import COSTS
from wmcore.key import Key
from wmcore.plan import Plan
from wmcore.power.planting import PlantedKey
from wmcore.power.sampled import SampledText
from wmcore.scores import Scores
from wmcore.types import SchemeName
from wmcore.watermark import Watermark

Edit = Callable[[np.ndarray, float, int, np.random.Generator], np.ndarray]

EDITS: dict[str, Edit] = {
    "mixed": lambda t, rate, size, rng: attacks.damage(t, rate, vocab_size=size, seed=rng),
    "substitute": lambda t, rate, size, rng: attacks.substitute(t, rate, vocab_size=size, seed=rng),
    "insert": lambda t, rate, size, rng: attacks.insert(t, rate, vocab_size=size, seed=rng),
    "delete": lambda t, rate, size, rng: attacks.delete(t, rate, seed=rng),
}
"""Edits by name: of a text (int64 [m]) at a rate, with new tokens below `size`."""


def edit_named(name: str) -> Edit:
    """The edit of this name; WatermarkError for any other."""
    if name not in EDITS:
        raise WatermarkError(f"edit is {shown(name)}: use one of {', '.join(EDITS)}")
    return EDITS[name]


@dataclass(frozen=True)
class Setting:
    """A watermark and its test, which a trial tries. lengths: int64 [L]; rates: of edits."""

    scheme: SchemeName
    score: Scores | str | None
    key_length: int
    vocab_size: int
    lengths: np.ndarray
    rates: Sequence[float]
    edit: Edit
    plan: Plan

    def detector(self, key: Key) -> Detector:
        """The detector for texts of this key."""
        watermark = Watermark.create(
            self.scheme, vocab_size=self.vocab_size, key_length=self.key_length, key=key
        )
        return Detector(watermark, scheme=self.scheme, score=self.score, backend="cpu", threads=1)


@dataclass(frozen=True)
class Trial:
    """One text under one key.

    p_value : float64 [rates, L], NaN where the text is too short; tokens : int; score, chance : the sums over its
    tokens of what the statistic gives a token at the row that it was drawn from, and on average by chance (nats for
    exp; for its without scores, minus the distance).
    """

    p_value: np.ndarray
    tokens: int
    score: float
    chance: float


def trial(setting: Setting, text: SampledText, seed: Sequence[int]) -> Trial:
    """Draw a key given the text, edit the text, test it."""
    rng = np.random.default_rng(seed)
    key = PlantedKey(rng.bytes(32), text)
    detector = setting.detector(key)
    p_value = np.full((len(setting.rates), len(setting.lengths)), np.nan)
    reached = np.flatnonzero(setting.lengths <= len(text))
    cells = [(r, i) for r in range(len(setting.rates)) for i in reached.tolist()]
    edited = []
    for r, i in cells:
        tokens = text.tokens[: setting.lengths[i]]
        rate = setting.rates[r]
        edited.append(setting.edit(tokens, rate, setting.vocab_size, rng) if rate else tokens)
    for cell, found in zip(cells, detector.detect(edited, plan=setting.plan), strict=True):
        if found.p_value is None:
            raise WatermarkError(f"a text of the sample cannot be tested: {found.error}")
        p_value[cell] = found.p_value
    scores = _scores(detector, text.tokens, key.rows(setting.key_length))
    return Trial(p_value, len(text), *scores)


def _scores(detector: Detector, tokens: np.ndarray, rows: np.ndarray) -> tuple[float, float]:
    """`Trial.score` and `Trial.chance`."""
    engine, source = detector.engine, detector.costs
    distinct, place = np.unique(tokens, return_inverse=True)
    if engine.binning is None:
        cost = detector.statistic.scheme.cost
        fit = engine.matrix(source, distinct)[place, rows] / COSTS[cost.code].scale
        return -float(fit.sum()), -cost.mean * len(tokens)
    numbers = source.numbers(distinct, engine.backend)
    scoring, bins = engine.binning.scoring, engine.binning.bins(tokens)
    level = scoring.levels[numbers.matrix[numbers.source[place], rows]]
    by_chance = scoring.costs[bins] @ engine.binning.scores.table.chance
    return (
        -float(scoring.costs[bins, level].sum()) / SCORE_SCALE,
        -float(by_chance.sum()) / SCORE_SCALE,
    )
