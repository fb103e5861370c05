"""The questions of an audit: is what was written found, and nothing else, and is it read as it was written?"""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

from wmcore.audit.chance import SHARE, at_least, at_most
from wmcore.audit.result import BAD, CANNOT_TELL, GOOD, Check
from wmcore.audit.seen import Seen
from wmcore.detection import LEAST_TOKENS, Detection
from wmcore.intervals import clopper_pearson

LEAST_TEXTS = 5
"""Fewer texts than that say little about a set-up."""

STRONG, UNMARKED = 1e-6, 0.1
"""A text with p up to the first is surely marked; with p above the second it shows nothing of a mark."""

LOOSE = 0.05
"""The second level at which tests under other keys are counted: it sees a p that is somewhat too small everywhere."""

MANY_FOUND = 0.01
"""Unmarked texts found in such a number that chance makes it this seldom are called suspicious."""

KEPT, LOST = 0.9, 0.5
"""A text of which this share of tokens is read as drawn is fine; below the second, the tokenizer is another one."""

COUNTS = 1.15
"""Tokens drawn and read may differ by this factor, where only their numbers are known."""

UNWRITTEN = 0.1
"""Up to this share of requests may fail; where more do, what they would have given is missed."""

PADDING = 1.05
"""Logits are padded beyond the tokenizer's tokens, but hardly by more than this."""


def written(marked: Sequence[Seen], unmarked: Sequence[Seen]) -> Check:
    """Whether the requests gave texts: all but a few, of the marked and of the unmarked ones."""
    every = [*marked, *unmarked]
    failed = [one for one in every if one.written.error is not None]
    numbers = {"asked": len(every), "failed": len(failed)}
    if not failed:
        return Check("written", GOOD, f"all {len(every)} texts were written", numbers)
    words = f"{len(failed)} of {len(every)} texts were not written: {failed[0].written.error}"
    few = all(
        sum(one.written.error is not None for one in kind) <= UNWRITTEN * len(kind)
        for kind in (marked, unmarked)
    )
    return Check("written", GOOD if few else CANNOT_TELL, words, numbers)


def found(marked: Sequence[Seen], level: float, need: float) -> Check:
    """Whether marked texts are found.

    Bad where so few are found that a set-up which finds the share `need` of its texts under this key does worse with a
    probability of at most `SHARE`: P(X <= found), X binomial, because texts with shifts of their own are independent
    given the key. Texts that are too short to tell are set aside there; one that cannot be read counts as not found.
    Good takes the share `need` of all texts, short ones among them: those go unfound as well. If some look unmarked,
    others are found beyond doubt, and fewer lie between, then some requests may go unmarked (one server of several):
    that is not called good.
    """
    texts = [one for one in marked if one.written.text is not None]
    long = [one for one in texts if not one.short(level)]
    hits = sum(one.p is not None and one.p <= level for one in long)
    low, high = clopper_pearson(hits, len(long)) if long else (0.0, 1.0)
    numbers: dict[str, Any] = {
        "texts": len(long),
        "found": hits,
        "too_short": len(texts) - len(long),
        "unreadable": sum(one.p is None for one in long),
        "share": hits / len(long) if long else None,
        "share_95": [low, high],
        "need": need,
        "level": level,
    }
    bare = sum(one.p is not None and one.p > UNMARKED for one in long)
    strong = sum(_beyond_doubt(one, level) for one in long)
    between = sum(one.p is not None and one.p <= UNMARKED for one in long) - strong
    apart = numbers["apart"] = min(bare, strong) >= 2 and bare > between
    words = f"{hits} of {len(long)} marked texts are found (p <= {level:g})"
    if len(texts) > len(long):
        words += f"; {len(texts) - len(long)} are too short to tell (below {LEAST_TOKENS} tokens)"
    if at_most(hits, len(long), need) <= SHARE:
        return Check("found", BAD, f"{words}; {need:.0%} are wanted", numbers)
    if len(long) < LEAST_TEXTS:
        return Check("found", CANNOT_TELL, f"{words}: too few texts to tell", numbers)
    if hits < need * len(texts):
        return Check("found", CANNOT_TELL, f"{words}, but {need:.0%} are wanted", numbers)
    if apart:
        words += (
            f", but {bare} of them look unmarked (p > {UNMARKED:g}) and hardly any is in between"
        )
        return Check("found", CANNOT_TELL, words, numbers)
    return Check("found", GOOD, words, numbers)


def _beyond_doubt(one: Seen, level: float) -> bool:
    """p is at most `STRONG`, or, where only resamples tell, as small as their number lets it be."""
    if one.p is None or one.p > level:
        return False
    return one.p <= STRONG or (one.found.method != "bound" and one.found.hits == 0)


def false_alarms(
    unmarked: Sequence[Seen],
    again: dict[int, Detection],
    controls: Sequence[Detection],
    level: float,
) -> Check:
    """Whether texts without this watermark are left alone.

    *Unmarked texts under the key.* They share the key, so their p-values may depend on each other; the least of U is at
    most SHARE / U with a probability of at most SHARE whatever they share (Bonferroni). `again` has a second test, with
    more resamples and another seed, of those found at the level without a bound: place in `unmarked` to `Detection`.
    *Marked texts under other keys.* Each of these tests has a key of its own, so they are independent given the texts,
    and each p is at most a with a probability of at most a: their number at the level, and at `LOOSE`, is binomial.
    """
    p = [one.p for one in unmarked]
    tested = [value for value in p if value is not None]
    finest = [again[i].p_value if i in again else value for i, value in enumerate(p)]
    least = min((value for value in finest if value is not None), default=1.0)
    hits = sum(value <= level for value in tested)
    other = [one.p_value for one in controls if one.p_value is not None]
    other_hits, loose = (sum(value <= at for value in other) for at in (level, LOOSE))
    numbers = {
        "unmarked": len(tested),
        "found": hits,
        "rate_95": clopper_pearson(hits, len(tested)) if tested else None,
        "least_p": least if tested else None,
        "other_keys": len(other),
        "found_under_other_keys": other_hits,
        f"other_keys_p_{LOOSE:g}": loose,
        "level": level,
    }
    words = []
    if tested:
        words.append(f"{hits} of {len(tested)} unmarked texts are found")
    if other:
        words.append(f"{other_hits} of {len(other)} tests of marked texts under other keys")
    said = ", and ".join(words)
    if tested and least <= SHARE / len(tested):
        what = f"{said}: one is marked (p = {least:.1g}), or the watermark cannot be switched off"
        return Check("false alarms", BAD, what, numbers)
    if (
        other
        and min(at_least(other_hits, len(other), level), at_least(loose, len(other), LOOSE))
        <= SHARE
    ):
        what = f"{said} ({loose} at p <= {LOOSE:g}): more than chance; p-values are too small"
        return Check("false alarms", BAD, what, numbers)
    if not other and not tested:
        return Check("false alarms", CANNOT_TELL, "no unmarked text could be tested", numbers)
    if tested and hits and at_least(hits, len(tested), level) <= MANY_FOUND:
        return Check("false alarms", CANNOT_TELL, f"{said}: look at these texts", numbers)
    return Check("false alarms", GOOD, f"{said}, as many as chance makes", numbers)


def round_trip(marked: Sequence[Seen], lossless: Sequence[bool], level: float) -> Check:
    """Whether the text is read as the tokens that were drawn.

    A text that changes in places is nothing bad (a blank line may be one token or two): bad is a text of which half of
    the tokens are others, or a watermark that is found in tokens and lost in their text. Where the tokens are not
    known, their number may be: another number is bad where half of the texts, short ones set aside, are not found
    either (a server may count tokens that it does not show). And the tokenizer must at least give back the text that
    it reads (`lossless`, for each text). That is weaker: a wrong tokenizer can do so, too.
    """
    known = [one for one in marked if one.kept is not None]
    if known:
        return _drawn_and_read(known, level)
    counts = [
        one.written.drawn / len(one.read)
        for one in marked
        if one.read and one.written.drawn is not None
    ]
    share = sum(lossless) / len(lossless) if lossless else None
    ratio = median(counts) if counts else None
    numbers = {"known": 0, "lossless": share, "drawn_per_read": ratio}
    long = [one for one in marked if not one.short(level)]
    lost = sum(_found(one.found, level) for one in long) < len(long) / 2
    if ratio is not None and not 1 / COUNTS <= ratio <= COUNTS and lost:
        words = f"the server draws {ratio:.2f} tokens for each that is read: another tokenizer"
        return Check("round trip", BAD, words, numbers)
    if share is not None and share < KEPT:
        words = f"{1 - share:.0%} of texts are not what the tokenizer makes of them: another one"
        return Check("round trip", BAD, words, numbers)
    words = "the drawn tokens are not known; what the tokenizer reads, it gives back, which is less"
    if ratio is not None:
        words += f" (drawn for each token read: {ratio:.2f})"
    return Check("round trip", CANNOT_TELL, words, numbers)


def _drawn_and_read(known: Sequence[Seen], level: float) -> Check:
    kept = median(one.kept or 0.0 for one in known)
    changed = sum(bool(one.changed) for one in known)
    drawn = sum(_found(one.drawn, level) for one in known)
    read = sum(_found(one.found, level) for one in known)
    lost = sum(_found(one.drawn, level) and not _found(one.found, level) for one in known)
    numbers = {
        "known": len(known),
        "changed": changed,
        "changed_share": changed / len(known),
        "tokens_kept": kept,
        "found_as_drawn": drawn,
        "found_as_read": read,
    }
    words = (
        f"{changed} of {len(known)} texts are read as other tokens than were drawn; {kept:.0%} of the tokens are kept; "
        f"found as drawn {drawn}, as read {read}"
    )
    if kept < LOST or (lost >= LEAST_TEXTS and read < drawn / 2):
        return Check("round trip", BAD, words, numbers)
    return Check("round trip", GOOD if kept >= KEPT else CANNOT_TELL, words, numbers)


def _found(one: Detection | None, level: float) -> bool:
    return one is not None and one.p_value is not None and one.p_value <= level


def tokens_needed(until: Sequence[int | None], lengths: Sequence[int], level: float) -> Check:
    """How many tokens it takes until a text is found: of the shortest prefixes with p <= level.

    until : of each text, None where no prefix is found; lengths : tokens of these texts.
    """
    never = sum(one is None for one in until)
    middle = median(math.inf if one is None else one for one in until) if until else math.inf
    length = median(lengths) if lengths else 0
    numbers = {
        "texts": len(until),
        "never": never,
        "median": None if math.isinf(middle) else middle,
        "median_length": length,
        "level": level,
    }
    if not until:
        return Check("tokens needed", CANNOT_TELL, "no text could be tested by prefixes", numbers)
    if math.isinf(middle):
        words = f"half of the texts, of {length:g} tokens, are found at no length (p <= {level:g})"
        return Check("tokens needed", CANNOT_TELL, words, numbers)
    words = f"half of the texts are found after {middle:g} tokens (p <= {level:g})"
    words += f"; {never} of {len(until)} at no length" if never else ""
    return Check("tokens needed", GOOD, words, numbers)


def vocabulary(sizes: dict[str, Any], marked: Sequence[Seen]) -> Check:
    """Whether watermark, model and tokenizers mean the same tokens.

    sizes : "watermark", the vocab_size; "tokenizer", the number of ids that the detector's knows; "logits" of the
    model, "end" (its end-of-text tokens) and "alike" (whether its tokenizer reads the marked texts as the detector's
    does), each None where it is not known.
    """
    size, known, logits = sizes["watermark"], sizes["tokenizer"], sizes["logits"]
    read = [token for one in marked for token in one.read or ()]
    largest = max(read, default=0)
    numbers = {**sizes, "largest_read": largest}

    def bad(words: str) -> Check:
        return Check("vocabulary", BAD, words, numbers)

    if largest >= size:
        return bad(
            f"texts are read as token {largest}, but the watermark knows {size:,} tokens: another tokenizer"
        )
    if sizes["alike"] is False:
        return bad("the detector's tokenizer reads the texts as other tokens than the model's does")
    if logits is not None and logits != size:
        return bad(f"the model has {logits:,} logits, but the watermark was made for {size:,}")
    beyond = [token for token in sizes["end"] or () if token >= size]
    if beyond:
        return bad(
            f"the end-of-text token {beyond[0]} is beyond the watermark's {size:,} tokens: no text would end"
        )
    if known is None:
        return Check(
            "vocabulary",
            CANNOT_TELL,
            "the tokenizer does not say how many tokens it knows",
            numbers,
        )
    words = f"watermark {size:,}, tokenizer {known:,}"
    if known > size:
        return Check(
            "vocabulary",
            CANNOT_TELL,
            f"{words}: more tokens than the watermark was made for",
            numbers,
        )
    if size > PADDING * known and logits is None:
        return Check("vocabulary", CANNOT_TELL, f"{words}: more than padding explains", numbers)
    return Check(
        "vocabulary", GOOD, words + ("" if logits is None else f", model {logits:,}"), numbers
    )
