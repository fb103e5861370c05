"""The HTML page of a scan: one file, no script, nothing fetched, all text escaped."""

import heapq
import math
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from wmcore._version import __version__
from wmcore.errors import WatermarkError
from wmcore.pages import fill, raised
from wmcore.scan import words
from wmcore.scan.manifest import date, read_manifest
from wmcore.scan.store import read_shard, shards

BINS = 20
_COLUMNS = [
    "source",
    "position",
    "id",
    "p_value",
    "q_value",
    "length",
    "windows",
    "span",
    "excerpt",
    "method",
]


LISTED = 1e-3
"""Documents with p of at most this are listed whether or not they are called."""
ERRORS = 50
"""So many documents that could not be tested are named."""


@dataclass(frozen=True)
class Bar:
    """One bar of the histogram, in percent of the picture: left edge, width, height; and what it counts."""

    x: float
    width: float
    height: float
    label: str
    count: int


@dataclass(frozen=True)
class Hit:
    """A document to list: the passage in three parts, the middle one being the best window."""

    id: str
    called: bool
    p_value: float
    q_value: float | None
    length: int
    windows: int
    method: str
    span: tuple[int, int] | None
    before: str
    inside: str
    after: str


def render(folder: str | os.PathLike[str], *, hits: int = 200) -> str:
    """The page of a finished scan, as a string of HTML.

    Parameters
    ----------
    folder : str or path
        Output of the scan.
    hits : int
        Documents to list, the called ones first, the least p first; of those that are not called, none with
        p > 0.001.

    Raises
    ------
    WatermarkError
        If the folder is no output of a scan, or the scan is not finished.

    Notes
    -----
    Memory: one shard and the listed documents.
    """
    manifest = read_manifest(folder)
    summary = manifest["summary"]
    if summary is None:
        raise WatermarkError(
            f"the scan in {folder} is not finished: run the same 'wmcore scan' to go on"
        )
    uniform = np.zeros(BINS, np.int64)
    decades = np.zeros(9, np.int64)
    best: list[tuple[bool, float, int, int, dict[str, Any]]] = []
    errors: list[tuple[str, str]] = []
    for *_, path in shards(Path(folder)):
        table = read_shard(path, [*_COLUMNS, "error"])
        p = table["p_value"].drop_null().to_numpy()
        uniform += np.histogram(p, BINS, (0.0, 1.0))[0]
        decades += np.bincount(
            np.clip(np.floor(-np.log10(np.maximum(p, 1e-300)) + 1e-9), 0, 8).astype(int),
            minlength=9,
        )
        called = table["q_value"].to_numpy() <= summary["level"]
        for i in np.flatnonzero(called | (table["p_value"].to_numpy() <= LISTED)).tolist():
            row = {name: table[name][i].as_py() for name in _COLUMNS}
            order = (bool(called[i]), -row["p_value"], -row["source"], -row["position"])
            (heapq.heappush if len(best) < hits else heapq.heappushpop)(best, (*order, row))
        if len(errors) < ERRORS:
            bad = table["error"].is_valid().to_numpy()
            for i in np.flatnonzero(bad)[: ERRORS - len(errors)].tolist():
                errors.append((table["id"][i].as_py(), table["error"][i].as_py()))
    listed = [_hit(row, called) for called, *_, row in sorted(best, reverse=True)]
    fdr = manifest["settings"].get("fdr", "bh")
    return fill(
        "scan.html",
        manifest=manifest,
        summary=summary,
        verdict=words.verdict(summary),
        by_chance=words.by_chance(summary, fdr),
        one_key=words.one_key(summary, fdr),
        missed=words.MISSED,
        by_e=fdr == "ebh",
        bars=_linear(uniform),
        expected=_expected(uniform),
        decades=_logarithmic(decades),
        called=[hit for hit in listed if hit.called],
        uncalled=[hit for hit in listed if not hit.called],
        listed=LISTED,
        errors=errors,
        passed_over=passed if (passed := summary.get("passed_over")) and passed["total"] else None,
        rate=_rate(manifest),
        began=date(manifest, "began"),
        ended=date(manifest, "ended"),
        made=datetime.now(UTC),
        version=__version__,
    )


def _rate(manifest: dict[str, Any]) -> float | None:
    """Documents a second."""
    timed = manifest.get("timed", manifest["summary"]["documents"])
    return timed / manifest["seconds"] if timed and manifest["seconds"] else None


def _linear(counts: np.ndarray) -> list[Bar]:
    top = max(int(counts.max()), 1)
    width = 100 / len(counts)
    return [
        Bar(i * width, width, 100 * c / top, f"{i / BINS:.2f} to {(i + 1) / BINS:.2f}", c)
        for i, c in enumerate(counts.tolist())
    ]


def _expected(counts: np.ndarray) -> float:
    """Height of the uniform line, in percent."""
    return 100 * float(counts.sum()) / len(counts) / max(int(counts.max()), 1)


def _logarithmic(counts: np.ndarray) -> list[tuple[str, int, str, float, float]]:
    """(label, documents, expected, bar width, width of the expected) for each power of ten."""
    total = int(counts.sum())
    most = math.log10(max(total, 10)) + 0.5
    rows = []
    for i, c in enumerate(counts.tolist()):
        last = i == len(counts) - 1
        expected = total * (10.0**-i if last else 0.9 * 10.0**-i)
        label = f"at most {_decimal(i)}" if last else f"{_decimal(i + 1)} to {_decimal(i)}"
        rows.append((label, c, words.expected(expected), _width(c, most), _width(expected, most)))
    return rows


def _decimal(power: int) -> str:
    """10 to minus this power: 0.001, 10⁻⁸."""
    return f"{10.0**-power:.{power}f}" if power <= 4 else f"10{raised(-power)}"


def _width(count: float, most: float) -> float:
    return 100 * max(0.0, math.log10(count) + 0.5) / (most + 0.5) if count > 0 else 0.0


def _hit(row: dict[str, Any], called: bool) -> Hit:
    span, excerpt = row["span"], row["excerpt"]
    parts = ("", "", "")
    if excerpt is not None and span is not None:
        text = excerpt["text"]
        a = min(max(span["start"] - excerpt["start"], 0), len(text))
        b = min(max(span["end"] - excerpt["start"], a), len(text))
        parts = (text[:a], text[a:b], text[b:])
    return Hit(
        row["id"],
        called,
        row["p_value"],
        row["q_value"],
        row["length"],
        row["windows"],
        row["method"],
        None if span is None else (span["start"], span["end"]),
        *parts,
    )
