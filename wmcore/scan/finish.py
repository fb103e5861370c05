"""The end of a scan: q-values written into the shards, and the summary for the manifest."""

from typing import Any

import numpy as np

from wmcore.scan.fdr import PValues, false_bound, one_over
from wmcore.scan.settings import ScanSettings
from wmcore.scan.store import Store, damaged, read_shard

LEVEL = 0.01
"""Documents with a q-value of at most this are called."""


def finish(store: Store, settings: ScanSettings) -> dict[str, Any]:
    """Fill in q_value in every shard and return the summary. Killed in between, it is done again with the same result.

    Memory: one shard and the distinct p-values.
    """
    paths = [path for *_, path in store.shards()]
    documents = errors = 0
    by_e = settings.fdr == "ebh"

    def p_values() -> Any:
        nonlocal documents, errors
        for path in paths:
            p = read_shard(path, ["p_value"])["p_value"]
            documents += len(p)
            errors += p.null_count
            yield p.drop_null().to_numpy()

    seen = PValues.count(p_values())
    judged = seen
    if by_e:
        tables = (read_shard(path, ["p_value", "log_e"]) for path in paths)
        judged = PValues.count(_judged(table, by_e) for table in tables)
    q = judged.q_values(settings.fdr)
    for path in paths:
        _fill(store, path, judged, q, by_e)
    called = q <= LEVEL
    threshold = float(judged.p[called][-1]) if called.any() else 0.0
    summary: dict[str, Any] = {
        "documents": documents,
        "tested": seen.total,
        "errors": errors,
        "level": LEVEL,
        "hits": judged.below(threshold) if threshold else 0,
        "hits_by": _called(seen, "by"),
        "threshold": threshold,
        "expected_by_chance": seen.total * threshold,
        "at_most_0.05": seen.below(0.05),
        "at_most_0.001": seen.below(0.001),
        "least_p": float(seen.p[0]) if seen.p.size else None,
        "controls": None,
    }
    if settings.controls and seen.total:
        summary["controls"] = _controls(paths, settings.controls, seen, threshold)
    return summary


def resolution_note(summary: dict[str, Any], settings: ScanSettings) -> str | None:
    """A hint where the number of resamples, not the documents, decides that nothing more was called."""
    if settings.fdr == "ebh":
        return None
    least = 1 / (settings.resamples + 1)
    waiting = summary["at_most_0.001"] - summary["hits"]
    if waiting <= 0 or summary["tested"] * least <= LEVEL * max(summary["at_most_0.001"], 1):
        return None
    needed = summary["tested"] / (LEVEL * max(summary["hits"], 1))
    return (
        f"{settings.resamples:,} resamples give no p below {least:.1e}, too coarse for q <= {LEVEL} among "
        f"{summary['tested']:,} documents; to resolve the {waiting:,} next ones, scan them again with up to "
        f"--resamples {int(needed)}"
    )


def _called(seen: PValues, method: str) -> int:
    """How many documents are called with these q-values."""
    called = seen.q_values(method) <= LEVEL
    return seen.below(float(seen.p[called][-1])) if called.any() else 0


def _judged(table: Any, by_e: bool) -> np.ndarray:
    """What decides about the documents that were tested: p, or for e-BH 1 / E. float64 [N]."""
    tested = table.filter(table["p_value"].is_valid())
    return one_over(tested["log_e"].to_numpy()) if by_e else tested["p_value"].to_numpy()


def _fill(store: Store, path: Any, judged: PValues, q: np.ndarray, by_e: bool) -> None:
    import pyarrow as pa

    table = read_shard(path)
    tested = ~np.isnan(table["p_value"].to_numpy())
    values = np.full(len(tested), np.nan)
    values[tested] = q[np.searchsorted(judged.p, _judged(table, by_e))]
    column = table.schema.get_field_index("q_value")
    filled = pa.array(values, pa.float64(), mask=~tested)
    if not filled.equals(table["q_value"].combine_chunks()):
        store.write_table(path.name, table.set_column(column, "q_value", filled))


def _controls(paths: list[Any], count: int, seen: PValues, threshold: float) -> dict[str, Any]:
    nulls = []
    for c in range(count):

        def p_values(c: int = c) -> Any:
            for path in paths:
                lists = read_shard(path, ["controls"])["controls"].drop_null().combine_chunks()
                values = np.asarray(lists.flatten(), float)
                sizes = np.asarray(lists.value_lengths())
                if (sizes != count).any() or not ((values >= 0) & (values <= 1)).all():
                    raise damaged(path, f"it has not {count} controls for each document")
                yield values.reshape(-1, count)[:, c]

        nulls.append(PValues.count(p_values()))
    at = [null.below(threshold) for null in nulls]
    wide = [null.below(0.05) for null in nulls]
    bound = min(false_bound(nulls, seen.total, threshold), seen.below(threshold))
    return {
        "count": count,
        "confidence": 1 - 1 / (count + 1),
        "false_mean": float(np.mean(at)),
        "false_bound": float(bound) if threshold else 0.0,
        "at_most_0.05": wide,
        "corpus_p": (1 + sum(w >= seen.below(0.05) for w in wide)) / (count + 1),
    }
