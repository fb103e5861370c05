"""Which statistic finds how much, of text as products write it, clean and edited: results/entropy.json and entropy.png.

    python benchmarks/entropy.py texts FOLDER DATA     # SmolLM2 writes: FOLDER/texts, FOLDER/keys
    python benchmarks/entropy.py test FOLDER           # every statistic on every edit of them: FOLDER/tests.jsonl

DATA holds `instructions.jsonl` (field `instruction`) and `news.jsonl` (field `text`). Both can be stopped and started
again: what is there is not made again, so a new row of a table below costs its own tests alone. All statistics see
the same texts with the same edits. p is that of the plain permutation test with T = RESAMPLES; a test stops where
it can no longer reach the higher level, (STOP_AFTER + 1) / (T + 1) > 0.01, which changes no decision at either.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import entropy_report
import entropy_texts
import numpy as np
from machine import machine

from wmcore import SCHEMES, Detector, Watermark, attacks
from wmcore.learned_scores import LearnedScores
from wmcore.learning import Sample, fit_scores
from wmcore.prefix import prefix_curve
from wmcore.proxy import Proxy, as_proxy

RESAMPLES, STOP_AFTER = 9_999, 100
PREFIX_RESAMPLES = 999
BY_TOKEN = "by token"
VOCAB = 49152
SEED = 1


@dataclass(frozen=True)
class Statistic:
    """How texts are tested.

    options: of `Detector`, beside the scheme; a score "by token" is learnt from the unmarked answers at temperature
    0.7, proxy is a model's name. edits: "all", or "damage" for those that mix the three kinds alone.
    """

    scheme: str
    options: dict[str, Any] = field(default_factory=dict)
    edits: str = "damage"

    @property
    def sampler(self) -> str:
        return SCHEMES[self.scheme].sampler

    @property
    def how(self) -> dict[str, Any]:
        """What is written down of it."""
        return {"scheme": self.scheme, **self.options}

    def detector(self, watermark: Watermark, folder: Path, threads: int) -> Detector:
        options = dict(self.options)
        if options.get("score") == BY_TOKEN:
            options["score"] = by_token(folder)
        if "proxy" in options:
            options["proxy"] = loaded_proxy(options["proxy"])
        return Detector(watermark, scheme=self.scheme, threads=threads, **options)


@cache
def by_token(folder: Path) -> LearnedScores:
    """Scores by token id, learnt from the unmarked answers at temperature 0.7."""
    made = entropy_texts.load(folder, "t0.7", "unmarked")
    samples = [Sample(np.array(t["tokens"]), np.array(t["probability"])) for t in made]
    return fit_scores(samples, by="tokens", vocab_size=VOCAB, temperature=0.7, top_p=0.9)


@cache
def loaded_proxy(name: str) -> Proxy:
    return as_proxy(name)


# The first of each sampler is what the others are compared with.
STATISTICS = {
    "exp": Statistic("exp", edits="all"),
    "exp-edit, gap 0": Statistic("exp-edit", {"gap": 0.0}, edits="all"),
    "exp-edit, gap 3": Statistic("exp-edit", {"gap": 3.0}),
    "exp-free": Statistic("exp-free", edits="all"),
    "exp-free, clipped": Statistic("exp-free", {"score": "clipped"}),
    "exp-free, mixture": Statistic("exp-free", {"score": "mixture"}),
    "exp-free, delta": Statistic("exp-free", {"score": "delta"}),
    "exp-free, by token": Statistic("exp-free", {"score": BY_TOKEN}),
    "exp-free, proxy": Statistic("exp-free", {"proxy": entropy_texts.MODEL}),
    "exp-local": Statistic("exp-local"),
    "its": Statistic("its"),
    "its-edit": Statistic("its-edit", {"gap": 0.4}),
    "its-free": Statistic("its-free"),
}


@dataclass(frozen=True)
class Case:
    """Texts that are tested: those of a setting with at least `shortest` tokens, up to `longest`.

    marked: whether they carry the key that they are tested for. The others are tested clean alone.
    """

    setting: str
    title: str
    shortest: int = 30
    longest: int = 120
    marked: bool = True


CASES = {
    "news": Case("news", "news, T = 1"),
    "t1": Case("t1", "answers, T = 1"),
    "t1-80": Case("t1", "answers cut to 80 tokens, T = 1", shortest=80, longest=80),
    "t0.7": Case("t0.7", "answers, T = 0.7, top-p 0.9"),
    "t0.5": Case("t0.5", "answers, T = 0.5, top-p 0.9"),
    "t1-unmarked": Case("t1", "unmarked answers, T = 1", marked=False),
    "t0.7-unmarked": Case("t0.7", "unmarked answers, T = 0.7, top-p 0.9", marked=False),
}


@dataclass(frozen=True)
class Edit:
    """What was done to a share `rate` of the tokens; kind: a function of `wmcore.attacks`, or "clean"."""

    kind: str
    rate: float

    @property
    def name(self) -> str:
        return self.kind if self.kind == "clean" else f"{self.kind} {self.rate:.0%}"

    def apply(self, tokens: np.ndarray, vocab_size: int, number: int) -> np.ndarray:
        """The edited tokens; the same for the same text number."""
        if self.kind == "clean":
            return tokens
        seed = (SEED, number, round(100 * self.rate))
        if self.kind == "delete":
            return attacks.delete(tokens, self.rate, seed=seed)
        return getattr(attacks, self.kind)(tokens, self.rate, vocab_size=vocab_size, seed=seed)


CLEAN = Edit("clean", 0.0)
EDITS = (
    CLEAN,
    *(
        Edit(kind, rate)
        for kind in ("substitute", "insert", "delete", "damage")
        for rate in (0.1, 0.2, 0.3, 0.4)
    ),
)


@dataclass(frozen=True)
class Text:
    """A text to test: its id, its tokens (int64 [m]) and the file of the key that it is tested for."""

    number: int
    tokens: np.ndarray
    watermark: Path
    entropy: float


def read(folder: Path, case: Case, sampler: str, count: int | None) -> list[Text]:
    """The texts of a case, at most `count`."""
    made = entropy_texts.load(folder, case.setting, sampler if case.marked else "unmarked")
    # An unmarked text is tested for the key of the marked text of its number.
    marked = entropy_texts.load(folder, case.setting, sampler)
    keys = {text["id"]: folder / "keys" / text["watermark"] for text in marked}
    texts = [
        Text(
            number=text["id"],
            tokens=np.array(text["tokens"][: case.longest], np.int64),
            watermark=keys[text["id"]],
            entropy=float(np.mean(text["entropy"][: case.longest])),
        )
        for text in made
        if text["id"] in keys
    ]
    return [text for text in texts if len(text.tokens) >= case.shortest][:count]


def folder_of(texts: list[Text]) -> Path:
    """The folder that the keys of texts lie in."""
    return texts[0].watermark.parent.parent


def by_key(texts: list[Text]) -> Iterator[tuple[Watermark, list[int]]]:
    """Each watermark and the places of the texts that are tested for it."""
    for path in sorted({text.watermark for text in texts}):
        yield Watermark.load(path), [i for i, t in enumerate(texts) if t.watermark == path]


def p_values(statistic: Statistic, texts: list[Text], edit: Edit, threads: int) -> list[float]:
    """p of each text after an edit."""
    p = np.full(len(texts), np.nan)
    for watermark, places in by_key(texts):
        edited = [
            edit.apply(texts[i].tokens, watermark.vocab_size, texts[i].number) for i in places
        ]
        found = statistic.detector(watermark, folder_of(texts), threads).detect(
            edited, resamples=RESAMPLES, stop_after=STOP_AFTER, seed=SEED
        )
        for i, detection in zip(places, found, strict=True):
            if detection.p_value is None:
                raise SystemExit(f"text {texts[i].number} ({edit.name}): {detection.error}")
            p[i] = detection.p_value
    return p.tolist()


def tokens_until(statistic: Statistic, texts: list[Text], threads: int) -> list[int | None]:
    """Of each text the shortest prefix with p <= 0.01; None if there is none."""
    found: list[int | None] = [None] * len(texts)
    for watermark, places in by_key(texts):
        detector = statistic.detector(watermark, folder_of(texts), threads)
        for i in places:
            curve = prefix_curve(detector, texts[i].tokens, resamples=PREFIX_RESAMPLES, seed=SEED)
            found[i] = curve.tokens_until(0.01)
    return found


PREFIXES = "prefixes"
"""As an edit's name: `tokens_until` of the clean texts."""


class Record:
    """FOLDER/tests.jsonl: a line for each (case, statistic, edit) that was tested; the last of several counts."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "tests.jsonl"
        self.lines: dict[tuple[str, str, str], dict[str, Any]] = {}
        old = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        whole = old[: old.rfind("\n") + 1]
        if whole != old:  # a killed run's last line
            self.path.write_text(whole, encoding="utf-8")
        for line in map(json.loads, whole.splitlines()):
            self.lines[line["case"], line["statistic"], line["edit"]] = line

    def has(self, test: "Test") -> bool:
        """Whether these texts, or more, were tested in this way."""
        line = self.lines.get(test.place)
        return (
            line is not None
            and line["how"] == STATISTICS[test.statistic].how
            and {text.number for text in test.texts} <= set(line["numbers"])
        )

    def current(self) -> list[dict[str, Any]]:
        """The lines of what is in the tables now, in their order."""
        edits = [edit.name for edit in EDITS] + [PREFIXES]
        places = product(CASES, STATISTICS, edits)
        found = [self.lines[place] for place in places if place in self.lines]
        return [line for line in found if line["how"] == STATISTICS[line["statistic"]].how]

    def add(self, test: "Test", result: list[Any], cpu_seconds: float) -> None:
        line = {
            **dict(zip(("case", "statistic", "edit"), test.place, strict=True)),
            "how": STATISTICS[test.statistic].how,
            "commit": machine()["commit"],
            "cpu_seconds": round(cpu_seconds, 2),
            "numbers": [text.number for text in test.texts],
            "lengths": [len(text.tokens) for text in test.texts],
            "entropy": [round(text.entropy, 4) for text in test.texts],
            "result": result,
        }
        self.lines[test.place] = line
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


@dataclass(frozen=True)
class Test:
    """One line of the record. edit: None for the prefixes of the clean texts."""

    case: str
    statistic: str
    edit: Edit | None
    texts: list[Text]

    @property
    def place(self) -> tuple[str, str, str]:
        return self.case, self.statistic, self.edit.name if self.edit else PREFIXES

    def run(self, threads: int) -> list[Any]:
        statistic = STATISTICS[self.statistic]
        if self.edit is None:
            return tokens_until(statistic, self.texts, threads)
        return p_values(statistic, self.texts, self.edit, threads)


def tests(args: argparse.Namespace) -> Iterator[Test]:
    """What the command line asks for, of the texts that there are."""
    for case in args.cases:
        for name in args.statistics:
            texts = read(args.folder, CASES[case], STATISTICS[name].sampler, args.texts)
            if texts:
                edits = tuple(
                    edit
                    for edit in EDITS
                    if edit == CLEAN
                    or (CASES[case].marked and STATISTICS[name].edits in ("all", edit.kind))
                )
                yield from (Test(case, name, edit, texts) for edit in edits)
                if CASES[case].marked:
                    yield Test(case, name, None, texts)


def run_tests(args: argparse.Namespace) -> None:
    """Test what was not tested before, then write the results."""
    record = Record(args.folder)
    for test in tests(args):
        if not record.has(test):
            start = time.process_time()
            result = test.run(args.threads)
            seconds = time.process_time() - start
            record.add(test, result, seconds)
            print(" | ".join(test.place), f"{seconds:.1f} s of CPU time", flush=True)
    lines = record.current()
    tested = {line["case"] for line in lines}
    result = {
        "machine": machine(),
        "commits": sorted({line["commit"] for line in lines}),
        "model": entropy_texts.MODEL,
        "key_length": entropy_texts.KEY_LENGTH,
        "resamples": RESAMPLES,
        "stop_after": STOP_AFTER,
        "prefix_resamples": PREFIX_RESAMPLES,
        "cases": {name: case.title for name, case in CASES.items() if name in tested},
        "rows": entropy_report.rows(lines, first_of_each_sampler()),
    }
    entropy_report.write(result)


def first_of_each_sampler() -> dict[str, str]:
    """{statistic: the one that it is compared with}."""
    first: dict[str, str] = {}
    for name, statistic in STATISTICS.items():
        first.setdefault(statistic.sampler, name)
    return {name: first[statistic.sampler] for name, statistic in STATISTICS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    texts = commands.add_parser("texts", help="write the texts")
    texts.add_argument("folder", type=Path)
    texts.add_argument("data", type=Path)
    texts.add_argument("--processes", type=int, default=2)
    texts.set_defaults(
        run=lambda args: entropy_texts.make(args.folder, args.data, SEED, args.processes)
    )
    test = commands.add_parser("test", help="test them, and write the results")
    test.add_argument("folder", type=Path)
    test.add_argument("--texts", type=int, help="of each case, at most (default: all)")
    test.add_argument("--threads", type=int, default=1)
    for name, table in (("cases", CASES), ("statistics", STATISTICS)):
        test.add_argument(
            f"--{name}", nargs="+", choices=table, default=list(table), metavar="NAME"
        )
    test.set_defaults(run=run_tests)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
