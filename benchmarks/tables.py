"""Put the figures of results/*.json into the documents, between their markers, so that no number is typed by hand.

python benchmarks/tables.py
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGES = tuple(
    HERE.parent / page
    for page in ("docs/performance.md", "docs/guide.md", "docs/plan.md", "README.md")
)


def load(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def where(result: dict) -> str:
    machine = result["machine"]
    return f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}"


def peers() -> str:
    result = load("peers")
    rows = []
    for row in result["rows"]:
        for name, ratio in row["ratio_scaled_to_T"].items():
            theirs = row["peer_s_per_resample"][name] * result["settings"]["T"]
            goal = row["goal_against_published_library"]
            rows.append(
                [
                    f"`{row['scheme']}`",
                    row["case"],
                    f"{1e3 * row['ours_s_per_text']:.1f} ms",
                    name,
                    f"{theirs:,.0f} s",
                    f"{ratio:,.0f} ×",
                    f"{goal} ×" if goal.startswith(">=") and name == "published library" else "",
                ]
            )
    head = ["scheme", "texts", "wmcore, a text", "peer", "peer, a text (scaled)", "ratio", "goal"]
    return f"{table(head, rows)}\n\n{where(result)}; one core on both sides."


def peers_short() -> str:
    """The four rows that matter most."""
    result = load("peers")
    rows = []
    for row in result["rows"]:
        if row["scheme"] == "exp-edit" and "published library" in row["ratio_scaled_to_T"]:
            theirs = row["peer_s_per_resample"]["published library"] * result["settings"]["T"]
            rows.append(
                [
                    row["case"],
                    f"{1e3 * row['ours_s_per_text']:.1f} ms",
                    f"{theirs:,.0f} s",
                    f"{row['ratio_scaled_to_T']['published library']:,.0f} ×",
                ]
            )
    head = ["texts of 200 tokens", "wmcore", "published library", "ratio"]
    return f"{table(head, rows)}\n\n{where(result)}."


def others() -> str:
    peer, features = load("peers"), load("features")
    rates, large = peer["calibrated_texts_per_s"], peer["large"]
    keys, prefix = features["many_keys"], features["prefixes"]
    rows = [
        [
            "calibrated null, real texts",
            f"{rates['real']:,.0f} texts a second",
            "one core, goal 2,000",
        ],
        ["calibrated null, watermarked texts", f"{rates['exp']:,.0f} texts a second", "one core"],
        [
            "n = 4,096, m = 1,000, T = 999, watermarked",
            f"{large['watermarked']['seconds']:.1f} s",
            f"peak memory {large['peak_memory_mb']:.0f} MB",
        ],
        [
            "the same, without a watermark, all T",
            f"{large['ordinary']['seconds']:.1f} s",
            "the same process",
        ],
        [
            "which of 1,000 keys, T = 99,999",
            f"{keys['thousand_keys_s']:.2f} s",
            f"its key alone: {keys['its_key_alone_s']:.2f} s",
        ],
        [
            "p at all 200 prefixes, T = 999",
            f"{prefix['curve_s']:.2f} s",
            f"200 tests in a batch: {prefix['separate_tests_in_a_batch_s']:.2f} s",
        ],
        [
            "first call in a new process",
            f"{features['first_call_in_a_new_process_s']:.2f} s",
            "compiled code cached; goal 1.5 s",
        ],
    ]
    cores = features["speed_up_by_threads"]["cores"]
    for name, ratio in features["speed_up_by_threads"].items():
        if name != "cores":
            rows.append([f"{cores} threads against 1: {name}", f"{ratio:.2f} ×", "same results"])
    return f"{table(['what', 'measured', ''], rows)}\n\n{where(features)}."


def kernels() -> str:
    result = load("kernels")
    rows = []
    for name, row in result["benchmarks"].items():
        rate = next((f"{row[u]:g} {t}" for u, t in _UNITS if u in row), "")
        rows.append([f"`{name}`", f"{row['median_us']:,.1f} µs", rate])
    share = result.get("edit_int32_share_of_cpp")
    note = f" The int32 edit kernel reaches {share:.0%} of the C++ one." if share else ""
    return f"{table(['kernel', 'median', 'rate'], rows)}\n\n{where(result)}, one core.{note}"


_UNITS = (
    ("Gcells_per_s", "Gcells/s"),
    ("ns_per_number", "ns a number"),
    ("ms_per_text", "ms a text"),
)


def power() -> str:
    """Clean texts, a column for each case."""
    result = load("entropy")
    columns = [(title, case, "clean") for case, title in result["cases"].items()]
    entropies = ", ".join(
        f"{title}: {_entropy(result, case)}" for case, title in result["cases"].items()
    )
    return (
        f"{_shares(result, columns)}\n\nShare of texts with p ≤ 0.01 and its standard error; SmolLM2-135M-Instruct, "
        f"n = {result['key_length']}, T = {result['resamples']:,}, up to 120 tokens. Entropy, nats a token, and texts: "
        f"{entropies}."
    )


def power_edits() -> str:
    """A table for each case that was edited: at two of the rates."""
    result = load("entropy")
    parts = []
    for case, title in result["cases"].items():
        edits = dict.fromkeys(row["edit"] for row in result["rows"] if row["case"] == case)
        edits = [edit for edit in edits if edit.endswith((" 20%", " 40%"))]
        if edits:
            columns = [("clean", case, "clean"), *((_edit_title(e), case, e) for e in edits)]
            tokens = {
                row["statistic"]: row["median_tokens"] or "more"
                for row in result["rows"]
                if (row["case"], row["edit"]) == (case, "prefixes")
            }
            parts.append(f"{title}:\n\n{_shares(result, columns, tokens)}")
    return "\n\n".join(parts)


def choosing() -> str:
    """A table for each case that was edited: both levels, mixed edits, tokens."""
    result = load("entropy")
    cells = {(r["case"], r["statistic"], r["edit"]): r for r in result["rows"]}
    parts = []
    for case, title in result["cases"].items():
        lines = []
        for name in dict.fromkeys(row["statistic"] for row in result["rows"]):
            if (case, name, "damage 40%") not in cells:
                continue
            wanted = [("clean", "0.01"), ("clean", "1e-4")]
            wanted += [(f"damage {rate}%", "0.01") for rate in (10, 20, 30, 40)]
            shares = [cells[case, name, edit][level] for edit, level in wanted]
            tokens = cells[case, name, "prefixes"]["median_tokens"] or "more"
            lines.append([f"`{name}`", *(f"{q:.2f} ± {e:.2f}" for q, e in shares), str(tokens)])
        if lines:
            head = ["statistic", "clean", "p ≤ 1e-4", "10 % mixed", "20 %", "30 %", "40 %"]
            text = table([*head, "tokens to p ≤ 0.01"], lines)
            entropy, count = _entropy(result, case)[:-1].split(" (")
            parts.append(f"**{title}** ({entropy} nats a token, {count} texts):\n\n{text}")
    return "\n\n".join(parts)


def key_length() -> str:
    result = load("key_length")
    lengths = sorted({row["n"] for row in result["rows"]})
    lines = []
    for scheme in dict.fromkeys(row["scheme"] for row in result["rows"]):
        found = {r["n"]: r for r in result["rows"] if r["scheme"] == scheme}
        lines.append(
            [f"`{scheme}`", *(f"{found[n]['share']:.2f} ± {found[n]['se']:.2f}" for n in lengths)]
        )
    return table(["scheme", *(f"n = {n:,}" for n in lengths)], lines)


GUIDE_STATISTICS = {
    "exp": "`exp`",
    "exp-edit, gap 0": "`exp-edit`, gap 0 (published)",
    "exp-free": "`exp-free` (default)",
    "exp-free, by token": "scores by token",
    "exp-free, proxy": "proxy",
}


def _guide_lines(settings: list[str], lengths: list[int], statistics: list[str]) -> str:
    """A line for each setting and length."""
    result = load("guide")
    cells = {(r["setting"], r["tokens"], r["statistic"]): r for r in result["lengths"]}
    lines = []
    for setting in settings:
        for m in lengths:
            found = [cells[setting, m, name] for name in statistics]
            head = [result["settings"][setting], f"{found[0]['entropy']:.2f}", str(m)]
            shares = [f"{r['share'][0]:.2f} ± {r['share'][1]:.2f}" for r in found]
            lines.append([*head, str(found[0]["n"]), *shares])
    names = [GUIDE_STATISTICS[name] for name in statistics]
    return table(["answers", "nats a token", "tokens", "texts", *names], lines)


ANSWERS = ["guide-t1", "guide-t0.7", "guide-t0.5"]


def guide_lengths() -> str:
    return _guide_lines(ANSWERS, [10, 25, 50, 75, 100, 150, 200], list(GUIDE_STATISTICS))


def guide_code() -> str:
    return _guide_lines(["guide-code"], [50, 100, 200], list(GUIDE_STATISTICS))


def guide_short() -> str:
    """For the README: what is realistic first."""
    settings = ["guide-t0.7", "guide-t0.5", "guide-t1"]
    return _guide_lines(settings, [50, 100, 200], ["exp-free", "exp-free, proxy"])


def guide_before() -> str:
    """Behind text of others: a line for each setting and number of tokens before."""
    result = load("guide")
    cells = {(r["setting"], r["before"], r["statistic"]): r for r in result["before"]}
    names = list(dict.fromkeys(r["statistic"] for r in result["before"]))
    lines = [
        [
            result["settings"][setting],
            str(before),
            str(cells[setting, before, names[0]]["n"]),
            *(
                f"{q:.2f} ± {e:.2f}"
                for q, e in (cells[setting, before, name]["share"] for name in names)
            ),
        ]
        for setting in ANSWERS
        for before in dict.fromkeys(r["before"] for r in result["before"])
    ]
    return table(
        ["answers", "tokens before", "texts", *(f"`{name}`" for name in names)],
        lines,
    )


def guide_read() -> str:
    """As drawn, and read again in three ways: a line for each setting and way."""
    result = load("guide")
    cells = {(r["setting"], r["text"], r["statistic"]): r for r in result["read"]}
    lines = []
    for setting, text in dict.fromkeys((r["setting"], r["text"]) for r in result["read"]):
        exp, free = (cells[setting, text, name] for name in ("exp", "exp-free"))
        shares = [exp["changed"], exp["share"], free["share"]]
        lines.append(
            [
                result["settings"][setting],
                text,
                str(exp["n"]),
                *(f"{q:.2f} ± {e:.2f}" for q, e in shares),
            ]
        )
    head = ["answers", "tested", "texts", "texts whose tokens changed", "`exp`", "`exp-free`"]
    return table(head, lines)


def plan_example() -> str:
    """What `wmcore plan examples/sampled.jsonl` says."""
    example = load("planning")["example"]
    (setting,) = example["settings"]
    longest = setting["edited"][0]["levels"][0]["curve"]["lengths"][-1]
    lines = []
    for edited in setting["edited"]:
        for level in edited["levels"]:
            cells = []
            for one in level["needed"]:
                high = "…" if one["high"] is None else one["high"]
                tokens = f"> {longest}" if one["tokens"] is None else one["tokens"]
                sure = one["low"] == longest
                cells.append(f"{tokens}" if sure else f"{tokens} ({one['low']}–{high})")
            lines.append([f"{edited['rate']:.0%}", f"{level['level']:g}", *cells])
    shares = [f"{one['share']:.0%} found" for one in setting["edited"][0]["levels"][0]["needed"]]
    gain = setting["score_per_token"] - setting["chance_per_token"]
    return (
        f"`{setting['scheme']}`, n = {setting['key_length']}: {setting['score_per_token']:.3f} a token, "
        f"{setting['chance_per_token']:.3f} by chance: gain {gain:.3f}\n\n"
        f"{table(['edited', 'p ≤', *shares], lines)}\n\n"
        f"{example['texts']} texts, {example['tokens']:,} tokens of {example['entropy']:.2f} nats; "
        f"{example['simulations']} simulations, T = {example['resamples']:,}."
    )


def _plan_lines(lengths: set[int], settings: set[str], names: dict[str, str]) -> str:
    """Foreseen and observed: a line for each setting, rate of edits and length."""
    result = load("planning")
    cells = {
        (r["setting"], r["edited"], r["tokens"], r["level"], r["source"]): r["share"]
        for r in result["rows"]
    }
    levels = list(dict.fromkeys(r["level"] for r in result["rows"]))
    lines = []
    for setting, edited, m in dict.fromkeys(key[:3] for key in cells):
        if m in lengths and setting in settings:
            shares = [cells[setting, edited, m, level, name] for level in levels for name in names]
            lines.append(
                [
                    result["settings"][setting],
                    f"{edited:.0%}",
                    str(m),
                    *(f"{q:.2f} ({low:.2f}–{high:.2f})" for q, low, high in shares),
                ]
            )
    heads = [f"p ≤ {level:g}, {name}" for level in levels for name in names.values()]
    return table(["answers", "edited", "tokens", *heads], lines)


def plan_checked() -> str:
    """From the log-probabilities of the texts that were tested."""
    names = {"same texts": "foreseen", "observed": "observed"}
    return _plan_lines({25, 50, 100, 200}, set(ANSWERS), names)


def plan_others() -> str:
    """From unmarked answers to other questions, which end at 120 tokens."""
    names = {"other texts": "foreseen", "observed": "observed"}
    return _plan_lines({25, 50, 100}, {"guide-t0.7"}, names)


def _entropy(result: dict, case: str) -> str:
    row = next(r for r in result["rows"] if (r["case"], r["edit"]) == (case, "clean"))
    return f"{row['entropy']:.2f} ({row['n']})"


_EDITS = {
    "substitute": "substituted",
    "insert": "inserted",
    "delete": "deleted",
    "damage": "mixed",
}


def _edit_title(edit: str) -> str:
    kind, rate = edit.split()
    return f"{rate} {_EDITS[kind]}"


def _shares(
    result: dict, columns: list[tuple[str, str, str]], tokens: dict[str, object] | None = None
) -> str:
    """Shares with p <= 0.01, a line for each statistic; columns: (heading, case, edit). tokens: of one column more."""
    cells = {(r["case"], r["statistic"], r["edit"]): r for r in result["rows"]}
    lines = []
    for name in dict.fromkeys(row["statistic"] for row in result["rows"]):
        found = [cells.get((case, name, edit), {}).get("0.01") for _, case, edit in columns]
        line = [f"`{name}`", *(f"{f[0]:.2f} ± {f[1]:.2f}" if f else "" for f in found)]
        lines.append(line if tokens is None else [*line, str(tokens.get(name, ""))])
    head = ["statistic", *(heading for heading, _, _ in columns)]
    return table(head if tokens is None else [*head, "tokens to p ≤ 0.01"], lines)


SECTIONS: dict[str, Callable[[], str]] = {
    "peers": peers,
    "peers-short": peers_short,
    "others": others,
    "kernels": kernels,
    "power": power,
    "power-edits": power_edits,
    "choosing": choosing,
    "key-length": key_length,
    "guide-lengths": guide_lengths,
    "guide-code": guide_code,
    "guide-short": guide_short,
    "guide-before": guide_before,
    "guide-read": guide_read,
    "plan-example": plan_example,
    "plan-checked": plan_checked,
    "plan-others": plan_others,
}


def filled(text: str) -> str:
    """A page with its sections as the results say."""
    for name, make in SECTIONS.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)"
        if re.search(pattern, text, flags=re.DOTALL):
            body = make()
            text = re.sub(pattern, lambda m, b=body: f"{m[1]}{b}\n{m[2]}", text, flags=re.DOTALL)
    return text


def main() -> None:
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
