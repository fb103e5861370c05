"""`of_audit`: the evidence in what `wmcore audit --json` wrote. It is checked, since others may have made it."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from wmcore.audit.result import FORMAT, VERSION, bare_name
from wmcore.errors import WatermarkError, shown
from wmcore.evidence.record import (
    Evidence,
    Fact,
    FalseAlarms,
    Section,
    Share,
    TestedAs,
    digest,
    plain,
)
from wmcore.evidence.robustness import NOT_TESTED, unknown
from wmcore.evidence.technique import BY_CONSTRUCTION, LIMITS, technique
from wmcore.intervals import clopper_pearson
from wmcore.scan.manifest import has, now
from wmcore.schemes import scheme_of
from wmcore.statistic import WHOLE_TEXT
from wmcore.versions import versions

LEVELS = (0.05, 0.01, 0.001)
"""The p at which false alarms are counted, beside the audit's own."""

_NUMBER = (int, float)
_FIELDS: dict[str, tuple[type, ...]] = {
    "verdict": (str,),
    "began": (str,),
    "ended": (str,),
    "version": (str,),
    "fingerprint": (str,),
    "watermark": (dict,),
    "detector": (dict,),
    "writer": (dict,),
    "level": _NUMBER,
    "error": _NUMBER,
    "counts": (dict,),
    "checks": (list,),
    "diagnoses": (list,),
    "rows": (list,),
}
_COUNTS: dict[str, tuple[type, ...]] = dict.fromkeys(
    ("too_short", "other_keys", "other_keys_found"), (int,)
)
_CHECK: dict[str, tuple[type, ...]] = {"name": (str,), "verdict": (str,), "words": (str,)}
_ROW: dict[str, tuple[type, ...]] = {"kind": (str,), "p_value": (*_NUMBER, type(None))}

_VERDICTS = {
    "good": "The set-up passed its self-test",
    "bad": "The set-up failed its self-test",
    "cannot tell": "The self-test cannot tell whether the set-up works",
}
_OWN_TEXTS = (
    "An audit tests one set-up by texts that were written for it. It does not show that all texts of a service are "
    "marked, then or later."
)


def read_audit(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What an audit wrote; WatermarkError if it is not that, or of another version or shape."""
    file = Path(path)
    document = None
    try:
        with contextlib.suppress(ValueError, RecursionError):  # not UTF-8, not JSON, absurd numbers
            document = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise WatermarkError(
            f"{file} cannot be read ({error.strerror}): give the folder of a scan, or the JSON of 'wmcore audit --json'"
        ) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise WatermarkError(
            f"{file} is neither the folder of a scan nor an audit: give what 'wmcore scan -o' or 'wmcore audit --json' "
            "wrote"
        )
    if document.get("format_version") != VERSION:
        raise WatermarkError(
            f"{file} has version {shown(document.get('format_version'))}, but this wmcore reads {VERSION}: use the "
            "wmcore that wrote it"
        )
    if not _is_whole(document):
        raise WatermarkError(f"{file} is damaged: audit again")
    return document


def marked_texts(audit: dict[str, Any]) -> list[str]:
    """The texts that the audit's writer marked, where it kept them."""
    return [
        row["text"]
        for row in audit["rows"]
        if row["kind"] == "marked" and isinstance(row.get("text"), str)
    ]


def how_tested(audit: dict[str, Any]) -> TestedAs:
    """How the texts of an audit were tested."""
    test = {**audit["watermark"], **audit["detector"]}
    score = test.get("score")
    return TestedAs(
        fingerprint=audit["fingerprint"],
        scheme=scheme_of(test.get("scheme")).name,
        gap=test.get("gap"),
        block_length=test.get("block_length") or WHOLE_TEXT,
        score=None if score == scheme_of(test.get("scheme")).score else score,
        level=audit["level"],
    )


def of_audit(path: str | os.PathLike[str]) -> Evidence:
    """What an audit wrote, as evidence.

    Parameters
    ----------
    path : str or path
        The JSON of `wmcore audit --json`.

    Raises
    ------
    WatermarkError
        If the file cannot be read or is no audit.
    """
    audit = read_audit(path)
    mark = audit["watermark"]
    scheme = scheme_of(how_tested(audit).scheme)
    missing = (
        "Nothing was measured here: it takes marked texts (wmcore report --evidence --texts, or wmcore audit "
        "--with-texts) and the watermark."
    )
    return Evidence(
        about="audit",
        verdict=_VERDICTS.get(audit["verdict"], audit["verdict"]),
        fingerprint=audit["fingerprint"],
        scheme=scheme.name,
        made=now(),
        began=audit["began"],
        ended=audit["ended"],
        findings=_findings(audit),
        technique=technique(scheme, mark.get("key_length")),
        false_alarms=_false_alarms(audit),
        robustness=Section([missing, NOT_TESTED], unknown()),
        parameters=_parameters(audit),
        ran={"wmcore": audit["version"], **audit.get("versions", {})},
        reported=versions(),
        limits=[*LIMITS, _OWN_TEXTS],
        files=[digest(Path(path))],
    )


def _p_values(audit: dict[str, Any], kind: str) -> list[float]:
    """p of the texts of a kind that could be tested."""
    rows = (row for row in audit["rows"] if row["kind"] == kind)
    return [row["p_value"] for row in rows if row["p_value"] is not None]


def _findings(audit: dict[str, Any]) -> Section:
    p = _p_values(audit, "marked")
    found = sum(one <= audit["level"] for one in p)
    failed = sum(row["p_value"] is None for row in audit["rows"])
    facts = [
        Fact("failed", "texts that could not be written or tested", failed),
        Fact("marked", "marked texts tested", len(p)),
        Fact("found", f"of them found (p ≤ {audit['level']:g})", found),
    ]
    if p:
        low, high = clopper_pearson(found, len(p))
        facts += [
            Fact("found_low", "share found, at least (95 %, Clopper and Pearson)", low),
            Fact("found_high", "share found, at most", high),
        ]
    short = audit["counts"]["too_short"]
    facts.append(Fact("too_short", "marked texts too short to tell, and not found", short))
    for i, check in enumerate(audit["checks"], start=1):
        said = f"{check['verdict']}: {check['words']}"
        facts.append(Fact(f"check_{i}", f"check: {check['name']}", said))
    sound = (
        "Each check is a question about the set-up that writes and tests text. The chance that a sound set-up fails "
        f"one of them is at most {audit['error']:g}."
    )
    return Section([sound, *(str(one.get("words")) for one in audit["diagnoses"])], facts)


def _false_alarms(audit: dict[str, Any]) -> Section:
    p = _p_values(audit, "unmarked")
    rows = [
        FalseAlarms("unmarked texts, true key", level, _share(p, level), 1)
        for level in sorted({*LEVELS, audit["level"]}, reverse=True)
        if p
    ]
    says = [BY_CONSTRUCTION]
    counts = audit["counts"]
    tests, found = counts["other_keys"], counts["other_keys_found"]
    if 0 <= found <= tests > 0:
        share = Share(found, tests, clopper_pearson(found, tests))
        rows.append(FalseAlarms("marked texts, other keys", audit["level"], share, tests))
    if rows:
        says.append(
            "Every text that is found though it does not carry the key is a false alarm. Intervals are of 95 % "
            "(Clopper and Pearson). Other keys are used once each, so that their tests are independent. Unmarked texts "
            "are all tested with the true key; those that share words depend on each other, for which their intervals "
            "do not allow."
        )
    else:
        says.append("The audit had no texts without the watermark, so that nothing was measured.")
    return Section(says, rows)


def _share(p: list[float], level: float) -> Share:
    count = sum(one <= level for one in p)
    return Share(count, len(p), clopper_pearson(count, len(p)))


def _parameters(audit: dict[str, Any]) -> list[Fact]:
    facts = [
        Fact("fingerprint", "fingerprint of the key (never the key)", audit["fingerprint"]),
        Fact("level", "a text is found if its p is at most", plain(audit["level"])),
    ]
    groups = {"watermark": "watermark", "detector": "test", "writer": "writer"}
    for name, label in groups.items():
        facts += [
            Fact(f"{name}_{key}", f"{label}: {key.replace('_', ' ')}", plain(bare_name(value)))
            for key, value in audit[name].items()
        ]
    return facts


def _is_whole(document: dict[str, Any]) -> bool:
    """Whether all fields that are read later are there and of their types."""
    if not has(document, _FIELDS) or not has(document["counts"], _COUNTS):
        return False
    if not 0 <= document["level"] <= 1:
        return False
    noted = document.get("versions", {})  # older audits have none
    if not (isinstance(noted, dict) and has(noted, dict.fromkeys(noted, (str,)))):
        return False
    if not all(has(row, _ROW) and 0 <= (row["p_value"] or 0) <= 1 for row in document["rows"]):
        return False
    lists = {"checks": _CHECK, "diagnoses": {}}
    return all(has(one, types) for name, types in lists.items() for one in document[name])
