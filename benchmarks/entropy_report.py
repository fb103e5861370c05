"""What `entropy.py` found: shares with standard errors, differences between statistics, the plot."""

import json
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from wmcore.paper.summary import LEVELS, share

RESULTS = Path(__file__).parent / "results"
PLOT_KIND = "damage"

Line = dict[str, Any]
Row = dict[str, Any]


def difference(p: dict[int, float], against: dict[int, float], level: float) -> list[float]:
    """[difference of shares, its standard error] over the texts that both were tested on, pair by pair."""
    common = sorted(p.keys() & against.keys())
    pairs = np.array([(p[i] <= level) - (against[i] <= level) for i in common], float)
    return [round(float(pairs.mean()), 4), round(float(pairs.std() / np.sqrt(len(pairs))), 4)]


def rows(lines: list[Line], against: dict[str, str]) -> list[Row]:
    """A row for each (case, statistic, edit), with the difference to the statistic that it is compared with."""
    results = {(line["case"], line["statistic"], line["edit"]): line for line in lines}
    found = []
    for (case, name, edit), line in results.items():
        row: Row = {"case": case, "statistic": name, "edit": edit, "n": len(line["numbers"])}
        row["tokens"] = median(line["lengths"])
        row["entropy"] = round(float(np.average(line["entropy"], weights=line["lengths"])), 3)
        if edit == "prefixes":
            until = sorted(np.inf if t is None else t for t in line["result"])
            middle = until[(len(until) - 1) // 2]
            row["median_tokens"] = None if np.isinf(middle) else middle
        else:
            p = dict(zip(line["numbers"], line["result"], strict=True))
            first = results.get((case, against[name], edit))
            for label, level in LEVELS.items():
                row[label] = share(np.array(line["result"]) <= level)
                if first is not None and against[name] != name:
                    other = dict(zip(first["numbers"], first["result"], strict=True))
                    row[f"{label} against {against[name]}"] = difference(p, other, level)
        found.append(row)
    return found


def write(result: dict[str, Any]) -> None:
    """results/entropy.json, a row a line, and the plot."""
    rows = result["rows"]
    head = json.dumps({**result, "rows": []}, indent=1)
    body = ",\n  ".join(json.dumps(row) for row in rows)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "entropy.json").write_text(
        head.replace('"rows": []', f'"rows": [\n  {body}\n ]') + "\n", encoding="utf-8"
    )
    draw(result, RESULTS / "entropy.png")


def draw(result: dict[str, Any], path: Path) -> None:
    """The share with p <= 0.01 over the rate of mixed edits: a panel for each case, a line for each statistic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [row for row in result["rows"] if row["edit"].split()[0] in ("clean", PLOT_KIND)]
    cases = [
        c for c in result["cases"] if any(r["case"] == c and r["edit"] != "clean" for r in shown)
    ]
    figure, axes = pyplot.subplots(
        1,
        len(cases),
        figsize=(3.6 * len(cases), 3.8),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    names = list(dict.fromkeys(row["statistic"] for row in shown))
    colours = pyplot.get_cmap("tab10" if len(names) <= 10 else "tab20").colors
    for axis, case in zip(axes[0], cases, strict=True):
        for name, colour in zip(names, colours, strict=False):
            line = sorted(
                (rate(row["edit"]), *row["0.01"])
                for row in shown
                if (row["case"], row["statistic"]) == (case, name)
            )
            if line:
                x, y, error = zip(*line, strict=True)
                axis.errorbar(x, y, error, fmt="o-", ms=3, capsize=2, color=colour, label=name)
        entropy = next(row["entropy"] for row in shown if row["case"] == case)
        axis.set_title(f"{result['cases'][case]}\n{entropy:.2f} nats a token", fontsize=9)
        axis.set_xlabel("edited tokens")
        axis.xaxis.set_major_formatter("{x:.0%}")
        axis.set_ylim(-0.02, 1.02)
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("share with p ≤ 0.01")
    labelled: dict[str, Any] = {}
    for axis in axes[0]:
        handles, labels = axis.get_legend_handles_labels()
        labelled |= dict(zip(labels, handles, strict=True))
    figure.legend(
        labelled.values(), labelled, loc="outside lower center", ncols=2 * len(cases), fontsize=8
    )
    figure.savefig(path, dpi=110)


def rate(edit: str) -> float:
    """The share of edited tokens in an edit's name."""
    return 0.0 if edit == "clean" else float(edit.split()[1].rstrip("%")) / 100
