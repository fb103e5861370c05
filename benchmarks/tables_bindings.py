"""Put the figures of the bindings' results into docs/bindings/, as tables.py does for the other pages.

python benchmarks/tables_bindings.py
"""

import tables

PAGES = sorted((tables.HERE.parent / "docs" / "bindings").glob("*.md"))


def peers_of(peer: str) -> str:
    """The rows of a peer in bindings.json."""
    rows = [
        [
            line["what"].removeprefix(peer).strip(),
            line["setting"],
            line["equal"],
            seconds(line["theirs_seconds"]),
            seconds(line["ours_seconds"]),
            f"{line['times_faster']:,.1f} ×",
        ]
        for line in tables.load("bindings")["peers"][peer]["rows"]
    ]
    return tables.table(["what", "setting", "results", "theirs", "ours", "ratio"], rows)


def seconds(value: float) -> str:
    return f"{1000 * value:,.1f} ms" if value < 1 else f"{value:,.2f} s"


def loop() -> str:
    rows = [
        [name, f"{line['tokens_per_second']:.1f}", f"{line['ratio']:.2f} ×"]
        for name, line in tables.load("transformers_speed")["loop"].items()
    ]
    return tables.table(["loop", "tokens a CPU second", "ratio"], rows)


def draw() -> str:
    rows = [
        [name, f"{line['milliseconds']:.2f} ms", f"{line['times_faster']:.1f} ×"]
        for name, line in tables.load("transformers_speed")["draw"].items()
    ]
    return tables.table(["draw", "time", "ratio"], rows)


if __name__ == "__main__":
    tables.PAGES = PAGES
    tables.SECTIONS = {
        "loop": loop,
        "draw": draw,
        "published": lambda: peers_of("published"),
        "markllm": lambda: peers_of("MarkLLM"),
        "vllm": lambda: peers_of("vLLM"),
        "sglang": lambda: peers_of("SGLang"),
    }
    tables.main()
