"""The manifest of a scan: what was scanned, how, and what came out. It is checked, since others may have made it."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wmcore.errors import WatermarkError

FORMAT, VERSION = "wmcore.scan", 1
MANIFEST = "manifest.json"

_COUNT, _NUMBER = (int,), (int, float)
_FIELDS: dict[str, tuple[type, ...]] = {
    "wmcore": (str,),
    "watermark": (dict,),
    "inputs": (list,),
    "settings": (dict,),
    "seconds": _NUMBER,
    "summary": (dict, type(None)),
}
_LATER: dict[str, tuple[type, ...]] = {
    "timed": _COUNT,
    "spent": (dict,),
    "began": (str,),
    "ended": (str,),
    "versions": (dict,),
}
_WATERMARK: dict[str, tuple[type, ...]] = {"fingerprint": (str,), "scheme": (str,)}
_INPUT: dict[str, tuple[type, ...]] = {"name": (str,), "files": _COUNT, "size": _COUNT}
_SUMMARY: dict[str, tuple[type, ...]] = {
    "documents": _COUNT,
    "tested": _COUNT,
    "errors": _COUNT,
    "level": _NUMBER,
    "hits": _COUNT,
    "hits_by": _COUNT,
    "threshold": _NUMBER,
    "expected_by_chance": _NUMBER,
    "at_most_0.05": _COUNT,
    "at_most_0.001": _COUNT,
    "least_p": (*_NUMBER, type(None)),
    "controls": (dict, type(None)),
}
_PASSED_OVER: dict[str, tuple[type, ...]] = {"total": _COUNT, "reasons": (dict,), "first": (list,)}
_CONTROLS: dict[str, tuple[type, ...]] = {
    "count": _COUNT,
    "confidence": _NUMBER,
    "false_mean": _NUMBER,
    "false_bound": _NUMBER,
}


def now() -> str:
    """The time as a manifest holds it: UTC, to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def date(manifest: dict[str, Any], name: str) -> datetime | None:
    """When the scan "began" or "ended", in UTC; None if it was not noted, or not as `now` does."""
    try:
        return datetime.fromisoformat(manifest.get(name, "")).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def to_bytes(manifest: dict[str, Any]) -> bytes:
    """What a manifest is written as."""
    return (json.dumps(manifest, indent=2) + "\n").encode()


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of an output folder; WatermarkError if there is none, or of another version or shape."""
    file = Path(path) / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WatermarkError(
            f"{path} is not the output of a scan (it has no {MANIFEST}): give the folder of 'wmcore scan -o'"
        ) from None
    except (OSError, ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise _damaged(file)
    if manifest.get("version") != VERSION:
        raise WatermarkError(
            f"{file} has version {manifest.get('version')!r}, but this wmcore reads {VERSION}: "
            "use the wmcore that wrote it"
        )
    if not _is_whole(manifest):
        raise _damaged(file)
    return manifest


def _damaged(file: Path) -> WatermarkError:
    return WatermarkError(
        f"{file} is damaged or not of a scan: restore it, or scan into another folder"
    )


def _is_whole(manifest: dict[str, Any]) -> bool:
    """Whether all fields that are read later are there and of their types."""
    if not (has(manifest, _FIELDS) and has(manifest, _LATER, optional=True)):
        return False
    if not has(manifest["watermark"], _WATERMARK):
        return False
    if not all(has(i, _INPUT) for i in manifest["inputs"]):
        return False
    for name, types in (("spent", _NUMBER), ("versions", (str,))):
        held = manifest.get(name, {})
        if not has(held, dict.fromkeys(held, types)):
            return False
    summary = manifest["summary"]
    if summary is None:
        return True
    if not (
        has(summary, _SUMMARY)
        and has(summary, {"passed_over": (dict,)}, optional=True)
        and (summary["controls"] is None or has(summary["controls"], _CONTROLS))
    ):
        return False
    passed = summary.get("passed_over")
    return passed is None or (
        has(passed, _PASSED_OVER)
        and has(passed["reasons"], dict.fromkeys(passed["reasons"], _COUNT))
    )


def has(value: Any, types: dict[str, tuple[type, ...]], optional: bool = False) -> bool:
    """Whether a value is an object with fields of these types, whole numbers among them of at most 64 bits."""
    if not isinstance(value, dict):
        return False
    for name, allowed in types.items():
        if name not in value:
            if optional:
                continue
            return False
        held = value[name]
        if not isinstance(held, allowed) or isinstance(held, bool):
            return False
        if isinstance(held, int) and abs(held) >= 2**63:
            return False
    return True
