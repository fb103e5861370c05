"""`of_scan`: the evidence in the result folder of a finished scan."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wmcore.detection import LEVEL
from wmcore.errors import WatermarkError
from wmcore.evidence.record import (
    Digest,
    Evidence,
    Fact,
    FalseAlarms,
    Section,
    Share,
    TestedAs,
    digest,
    digest_of_all,
    plain,
)
from wmcore.evidence.robustness import NOT_TESTED, unknown
from wmcore.evidence.technique import BY_CONSTRUCTION, LIMITS, technique
from wmcore.intervals import by_keys, design_effect
from wmcore.scan import words
from wmcore.scan.manifest import MANIFEST, now, read_manifest
from wmcore.scan.store import damaged, read_shard, shards
from wmcore.schemes import scheme_of
from wmcore.statistic import WHOLE_TEXT
from wmcore.versions import versions

LEVELS = (0.05, 0.01, 0.001)
"""The p at which false alarms are counted, beside that of the weakest call."""

_RULES = {
    "bh": "Benjamini-Hochberg",
    "by": "Benjamini-Yekutieli",
    "ebh": "e-BH (Wang and Ramdas)",
}
_SETTINGS = {
    "window": "longer documents are tested in windows of so many tokens",
    "stride": "from one window to the next, in tokens",
    "first": "first pass",
    "first_resamples": "keys to compare with in the first pass",
    "first_stop": "first pass ends once so many of them fit as well",
    "resamples": "keys to compare with in the full test, at most",
    "stop_after": "full test ends once so many of them fit as well",
    "controls": "control keys",
}


def how_tested(folder: str | os.PathLike[str]) -> TestedAs:
    """How the documents of a scan were tested."""
    manifest = read_manifest(folder)
    mark = manifest["watermark"]
    return TestedAs(
        fingerprint=mark["fingerprint"],
        scheme=mark["scheme"],
        gap=mark.get("gap"),
        block_length=mark.get("block_length") or WHOLE_TEXT,
        score=manifest["settings"].get("score"),
        level=LEVEL,
    )


def of_scan(folder: str | os.PathLike[str]) -> Evidence:
    """What a scan's folder holds, as evidence.

    Parameters
    ----------
    folder : str or path
        Output of the scan.

    Raises
    ------
    WatermarkError
        If the folder is no output of a scan, the scan is not finished, or a shard is damaged.

    Notes
    -----
    Memory: one shard. Time: that of reading all shards.
    """
    path = Path(folder)
    manifest = read_manifest(path)
    summary, mark, settings = manifest["summary"], manifest["watermark"], manifest["settings"]
    if summary is None:
        raise WatermarkError(
            f"the scan in {path} is not finished: run the same 'wmcore scan' to go on"
        )
    scheme = scheme_of(mark["scheme"])
    return Evidence(
        about="scan",
        verdict=words.verdict(summary),
        fingerprint=mark["fingerprint"],
        scheme=scheme.name,
        made=now(),
        began=manifest.get("began"),
        ended=manifest.get("ended"),
        findings=_findings(summary, settings.get("fdr", "bh")),
        technique=technique(scheme, mark.get("key_length")),
        false_alarms=_false_alarms(path, summary, settings),
        robustness=_not_tested(),
        parameters=_parameters(manifest, str(scheme.score)),
        ran={"wmcore": manifest["wmcore"], **manifest.get("versions", {})},
        reported=versions(),
        limits=LIMITS,
        files=_files(path),
    )


def _findings(summary: dict[str, Any], fdr: str) -> Section:
    level = plain(summary["level"])
    rule = (
        f"A document is called when its q is at most {level}: of the documents called, at most this share is expected "
        "to be called by mistake."
    )
    says = [rule, words.by_chance(summary, fdr), words.one_key(summary, fdr)]
    facts = [
        Fact("tested", "documents tested", summary["tested"]),
        Fact(
            "errors",
            "documents that could not be tested, of which nothing is said",
            summary["errors"],
        ),
        Fact("called", "documents called", summary["hits"]),
        Fact("level", "a document is called if its q is at most", level),
        Fact(
            "called_by",
            "called under the stricter rule of Benjamini and Yekutieli",
            summary["hits_by"],
        ),
        Fact("least_p", "least p of a document", plain(summary["least_p"])),
        Fact("p_at_most_0.05", "documents with p ≤ 0.05", summary["at_most_0.05"]),
        Fact("p_at_most_0.001", "documents with p ≤ 0.001", summary["at_most_0.001"]),
    ]
    if summary["hits"]:
        name = "1 / E" if fdr == "ebh" else "p"
        weakest = Fact(
            "threshold", f"largest {name} of a document called", plain(summary["threshold"])
        )
        facts.insert(5, weakest)
    return Section([said for said in says if said is not None], facts)


def _false_alarms(path: Path, summary: dict[str, Any], settings: dict[str, Any]) -> Section:
    """The documents under control keys, which no text carries."""
    controls, threshold = summary["controls"], summary["threshold"]
    levels = [*LEVELS, threshold] if summary["hits"] and threshold < LEVELS[-1] else LEVELS
    parts = list(_control_counts(path, controls["count"], levels)) if controls else []
    tested = sum(n for n, _ in parts)
    if not tested:
        says = [BY_CONSTRUCTION]
        if settings.get("first") == "calibrated":
            says.append(
                "In this scan that is approximate for documents that ended in the first pass: their p come from stored "
                "statistics of other documents."
            )
        missing = "This scan ran no control keys, so that this was not measured: run it with --controls 19."
        return Section([*says, missing], [])
    found = np.sum([part for _, part in parts], axis=0)
    count = found.shape[1]
    rows = []
    effect = 1.0
    for level, counts in zip(levels, found, strict=True):
        interval = None
        if count > 1:
            effect = max(effect, design_effect(counts, tested))
            interval = by_keys(counts, tested, effect)
        rows.append(
            FalseAlarms(
                what="documents, control keys",
                level=level,
                found=Share(int(counts.sum()), tested * count, interval),
                keys=count,
                least=int(counts.min()),
                most=int(counts.max()),
            )
        )
    measured = (
        f"Here {words.documents(tested)} were tested in the same way with {count:,} control keys, drawn like the true "
        "one, that no text carries: every document found with one of them is a false alarm. Documents that share words "
        "depend on each other under one key; the intervals of 95 % allow for that by how the keys differ (Korn and "
        "Graubard)."
    )
    return Section([BY_CONSTRUCTION, measured], rows)


def _control_counts(
    path: Path, count: int, levels: Sequence[float]
) -> Iterator[tuple[int, np.ndarray]]:
    """(documents, those with p up to each level under each control key: int64 [levels, count]) of each shard."""
    for *_, file in shards(path):
        lists = read_shard(file, ["controls"])["controls"].drop_null().combine_chunks()
        values = np.asarray(lists.flatten(), float)
        sizes = np.asarray(lists.value_lengths())
        if (sizes != count).any() or not ((values >= 0) & (values <= 1)).all():
            raise damaged(file, f"it has not {count} controls for each document")
        if len(sizes):
            p = values.reshape(-1, count)
            yield len(p), np.stack([(p <= level).sum(axis=0) for level in levels])


def _not_tested() -> Section:
    missing = (
        "A scan has no texts that are known to be marked, so that nothing was measured here: give some with "
        "wmcore report --evidence --texts."
    )
    return Section([missing, NOT_TESTED], unknown())


def _parameters(manifest: dict[str, Any], score: str) -> list[Fact]:
    mark, settings = manifest["watermark"], manifest["settings"]
    block = mark.get("block_length")
    score = settings.get("score_name") or settings.get("score") or score
    fdr = settings.get("fdr", "bh")
    facts = [
        ("fingerprint", "fingerprint of the key (never the key)", mark["fingerprint"]),
        ("scheme", "scheme", mark["scheme"]),
        ("score", "scores that it adds up", "none: token costs" if score == "None" else score),
        ("gap", "cost of an insertion or deletion", mark.get("gap")),
        ("key_length", "key length, in rows", mark.get("key_length")),
        ("block_length", "tokens aligned at a time", "whole text" if block is None else block),
        ("vocab_size", "vocabulary, in tokens", mark.get("vocab_size")),
        ("tokenizer", "tokenizer", settings.get("tokenizer") or "none: token ids were given"),
        *((name, label, settings.get(name)) for name, label in _SETTINGS.items()),
        (
            "correction_windows",
            "correction for windows",
            "Bonferroni: their number times the least p",
        ),
        ("correction_documents", "correction for documents (q)", _RULES.get(str(fdr), fdr)),
    ]
    inputs = [
        (f"input_{i}", "input", _input(one)) for i, one in enumerate(manifest["inputs"], start=1)
    ]
    return [Fact(name, label, plain(value)) for name, label, value in [*facts, *inputs]]


def _input(given: dict[str, Any]) -> str:
    files = f" ({given['files']:,} files)" if given["files"] > 1 else ""
    return f"{given['name']}{files}, {given['size']:,} bytes"


def _files(path: Path) -> list[Digest]:
    parts = [file for *_, file in shards(path)]
    return [digest(path / MANIFEST), digest_of_all(parts, "part-*.parquet")]
