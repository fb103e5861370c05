"""Put the figures of results/*.json into the documents, between their markers, so that no number is typed by hand.

python benchmarks/tables.py
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGES = (HERE.parent / "docs" / "performance.md", HERE.parent / "README.md")


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
    result = load("power")
    rows = [
        [f"`{row['scheme']}`"]
        + [f"{row[c]['share']:.3f}" for c in ("clean", "substituted", "ordinary")]
        for row in result["schemes"]
    ]
    head = [
        "scheme",
        "clean",
        f"{result['substituted_rate']:.0%} of tokens substituted",
        "ordinary samples",
    ]
    return (
        f"{table(head, rows)}\n\nShare of {result['texts']} texts with p ≤ {result['level']}: "
        f"{result['new_tokens']} new tokens after {result['prompt_tokens']} of a news article, temperature 1, "
        f"n = {result['key_length']}, T = {result['resamples']}, mean entropy "
        f"{result['mean_entropy_nats']:.1f} nats a token."
    )


SECTIONS: dict[str, Callable[[], str]] = {
    "peers": peers,
    "peers-short": peers_short,
    "others": others,
    "kernels": kernels,
    "power": power,
}


def main() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name, make in SECTIONS.items():
            pattern = rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)"
            if re.search(pattern, text, flags=re.DOTALL):
                body = make()
                text = re.sub(
                    pattern, lambda m, b=body: f"{m[1]}{b}\n{m[2]}", text, flags=re.DOTALL
                )
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
