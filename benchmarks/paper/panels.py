"""Plots of a few values side by side: bars, and values with intervals; a panel a measure. PNG and SVG as in `plots`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wmcore.paper.plots import HEIGHT, SETTINGS, WIDTH, save

BLUE = "#0072b2"


def bars(panels: Sequence[tuple[str, Mapping[str, float]]], stem: Path) -> None:
    """(title, {name: value}) of each panel, on logarithmic axes."""

    def one(axis: Any, names: list[str], values: list[float]) -> None:
        drawn = axis.barh(names, values, color=BLUE)
        axis.bar_label(drawn, [f"{value:,.3g}" for value in values], padding=3)
        axis.set_xscale("log")
        axis.set_xlim(min(values) / 2, max(values) * 4)

    _panels(panels, stem, one)


def intervals(
    panels: Sequence[tuple[str, Mapping[str, tuple[float, float, float]]]], stem: Path
) -> None:
    """(title, {name: (value, low, high)}) of each panel, with a line at 0."""

    def one(axis: Any, names: list[str], values: list[tuple[float, float, float]]) -> None:
        for y, (value, low, high) in enumerate(values):
            axis.plot([low, high], [y, y], color=BLUE, lw=1.5)
            axis.plot([value], [y], "o", color=BLUE, ms=5)
        axis.set_yticks(range(len(names)), names)
        axis.axvline(0, color="#666666", lw=0.9, ls="--")

    _panels(panels, stem, one)


def _panels(
    panels: Sequence[tuple[str, Mapping[str, Any]]], stem: Path, one: Callable[..., None]
) -> None:
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    across = min(len(panels), 2)
    down = -(-len(panels) // across)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        canvas = Canvas(figsize=(1.2 * WIDTH * across, HEIGHT * down), layout="constrained")
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
