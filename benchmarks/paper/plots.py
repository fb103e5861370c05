"""Plots of summaries, as PNG and SVG."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import Any

from wmcore import whole_file
from wmcore.paper.labels import Names, in_order, show
from wmcore.paper.styles import styles
from wmcore.paper.summary import Summary

WIDTH, HEIGHT, LEGEND = 4.3, 3.5, 0.7
"""Of a panel, and what the legend adds to the height, in inches."""
ACROSS = 3
"""Panels in a row, at most."""
APART, WORDS_APART = 1.1, 5.5
"""Points between a series and the next, whose whiskers would hide each other, where x is numbers, and words."""
MARGIN = 0.05
"""Of the x-axis, left and right."""
WHISKERS: dict[str, Any] = {"linewidth": 0.9, "alpha": 0.55}
MEDIAN = "median_p"
REFERENCES = ("p = 0.01", "smallest possible p")
SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "wmcore",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True)
class Figure:
    """What a plot shows of summaries.

    x : column on the x-axis: numbers, or words, one beside the other.
    x_label : with its unit.
    series : columns; each combination of their values is a line.
    panels : columns; each combination of their values is a panel.
    y : "median_p", with quartiles as whiskers, on a logarithmic axis with a line at 0.01; or a key of
        `summary.LEVELS`: the share of texts with p at or below it, with standard errors.
    log_x : whether x is logarithmic.
    names : what values, or tuples of them, are called, and in which order they come: see `labels.Names`.
    """

    x: str
    x_label: str
    series: Sequence[str]
    panels: Sequence[str] = ()
    y: str = MEDIAN
    log_x: bool = False
    names: Names = field(default_factory=dict)


def draw(summaries: Sequence[Summary], figure: Figure, path_stem: Path) -> tuple[Path, Path]:
    """Write a plot as PNG and SVG, the same bytes for the same summaries; return (PNG, SVG).

    ".png" and ".svg" are added to `path_stem`. A summary without the share that is asked for is left out.

    Raises
    ------
    ValueError
        If none is left, or two summaries belong to one point.
    """
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    shown = [summary for summary in summaries if summary[figure.y] is not None]
    if not shown:
        raise ValueError(f"summaries: none has {figure.y!r}, so there is nothing to draw")
    panels = in_order((_values(one, figure.panels) for one in shown), figure.names)
    lines = styles(in_order((_values(one, figure.series) for one in shown), figure.names))
    across, down = min(len(panels), ACROSS), -(-len(panels) // ACROSS)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        canvas = Canvas(figsize=(WIDTH * across, HEIGHT * down + LEGEND), layout="constrained")
        axes = canvas.subplots(down, across, sharey=True, squeeze=False)
        for axis in axes.flat[len(panels) :]:
            axis.remove()
        for axis in axes[:, 0]:
            axis.set_ylabel(_y_axis(axis, shown, figure))
        handles: dict[str, Any] = {}
        for axis, panel in zip(axes.flat, panels, strict=False):
            here = [one for one in shown if _values(one, figure.panels) == panel]
            handles |= _panel(axis, here, figure, lines)
            axis.set_title(show(panel, figure.names))
        labels = (*(show(values, figure.names) for values in lines), *REFERENCES)
        _legend(canvas, {label: handles[label] for label in labels if label in handles})
        return save(canvas, path_stem)


def _values(summary: Summary, columns: Sequence[str]) -> tuple[Any, ...]:
    return tuple(summary[column] for column in columns)


def _panel(
    axis: Any, here: Sequence[Summary], figure: Figure, lines: Mapping[Any, dict[str, Any]]
) -> dict[str, Any]:
    """Draw a panel; {label: what stands for it in the legend}."""
    from matplotlib.transforms import ScaledTranslation

    handles: dict[str, Any] = {}
    words = _words(here, figure)
    _x_axis(axis, here, figure, words)
    for i, (values, style) in enumerate(lines.items()):
        points = [one for one in here if _values(one, figure.series) == values]
        if not points:
            continue
        xs = [words.index(one[figure.x]) if words else one[figure.x] for one in points]
        if len(set(xs)) < len(xs):
            raise ValueError(
                f"summaries: two of series {values} are at one {figure.x}: select some of them, or add a column to "
                "series or panels"
            )
        drawn = sorted(zip(xs, (_bar(one, figure.y) for one in points), strict=True))
        apart = (i - (len(lines) - 1) / 2) * (WORDS_APART if words else APART)
        moved = axis.transData + ScaledTranslation(apart / 72, 0, axis.figure.dpi_scale_trans)
        # All whiskers in one path, with gaps: error bars take a path each in the SVG.
        ends = [end for x, (_, low, high) in drawn for end in ((x, low), (x, high), (x, nan))]
        axis.plot(*zip(*ends, strict=True), transform=moved, color=style["color"], **WHISKERS)
        middle = [(x, y) for x, (y, _, _) in drawn]
        unjoined = {"linestyle": "none"} if words else {}
        label = show(values, figure.names)
        (handles[label],) = axis.plot(
            *zip(*middle, strict=True), transform=moved, **{**style, **unjoined}
        )
    if figure.y == MEDIAN:
        for label, p, dashes in zip(REFERENCES, (0.01, _least(here)), ("--", ":"), strict=True):
            handles[label] = axis.axhline(p, color="#666666", lw=0.9, ls=dashes, zorder=1)
    return handles


def _words(here: Sequence[Summary], figure: Figure) -> list[Any]:
    """The values on the x-axis in order, if they are not all numbers."""
    found = [value for (value,) in in_order(((one[figure.x],) for one in here), figure.names)]
    return [] if all(isinstance(value, int | float) for value in found) else found


def _bar(summary: Summary, y: str) -> tuple[float, float, float]:
    """(value, low end, high end)."""
    if y == MEDIAN:
        return (summary[y], *summary["quartiles"])
    share, error = summary[y]
    return share, max(0.0, share - error), min(1.0, share + error)


def _x_axis(axis: Any, here: Sequence[Summary], figure: Figure, words: Sequence[Any]) -> None:
    """Label, scale, ticks, grid, and limits, since matplotlib's leave out lines that are moved apart."""
    axis.set_xlabel(figure.x_label)
    axis.grid(color="#dddddd", lw=0.6)
    axis.set_axisbelow(True)
    if words:
        axis.set_xticks(range(len(words)), [show(word, figure.names) for word in words])
        axis.set_xlim(-0.5, len(words) - 0.5)
        return
    found = sorted({one[figure.x] for one in here})
    low, high = found[0], found[-1]
    if figure.log_x:
        axis.set_xscale("log")
        axis.set_xticks(found)
        axis.minorticks_off()
        edge = max(high / low, 2.0) ** MARGIN
        axis.set_xlim(low / edge, high * edge)
    else:
        edge = (high - low or 1) * MARGIN
        axis.set_xlim(low - edge, high + edge)
    axis.xaxis.set_major_formatter("{x:,g}")


def _y_axis(axis: Any, shown: Sequence[Summary], figure: Figure) -> str:
    """Scale, limits and ticks, which all panels share; what is to be written beside it."""
    if figure.y == MEDIAN:
        axis.set_yscale("log")
        axis.set_ylim(_least(shown) / 1.4, 1.4)
        axis.yaxis.set_major_formatter("{x:g}")
        return "median p, with quartiles"
    axis.set_ylim(-0.03, 1.03)
    return f"share with p ≤ {figure.y}, ± standard error"


def _least(shown: Sequence[Summary]) -> float:
    """The smallest p that a text can have."""
    return 1 / (max(one["resamples"] for one in shown) + 1)


def _legend(canvas: Any, handles: Mapping[str, Any]) -> None:
    """Below the panels, in as many columns as fit: a letter takes about 0.075 inches, a mark 0.65."""
    column = 0.65 + 0.075 * max(map(len, handles))
    canvas.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=max(1, int(canvas.get_figwidth() / column)),
        frameon=False,
        handlelength=3,
    )


def save(canvas: Any, path_stem: Path) -> tuple[Path, Path]:
    """Small, and without the date and versions, which would change the bytes."""
    from PIL import Image

    png, svg = (path_stem.with_name(path_stem.name + end) for end in (".png", ".svg"))
    pixels = io.BytesIO()
    canvas.savefig(pixels, format="png", dpi=110)
    few = Image.open(pixels).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    packed = io.BytesIO()
    few.save(packed, format="png", optimize=True)
    whole_file.write(png, packed.getvalue())
    text = io.StringIO()
    canvas.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    lines = text.getvalue().splitlines(keepends=True)
    # Two decimals of a point are enough, but for what is written there.
    rounded = (one if "<text" in one else re.sub(r"(\.\d\d)\d+", r"\1", one) for one in lines)
    whole_file.write(svg, "".join(rounded).encode())
    return png, svg
