"""Plots of a few values side by side: bars, and values with intervals; a panel a measure. PNG and SVG as in `plots`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wmcore.paper.plots import HEIGHT, SETTINGS, WIDTH, save

BLUE = "#0072b2"
MARKS = ((BLUE, "o"), ("#d55e00", "^"), ("#009e73", "s"), ("#cc79a7", "D"))
ROW = 0.26
"""Inches of a row, where there are many."""


def bars(panels: Sequence[tuple[str, Mapping[str, float]]], stem: Path) -> None:
    """(title, {name: value}) of each panel, on logarithmic axes."""

    def one(axis: Any, names: list[str], values: list[float]) -> None:
        drawn = axis.barh(names, values, color=BLUE)
        axis.bar_label(drawn, [f"{value:,.3g}" for value in values], padding=3)
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter("")  # or else they stand on each other
        axis.set_xlim(min(values) / 2, max(values) * 4)

    _panels(panels, stem, one)


Interval = tuple[float, float, float]
"""A value, and where its interval begins and ends."""


def intervals(
    panels: Sequence[tuple[str, Mapping[str, Mapping[str, Interval]]]],
    stem: Path,
    reference: float | None = None,
    label: str = "",
) -> None:
    """(title, {row: {series: interval}}) of each panel, rows from top to bottom; a line at `reference`; label: of x."""
    series = list(dict.fromkeys(one for _, rows in panels for row in rows.values() for one in row))

    def one(axis: Any, names: list[str], rows: list[Mapping[str, Interval]]) -> None:
        for i, name in enumerate(series):
            colour, marker = MARKS[i % len(MARKS)]
            for y, row in enumerate(rows):
                if name in row:
                    value, low, high = row[name]
                    at = y + (i - (len(series) - 1) / 2) * 0.24
                    axis.plot([low, high], [at, at], color=colour, lw=1.3, alpha=0.7)
                    called = name if y == 0 else None
                    axis.plot([value], [at], marker, color=colour, ms=5, label=called)
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(-0.6, len(names) - 0.4)
        axis.set_xlabel(label)
        if reference is not None:
            axis.axvline(reference, color="#666666", lw=0.9, ls="--")
        if len(series) > 1:
            axis.legend(frameon=False)

    _panels(panels, stem, one)


def _panels(
    panels: Sequence[tuple[str, Mapping[str, Any]]], stem: Path, one: Callable[..., None]
) -> None:
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    across = min(len(panels), 3 if len(panels) % 2 else 2)
    down = -(-len(panels) // across)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        high = max(HEIGHT, ROW * max(len(values) for _, values in panels) + 1)
        canvas = Canvas(figsize=(1.2 * WIDTH * across, high * down), layout="constrained")
        axes = canvas.subplots(down, across, squeeze=False)
        for axis in axes.flat[len(panels) :]:
            axis.remove()
        for axis, (title, values) in zip(axes.flat, panels, strict=False):
            one(axis, list(values), list(values.values()))
            axis.invert_yaxis()
            axis.set_title(title)
            axis.grid(axis="x", color="#dddddd", lw=0.6)
            axis.set_axisbelow(True)
        save(canvas, stem)
