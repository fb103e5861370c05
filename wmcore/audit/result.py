"""What an audit says: checks with verdicts, diagnoses, a row for each text, all of it JSON-ready."""

from dataclasses import dataclass, fields
from pathlib import PurePath
from typing import Any

GOOD, BAD, CANNOT_TELL = "good", "bad", "cannot tell"
"""The verdicts of a check, and of an audit."""

FORMAT, VERSION = "wmcore.audit", 1

NEEDED = ("written", "found", "false alarms", "shifts")
"""The checks without which an audit is not good: where one of them cannot tell, neither can the audit."""


@dataclass(frozen=True)
class Check:
    """One question that an audit asks.

    Attributes
    ----------
    name : str
        One of the names in `wmcore.audit.run`; the same question has the same name in every audit.
    verdict : str
        "good", "bad" (the set-up would fail, or does, and nothing would say so), or "cannot tell".
    words : str
        One line for people.
    numbers : dict
        What the verdict follows from, JSON-ready.
    """

    name: str
    verdict: str
    words: str
    numbers: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The fields."""
        return _fields(self)


@dataclass(frozen=True)
class Diagnosis:
    """A known fault that fits what was seen.

    Attributes
    ----------
    fault : str
        Its short name, such as "wrong tokenizer".
    sure : bool
        Whether the evidence leaves nothing else; False where it merely fits.
    words : str
        One line: the evidence, and what to do.
    """

    fault: str
    sure: bool
    words: str

    def to_dict(self) -> dict[str, Any]:
        """The fields."""
        return _fields(self)


@dataclass(frozen=True)
class Row:
    """What was seen of one text.

    Attributes
    ----------
    kind : str
        "marked", or "unmarked": written with the watermark off, or by others.
    prompt : int or None
        Number of its prompt, from 0; texts of one number are answers to the same one.
    tokens : int or None
        Tokens of the text as the detector reads it.
    drawn : int or None
        Tokens that the writer drew (it says so, or gives them).
    changed : bool or None
        Whether the text is read as other tokens than were drawn; None where these are not known.
    p_value, statistic, shift : as in `Detection`, of the text as it is read.
    drawn_p_value : float or None
        p of the tokens as they were drawn, where these are known.
    until : int or None
        Tokens of the shortest prefix that is found; None where there is none or it was not asked for.
    verdict : str or None
        As `Detection.verdict` says it.
    error : str or None
        Why there is no text, or no p.
    text : str or None
        Only where texts are asked for.
    """

    kind: str
    prompt: int | None
    tokens: int | None = None
    drawn: int | None = None
    changed: bool | None = None
    p_value: float | None = None
    statistic: float | None = None
    shift: int | None = None
    drawn_p_value: float | None = None
    until: int | None = None
    verdict: str | None = None
    error: str | None = None
    text: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields; the text only where there is one."""
        found = _fields(self)
        if self.text is None:
            del found["text"]
        return found


@dataclass(frozen=True)
class Audit:
    """An audit of a set-up that writes watermarked text.

    Attributes
    ----------
    began, ended : str
        UTC, ISO 8601, to the second.
    version : str
        Of wmcore.
    versions : dict
        Of wmcore, Python and the packages that the results come from, as `wmcore.versions` tells them.
    technique : str
        What the watermark is, in words.
    fingerprint : str
        Of the key; the secret is nowhere in an audit.
    watermark : dict
        scheme, vocab_size, key_length, block_length, gap, tokenizer: of the watermark file.
    detector : dict
        scheme, score, gap, block_length, resamples, backend, tokenizer: how texts were tested. Of a
        tokenizer's or model's path, here and in the writer and the watermark, the last name alone.
    writer : dict
        kind ("model", "endpoint" or "texts") and its settings (name, address, temperature, …), no credentials.
    level : float
        The p up to which a text counts as found.
    error : float
        At most this is the chance that a sound set-up has a check that is bad.
    counts : dict
        marked, unmarked, failed, too_short, found, false_alarms (unmarked texts found), other_keys (tests of marked
        texts under unrelated keys), other_keys_found: int.
    checks : tuple of Check
    diagnoses : tuple of Diagnosis
        Of what is not good.
    rows : tuple of Row
    """

    began: str
    ended: str
    version: str
    versions: dict[str, str]
    technique: str
    fingerprint: str
    watermark: dict[str, Any]
    detector: dict[str, Any]
    writer: dict[str, Any]
    level: float
    error: float
    counts: dict[str, int]
    checks: tuple[Check, ...]
    diagnoses: tuple[Diagnosis, ...]
    rows: tuple[Row, ...]

    @property
    def verdict(self) -> str:
        """ "bad" if a check is bad; else "cannot tell" if a `NEEDED` one cannot; else "good"."""
        verdicts = {check.name: check.verdict for check in self.checks}
        if BAD in verdicts.values():
            return BAD
        good = all(verdicts.get(name) == GOOD for name in NEEDED)
        return GOOD if good else CANNOT_TELL

    def to_dict(self) -> dict[str, Any]:
        """The whole audit as JSON-ready values."""
        listed = {
            name: [one.to_dict() for one in getattr(self, name)]
            for name in ("checks", "diagnoses", "rows")
        }
        start = {"format": FORMAT, "format_version": VERSION, "verdict": self.verdict}
        return {**start, **_fields(self), **listed}


def bare_name(value: Any) -> Any:
    """The last part of a full path, so that a result does not tell whose folder it was in; other values as they are."""
    whole = isinstance(value, str) and PurePath(value).is_absolute()
    return PurePath(value).name if whole else value


def _fields(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record)}
