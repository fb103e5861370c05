"""Recorded cases of scans: token documents and texts, what the shards hold and what the summary says."""

import json
import tempfile
import warnings
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recorded.common import THREADS, below, digest, mark_of, marked, unit
from wmcore.scan import scan

V = 512
COLUMNS = (
    *("source", "position", "id", "p_value", "q_value", "statistic", "shift", "span", "window"),
    *("windows", "length", "resamples", "method", "excerpt", "controls"),
)
"""What a row must keep; of an error, only whether there is one (its words may improve)."""

GIVEN = ("source", "position", "p_value", "statistic", "shift", "window", "length", "resamples")
"""What is also looked at in the rows that `scan` gives."""

NO_DOCUMENTS = (
    "no JSON",
    "[1, 2]",
    "",
    '{"id": "b1", "tokens": "text"}',
    '{"id": "b2", "tokens": [1.5]}',
)
"""Lines of an input that cannot be tested, and a blank one."""

SUMMARY = (
    *("documents", "tested", "errors", "hits", "hits_by", "threshold", "expected_by_chance"),
    *("at_most_0.05", "at_most_0.001", "least_p", "controls"),
)

OPTIONS = {
    "tokens_field": "tokens",
    "id_field": "id",
    "window": 64,
    "stride": 32,
    "resamples": 999,
    "stop_after": 3,
    "first": "resamples",
    "first_resamples": 31,
    "first_stop": 1,
    "controls": 0,
    "fdr": "bh",
    "shard_size": 70,
    "seed": 1,
}


def ordinary(name: str, length: int) -> np.ndarray:
    """Tokens of which a few are very frequent."""
    return np.minimum(1 / (unit(name, length) + 1e-4) ** 1.5 - 1, V - 1).astype(np.int64)


def documents(mark, count: int, bad: bool) -> list:
    """Short documents, some of them marked; long ones with a marked passage; and a few that cannot be tested."""
    made = []
    for i in range(count):
        name, n = f"d{i}", mark.key_length
        tokens = ordinary(name, 25 + int(below(name, 1, 36)[0]))
        if i % 25 == 3:
            some = unit(f"{name} share", 60) < 0.5 + i / 500
            tokens = np.where(some, marked(mark, 60, i % n), ordinary(f"{name} other", 60))
        elif i % 40 == 7:
            parts = ordinary(f"{name} before", 150), marked(mark, 64, i % n), ordinary(name, 90)
            tokens = np.concatenate(parts)
        elif bad and i % 50 == 11:
            tokens = np.array([1, V, 2]) if i % 100 == 11 else np.empty(0, np.int64)
        made.append({"id": name, "tokens": tokens.tolist()})
    for i, line in enumerate(NO_DOCUMENTS if bad else ()):
        made.insert(19 * i + 2, line)
    return made


@lru_cache(maxsize=1)
def byte_tokenizer():
    """A fast tokenizer with a token for each byte, made on the spot."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core)


def texts(mark, count: int) -> list[dict]:
    """Records with strings of one letter for each token, some marked."""
    letters = np.flatnonzero(
        [
            len(byte_tokenizer().decode([i])) == 1 and byte_tokenizer().decode([i]).isalnum()
            for i in range(256)
        ]
    )
    made = []
    for i in range(count):
        tokens = letters[below(f"text {i}", 40 + i % 90, len(letters))]
        if i % 9 == 4:
            best = marked(mark, 64, i)
            good = np.isin(best, letters)
            tokens = np.concatenate([tokens, np.where(good, best, letters[best % len(letters)])])
        made.append({"id": f"t{i}", "text": byte_tokenizer().decode(tokens.tolist())})
    return made


def lines(records: list[dict | str]) -> list[str]:
    """JSON Lines; a string is a line as it stands."""
    return [record if isinstance(record, str) else json.dumps(record) for record in records]


def output(inputs: list[list[dict]], mark, *, in_parquet=(), **options) -> dict:
    """Scan files of these records into a folder; what is there afterwards."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        paths = []
        for number, records in enumerate(inputs):
            path = Path(folder) / f"{number}.jsonl"
            path.write_text("".join(line + "\n" for line in lines(records)))
            paths.append(path)
        if in_parquet:
            paths.append(Path(folder) / "more.parquet")
            table = pa.Table.from_pylist(in_parquet)
            pq.write_table(table, paths[-1], row_group_size=27)  # shards cut across groups
        out = Path(folder) / "out"
        given = list(scan(paths, mark, out, threads=THREADS[0], **options))
        shards, found = {}, {}
        for path in sorted(out.glob("part-*.parquet")):
            rows = [
                {
                    **{c: row[c] for c in COLUMNS},
                    "id": row["id"].removeprefix(f"{folder}/"),  # of a record without one: its file
                    "error": row["error"] is not None,
                }
                for row in pq.read_table(path, partitioning=None).to_pylist()
            ]
            shards[path.name] = [len(rows), digest(rows)]
            for row in rows:
                found[str(row["method"])] = found.get(str(row["method"]), 0) + 1
                if row["q_value"] is not None and row["q_value"] <= 0.01:
                    found.setdefault("called", []).append([row["id"], row["p_value"]])
        summary = json.loads((out / "manifest.json").read_text())["summary"]
    return {
        "given": [len(given), digest([[row.get(c) for c in GIVEN] for row in given])],
        "shards": shards,
        "found": {**found, "called": found.get("called", [])[:6]},
        "summary": {name: summary[name] for name in SUMMARY},
    }


def tokens_scan(scheme: str, key: str, mark_settings: dict, bad: bool = False, **options) -> dict:
    mark = mark_of(scheme, key, vocab_size=V, key_length=64, **mark_settings)
    records = documents(mark, 200, bad)
    return output([records[:150], records[150:]], mark, **{**OPTIONS, **options})


def parquet_scan(scheme: str) -> dict:
    """JSON Lines and Parquet in one scan."""
    mark = mark_of(scheme, "chacha", vocab_size=V, key_length=64)
    records = documents(mark, 160, False)
    return output([records[:60]], mark, in_parquet=records[60:], **{**OPTIONS, "shard_size": 40})


def text_scan(scheme: str, mark_settings: dict, **options) -> dict:
    mark = mark_of(scheme, "chacha", vocab_size=256, key_length=64, **mark_settings)
    options = {**OPTIONS, "tokens_field": None, "text_field": "text", **options}
    return output([texts(mark, 60)], mark, tokenizer=byte_tokenizer(), **options)


FILES = {
    "scan": {
        "exp": partial(tokens_scan, "exp", "chacha", {}),
        "exp controls": partial(tokens_scan, "exp", "chacha", {}, controls=3, seed=9),
        "exp by, bad documents": partial(tokens_scan, "exp", "chacha", {}, bad=True, fdr="by"),
        "exp-edit": partial(
            tokens_scan, "exp-edit", "chacha", {}, first_resamples=19, first_stop=2
        ),
        "exp-edit gap, calibrated": partial(
            tokens_scan, "exp-edit", "chacha", {"gap": 1.5}, first="calibrated"
        ),
        "exp-edit block": partial(
            tokens_scan, "exp-edit", "chacha", {"block_length": 16}, bad=True
        ),
        "exp-edit torch": partial(tokens_scan, "exp-edit", "torch", {}, stride=64, stop_after=10),
        "exp mersenne, long windows": partial(
            tokens_scan, "exp", "mersenne", {}, window=100, stride=50
        ),
        "its": partial(tokens_scan, "its", "chacha", {}, controls=2),
        "its block, calibrated": partial(
            tokens_scan, "its", "chacha", {"block_length": 20}, first="calibrated"
        ),
        "its torch": partial(tokens_scan, "its", "torch", {}, fdr="by", resamples=1999),
        "its-edit": partial(tokens_scan, "its-edit", "chacha", {}, shard_size=8192),
        "its-edit useless gap": partial(tokens_scan, "its-edit", "chacha", {"gap": 1e4}),
        "its-edit parquet": partial(parquet_scan, "its-edit"),
        "texts exp": partial(text_scan, "exp", {}),
        "texts exp without excerpts": partial(text_scan, "exp", {}, excerpts=False),
        "texts its-edit block": partial(text_scan, "its-edit", {"block_length": 24}, controls=1),
    }
}
