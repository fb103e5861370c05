"""The HTML page on which each token is coloured by how well it fits the key row it was aligned to.

The page is one self-contained file: no script, nothing fetched, all text escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from wmcore.pages import fill, format_p
from wmcore.schemes import SCHEMES

if TYPE_CHECKING:
    from wmcore.detect import Detection
    from wmcore.locate import Span

LEVELS = (2.0, 5.0, 10.0, 30.0, 100.0, 1000.0)
"""A token is coloured one level stronger each time its fit is rarer than 1 in so many."""


@dataclass(frozen=True)
class Piece:
    """A token as shown: its text, colour level (None when no key row met it) and explanation; whether it is inside a
    passage that was located, and what is said of that before its first token."""

    text: str
    level: int | None
    jump: bool
    tip: str
    inside: bool = False
    label: str = ""


@dataclass(frozen=True)
class Passage:
    """A text as shown, with its p-value."""

    title: str
    p_value: float | None
    error: str | None
    length: int | None
    pieces: list[Piece]


@dataclass(frozen=True)
class Example:
    """A prompt and the passages that continue it."""

    prompt: str
    passages: list[Passage]


@dataclass(frozen=True)
class Section:
    """One watermark and its examples."""

    title: str
    summary: str
    examples: list[Example]


def chance_of_fit(scheme: str, cost: float) -> float:
    """Chance that an independent key row fits a token at least as well, from its cost in the key."""
    return SCHEMES[scheme].cost.chance(cost)


def token_texts(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
    """The piece of text that each token adds; a token in the middle of a character adds none."""
    texts: list[str] = []
    start = read = 0
    for end in range(1, len(tokens) + 1):
        before = tokenizer.decode(tokens[start:read])
        now = tokenizer.decode(tokens[start:end])
        if now.endswith("\ufffd") and end < len(tokens):
            texts.append("")
        else:
            texts.append(now[len(before) :])
            start, read = read, end
    return texts


def passage(
    title: str,
    scheme: str,
    tokenizer: Any,
    tokens: Sequence[int],
    detection: Detection,
    spans: Sequence[Span] = (),
) -> Passage:
    """A text to show, from a detection made with ``alignment=True``, with the spans of `locate` marked."""
    tokens = [int(t) for t in tokens]
    met: dict[int, tuple[int, float]] = {}
    if detection.alignment is not None:
        a = detection.alignment
        for position, row, cost in zip(a.positions, a.rows, a.costs, strict=True):
            if row >= 0:
                met[int(position)] = (int(row), float(cost))
    pieces = []
    previous = None
    for i, text in enumerate(token_texts(tokenizer, tokens)):
        if i not in met:
            pieces.append(Piece(text, None, False, f"token {i}: no key row"))
            continue
        row, cost = met[i]
        rarity = 1.0 / max(chance_of_fit(scheme, cost), 1e-9)
        level = sum(rarity >= limit for limit in LEVELS)
        jump = previous is not None and row != previous + 1 and row != 0
        tip = f"token {i}, key row {row}, cost {cost:.3f}: by chance 1 in {rarity:,.3g}"
        pieces.append(Piece(text, level, jump, tip))
        previous = row
    for number, span in enumerate(spans, start=1):
        for i in range(span.start, span.stop):
            pieces[i] = replace(pieces[i], inside=True)
        label = f"passage {number}: p = {format_p(span.p_value)}"
        pieces[span.start] = replace(pieces[span.start], label=label)
    return Passage(title, detection.p_value, detection.error, detection.length, pieces)


def render(title: str, sections: Sequence[Section]) -> str:
    """The page as a string of HTML.

    Parameters
    ----------
    title
        Heading of the page.
    sections
        What to show, in order.
    """
    return fill("tokens.html", title=title, sections=sections, levels=LEVELS)
