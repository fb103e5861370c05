"""Ray Data: scans on more than one machine, through `map_batches` with a pool of actors that hold a detector.

`scan` maps a dataset of yours. `ray_shards` makes the shards of ``wmcore scan --engine ray``: one read task for each
input streams documents, actors test them, and the driver writes the same shards as a scan on one machine, so that
either can go on where the other stopped. An actor that dies is replaced and its work done again.

The watermark, and so its secret, is sent to the actors: use a cluster that you trust.
"""

import logging
import os
import socket
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from wmcore.checks import require
from wmcore.errors import WatermarkError
from wmcore.records import Document, token_ids
from wmcore.scan.batch import Batch
from wmcore.scan.job import Job, Meter
from wmcore.scan.run import Runner, Shard
from wmcore.scan.settings import ScanSettings
from wmcore.scan.sources import Source
from wmcore.scan.stdin import STDIN
from wmcore.scan.store import schema
from wmcore.scan.worker import Scanner
from wmcore.types import BackendName
from wmcore.watermark import Watermark

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

BLOCK_BYTES = 16 << 20
"""Documents move to the actors in blocks of about this size: Ray's own 128 MiB would feed few actors, late."""

_RESULT = (
    "p_value",
    "statistic",
    "shift",
    "span",
    "window",
    "windows",
    "length",
    "resamples",
    "method",
    "error",
)


def scan(
    dataset: "Dataset",
    watermark: Watermark,
    *,
    text_column: str = "text",
    tokens_column: str | None = None,
    tokenizer: Any = None,
    concurrency: int | tuple[int, int] = 1,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
    batch_size: int = 4096,
    backend: BackendName = "auto",
    prefix: str = "wm_",
    **options: Any,
) -> "Dataset":
    """The dataset with the columns p_value, statistic, shift, span, ... of `wmcore.scan` added, lazily.

    Parameters
    ----------
    dataset : ray.data.Dataset
    watermark : Watermark
    text_column, tokens_column : str
        The column with texts or, instead, the one with token ids.
    tokenizer : str or tokenizer, optional
        Default: the watermark's own.
    concurrency : int or (int, int)
        Actors, or their least and greatest number.
    num_cpus, num_gpus : float
        Of each actor. It uses that many threads.
    batch_size : int
        Rows tested at a time; no result depends on it.
    backend : str
        As for `wmcore.Detector`.
    prefix : str
        Of the new columns.
    **options
        Fields of `wmcore.scan.ScanSettings`.

    Returns
    -------
    ray.data.Dataset
        p-values, no q-values: those need all of them (`wmcore.scan.fdr.PValues`).

    Raises
    ------
    WatermarkError
        If Ray is missing or too old, no tokenizer is known, or a setting cannot be used.
    """
    require("ray", "run pip install 'wmcore-lm[ray]'", "2.40", "3")
    from ray.data import ActorPoolStrategy

    settings = _settings(watermark, tokenizer, tokens_column, options)
    least, most = (concurrency, concurrency) if isinstance(concurrency, int) else concurrency
    return dataset.map_batches(
        _Columns,
        batch_size=batch_size,
        batch_format="pyarrow",
        fn_constructor_kwargs={
            "watermark": watermark,
            "settings": settings,
            "tokenizer": None if tokens_column else tokenizer or watermark.tokenizer,
            "backend": backend,
            "threads": max(1, round(num_cpus)),
            "text_column": text_column,
            "tokens_column": tokens_column,
            "prefix": prefix,
        },
        compute=ActorPoolStrategy(min_size=least, max_size=most),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )


def ray_shards(
    *,
    address: str | None = None,
    actors: int | None = None,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
) -> Runner:
    """What makes the shards in `wmcore.scan.scan(..., runner=ray_shards())`.

    Parameters
    ----------
    address : str, optional
        Of a cluster; without, the one that this process is connected to, or else a local one of at least 4 logical
        CPUs (on fewer, actors leave none for the readers).
    actors : int, optional
        Default: one for every two CPUs of the cluster, at least one.
    num_cpus, num_gpus : float
        Of each actor. It uses that many threads.
    """
    require("ray", "run pip install 'wmcore-lm[ray]'", "2.40", "3")

    def runner(job: Job, meter: Meter) -> Generator[Shard, None, None]:
        if not job.todo():
            return
        if any(source.name == STDIN for source in job.sources):
            raise WatermarkError("- is standard input, which no worker can read: give a file")
        _connect(address)
        yield from _shards(job, meter, actors, num_cpus, num_gpus)

    return runner


def _connect(address: str | None) -> None:
    import ray

    if ray.is_initialized():
        return
    if address is not None:
        _answers(address)
    address = address or os.environ.get("RAY_ADDRESS") or None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is not None:
            ray.init(address=address, **quiet)
        else:
            from wmcore.kernels.cpu.threads import available

            ray.init(num_cpus=max(4, available()), include_dashboard=False, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise WatermarkError(
            f"address {address!r}: no Ray cluster answers ({' '.join(str(error).split())[:200]}): "
            "check it, or leave it out for a local one"
        ) from error


def _answers(address: str) -> None:
    """WatermarkError unless something listens at host:port: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise WatermarkError(
            f"address {address!r}: no Ray cluster answers ({error.strerror or error}): check it, or leave it out "
            "for a local one"
        ) from error


def _shards(
    job: Job, meter: Meter, actors: int | None, num_cpus: float, num_gpus: float
) -> Iterator[Shard]:
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = BLOCK_BYTES
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    if actors is None:
        actors = max(1, int(ray.cluster_resources().get("CPU", 2) / (2 * num_cpus)))
    todo = job.todo()
    documents = ray.data.read_datasource(
        _datasource(todo, job.settings, job.done), override_num_blocks=len(todo)
    )
    tested = documents.map_batches(
        _Tester,
        batch_size=min(4096, job.settings.shard_size + 1),
        batch_format="pyarrow",
        fn_constructor_kwargs={
            "watermark": job.watermark,
            "settings": job.settings,
            "tokenizer": job.tokenizer,
            "backend": job.backend,
            "threads": max(1, round(num_cpus)),
            "calibration": job.calibration,
        },
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )
    held: dict[tuple[int, int], dict[int, dict[str, Any]]] = {}
    ends: dict[tuple[int, int], dict[str, Any]] = {}
    for table in tested.iter_batches(batch_size=None, batch_format="pyarrow"):
        for row in table.to_pylist():
            shard = row["source"], row["shard"]
            if row["position"] < 0:
                ends[shard] = row
                held.setdefault(shard, {})
            else:
                held.setdefault(shard, {})[row["position"]] = row
        for shard in [s for s in ends if len(held[s]) == ends[s]["documents"]]:
            end, rows = ends.pop(shard), held.pop(shard)
            columns = schema().names
            found = [{name: rows[p].get(name) for name in columns} for p in sorted(rows)]
            if not job.settings.controls:
                found = [{k: v for k, v in row.items() if k != "controls"} for row in found]
            meter.count(found, shard[0], end["done"])
            yield *shard, end["ends"], found


def _datasource(
    todo: list[tuple[int, Source]], settings: ScanSettings, done: dict[int, set[int]]
) -> Any:
    """A Ray datasource with one read task for each input."""
    from ray.data import Datasource
    from ray.data.block import BlockMetadata
    from ray.data.datasource import ReadTask

    class Documents(Datasource):
        def get_name(self) -> str:
            return "wmcore"

        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[Any]:
            unknown = BlockMetadata(
                num_rows=None, size_bytes=None, exec_stats=None, input_files=None
            )
            return [
                ReadTask(_Reader(number, source, settings, done.get(number, set())), unknown)
                for number, source in todo
            ]

    return Documents()


class _Reader:
    """Reads one input as tables; after the documents of a shard comes a row that says how many they were."""

    def __init__(self, number: int, source: Source, settings: ScanSettings, done: set[int]) -> None:
        self._parts = number, source, settings, done

    def __call__(self) -> Iterator["pa.Table"]:
        import pyarrow as pa

        number, source, settings, done = self._parts
        columns = _document_schema()
        count = 0
        for batch in source.batches(number, settings, done):
            rows: list[dict[str, Any]] = [
                {
                    "source": number,
                    "shard": batch.shard,
                    "position": d.position,
                    "id": d.id,
                    "text": d.text,
                    "tokens": d.tokens,
                    "error": d.error,
                }
                for d in batch.documents
            ]
            count += len(rows)
            if batch.shard_ends:
                end = {"position": -1, "documents": count, "ends": batch.source_ends}
                rows.append({"source": number, "shard": batch.shard, "done": batch.done, **end})
                count = 0
            yield pa.Table.from_pylist(rows, schema=columns)


def _document_schema() -> "pa.Schema":
    import pyarrow as pa

    return pa.schema(
        [
            ("source", pa.int32()),
            ("shard", pa.int64()),
            ("position", pa.int64()),
            ("id", pa.string()),
            ("text", pa.large_string()),
            ("tokens", pa.large_list(pa.int64())),
            ("error", pa.string()),
            ("documents", pa.int64()),
            ("ends", pa.bool_()),
            ("done", pa.float64()),
        ]
    )


class _Tester:
    """The actor of `ray_shards`: document rows in, result rows out."""

    def __init__(self, watermark: Watermark, settings: ScanSettings, **options: Any) -> None:
        self._scanner = Scanner(watermark, settings, **options)

    def __call__(self, table: "pa.Table") -> "pa.Table":
        import pyarrow as pa

        shards: dict[tuple[int, int], list[Document]] = {}
        rows: list[dict[str, Any]] = []
        for row in table.to_pylist():
            if row["position"] < 0:  # the end of a shard passes through
                rows.append({name: row[name] for name in _END})
            else:
                shards.setdefault((row["source"], row["shard"]), []).append(_from_row(row))
        for (source, shard), documents in shards.items():
            tested = self._scanner.rows(Batch(source, shard, documents))
            rows += [{**row, "shard": shard} for row in tested]
        ends = [f for f in _document_schema() if f.name in _END and f.name not in schema().names]
        return pa.Table.from_pylist(rows, schema=pa.schema([*schema(), *ends]))


_END = ("source", "shard", "position", "documents", "ends", "done")


def _from_row(row: dict[str, Any]) -> Document:
    tokens = None if row["tokens"] is None else np.array(row["tokens"], np.int64)
    return Document(row["position"], row["id"], row["text"], tokens, row["error"])


class _Columns:
    """The actor of `scan`: a table in, the table with result columns out."""

    def __init__(
        self,
        watermark: Watermark,
        settings: ScanSettings,
        text_column: str,
        tokens_column: str | None,
        prefix: str,
        **options: Any,
    ) -> None:
        self._scanner = Scanner(watermark, settings, **options)
        self._columns = text_column, tokens_column
        self._prefix = prefix

    def __call__(self, table: "pa.Table") -> "pa.Table":
        import pyarrow as pa

        text, tokens = self._columns
        values = table[tokens or text].to_pylist()
        documents = [self._document(i, value) for i, value in enumerate(values)]
        rows = self._scanner.rows(Batch(0, 0, documents))
        result = pa.Table.from_pylist(rows, schema=schema())
        for name in _RESULT:
            table = table.append_column(self._prefix + name, result[name])
        return table

    def _document(self, i: int, value: Any) -> Document:
        text, tokens = self._columns
        column = tokens or text
        if value is None:
            return Document(i, "", error=f"column {column!r} is null")
        if tokens is not None:
            ids, error = token_ids(value, tokens)
            return Document(i, "", tokens=ids, error=error)
        if not isinstance(value, str):
            kind = type(value).__name__
            return Document(i, "", error=f"column {column!r} is a {kind}, not a string")
        return Document(i, "", value)


def _settings(
    watermark: Watermark, tokenizer: Any, tokens_column: str | None, options: dict[str, Any]
) -> ScanSettings:
    settings = ScanSettings(**{"seed": 0, **options, "tokens_field": tokens_column})
    if tokens_column is None and (tokenizer or watermark.tokenizer) is None:
        raise WatermarkError(
            "no tokenizer is given and the watermark names none: give its model's (tokenizer=...)"
        )
    return settings
