"""Do the texts start at key rows of their own? With a fixed row, one prompt gets one answer for ever."""

from collections import Counter
from collections.abc import Sequence

from wmcore.audit.chance import (
    SHARE,
    chance_repeats,
    few_rows,
    more_repeats,
    repeats,
    without_repeats,
)
from wmcore.audit.checks import STRONG
from wmcore.audit.result import BAD, CANNOT_TELL, GOOD, Check
from wmcore.audit.seen import Seen
from wmcore.intervals import clopper_pearson

LEAST_LOCATED = 3
LEAST_ANSWERS = 5


def shifts(
    marked: Sequence[Seen], unmarked: Sequence[Seen], *, rows: int, level: float, seed: int
) -> Check:
    """Whether shifts vary: two tests, each of which calls a sound set-up bad with probability SHARE / 2 at most.

    *Rows.* A sound writer draws the first row of each text uniformly from the `rows`, n. The detector tells it for
    texts that fit. The number D of different rows among f of them has the occupancy law (`few_rows`), and a small D is
    a fixed or nearly fixed shift. Two things would make D small for a sound set-up, and are allowed for. First, given
    the key only some rows may give texts that are found: so n is multiplied by the lower bound of the share found.
    Second, a model that is very sure may write the same text from two rows, and the detector tells one row for both.
    But p is at least P(T) P(a text T that a key makes fits as well), and the last factor is that of a typical text: so
    a text with p <= `STRONG` is written again, from another row, about that seldom, and only such texts count. Where a
    p cannot be so small (no proven bound), each prompt counts once. The bound of the share and the test of D take
    SHARE / 4 each.

    *Repeats.* Where there are answers to one prompt with the watermark and without it, those with it must not repeat
    each other more. They may a little: two shifts are equal with probability 1 / n. So as many repeats as chance makes
    with probability 1 - SHARE / 4 (`chance_repeats`) are taken off, and the rest is compared by permutation
    (`more_repeats`) at SHARE / 4. At a low temperature both repeat, and nothing follows. But answers that are found
    have room for a mark: if those repeat each other more than equal shifts make, with or without unmarked ones (an
    answer may come from a cache, or the shift from the prompt), the check is not good.
    """
    located, tried = _located(marked, level)
    low = clopper_pearson(len(located), tried, SHARE / 2)[0] if tried else 0.0
    reachable = max(1, int(rows * low))
    distinct = len(set(located))
    p_rows = few_rows(distinct, len(located), reachable) if located else 1.0
    least_p = few_rows(1, len(located), reachable) if located else 1.0
    prompt, answers, others = _answers(marked, unmarked)
    allowed = chance_repeats(len(answers), rows, SHARE / 4)
    left = without_repeats(answers, allowed)
    alike = repeats(_texts(marked, prompt, level)) if answers else 0
    p_repeats = more_repeats(left, others, seed) if others else None
    numbers = {
        "rows": rows,
        "located": len(located),
        "different_rows": distinct,
        "reachable_rows": reachable,
        "p_rows": p_rows,
        "prompt": prompt,
        "answers": len(answers),
        "repeats": repeats(answers),
        "found_repeats": alike,
        "allowed_repeats": allowed,
        "unmarked_answers": len(others),
        "unmarked_repeats": repeats(others),
        "p_repeats": p_repeats,
    }
    said = []
    if located:
        said.append(f"{len(located)} texts start at {distinct} different rows of {rows}")
    if answers:
        said.append(f"{repeats(answers)} of {len(answers)} answers to one prompt repeat another")
    if others:
        said.append(f"unmarked {repeats(others)} of {len(others)}")
    words = ", ".join(said) or "nothing to compare"
    if p_rows <= SHARE / 4 or (p_repeats is not None and p_repeats <= SHARE / 4):
        return Check("shifts", BAD, f"{words}: the shift is fixed, or nearly so", numbers)
    if len(located) < LEAST_LOCATED:
        return Check("shifts", CANNOT_TELL, f"{words}; too few texts fit to tell", numbers)
    if alike > allowed:
        words += f"; {alike} of those found do, where equal shifts make {allowed} at most"
        return Check("shifts", CANNOT_TELL, words, numbers)
    powerful = least_p <= SHARE / 4
    few = len(answers) >= LEAST_ANSWERS and repeats(answers) <= min(allowed, len(answers) // 2)
    verdict = GOOD if rows > 1 and (powerful or few) else CANNOT_TELL
    return Check("shifts", verdict, words, numbers)


def _located(marked: Sequence[Seen], level: float) -> tuple[list[int], int]:
    """(first rows of texts that fit, of how many texts they were looked for)."""
    tested = [one for one in marked if one.p is not None]
    strong = [one for one in tested if one.p is not None and one.p <= STRONG]
    if len(strong) >= LEAST_LOCATED:
        return [int(one.found.shift or 0) for one in strong], len(tested)
    first: dict[object, Seen | None] = {}
    for place, one in enumerate(tested):
        prompt = ("text", place) if one.written.prompt is None else one.written.prompt
        if first.get(prompt) is None:
            first[prompt] = one if one.p is not None and one.p <= level else None
    return [int(one.found.shift or 0) for one in first.values() if one is not None], len(first)


def _answers(
    marked: Sequence[Seen], unmarked: Sequence[Seen]
) -> tuple[int | None, list[str], list[str]]:
    """The prompt with the most marked answers, these, and the unmarked ones to it."""
    counts = Counter(one.written.prompt for one in marked if one.written.text is not None)
    counts.pop(None, None)
    if not counts:
        return None, [], []
    prompt = counts.most_common(1)[0][0]

    return prompt, _texts(marked, prompt), _texts(unmarked, prompt)


def _texts(seen: Sequence[Seen], prompt: int | None, level: float | None = None) -> list[str]:
    """The answers to a prompt; with a level, those found."""
    return [
        one.written.text.strip()
        for one in seen
        if one.written.prompt == prompt
        and one.written.text is not None
        and (level is None or (one.p is not None and one.p <= level))
    ]
