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


LOCAL = ("exp-local",)
"""For passages of long documents, and so in few curves."""

EDIT = ("exp-edit", "its-edit")
PAPER = ("exp", "exp-edit", "its", "its-edit")
WEAKER = ("kgw-1", "kgw-1.5")
NOT_REWRITTEN = (*WEAKER, "synthid")
NOT_REWRITTEN_ANSWERS = (*NOT_REWRITTEN, "its")
NOT_BUCKETED = NOT_REWRITTEN_ANSWERS
"""Methods that are left out where a model would write for hours otherwise."""


def tests_of(method: str, without: Sequence[str]) -> list[str]:
    """The tests that find what a method writes, but for some."""
    family = METHODS[method].family
    return [name for name, t in TESTS.items() if t.family == family and name not in without]


def pairs(without: Sequence[str] = LOCAL, but: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """(method, test) of all methods that write a watermark, without some tests, but for some methods."""
    for method in marked():
        if method not in but:
            for test in tests_of(method, without):
                yield method, test


def null_tests() -> list[str]:
    """The tests that unmarked texts are given."""
    return list(dict.fromkeys(test for _, test in pairs()))


def news(size: Size, method: str, **settings: object) -> TextSet:
    return TextSet("news", method, new_tokens=size.new_tokens, **settings)  # type: ignore[arg-type]


def answers(size: Size, method: str, **settings: object) -> TextSet:
    return TextSet("instructions", method, new_tokens=size.answer_tokens, **settings)  # type: ignore[arg-type]


def lengths(size: Size) -> Iterator[Point]:
    """Item 1: p against m, marked texts and those of people."""
    for method, test in pairs((*EDIT, "its-free", *LOCAL)):
        for m in size.lengths:
            yield Point(news(size, method), test, m, resamples=size.resamples, count=size.count)
    for test in null_tests():
        for m in size.cuts:
            people = news(size, "human")
            yield Point(people, test, m, resamples=size.resamples, count=size.nulls)


def key_lengths(size: Size) -> Iterator[Point]:
    """Item 2: p against n at m = 35."""
    m = size.cuts[0]
    for method, test in pairs(("its-free", *LOCAL)):
        if METHODS[method].key_sequence:
            for n in size.key_lengths:
                texts = TextSet("news", method, new_tokens=m + BUFFER, key_length=n)
                yield Point(texts, test, m, resamples=size.resamples, count=size.count)


def edits(size: Size, edit: str) -> Iterator[Point]:
    """Items 3 to 5: p against the share of edited tokens."""
    for method, test in pairs():
        for m in size.cuts:
            for rate in (0.0, *size.rates):
                if edit == "delete" and (1 - rate) * size.new_tokens < m:
                    continue  # what is left is no text of m tokens
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
    for attack in ("none", *attacks):
        for method, test in pairs(but=WEAKER if attack == "none" else NOT_REWRITTEN):
            for m in size.paraphrase_cuts:
                texts = news(size, method, attack=attack)
                yield Point(texts, test, m, resamples=size.resamples, count=size.count)


def instructions(size: Size, attacks: Sequence[str]) -> Iterator[Point]:
    """Item 7: answers, before and after the paraphrases, at T = 1 and as products sample; and unmarked ones."""
    for law in ({}, NUCLEUS):
        for method, test in pairs(but=WEAKER):
            texts = answers(size, method, **law)
            yield Point(texts, test, resamples=size.fine_resamples, count=size.count)
        for attack in attacks:
            for method, test in pairs(but=NOT_REWRITTEN_ANSWERS):
                texts = answers(size, method, attack=attack, **law)
                yield Point(texts, test, resamples=size.resamples, count=size.count)
        for test in null_tests():
            plain = answers(size, "plain", **law)
            yield Point(plain, test, resamples=size.resamples, count=size.count)


def sweep(size: Size) -> Iterator[Point]:
    """Item 9: statistic, gap, block length and key length, one at a time, at three entropies, clean and edited."""
    settings = [
        (news, {}, size.cuts[0]),
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
        *(("its", test, {}, 256) for test in ("its", "its-free")),
        *(("its", "its-edit", {"gap": gap}, 256) for gap in (0.2, 0.4, 0.8)),
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
    """Curves at matched entropy: substitution at lower temperatures, and answers as they were written."""
    m = size.cuts[0]
    for temperature in size.temperatures:
        for test in tests_of("exp", LOCAL):
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
        for test in tests_of("exp", LOCAL):
            texts = answers(size, "exp", temperature=temperature)
            yield Point(texts, test, resamples=size.resamples, count=size.count)


EDIT_AND_LOCAL = (*EDIT, *LOCAL)
"""Texts of 512 tokens take seconds to test with edits and k = m."""


def calibration(size: Size) -> Iterator[Point]:
    """Item 11: texts of people and marked ones by length, under a key that is long enough for the longest."""
    longest = max(size.buckets)
    settings: dict[str, Any] = {"new_tokens": longest + BUFFER, "key_length": longest}
    for method, test in pairs(EDIT_AND_LOCAL, NOT_BUCKETED):
        for m in size.buckets:
            texts = TextSet("news", method, **settings)
            yield Point(texts, test, m, resamples=size.fine_resamples, count=size.count)
    for test in dict.fromkeys(test for _, test in pairs(EDIT_AND_LOCAL, NOT_BUCKETED)):
        for m in size.buckets:
            people = TextSet("news", "human", **settings)
            yield Point(people, test, m, resamples=size.fine_resamples, count=size.nulls)


def distortion(size: Size) -> Iterator[tuple[TextSet, int]]:
    """Item 8: what is written with and without a mark."""
    for method in ("plain", *marked()):
        yield news(size, method), size.count
