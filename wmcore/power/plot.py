"""Detection against length, as a picture."""

import io
from typing import Any

from wmcore.checks import require
from wmcore.power.simulation import DetectionPower

ENDINGS = (".png", ".svg", ".pdf")
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")


def picture(power: DetectionPower, kind: str) -> bytes:
    """A panel for each setting (down) and level (across), a line for each rate of edits with its 95 % interval.

    kind : the format: "png", "svg" or "pdf". WatermarkError without matplotlib.
    """
    require("matplotlib", "run pip install 'wmcore-lm[plot]'")
    import matplotlib
    from matplotlib.figure import Figure

    levels = list(power.settings[0].edited[0].curves)
    rows, columns = len(power.settings), len(levels)
    with matplotlib.rc_context({"font.size": 9, "svg.hashsalt": "wmcore"}):
        figure = Figure(figsize=(3.2 * columns + 0.6, 2.5 * rows + 0.6), layout="constrained")
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for row, setting in zip(panels, power.settings, strict=True):
            for panel, level in zip(row, levels, strict=True):
                for edited, colour in zip(setting.edited, _cycle(setting.edited), strict=True):
                    drawn = edited.curves[level]
                    label = f"{edited.rate:.0%} edited" if edited.rate else "clean"
                    panel.plot(drawn.lengths, drawn.rate, "o-", ms=3, color=colour, label=label)
                    panel.fill_between(
                        drawn.lengths, drawn.low, drawn.high, color=colour, alpha=0.15, lw=0
                    )
                panel.set_title(f"{setting.scheme}, n = {setting.key_length}: p ≤ {level:g}")
                panel.set_ylim(-0.02, 1.02)
                panel.grid(alpha=0.3)
            row[0].set_ylabel("share found")
        for panel in panels[-1]:
            panel.set_xlabel("tokens written")
        panels[0][0].legend(frameon=False)
        out = io.BytesIO()
        figure.savefig(out, format=kind, dpi=150)
    return out.getvalue()


def _cycle(items: Any) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(len(items))]
