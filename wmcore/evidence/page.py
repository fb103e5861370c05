"""The files of a report: the JSON, and an HTML page with the same facts that names the JSON by its SHA-256."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime

from wmcore.evidence.record import Digest, Evidence, Plain, sha256sum
from wmcore.pages import fill, power_of_ten


def render(evidence: Evidence, name: str) -> tuple[str, bytes]:
    """(the page, as a string of HTML; the bytes of the JSON file, which is to be written under this name)."""
    content = evidence.to_bytes()
    written = Digest(name, len(content), hashlib.sha256(content).hexdigest(), sha256sum(name))
    page = fill(
        "evidence.html",
        e=evidence,
        made=_time(evidence.made),
        began=_time(evidence.began),
        ended=_time(evidence.ended),
        files=[*evidence.files, replace(written, what=f"{name}, the same facts for programs")],
        value=_value,
        percent=_percent,
        versions=list(dict.fromkeys([*evidence.reported, *evidence.ran])),
    )
    return page, content


def _time(text: str | None) -> datetime | None:
    """A time of ISO 8601, in UTC; None if there is none, or another text."""
    try:
        return datetime.fromisoformat(text or "").astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _value(value: Plain) -> str:
    """A fact's value for people."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, float):
        return power_of_ten(value)
    return f"{value:,}" if isinstance(value, int) else value


def _percent(share: float) -> str:
    """A share in percent: 0.00012 is 0.012 %, 1 is 100 %."""
    return f"{power_of_ten(100 * share)} %"
