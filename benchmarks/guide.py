"""Figures of docs/guide.md that `entropy.py` and the paper's experiments do not have: results/guide.json and guide.png.

    python benchmarks/guide.py texts FOLDER DATA     # SmolLM2 writes, some ten minutes of two cores
    python benchmarks/guide.py test FOLDER           # tests them, some minutes of one core

FOLDER is that of `entropy.py`: scores by token are learnt from its unmarked answers, and text that is nobody's is
taken from there. DATA holds `instructions.jsonl`. p is that of the permutation test with T = RESAMPLES; a test stops
where it can no longer reach LEVEL.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import entropy
import entropy_texts
import guide_texts
import numpy as np
from machine import machine

from wmcore import Detector, Watermark
from wmcore.models import load_tokenizer
from wmcore.paper.summary import share

RESULTS = Path(__file__).parent / "results"
RESAMPLES, STOP_AFTER, LEVEL = 999, 10, 0.01
SEED = 1
LENGTHS = (10, 25, 50, 75, 100, 150, 200)
BEFORE = (0, 50, 100, 200, 400)
"""Tokens of other text that come before an answer."""

STATISTICS = ("exp", "exp-edit, gap 0", "exp-free", "exp-free, by token", "exp-free, proxy")

Text = dict[str, Any]
Detectors = Callable[[Watermark], Detector]
MARKS = re.compile(r"^#+ +|^ *(?:[-*]|\d+\.) +|^```\w*$|\*\*|`", flags=re.MULTILINE)
"""What is not shown where Markdown is: headings, bullets, numbers of a list, fences, bold, code."""


def p_values(
    texts: list[Text], tokens: Sequence[np.ndarray], make: Detectors, folder: Path
) -> np.ndarray:
    """p of each text's tokens under the key that it was written with: float64 [texts]."""
    p = np.full(len(texts), np.nan)
    for name in sorted({text["watermark"] for text in texts}):
        places = [i for i, text in enumerate(texts) if text["watermark"] == name]
        found = make(Watermark.load(folder / "keys" / name)).detect(
            [tokens[i] for i in places], resamples=RESAMPLES, stop_after=STOP_AFTER, seed=SEED
        )
        p[places] = [one.p_value for one in found]
    if np.isnan(p).any():
        raise SystemExit("a text could not be tested")
    return p


def row(p: np.ndarray, **names: Any) -> dict[str, Any]:
    return {**names, "n": len(p), "share": share(p <= LEVEL)}


def detectors(statistic: str, folder: Path) -> Detectors:
    return lambda watermark: entropy.STATISTICS[statistic].detector(watermark, folder, 1)


def proxied(texts: list[Text], tokens: Sequence[np.ndarray]) -> Detectors:
    """Detectors with what SmolLM2 without the prompt says of each text; it was kept as it was written."""
    known = {tuple(t.tolist()): text["z"] for text, t in zip(texts, tokens, strict=True)}

    def proxy(some: np.ndarray) -> np.ndarray:
        z = known[tuple(some.tolist())]
        return np.array(z[: len(some)])

    return lambda watermark: Detector(watermark, proxy=proxy, threads=1)


def by_length(setting: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Answers cut to each length; those that have as many tokens."""
    made = entropy_texts.load(folder, setting, "exp")
    for m in LENGTHS:
        texts = [text for text in made if len(text["tokens"]) >= m]
        tokens = [np.array(text["tokens"][:m]) for text in texts]
        nats = float(np.mean([text["entropy"][:m] for text in texts]))
        for statistic in STATISTICS:
            proxy = statistic == "exp-free, proxy"
            make = proxied(texts, tokens) if proxy else detectors(statistic, folder)
            p = p_values(texts, tokens, make, folder)
            yield row(p, setting=setting, tokens=m, statistic=statistic, entropy=round(nats, 3))


def after_other_text(setting: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Answers behind text that carries no watermark, as where a prompt is in what is tested."""
    texts = [t for t in entropy_texts.load(folder, setting, "exp") if len(t["tokens"]) >= 100]
    other = np.concatenate(
        [text["tokens"] for text in entropy_texts.load(folder, "t0.7", "unmarked")]
    )
    for count in BEFORE:
        starts = [(number * max(BEFORE)) % (len(other) - count) for number in range(len(texts))]
        tokens = [
            np.concatenate([other[start : start + count], text["tokens"][:100]])
            for start, text in zip(starts, texts, strict=True)
        ]
        for statistic in ("exp", "exp-free", "exp-local"):
            p = p_values(texts, tokens, detectors(statistic, folder), folder)
            yield row(p, setting=setting, before=count, statistic=statistic)


def read_again(setting: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Whole answers as drawn; as text that was read again; and so after its layout was lost in two ways."""
    tokenizer = load_tokenizer(entropy_texts.MODEL)
    texts, drawn = [], []
    for text in entropy_texts.load(folder, setting, "exp"):
        tokens = [t for t in text["tokens"] if t != tokenizer.eos_token_id]
        if len(tokens) >= 30:
            texts.append(text)
            drawn.append(np.array(tokens))
    written = [tokenizer.decode(tokens) for tokens in drawn]
    ways = {
        "read again": written,
        "without Markdown": [MARKS.sub("", text) for text in written],
        "on one line": [" ".join(text.split()) for text in written],
    }
    tokens = {"as drawn": drawn}
    tokens |= {
        name: [np.array(tokenizer(text)["input_ids"]) for text in some]
        for name, some in ways.items()
    }
    for name, some in tokens.items():
        changed = [not np.array_equal(a, b) for a, b in zip(drawn, some, strict=True)]
        for statistic in ("exp", "exp-free"):
            p = p_values(texts, some, detectors(statistic, folder), folder)
            more = {"statistic": statistic, "changed": share(np.array(changed))}
            yield row(p, setting=setting, text=name, **more)


def draw(result: dict[str, Any], path: Path) -> None:
    """The share that is found over the number of tokens: a panel for each setting, a line for each statistic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    settings = list(result["settings"])
    figure, axes = pyplot.subplots(
        1, len(settings), figsize=(3.4 * len(settings), 3.6), sharey=True, layout="constrained"
    )
    for axis, setting in zip(axes, settings, strict=True):
        rows = [line for line in result["lengths"] if line["setting"] == setting]
        for statistic in STATISTICS:
            line = [(r["tokens"], *r["share"]) for r in rows if r["statistic"] == statistic]
            x, y, error = zip(*line, strict=True)
            axis.errorbar(x, y, error, fmt="o-", ms=3, capsize=2, label=statistic)
        axis.set_title(
            f"{result['settings'][setting]}\n{rows[-1]['entropy']:.2f} nats a token", fontsize=9
        )
        axis.set_xlabel("tokens")
        axis.set_ylim(-0.02, 1.02)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share with p ≤ 0.01")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)
    figure.savefig(path, dpi=110)


def test(folder: Path) -> None:
    """Test what is there, and write the results."""
    titles = {name: setting.title for name, setting in guide_texts.SETTINGS.items()}
    answers = [name for name in titles if name != "guide-code"]
    parts: dict[str, list[dict[str, Any]]] = {}
    for part, made in (
        ("lengths", (line for name in titles for line in by_length(name, folder))),
        ("before", (line for name in answers for line in after_other_text(name, folder))),
        ("read", (line for name in titles for line in read_again(name, folder))),
    ):
        parts[part] = []
        for line in made:
            parts[part].append(line)
            print(line, flush=True)
    result = {
        "machine": machine(),
        "model": entropy_texts.MODEL,
        "key_length": entropy_texts.KEY_LENGTH,
        "resamples": RESAMPLES,
        "settings": titles,
        **parts,
    }
    head = json.dumps({**result, **{part: [] for part in parts}}, indent=1)
    for part, lines in parts.items():
        body = ",\n  ".join(map(json.dumps, lines))
        head = head.replace(f'"{part}": []', f'"{part}": [\n  {body}\n ]')
    (RESULTS / "guide.json").write_text(head + "\n", encoding="utf-8")
    draw(result, RESULTS / "guide.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    texts = commands.add_parser("texts", help="write the texts")
    texts.add_argument("folder", type=Path)
    texts.add_argument("data", type=Path)
    texts.add_argument("--processes", type=int, default=2)
    texts.set_defaults(run=lambda args: guide_texts.make(args.folder, args.data, args.processes))
    tests = commands.add_parser("test", help="test them, and write the results")
    tests.add_argument("folder", type=Path)
    tests.set_defaults(run=lambda args: test(args.folder))
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
