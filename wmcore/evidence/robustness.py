"""What is found after edits: marked texts, their tokens replaced, inserted, deleted or cut off, and tested again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from wmcore.attacks import delete, insert, substitute
from wmcore.checks import real_number, whole_number
from wmcore.detect import Detector, checked_detector
from wmcore.detection import LEVEL
from wmcore.errors import WatermarkError
from wmcore.evidence.record import Attacked, Section, Share
from wmcore.intervals import clopper_pearson

NOT_TESTED = "Nothing is said of edits that are marked as not tested here, which includes paraphrase and translation."


@dataclass(frozen=True)
class Attack:
    """An edit of token ids (int64 [m], vocabulary, generator). name, what: for a file, and for people."""

    name: str
    what: str
    edit: Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


def _kept(tokens: np.ndarray, vocab_size: int, rng: np.random.Generator) -> np.ndarray:
    return tokens


def _replaced(
    rate: float, tokens: np.ndarray, vocab_size: int, rng: np.random.Generator
) -> np.ndarray:
    return substitute(tokens, rate, vocab_size=vocab_size, seed=rng)


def _inserted(
    rate: float, tokens: np.ndarray, vocab_size: int, rng: np.random.Generator
) -> np.ndarray:
    return insert(tokens, rate, vocab_size=vocab_size, seed=rng)


def _deleted(
    rate: float, tokens: np.ndarray, vocab_size: int, rng: np.random.Generator
) -> np.ndarray:
    return delete(tokens, rate, seed=rng)


def _cut(share: float, tokens: np.ndarray, vocab_size: int, rng: np.random.Generator) -> np.ndarray:
    return tokens[: max(1, round(share * len(tokens)))]


ATTACKS = (
    Attack("none", "as written", _kept),
    Attack("substitute_10", "10 % of the tokens replaced", partial(_replaced, 0.1)),
    Attack("substitute_30", "30 % of the tokens replaced", partial(_replaced, 0.3)),
    Attack("insert_10", "10 % more tokens inserted", partial(_inserted, 0.1)),
    Attack("insert_30", "30 % more tokens inserted", partial(_inserted, 0.3)),
    Attack("delete_10", "10 % of the tokens deleted", partial(_deleted, 0.1)),
    Attack("delete_30", "30 % of the tokens deleted", partial(_deleted, 0.3)),
    Attack("first_half", "first half alone", partial(_cut, 0.5)),
    Attack("first_quarter", "first quarter alone", partial(_cut, 0.25)),
)
_NEVER = [
    Attacked("paraphrase", "paraphrased"),
    Attacked("translation", "translated"),
]
"""No command here does these."""


def robustness(
    detector: Detector,
    texts: Sequence[Any],
    *,
    level: float = LEVEL,
    seed: int = 0,
    attacks: Sequence[Attack] = ATTACKS,
) -> Section:
    """How many marked texts are found after each edit.

    Parameters
    ----------
    detector : Detector
    texts : sequence
        Texts known to carry its watermark, as `Detector.detect` takes them.
    level : float
        A text is found if p is at most this.
    seed : int
        Of the edits. Each text gets the same ones, whatever else is tested.
    attacks : sequence of Attack

    Returns
    -------
    Section of Attacked
        One for each attack, in order, then those that are not tested here. A text that cannot be tested after an edit
        counts as not found.

    Raises
    ------
    WatermarkError
        If none of the texts can be tested, or for a number out of range.

    Notes
    -----
    Time: that of `detect`, once for each attack.
    """
    level = real_number("level", level, 0, 1)
    seed = whole_number("seed", seed)
    batch = checked_detector(detector).read(texts)
    failed = {place: why for place, (_, why) in batch.failed.items() if place not in batch.long}
    arrays = [*batch.arrays, *batch.long.values()]
    if not arrays:
        why = f" ({next(iter(failed.values()))})" if failed else ""
        raise WatermarkError(f"texts: none can be tested{why}; give marked texts")
    rows = [_tested(detector, arrays, attack, level, seed) for attack in attacks]
    count = f"{len(arrays):,} text{'' if len(arrays) == 1 else 's'}"
    says = [
        f"{count}, marked by the word of whoever made this report, were edited at random places, by tokens drawn "
        "evenly from the vocabulary, and tested again with the true key. A text is found if p ≤ "
        f"{level:g}. Intervals are of 95 % (Clopper and Pearson), for texts like these.",
        NOT_TESTED,
    ]
    if failed:
        says.append(f"{len(failed):,} more could not be read and are left out.")
    return Section(says, [*rows, *_NEVER])


def _tested(
    detector: Detector, arrays: Sequence[np.ndarray], attack: Attack, level: float, seed: int
) -> Attacked:
    vocab_size = detector.watermark.vocab_size
    name = int.from_bytes(attack.name.encode(), "little")
    edited = [
        attack.edit(array, vocab_size, np.random.default_rng([seed, name, i]))
        for i, array in enumerate(arrays)
    ]
    found = detector.detect(edited, level=level)
    p = np.array([1.0 if one.p_value is None else one.p_value for one in found])
    count = int((p <= level).sum())
    return Attacked(
        name=attack.name,
        what=attack.what,
        found=Share(count, len(p), clopper_pearson(count, len(p))),
        tokens=round(float(np.median([len(one) for one in edited]))),
        median_p=float(np.median(p)),
    )


def unknown() -> list[Attacked]:
    """The rows where nothing was tested."""
    return [*(Attacked(attack.name, attack.what) for attack in ATTACKS), *_NEVER]
