"""`scan`: sources to shards on this machine. A thread reads and tokenises while the main one tests and writes."""

import os
import queue
import secrets
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from wmcore.calibration import Calibration
from wmcore.errors import WatermarkError
from wmcore.scan.documents import Batch
from wmcore.scan.finish import finish
from wmcore.scan.readers import Source, open_sources
from wmcore.scan.settings import ScanSettings
from wmcore.scan.store import MANIFEST, Store, read_manifest
from wmcore.scan.worker import Encoded, Scanner
from wmcore.significance import derived_seed
from wmcore.watermark import Watermark

NOTABLE = 1e-3
"""Progress counts documents with p of at most this."""

Shard = tuple[int, int, bool, list[dict[str, Any]]]
"""(input, shard, whether it is the input's last, rows)."""


@dataclass
class Progress:
    """How far a scan is.

    Attributes
    ----------
    documents, errors, notable : int
        Of this run: results, those with an error, those with p <= 0.001.
    seconds : float
        Since it began.
    share : float
        Of the input that was read, 0 to 1.
    left : float or None
        Seconds that remain at this rate.
    spent : dict of str to float
        Seconds of reading, tokenising, detecting and writing (the first two run beside the others).
    """

    documents: int = 0
    errors: int = 0
    notable: int = 0
    seconds: float = 0.0
    share: float = 0.0
    left: float | None = None
    spent: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(
            ("reading", "tokenising", "detecting", "writing"), 0.0
        )
    )

    @property
    def rate(self) -> float:
        """Documents per second."""
        return self.documents / self.seconds if self.seconds else 0.0


@dataclass
class Job:
    """A scan that is ready to run: what is read, how it is tested, where results go, and what is done already."""

    watermark: Watermark
    settings: ScanSettings
    sources: list[Source]
    store: Store | None
    manifest: dict[str, Any]
    tokenizer: Any
    backend: str
    threads: int | None
    calibration: Calibration | None = None
    done: dict[int, set[int]] = field(default_factory=dict)
    whole: set[int] = field(default_factory=set)
    progress: Progress = field(default_factory=Progress)
    shares: dict[int, float] = field(default_factory=dict)
    on_progress: Callable[[Progress], None] | None = None
    began: float = field(default_factory=time.monotonic)
    share_before: float | None = None

    def todo(self) -> list[tuple[int, Source]]:
        """The inputs that are not done, with their numbers."""
        return [(n, s) for n, s in enumerate(self.sources) if n not in self.whole]

    def count(self, rows: list[dict[str, Any]], source: int, share: float) -> None:
        """Take note of new results of an input, of which this share was read, and tell `on_progress`."""
        progress = self.progress
        progress.documents += len(rows)
        progress.errors += sum(row["error"] is not None for row in rows)
        progress.notable += sum(
            row.get("p_value") is not None and row["p_value"] <= NOTABLE for row in rows
        )
        self.shares[source] = share
        self._time()
        if self.on_progress is not None:
            self.on_progress(progress)

    def _time(self) -> None:
        """Update seconds, share and left, weighing inputs by their sizes."""
        progress = self.progress
        sizes = [1 + int(i.get("size", 0)) for i in self.manifest.get("inputs", [])]
        if len(sizes) != len(self.sources):
            sizes = [1] * len(self.sources)
        read = sum(
            size * (1.0 if n in self.whole else self.shares.get(n, 0.0))
            for n, size in enumerate(sizes)
        )
        progress.share = min(1.0, read / sum(sizes))
        progress.seconds = time.monotonic() - self.began
        if self.share_before is None:
            # Until the first batch is done, what was done before and what is new cannot be told apart.
            self.share_before = progress.share if self.done else 0.0
        gained = progress.share - self.share_before
        progress.left = progress.seconds * (1 - progress.share) / gained if gained > 0 else None

    def scanner(self) -> Scanner:
        """What tests the documents."""
        return Scanner(
            self.watermark,
            self.settings,
            tokenizer=self.tokenizer,
            backend=self.backend,
            threads=self.threads,
            calibration=self.calibration,
        )


def scan(
    inputs: str | os.PathLike | Sequence[str | os.PathLike],
    watermark: Watermark,
    output: str | os.PathLike | None = None,
    *,
    tokenizer: Any = None,
    settings: ScanSettings | None = None,
    backend: str = "auto",
    threads: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    engine: Callable[[Job], Iterator[Shard]] | None = None,
    **options: Any,
) -> Iterator[dict[str, Any]]:
    """Test every document of a corpus for a watermark; results stream out as they are found.

    Parameters
    ----------
    inputs : str, path or sequence of them
        JSON Lines files (.jsonl, .ndjson, also .gz and .zst), Parquet files, text files, folders of them, or fsspec
        URLs of any.
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
    engine : callable, optional
        What makes shards of a `Job`; default `local_shards`, another is that of `wmcore.bindings.ray`.
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
    given = replace(settings or ScanSettings(), **options)
    return _scan(
        [os.fspath(i) for i in inputs],
        watermark,
        output,
        tokenizer,
        given,
        backend,
        threads,
        on_progress,
        engine or local_shards,
    )


def _scan(
    inputs: list[str],
    watermark: Watermark,
    output: str | os.PathLike | None,
    tokenizer: Any,
    settings: ScanSettings,
    backend: str,
    threads: int | None,
    on_progress: Callable[[Progress], None] | None,
    engine: Callable[[Job], Iterator[Shard]],
) -> Iterator[dict[str, Any]]:
    with ExitStack() as stack:
        sources = open_sources(inputs)
        store = stack.enter_context(Store(output)) if output is not None else None
        job = _prepare(sources, watermark, store, tokenizer, settings, backend, threads)
        job.on_progress = on_progress
        if store is not None and job.todo() and job.manifest["summary"] is not None:
            # Shards of a finished scan are missing: until they are made anew and q-values are filled in, it is not.
            job.manifest["summary"] = None
            store.save(job.manifest)
        made = engine(job)
        stack.callback(made.close)  # type: ignore[attr-defined]
        progress = job.progress
        for source, shard, end, rows in made:
            if store is not None:
                start = time.monotonic()
                store.write(source, shard, end, rows)
                progress.spent["writing"] += time.monotonic() - start
            yield from rows
        progress.share, progress.left = 1.0, 0.0
        progress.seconds = time.monotonic() - job.began
        if store is not None and job.manifest["summary"] is None:
            _check_unchanged(job)
            job.manifest["summary"] = finish(store, job.settings)
            job.manifest["seconds"] += time.monotonic() - job.began
            job.manifest["timed"] = job.manifest.get("timed", 0) + progress.documents
            job.manifest["spent"] = {
                name: round(job.manifest.get("spent", {}).get(name, 0.0) + seconds, 3)
                for name, seconds in progress.spent.items()
            }
            store.save(job.manifest)
        if on_progress is not None:
            on_progress(progress)


def _check_unchanged(job: Job) -> None:
    """Raise WatermarkError if an input changed while it was read."""
    for source, before in zip(job.sources, job.manifest["inputs"], strict=True):
        if any(before.get(name) != value for name, value in source.identity().items()):
            raise WatermarkError(
                f"input {source.name} changed while it was read, so that results may be of either state: "
                "scan it anew into another folder, once it is at rest"
            )


def local_shards(job: Job) -> Iterator[Shard]:
    """The shards that a job lacks, made on this machine."""
    if not job.todo():
        return
    scanner = job.scanner()
    ready: queue.Queue[Any] = queue.Queue(maxsize=1)
    stopped = threading.Event()
    reader = threading.Thread(
        target=_read, args=(job, scanner, ready, stopped), name="wmcore-reader", daemon=True
    )
    reader.start()
    rows: list[dict[str, Any]] = []
    spent = job.progress.spent
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            batch, encoded = item
            start = time.monotonic()
            new = scanner.rows(batch, encoded)
            spent["detecting"] += time.monotonic() - start
            job.count(new, batch.source, batch.done)
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


def _read(job: Job, scanner: Scanner, ready: "queue.Queue[Any]", stopped: threading.Event) -> None:
    """Put (batch, encoded) for everything that is to do, then None, or the exception that ended it."""
    spent = job.progress.spent
    last: Any = None
    try:
        for number, source in job.todo():
            batches = source.batches(number, job.settings, job.done.get(number, ()))
            while True:
                start = time.monotonic()
                batch: Batch | None = next(batches, None)
                middle = time.monotonic()
                spent["reading"] += middle - start
                if batch is None:
                    break
                encoded: Encoded = scanner.encode(batch.documents)
                spent["tokenising"] += time.monotonic() - middle
                if stopped.is_set():
                    return
                ready.put((batch, encoded))
    except BaseException as error:
        last = error
    ready.put(last)


def _prepare(
    sources: list[Source],
    watermark: Watermark,
    store: Store | None,
    tokenizer: Any,
    settings: ScanSettings,
    backend: str,
    threads: int | None,
) -> Job:
    if settings.tokens_field is None:
        chosen = tokenizer or settings.tokenizer or watermark.tokenizer
        name = chosen if isinstance(chosen, str) else getattr(chosen, "name_or_path", None)
        settings = replace(settings, tokenizer=name)
        if chosen is None:
            raise WatermarkError(
                "no tokenizer is given and the watermark names none: give its model's (--tokenizer)"
            )
        tokenizer = chosen
    if settings.window > watermark.key_length:
        warnings.warn(
            f"window is {settings.window} tokens, longer than the key's {watermark.key_length} rows, which rules out "
            f"the proven bound for strong watermarks: use a window of {watermark.key_length}",
            stacklevel=4,
        )
    if settings.seed is None:
        seed = secrets.randbits(63)
        if store is not None and (store.path / MANIFEST).exists():
            seed = read_manifest(store.path)["settings"].get("seed", seed)
        settings = replace(settings, seed=seed)
    manifest: dict[str, Any] = {"summary": None, "seconds": 0.0}
    done: dict[int, set[int]] = {}
    whole: set[int] = set()
    if store is not None:
        mark = {
            "fingerprint": watermark.fingerprint,
            "scheme": watermark.scheme,
            "vocab_size": watermark.vocab_size,
            "key_length": watermark.key_length,
            "block_length": watermark.block_length,
            "gap": watermark.gap,
        }
        manifest = store.begin(mark, [s.identity() for s in sources], settings)
        done, whole = store.done()
    job = Job(
        watermark,
        settings,
        sources,
        store,
        manifest,
        tokenizer,
        backend,
        threads,
        None,
        done,
        whole,
    )
    if settings.first == "calibrated" and job.todo():
        job.calibration = _calibration(job)
    return job


def _calibration(job: Job) -> Calibration:
    """The null of a calibrated first pass, made of the first documents and kept in the output."""
    path = None if job.store is None else Path(job.store.path) / "calibration.npz"
    if path is not None and path.exists():
        return Calibration.load(path)
    settings = job.settings
    scanner = Scanner(
        job.watermark,
        replace(settings, first="resamples"),
        tokenizer=job.tokenizer,
        threads=job.threads,
    )
    tokens: list[np.ndarray] = []
    for number, source in enumerate(job.sources):
        batch = next(source.batches(number, settings, ()))
        tokens += [c[0] for c in scanner.encode(batch.documents) if c is not None]
        if sum(map(len, tokens)) >= 64 * settings.window:
            break
    stream = np.concatenate([np.empty(0, np.int64), *tokens])
    stream = stream[(stream >= 0) & (stream < job.watermark.vocab_size)]
    least = max(job.watermark.block_length or 1, min(16, settings.window))
    if len(stream) < settings.window:
        raise WatermarkError(
            f"first is 'calibrated', but the first documents have {len(stream)} tokens, fewer than a window of "
            f"{settings.window}: use first='resamples'"
        )
    lengths = np.unique(np.geomspace(least, settings.window, 12).astype(int)).tolist()
    made = Calibration.fit(
        job.watermark,
        lengths,
        2000,
        tokens=[stream],
        seed=derived_seed(settings.seed or 0, "calibration"),
        threads=job.threads,
        backend=job.backend,
    )
    if job.store is not None:
        job.store.replace("calibration.npz", made.save)
    return made
