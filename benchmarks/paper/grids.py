"""What each experiment tests: its points, for a size."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wmcore.paper.attacks import ATTACKS
from wmcore.paper.methods import METHODS
from wmcore.paper.points import Point
from wmcore.paper.sizes import Size
from wmcore.paper.testing import TESTS
from wmcore.paper.texts import TextSet

NUCLEUS = {"temperature": 0.7, "top_p": 0.9}
"""How products sample."""

BUFFER = 20
"""Tokens written beyond m where nothing is deleted: written out and read again, a text can have fewer."""

SWEPT_KEY_LENGTH = 2048
SWEPT_EDIT = 0.2


def marked() -> list[str]:
    """The methods that write a watermark."""
    return [name for name, method in METHODS.items() if method.family is not None]


def tests_of(method: str, among: Sequence[str]) -> list[str]:
    """The tests, of those, that find what a method writes."""
    family = METHODS[method].family
    return [name for name, test in TESTS.items() if test.family == family and name in among]


CURVES = ("exp", "exp-edit", "exp-free", "its", "its-edit", "its-free", "kgw", "synthid")
PAPER = ("exp", "exp-edit", "its", "its-edit")
ANSWERED = ("exp", "its", "kgw-2", "synthid")
REWRITTEN = ("exp", "its", "kgw-2")
"""What answers, and what paraphrases start from: a model writes for hours otherwise."""


def pairs(among: Sequence[str] = CURVES) -> Iterator[tuple[str, str]]:
    """(method, test) of all methods that write a watermark."""
    for method in marked():
        for test in tests_of(method, among):
            yield method, test


def news(size: Size, method: str, **settings: object) -> TextSet:
    return TextSet("news", method, new_tokens=size.new_tokens, **settings)  # type: ignore[arg-type]


def answers(size: Size, method: str, **settings: object) -> TextSet:
    return TextSet("instructions", method, new_tokens=size.answer_tokens, **settings)  # type: ignore[arg-type]


def lengths(size: Size) -> Iterator[Point]:
    """Item 1: p against m, marked texts and those of people."""
    for method, test in pairs(("exp", "exp-free", "its", "kgw", "synthid")):
        for m in size.lengths:
            yield Point(news(size, method), test, m, resamples=size.resamples, count=size.count)
    for test in ("exp", "exp-edit", "exp-free", "its", "its-edit", "kgw", "synthid"):
        for m in size.cuts:
            people = news(size, "human")
            yield Point(people, test, m, resamples=size.resamples, count=size.nulls)


def key_lengths(size: Size) -> Iterator[Point]:
    """Item 2: p against n at m = 35."""
    m = size.cuts[0]
    for method, test in pairs((*PAPER, "exp-free")):
        if METHODS[method].key_sequence:
            for n in size.key_lengths:
                texts = TextSet("news", method, new_tokens=m + BUFFER, key_length=n)
                yield Point(texts, test, m, resamples=size.resamples, count=size.count)


def edits(size: Size, edit: str) -> Iterator[Point]:
    """Items 3 to 5: p against the share of edited tokens."""
    for method, test in pairs():
        for m in size.cuts:
            for rate in (0.0, *size.rates):
                kind = edit if rate else "none"
                yield Point(
                    news(size, method),
                    test,
                    m,
                    kind,
                    rate,
                    resamples=size.resamples,
                    count=size.count,
                )


def text_attacks() -> list[str]:
    """The attacks that change texts as a whole."""
    return [name for name, attack in ATTACKS.items() if attack.texts is not None]


def paraphrases(size: Size, attacks: Sequence[str]) -> Iterator[Point]:
    """Item 6: p against m of paraphrased news."""
    for method, test in pairs():
        for attack in ("none", *attacks):
            if attack != "none" and method not in REWRITTEN:
                continue
            for m in size.paraphrase_cuts:
                texts = news(size, method, attack=attack)
                yield Point(texts, test, m, resamples=size.resamples, count=size.count)


def instructions(size: Size, attacks: Sequence[str]) -> Iterator[Point]:
    """Item 7: answers, before and after the paraphrases, at T = 1 and as products sample; and unmarked ones."""
    for law in ({}, NUCLEUS):
        for method, test in pairs():
            for attack in ("none", *attacks):
                if method not in (REWRITTEN if attack != "none" else ANSWERED):
                    continue
                texts = answers(size, method, attack=attack, **law)
                yield Point(texts, test, resamples=size.fine_resamples, count=size.count)
        for test in CURVES:
            plain = answers(size, "plain", **law)
            yield Point(plain, test, resamples=size.fine_resamples, count=size.count)


def sweep(size: Size) -> Iterator[Point]:
    """Item 9: statistic, gap, block length and key length, one at a time, at three entropies, clean and edited."""
    settings = [
        (news, {}, size.cuts[-1]),
        (answers, {}, None),
        (answers, NUCLEUS, None),
    ]
    variants: list[tuple[str, str, Mapping[str, float], int]] = [
        ("exp", "exp", {}, 256),
        *(("exp", "exp-edit", {"gap": gap}, 256) for gap in (0.0, 0.5, 1.5, 3.0)),
        *(("exp", "exp-free", {"gap": gap}, 256) for gap in (0.6, 1.2, 1.8, 3.0)),
        ("exp", "exp-local", {}, 256),
        *(("exp", "exp", {"block_length": k}, 256) for k in (10, 20)),
        *(("exp", "exp-edit", {"gap": 3.0, "block_length": k}, 256) for k in (10, 20)),
        *(("exp", test, {}, SWEPT_KEY_LENGTH) for test in ("exp", "exp-free")),
        *(("its", test, {}, 256) for test in ("its", "its-edit", "its-free")),
    ]
    for make, law, cut in settings:
        for method, test, options, n in variants:
            for rate in (0.0, SWEPT_EDIT):
                yield Point(
                    make(size, method, key_length=n, **law),
                    test,
                    cut,
                    "damage" if rate else "none",
                    rate,
                    options=tuple(options.items()),
                    resamples=size.resamples,
                    count=size.count,
                )


def entropies(size: Size) -> Iterator[Point]:
    """Curves at matched entropy: substitution at lower temperatures."""
    m = size.cuts[0]
    for temperature in size.temperatures:
        for test in ("exp", "exp-edit", "exp-free"):
            for rate in (0.0, *size.rates):
                yield Point(
                    news(size, "exp", temperature=temperature),
                    test,
                    m,
                    "substitute" if rate else "none",
                    rate,
                    resamples=size.resamples,
                    count=size.count,
                )


BUCKET_TESTS = ("exp", "exp-free", "kgw")
BUCKETED = ("exp", "kgw-2")


def calibration(size: Size) -> Iterator[Point]:
    """Item 11: texts of people and marked ones by length, under a key that is long enough for the longest."""
    longest = max(size.buckets)
    settings: dict[str, Any] = {"new_tokens": longest + BUFFER, "key_length": longest}
    for method, test in pairs(BUCKET_TESTS):
        if method not in BUCKETED:
            continue
        for m in size.buckets:
            texts = TextSet("news", method, **settings)
            yield Point(texts, test, m, resamples=size.fine_resamples, count=size.count)
    for test in BUCKET_TESTS:
        for m in size.buckets:
            people = TextSet("news", "human", **settings)
            yield Point(people, test, m, resamples=size.fine_resamples, count=size.nulls)


def distortion(size: Size) -> Iterator[tuple[TextSet, int]]:
    """Item 8: what is written with and without a mark."""
    for method in ("plain", *marked()):
        yield news(size, method), size.count


__all__ = [
    "answers",
    "calibration",
    "distortion",
    "edits",
    "entropies",
    "instructions",
    "key_lengths",
    "lengths",
    "news",
    "paraphrases",
    "sweep",
    "text_attacks",
]
