"""Item 8: does a mark change what is written? Perplexity under the model itself, and repetition in and across texts."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wmcore.paper import grids, report
from wmcore.paper.methods import METHODS
from wmcore.paper.points import Point, row_of
from wmcore.paper.sizes import Size
from wmcore.paper.study import Study
from wmcore.paper.texts import Text, load, texts_under

NGRAMS = (1, 2, 3)
PLAIN = "plain"


def _perplexity(texts: Sequence[Text]) -> float:
    return report.perplexity(
        [(-float(t.log_probability.mean(dtype=np.float64)), len(t.tokens)) for t in texts]
    )


def _distinct(n: int, texts: Sequence[Text]) -> float:
    return report.distinct([text.tokens for text in texts], n)


MEASURES: dict[str, Callable[[Sequence[Text]], float]] = {
    "perplexity": _perplexity,
    **{f"distinct {n}-grams": partial(_distinct, n) for n in NGRAMS},
}
"""{name: of texts}. The perplexity is that of the model's own law, before a baseline's bias."""


def rows(study: Study, size: Size) -> list[report.Row]:
    """A row a text, as those of tests, with no test and no p."""
    found = []
    for texts, count in grids.distortion(size):
        under = texts_under(study, texts)
        if under is None:
            continue
        for text in load(study, under, count):
            point = Point(under, "none", count=count)
            found.append(row_of(study, point, text, len(text.tokens), math.nan))
    return found


def compare(study: Study, size: Size) -> dict[str, Any]:
    """{method: {measure: {"value", "interval", "difference": to plain sampling on the same prompts}}}."""
    sets = [(texts_under(study, texts), count) for texts, count in grids.distortion(size)]
    written = {texts.method: load(study, texts, count) for texts, count in sets if texts}
    plain = {text.number: text for text in written[PLAIN]}
    found: dict[str, Any] = {}
    for method, texts in written.items():
        paired = [plain[text.number] for text in texts]
        found[method] = {
            name: report.with_interval(measure, texts)
            | (
                {}
                if method == PLAIN
                else {"difference": report.paired_difference(measure, texts, paired)}
            )
            for name, measure in MEASURES.items()
        }
    return found


def table(found: dict[str, Any], one_key: bool) -> str:
    """A row a method: values, and differences to plain sampling with intervals; one_key: whether texts share it."""
    heads = ["method", *MEASURES, *(f"{name}, difference" for name in MEASURES)]
    body = []
    for method, measures in found.items():
        row = [METHODS[method].title]
        row += [report.number(measures[name]["value"], 3) for name in MEASURES]
        for name in MEASURES:
            difference = measures[name].get("difference")
            row.append("" if difference is None else _interval(difference))
        body.append(row)
    n = next(iter(found.values()))["perplexity"]["n"]
    keys = (
        "all with one key, which these figures hold for"
        if one_key
        else "each with a key of its own"
    )
    caption = (
        f"{n} texts, {keys}; differences to plain sampling on the same prompts, with intervals of "
        "95 %; in bold where they do not hold 0."
    )
    return report.markdown(heads, body, 1, caption)


def _interval(one: dict[str, Any]) -> str:
    low, high = one["interval"]
    shown = f"{one['value']:+.3f} ({low:+.3f} to {high:+.3f})"
    return shown if low <= 0 <= high else f"**{shown}**"


def draw(found: dict[str, Any], stem: Path) -> None:
    """Differences to plain sampling with intervals, a panel a measure."""
    others = [method for method in found if method != PLAIN]
    report.intervals(
        [
            (
                f"{name}, difference to plain sampling",
                {
                    METHODS[method].title: {
                        "": (
                            found[method][name]["difference"]["value"],
                            *found[method][name]["difference"]["interval"],
                        )
                    }
                    for method in others
                },
            )
            for name in MEASURES
        ],
        stem,
        reference=0,
    )
