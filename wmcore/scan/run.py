"""`scan`: sources to shards on this machine. A thread reads and tokenises while the main one tests and writes."""

import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import fields, replace
from typing import Any

from wmcore.errors import WatermarkError
from wmcore.scan.finish import finish
from wmcore.scan.job import Job, Meter, Progress
from wmcore.scan.manifest import now
from wmcore.scan.settings import ScanSettings
from wmcore.scan.worker import Scanner
from wmcore.types import BackendName
from wmcore.watermark import Watermark, checked_watermark

Shard = tuple[int, int, bool, list[dict[str, Any]]]
"""(input, shard, whether it is the input's last, rows)."""

Runner = Callable[[Job, Meter], Generator[Shard, None, None]]
"""Makes the shards that a job lacks, and tells the meter of them."""


def scan(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    watermark: Watermark,
    output: str | os.PathLike[str] | None = None,
    *,
    tokenizer: Any = None,
    settings: ScanSettings | None = None,
    backend: BackendName = "auto",
    threads: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    runner: Runner | None = None,
    **options: Any,
) -> Iterator[dict[str, Any]]:
    """Test every document of a corpus for a watermark; results stream out as they are found.

    Parameters
    ----------
    inputs : str, path or sequence of them
        Files with records (JSON Lines, .json, CSV, TSV, WARC, Parquet), text files and HTML pages, folders of them, or
        fsspec URLs of any, as docs/formats.md says; "-" for records on standard input. What a folder holds besides is
        named in a warning and in the summary.
    watermark : Watermark
    output : str or path, optional
        A folder for Parquet shards and a manifest. With it, a scan that was stopped at any moment goes on where it
        stopped (documents that are done are not yielded again), and the shards get q-values at the end.
    tokenizer : str or tokenizer, optional
        Default: the watermark's own.
    settings : ScanSettings, optional
    backend, threads
        As for `wmcore.Detector`.
    on_progress : callable, optional
        Called with a `Progress` after each batch.
    runner : callable, optional
        What makes the shards of a `Job`; default `local_shards`, another is that of `wmcore.bindings.ray`.
    **options
        Fields of `ScanSettings`, in place of `settings`.

    Yields
    ------
    dict
        One for each document: source, position, id, p_value, statistic, shift, span, window, windows, length,
        resamples, method and error, as docs/scan.md says; keys without a value may be missing.

    Raises
    ------
    WatermarkError
        For an input, output or setting that cannot be used, or an output that was begun with another one.

    Examples
    --------
    >>> from wmcore import Watermark
    >>> from wmcore.scan import scan
    >>> for row in scan("corpus.jsonl", Watermark.load("watermark.json")):  # doctest: +SKIP
    ...     if row.get("p_value") is not None and row["p_value"] <= 1e-6:
    ...         print(row["id"], row["p_value"])

    Notes
    -----
    Memory does not depend on the size of the inputs: three batches of documents and the rows of one shard are held.
    """
    unknown = set(options) - {f.name for f in fields(ScanSettings)}
    if unknown:
        raise TypeError(f"scan() got unknown settings: {', '.join(sorted(unknown))}")
    if isinstance(inputs, (str, os.PathLike)):
        inputs = [inputs]
    names = [os.fspath(i) for i in inputs]
    checked_watermark("watermark", watermark)
    given = replace(settings or ScanSettings(), **options)

    def rows() -> Iterator[dict[str, Any]]:
        with Job.open(
            names, watermark, output, given, tokenizer=tokenizer, backend=backend, threads=threads
        ) as job:
            yield from _run(job, Meter(job, on_progress), runner or local_shards)

    return rows()


def _run(job: Job, meter: Meter, runner: Runner) -> Iterator[dict[str, Any]]:
    store = job.store
    if store is not None and job.todo() and store.manifest["summary"] is not None:
        # Shards of a finished scan are missing: until they are made anew and q-values are filled in, it is not.
        store.save(summary=None)
    with closing(runner(job, meter)) as made:
        for source, shard, end, rows in made:
            if store is not None:
                start = time.monotonic()
                store.write(source, shard, end, rows)
                meter.spend("writing", start)
            yield from rows
    progress = meter.end()
    if store is not None and store.manifest["summary"] is None:
        _check_unchanged(job)
        summary = {**finish(store, job.settings), "passed_over": job.passed.to_dict()}
        meter.end()
        before = store.manifest
        spent = before.get("spent", {})
        store.save(
            summary=summary,
            ended=now(),
            seconds=before["seconds"] + progress.seconds,
            timed=before.get("timed", 0) + progress.documents,
            spent={n: round(spent.get(n, 0.0) + s, 3) for n, s in progress.spent.items()},
        )
    meter.tell()


def _check_unchanged(job: Job) -> None:
    """Raise WatermarkError if an input changed while it was read."""
    assert job.store is not None
    for source, before in zip(job.sources, job.store.manifest["inputs"], strict=True):
        if any(before.get(name) != value for name, value in source.identity().items()):
            raise WatermarkError(
                f"input {source.name} changed while it was read, so that results may be of either state: "
                "scan it anew into another folder, once it is at rest"
            )


def local_shards(job: Job, meter: Meter) -> Generator[Shard, None, None]:
    """The shards that a job lacks, made on this machine."""
    if not job.todo():
        return
    scanner = job.scanner()
    ready: queue.Queue[Any] = queue.Queue(maxsize=1)
    stopped = threading.Event()
    reader = threading.Thread(
        target=_read,
        args=(job, meter, scanner, ready, stopped),
        name="wmcore-reader",
        daemon=True,
    )
    reader.start()
    rows: list[dict[str, Any]] = []
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            batch, encoded = item
            start = time.monotonic()
            new = scanner.rows(batch, encoded)
            meter.spend("detecting", start)
            meter.count(new, batch.source, batch.done)
            rows += new
            del item, encoded, new
            if batch.shard_ends:
                yield batch.source, batch.shard, batch.source_ends, rows
                rows = []
    finally:
        stopped.set()
        while reader.is_alive():
            try:
                ready.get(timeout=0.05)
            except queue.Empty:
                continue


def _read(
    job: Job,
    meter: Meter,
    scanner: Scanner,
    ready: "queue.Queue[Any]",
    stopped: threading.Event,
) -> None:
    """Put (batch, encoded) for everything that is to do, then None, or the exception that ended it."""
    last: Any = None
    try:
        for number, source in job.todo():
            batches = source.batches(number, job.settings, job.done.get(number, ()))
            start = time.monotonic()
            for batch in batches:
                start = meter.spend("reading", start)
                encoded = scanner.encode(batch.documents)
                meter.spend("tokenising", start)
                if stopped.is_set():
                    return
                ready.put((batch, encoded))
                start = time.monotonic()
    except BaseException as error:
        last = error
    ready.put(last)
