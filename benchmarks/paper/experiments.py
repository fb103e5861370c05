"""EXPERIMENTS: what `wmcore bench` knows. A new one is an entry here: its points, and what is made of their rows."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wmcore import whole_file
from wmcore.paper import agreement, cost, distortion, grids, report
from wmcore.paper.attacks import ATTACKS
from wmcore.paper.methods import METHODS
from wmcore.paper.points import Point
from wmcore.paper.report import Figure, Row, Summary
from wmcore.paper.sizes import Size
from wmcore.paper.study import Study
from wmcore.paper.testing import TESTS
from wmcore.paper.texts import TextSet

LEVELS = (1e-2, 1e-3, 1e-4)
"""False-positive rates of the calibration."""

NEWS, ANSWERS = ("news",), ("instructions",)


@dataclass(frozen=True)
class Findings:
    """What was found, for one experiment.

    rows : of all its points. missing : why some of what it asks for could not be run, a line each. stem : where results
    are written: with ".md", ".png", ".svg", ".json" and ".parquet" after it.
    """

    study: Study
    size: Size
    rows: list[Row]
    missing: list[str]
    stem: Path

    def write(self, text: str) -> None:
        """The tables, and after them what could not be run."""
        told = "".join(f"\nNot run: {line}\n" for line in self.missing)
        whole_file.write(self.stem.with_suffix(".md"), (text + told).encode())

    def keep(self, found: Any) -> None:
        """Anything as JSON."""
        whole_file.write(
            self.stem.with_suffix(".json"), (json.dumps(found, indent=1) + "\n").encode()
        )

    def plot(self, summaries: Sequence[Summary], figure: Figure) -> None:
        """The plot, if there is anything to show."""
        if summaries:
            report.draw(summaries, figure, self.stem)


@dataclass(frozen=True)
class Experiment:
    """An entry of EXPERIMENTS.

    Attributes
    ----------
    title : str
    needs : tuple of str
        Which prompts: "news", "instructions".
    points : (Size, attacks) -> points
    show : Findings -> None
        Writes the table and the plot.
    texts : Size -> (TextSet, count) pairs
        Texts that it looks at without a test.
    alone : (Study, Size) -> anything for JSON, or None
        What is measured when nothing else runs; kept as `Findings.stem`'s .json.
    varies_key_length : bool
        So that a watermark that exists is of no use.
    """

    title: str
    points: Callable[[Size, Sequence[str]], Iterable[Point]]
    show: Callable[[Findings], None]
    needs: tuple[str, ...] = NEWS
    texts: Callable[[Size], Iterable[tuple[TextSet, int]]] = field(default=lambda size: ())
    alone: Callable[[Study, Size], Any] | None = None
    varies_key_length: bool = False


def names() -> dict[Any, str]:
    """What columns, methods and tests are called in tables and plots; no two series are called the same."""
    found: dict[Any, str] = {}
    for method, how in METHODS.items():
        for test, entry in TESTS.items():
            if how.family is None:
                found[method, test] = f"{how.title}, {entry.title}"
            elif how.family == entry.family:
                found[method, test] = entry.title if how.key_sequence else how.title
    times = Counter(found.values())
    for (method, test), title in found.items():
        if times[title] > 1:
            found[method, test] = f"{METHODS[method].title}, {TESTS[test].title}"
    words: dict[Any, str] = {
        "cut": "m",
        "key_length": "n",
        "rate": "share of edited tokens",
        "temperature": "T",
        "attack": "attack",
        **{name: attack.title for name, attack in ATTACKS.items()},
        (1.0, 1.0): "T = 1",
        (0.7, 0.9): "T = 0.7, top-p 0.9",
    }
    return found | words


SERIES = ("method", "test")
MEDIAN_CAPTION = "Median p (quartiles)"


def show_curve(
    x: str, label: str, findings: Findings, panels: Sequence[str] = (), log_x: bool = False
) -> None:
    """Median p with quartiles against one column: a table a panel, a plot."""
    findings.write(curve(x, label, findings, panels, log_x))


def curve(x: str, label: str, findings: Findings, panels: Sequence[str], log_x: bool) -> str:
    """The tables of `show_curve`, when its plot is drawn."""
    summaries = report.summarise(findings.rows, (*SERIES, *panels, x))
    tables = []
    called = names()
    for values in dict.fromkeys(tuple(s[c] for c in panels) for s in summaries):
        some = [s for s in summaries if tuple(s[c] for c in panels) == values]
        title = ", ".join(f"{called[c]} = {v:g}" for c, v in zip(panels, values, strict=True))
        caption = f"{MEDIAN_CAPTION}{', ' if title else ''}{title}"
        tables.append(
            report.table(some, SERIES, x, report.median_cell, caption, called, texts=True)
        )
    marked = [s for s in summaries if METHODS[s["method"]].family is not None]
    panel_names = {(v,): f"{called[c]} = {v:g}" for c in panels for v in {s[c] for s in marked}}
    findings.plot(
        marked,
        Figure(x, label, SERIES, tuple(panels), log_x=log_x, names=called | panel_names),
    )
    return "\n".join(tables)


def show_lengths(findings: Findings) -> None:
    """The curve; how often people's texts are called marked; the calibrated p beside the exact one."""
    asked = {(p.texts.method, p.test, p.cut) for p in grids.lengths(findings.size)}
    rows = [r for r in findings.rows if (r["method"], r["test"], r["cut"]) in asked]
    marked = [row for row in rows if row["method"] != "human"]
    curves = curve("cut", "m, tokens", replace(findings, rows=marked), (), log_x=True)
    people = report.table(
        report.summarise([row for row in rows if row["method"] == "human"], (*SERIES, "cut")),
        SERIES,
        "cut",
        report.share_cell("0.01"),
        "People's texts, each under a key of its own: share with p ≤ 0.01",
        names(),
    )
    compared = agreement.compare(findings.study, findings.size)
    findings.keep({"calibrated": compared})
    heads = ["test", "text", "texts", "median p", "calibrated", "p ≤ 0.01", "calibrated"]
    heads += ["mean difference", "largest", "rank correlation"]
    body = [
        [
            TESTS[one["test"]].title,
            METHODS[one["text"]].title,
            str(one["texts"]),
            report.number(one["median_exact"]),
            report.number(one["median_calibrated"]),
            f"{one['found_exact']:.2f}",
            f"{one['found_calibrated']:.2f}",
            f"{one['mean_difference']:.3f}",
            f"{one['largest_difference']:.3f}",
            "" if one["correlation"] is None else f"{one['correlation']:.3f}",
        ]
        for one in compared
    ]
    m = findings.size.cuts[0]
    caption = f"Exact p, and p from {agreement.CALIBRATED:,} stored null statistics, m = {m}."
    findings.write("\n".join([curves, people, report.markdown(heads, body, 2, caption)]))


def show_edits(findings: Findings) -> None:
    show_curve("rate", "share of edited tokens", findings, ("cut",))


def show_paraphrases(findings: Findings) -> None:
    """Median p against m, a panel an attack, and the share found at the largest m."""
    by = (*SERIES, "attack", "cut")
    summaries = report.summarise(findings.rows, by)
    called = names()
    tables = [
        report.table(
            [s for s in summaries if s["attack"] == attack],
            SERIES,
            "cut",
            report.median_cell,
            f"{MEDIAN_CAPTION}, {report.show(attack, called)}",
            called,
        )
        for attack in dict.fromkeys(row["attack"] for row in findings.rows)
    ]
    largest = [s for s in summaries if s["cut"] == max(findings.size.paraphrase_cuts)]
    found = report.table(
        largest,
        SERIES,
        "attack",
        report.share_cell("0.01"),
        f"Share with p ≤ 0.01 at m = {max(findings.size.paraphrase_cuts)}",
        called,
    )
    findings.write("\n".join([found, *tables]))
    findings.plot(summaries, Figure("cut", "m, tokens", SERIES, ("attack",), names=called))


ANSWER_CELLS = {
    "p ≤ 0.01": report.share_cell("0.01"),
    "p ≤ 1e-4": report.share_cell("1e-4"),
    "median p (quartiles)": report.median_cell,
    "median tokens": report.mean_cell("tokens"),
    "nats a token": report.mean_cell("entropy"),
    "potential": report.mean_cell("potential"),
}


def show_instructions(findings: Findings) -> None:
    """Shares at both levels, before and after the attacks, a table a law."""
    by = (*SERIES, "temperature", "top_p", "attack")
    summaries = report.summarise(findings.rows, by)
    called = names()
    tables = []
    for law in dict.fromkeys((s["temperature"], s["top_p"]) for s in summaries):
        some = [s for s in summaries if (s["temperature"], s["top_p"]) == law]
        clean = [s for s in some if s["attack"] == "none"]
        title = report.show(law, called)
        tables.append(
            report.listing(clean, SERIES, ANSWER_CELLS, f"Answers as written, {title}", called)
        )
        after = [s for s in some if s["attack"] != "none"]
        if after:
            cells = {name: ANSWER_CELLS[name] for name in list(ANSWER_CELLS)[:4]}
            caption = f"Answers after an attack, {title}"
            tables.append(report.listing(after, ("attack", *SERIES), cells, caption, called))
    findings.write("\n".join(tables))
    marked = [s for s in summaries if METHODS[s["method"]].family is not None]
    findings.plot(
        marked, Figure("attack", "", SERIES, ("temperature", "top_p"), y="0.01", names=called)
    )


def show_entropies(findings: Findings) -> None:
    """Substitution at lower temperatures, a panel a temperature, with what its texts hold; answers."""
    called = names()
    summaries = report.summarise(findings.rows, ("prompts", "temperature", *SERIES, "rate"))
    news = [s for s in summaries if s["prompts"] == "news"]
    tables, titles = [], {}
    for temperature in sorted({s["temperature"] for s in news}, reverse=True):
        some = [s for s in news if s["temperature"] == temperature]
        clean = next(s for s in some if s["rate"] == 0)
        titles[(temperature,)] = (
            f"T = {temperature:g}: {clean['entropy']:.2f} nats a token, potential "
            f"{clean['potential']:.2f}"
        )
        caption = f"{MEDIAN_CAPTION}, {titles[temperature,]}"
        tables.append(report.table(some, SERIES, "rate", report.median_cell, caption, called))
    answers = [s for s in summaries if s["prompts"] == "instructions"]
    if answers:
        cells = {name: cell for name, cell in ANSWER_CELLS.items() if name != "p ≤ 1e-4"}
        by = ("temperature", "test")
        tables.append(report.listing(answers, by, cells, "Answers as written", called))
    findings.write("\n".join(tables))
    findings.plot(
        news, Figure("rate", "substituted tokens", SERIES, ("temperature",), names=called | titles)
    )


def show_sweep(findings: Findings) -> None:
    """Shares clean and edited at each entropy, the best first; the best of each is the recommendation."""
    called = names() | {"none": "clean", "damage": "20 % mixed edits"}
    by = ("prompts", "temperature", "top_p", *SERIES, "options", "key_length", "attack")
    summaries = report.summarise(findings.rows, by)
    tables, panels = [], []
    for law in dict.fromkeys((s["prompts"], s["temperature"], s["top_p"]) for s in summaries):
        some = [s for s in summaries if (s["prompts"], s["temperature"], s["top_p"]) == law]
        for one in some:
            one["statistic"] = variant(one)
        clean = {s["statistic"]: s["0.01"][0] for s in some if s["attack"] == "none"}
        edited = {s["statistic"]: s["0.01"][0] for s in some if s["attack"] != "none"}
        order = sorted(clean, key=lambda name: -(clean[name] + edited.get(name, 0.0)))
        ranked = called | {name: name for name in order}
        setting = f"{law[0]}, {report.show(law[1:], called)}"
        caption = f"Share with p ≤ 0.01, {setting}, best mean of both first"
        cell = report.share_cell("0.01")
        table = report.table(some, ("statistic",), "attack", cell, caption, ranked, True)
        best = clean[order[0]] + edited.get(order[0], 0.0)
        # Within the error of a difference of two means of two shares, at the worst.
        near = [
            n for n in order if best - clean[n] - edited.get(n, 0.0) <= (2 / some[0]["n"]) ** 0.5
        ]
        tables.append(
            f"{table}\nTake {order[0]}; within the error as good: {', '.join(near[1:])}.\n"
        )
        rows: dict[str, dict[str, report.Interval]] = {name: {} for name in order}
        for one in some:
            share, error = one["0.01"]
            low, high = max(0.0, share - error), min(1.0, share + error)
            rows[one["statistic"]][report.show(one["attack"], called)] = (share, low, high)
        panels.append((setting, rows))
    findings.write("\n".join(tables))
    if panels:
        report.intervals(panels, findings.stem, label="share with p ≤ 0.01, ± standard error")


def variant(row: dict[str, Any]) -> str:
    """A statistic with its options and key length, in words."""
    words = {"gap": "gap", "block_length": "k ="}
    options = [f"{words[k]} {v:g}" for k, v in json.loads(row["options"]).items()]
    return ", ".join([TESTS[row["test"]].title, *options, f"n = {row['key_length']}"])


def show_calibration(findings: Findings) -> None:
    """TPR at each FPR by length, with intervals, as JSON and as a table."""
    called = names()
    found: dict[str, Any] = {}
    heads = ["test", "tokens", "texts", "human texts"]
    heads += [f"TPR at FPR {level:g}" for level in LEVELS] + ["observed FPR at 0.01"]
    body = []
    marked = [row for row in findings.rows if row["method"] != "human"]
    for method, test in dict.fromkeys((row["method"], row["test"]) for row in marked):
        buckets: dict[str, dict[int, Any]] = {"marked": {}, "human": {}}
        for kind, name in (("marked", method), ("human", "human")):
            for m in findings.size.buckets:
                # A bucket holds texts of its length: shorter ones are no texts of it.
                buckets[kind][m] = np.array(
                    [
                        row["p"]
                        for row in findings.rows
                        if (row["method"], row["test"], row["cut"]) == (name, test, m)
                        and row["tokens"] == m
                    ]
                )
        full = [m for m in findings.size.buckets if all(len(b[m]) for b in buckets.values())]
        rates = report.bootstrap_tpr(
            {m: buckets["marked"][m] for m in full},
            {m: buckets["human"][m] for m in full},
            LEVELS,
            findings.size.fine_resamples,
        )
        found[called[method, test]] = rates
        for m, one in rates["lengths"].items():
            levels = list(one["levels"].values())
            body.append(
                [
                    called[method, test],
                    str(m),
                    str(one["n"]),
                    str(one["null_n"]),
                    *(_rate(level, "tpr") for level in levels),
                    _rate(levels[0], "fpr"),
                ]
            )
    findings.keep(found)
    caption = "Intervals of 95 %: bootstrap over texts; of the observed false positives Clopper and Pearson's."
    findings.write(report.markdown(heads, body, 1, caption))
    summaries = report.summarise(
        [row for row in marked if row["tokens"] == row["cut"]], (*SERIES, "cut")
    )
    findings.plot(
        summaries,
        Figure("cut", "m, tokens", SERIES, y="0.01", log_x=True, names=called),
    )


def _rate(level: dict[str, Any], key: str) -> str:
    if level[key] is None:
        return report.UNREACHABLE
    low, high = level[f"{key}_interval"]
    return f"{level[key]:.2f} ({low:.2f}–{high:.2f})"


def show_distortion(findings: Findings) -> None:
    found = distortion.compare(findings.study, findings.size)
    findings.keep(found)
    one_key = findings.study.mark is not None
    findings.write(distortion.table(found, one_key))
    rows = distortion.rows(findings.study, findings.size)
    report.write_rows(findings.stem.with_suffix(".parquet"), rows)
    distortion.draw(found, findings.stem)


def show_cost(findings: Findings) -> None:
    found = json.loads(findings.stem.with_suffix(".json").read_text(encoding="utf-8"))
    findings.write(cost.table(found))
    cost.draw(found, findings.stem)


def no_points(size: Size, attacks: Sequence[str]) -> Iterable[Point]:
    return ()


EXPERIMENTS: dict[str, Experiment] = {
    "lengths": Experiment(
        "1. p against text length",
        lambda size, attacks: [*grids.lengths(size), *agreement.points(size)],
        show_lengths,
    ),
    "key-lengths": Experiment(
        "2. p against key length",
        lambda size, attacks: grids.key_lengths(size),
        partial(show_curve, "key_length", "n, key rows", log_x=True),
        varies_key_length=True,
    ),
    "substitution": Experiment(
        "3. p after substitutions",
        lambda size, attacks: grids.edits(size, "substitute"),
        show_edits,
    ),
    "insertion": Experiment(
        "4. p after insertions", lambda size, attacks: grids.edits(size, "insert"), show_edits
    ),
    "deletion": Experiment(
        "5. p after deletions", lambda size, attacks: grids.edits(size, "delete"), show_edits
    ),
    "paraphrase": Experiment("6. p after paraphrases", grids.paraphrases, show_paraphrases),
    "instructions": Experiment(
        "7. answers to instructions", grids.instructions, show_instructions, ANSWERS
    ),
    "distortion": Experiment(
        "8. perplexity and n-grams", no_points, show_distortion, texts=grids.distortion
    ),
    "sweep": Experiment(
        "9. statistic, gap, block and key length",
        lambda size, attacks: grids.sweep(size),
        show_sweep,
        NEWS + ANSWERS,
        varies_key_length=True,
    ),
    "cost": Experiment(
        "10. what writing and testing cost",
        no_points,
        show_cost,
        texts=cost.texts,
        alone=cost.measure,
    ),
    "calibration": Experiment(
        "11. TPR at a given FPR, by length",
        lambda size, attacks: grids.calibration(size),
        show_calibration,
    ),
    "entropy": Experiment(
        "12. substitutions at lower entropy",
        lambda size, attacks: grids.entropies(size),
        show_entropies,
        NEWS + ANSWERS,
    ),
}
