"""Which of the known faults fits what an audit saw. A diagnosis says no more than its evidence."""

from collections.abc import Sequence

from wmcore.audit.chance import at_least, combined
from wmcore.audit.checks import LEAST_TEXTS, LOOSE
from wmcore.audit.result import BAD, CANNOT_TELL, GOOD, Check, Diagnosis
from wmcore.audit.seen import Seen

UNLIKELY = 0.01
"""The p of a diagnosis that speaks of chance."""

WRONG_TOKENIZER, SHORT, GREEDY = "wrong tokenizer", "answers too short", "greedy decoding"

EXPLAINS = (WRONG_TOKENIZER, SHORT, GREEDY)
"""Where one of these is sure, the p-values need no other reason."""


def diagnoses(
    checks: dict[str, Check],
    marked: Sequence[Seen],
    *,
    temperature: float | None,
    fingerprint: str,
    level: float,
) -> tuple[Diagnosis, ...]:
    """The faults that fit, the surest first.

    checks : by name, as `wmcore.audit.run` makes them; temperature : as it was asked for, None where it is not known.
    """
    given = [
        *_tokens(checks),
        *_switch(checks),
        *_nothing_to_mark(checks, temperature),
    ]
    if not any(one.sure and one.fault in EXPLAINS for one in given):
        given += _p_values(checks, marked, fingerprint, level)
    return tuple(sorted(given, key=lambda one: not one.sure))


def _tokens(checks: dict[str, Check]) -> list[Diagnosis]:
    """Tokenizers and vocabularies."""
    said = []
    trip, words = checks["round trip"], checks["vocabulary"]
    numbers = words.numbers
    alien = numbers["alike"] is False or numbers["largest_read"] >= numbers["watermark"]
    if trip.verdict == BAD or alien:
        sure = alien or trip.numbers["known"] > 0
        cause = trip.words if trip.verdict == BAD else words.words
        fix = "give the detector the tokenizer of the model that writes"
        said.append(Diagnosis(WRONG_TOKENIZER, sure, f"{cause}; {fix}"))
    if words.verdict == BAD and not alien:
        fix = "make a watermark for this model's number of logits"
        said.append(Diagnosis("vocabulary mismatch", True, f"{words.words}; {fix}"))
    elif words.verdict == CANNOT_TELL and checks["found"].verdict != GOOD:
        fix = "compare vocab_size of the watermark file with the model's number of logits"
        said.append(Diagnosis("vocabulary mismatch", False, f"{words.words}; {fix}"))
    return said


def _switch(checks: dict[str, Check]) -> list[Diagnosis]:
    """Shifts, and texts that should not be marked."""
    said = []
    shifts = checks["shifts"]
    alike = shifts.numbers["found_repeats"] > shifts.numbers["allowed_repeats"]
    if shifts.verdict == BAD or alike:
        fix = (
            "give no seed or shift with requests, and look for a fixed one in the server's settings"
        )
        cache = "" if shifts.verdict == BAD else ", and for a cache of answers"
        said.append(
            Diagnosis("fixed shift", shifts.verdict == BAD, f"{shifts.words}; {fix}{cache}")
        )
    if checks["false alarms"].verdict == BAD:
        least = checks["false alarms"].numbers["least_p"]
        fault = "unmarked texts are marked" if least is not None else "p-values too small"
        said.append(Diagnosis(fault, False, checks["false alarms"].words))
    return said


def _nothing_to_mark(checks: dict[str, Check], temperature: float | None) -> list[Diagnosis]:
    """Short answers, and answers that are always the same."""
    found, shifts = checks["found"], checks["shifts"].numbers
    if found.verdict == GOOD:
        return []
    said = []
    short, long = found.numbers["too_short"], found.numbers["texts"]
    if short > long or (short and found.numbers["found"] >= found.numbers["need"] * long):
        words = f"{short} of {short + long} answers are too short: ask for longer ones"
        said.append(Diagnosis(SHORT, True, words))
    same = shifts["answers"] >= LEAST_TEXTS and shifts["repeats"] == shifts["answers"] - 1
    others = shifts["unmarked_answers"]
    others_same = not others or shifts["unmarked_repeats"] == others - 1
    if temperature == 0:
        words = "the temperature is 0: each token is the likeliest, and nothing is left to mark"
        said.append(Diagnosis(GREEDY, True, words))
    elif same and others_same:
        words = f"all {shifts['answers']} answers to one prompt are the same" + (
            ", unmarked ones too" if others else ""
        )
        fix = "is the temperature 0, or a seed fixed, or an answer cached?"
        said.append(Diagnosis(GREEDY, False, f"{words}: {fix}"))
    return said


def _p_values(
    checks: dict[str, Check], marked: Sequence[Seen], fingerprint: str, level: float
) -> list[Diagnosis]:
    """What the p-values of texts that should be marked look like."""
    found = checks["found"]
    p = [one.p for one in marked if one.p is not None and not one.short(level)]
    if found.numbers["apart"]:
        bare = "some texts are found beyond doubt, and some show no mark at all"
        ask = "is every server, model and kind of request behind this address marked?"
        return [Diagnosis("some requests unmarked", False, f"{bare}: {ask}")]
    if found.verdict == GOOD or len(p) < LEAST_TEXTS:
        return []
    small = sum(one <= LOOSE for one in p)
    if min(at_least(small, len(p), LOOSE), combined(p)) <= UNLIKELY:
        seen = f"the mark is there, but weak ({small} of {len(p)} texts have p <= {LOOSE:g})"
        why = (
            "low entropy (temperature, top-p, code), texts too short or changed after they were written, another "
            "tokenizer, or a sampler that draws again after the mark (processor order)"
        )
        return [Diagnosis("weak watermark", False, f"{seen}: {why}")]
    seen = f"p-values are as those of unrelated texts ({small} of {len(p)} have p <= {LOOSE:g})"
    why = (
        f"the watermark was dropped, or written with another key than {fingerprint} (compare it with the server's log) "
        "or vocabulary, or read with another tokenizer"
    )
    return [Diagnosis("no watermark of this key", False, f"{seen}: {why}")]
