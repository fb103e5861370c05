"""`Job`: a scan that is ready to run, and `Meter`: how far it is."""

import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from wmcore.calibration import Calibration
from wmcore.errors import WatermarkError
from wmcore.scan.manifest import MANIFEST, read_manifest
from wmcore.scan.passed import PassedOver
from wmcore.scan.settings import ScanSettings
from wmcore.scan.sources import Source, open_sources
from wmcore.scan.stdin import STDIN
from wmcore.scan.store import Store
from wmcore.scan.windows import window_and_stride
from wmcore.scan.worker import Scanner
from wmcore.schemes import LOCAL, SCHEMES
from wmcore.scores import Scores
from wmcore.significance import derived_seed
from wmcore.types import BackendName
from wmcore.watermark import Watermark

NOTABLE = 1e-3
"""Progress counts documents with p of at most this."""


_LOCAL_CALIBRATED = 256
"""The longest window of a local scheme that a calibrated first pass decides."""


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


@dataclass(frozen=True)
class Job:
    """A scan that is ready to run: what is read, how it is tested, where results go, and what is done already.

    Attributes
    ----------
    watermark, settings, tokenizer, backend, threads
        As for `wmcore.scan.scan`; the settings have a seed and the tokenizer's name.
    sources : list of Source
    store : Store or None
        Open, until the job is left (it is a context manager).
    done : dict of int to set of int
        The shards of each input that are done.
    whole : set of int
        The inputs that are done.
    calibration : Calibration or None
        Of a calibrated first pass.
    passed : PassedOver
        What the folders hold that is not read.
    """

    watermark: Watermark
    settings: ScanSettings
    sources: list[Source]
    store: Store | None
    tokenizer: Any
    backend: BackendName
    threads: int | None
    done: dict[int, set[int]] = field(default_factory=dict)
    whole: set[int] = field(default_factory=set)
    calibration: Calibration | None = None
    passed: PassedOver = field(default_factory=PassedOver)

    @classmethod
    def open(
        cls,
        inputs: Sequence[str],
        watermark: Watermark,
        output: str | os.PathLike[str] | None,
        settings: ScanSettings,
        *,
        tokenizer: Any = None,
        backend: BackendName = "auto",
        threads: int | None = None,
    ) -> "Job":
        """Look at the inputs, lock the output and compare it with what it was begun with."""
        _check_fdr(watermark, settings)
        passed = PassedOver()
        sources = open_sources(inputs, output, passed)
        if passed.reasons:
            warnings.warn(str(passed), stacklevel=2)
        if settings.first == "calibrated" and any(source.name == STDIN for source in sources):
            raise WatermarkError(
                "first is 'calibrated', which reads the first documents twice, and standard input can be read once: "
                "give a file, or first='resamples'"
            )
        store = None if output is None else Store(output)
        try:
            tokenizer, settings = _settled(watermark, store, tokenizer, settings)
            done: dict[int, set[int]] = {}
            whole: set[int] = set()
            if store is not None:
                store.begin(watermark, [s.identity() for s in sources], settings)
                done, whole = store.done()
            job = cls(watermark, settings, sources, store, tokenizer, backend, threads, done, whole)
            job = replace(job, passed=passed)
            if settings.first == "calibrated" and job.todo():
                job = replace(job, calibration=_calibration(job))
        except BaseException:
            if store is not None:
                store.close()
            raise
        return job

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        if self.store is not None:
            self.store.close()

    def todo(self) -> list[tuple[int, Source]]:
        """The inputs that are not done, with their numbers."""
        return [(n, s) for n, s in enumerate(self.sources) if n not in self.whole]

    def scanner(self, **changes: Any) -> Scanner:
        """What tests the documents, with these settings changed."""
        return Scanner(
            self.watermark,
            replace(self.settings, **changes),
            tokenizer=self.tokenizer,
            backend=self.backend,
            threads=self.threads,
            calibration=self.calibration,
        )


class Meter:
    """Counts what a runner has done and tells how far a job is.

    Parameters
    ----------
    job : Job
    on_progress : callable, optional
        Called with the `Progress` after each batch.
    """

    def __init__(self, job: Job, on_progress: Callable[[Progress], None] | None = None) -> None:
        self.progress = Progress()
        self._on_progress = on_progress
        self._began = time.monotonic()
        inputs = [{} for _ in job.sources] if job.store is None else job.store.manifest["inputs"]
        self._sizes = [1 + int(i.get("size", 0)) for i in inputs]  # what inputs weigh
        self._shares = dict.fromkeys(job.whole, 1.0)
        self._resumed = bool(job.done)
        self._before: float | None = None

    def count(self, rows: list[dict[str, Any]], source: int, share: float) -> None:
        """Take note of new results of an input, of which this share was read."""
        progress = self.progress
        progress.documents += len(rows)
        progress.errors += sum(row["error"] is not None for row in rows)
        progress.notable += sum(
            row.get("p_value") is not None and row["p_value"] <= NOTABLE for row in rows
        )
        self._shares[source] = share
        read = sum(size * self._shares.get(n, 0.0) for n, size in enumerate(self._sizes))
        progress.share = min(1.0, read / sum(self._sizes))
        self._time()
        if self._before is None:
            # Until the first batch is done, what was done before and what is new cannot be told apart.
            self._before = progress.share if self._resumed else 0.0
        gained = progress.share - self._before
        progress.left = progress.seconds * (1 - progress.share) / gained if gained > 0 else None
        self.tell()

    def spend(self, activity: str, since: float) -> float:
        """Add the seconds since a time of `time.monotonic` to an activity; returns the time now."""
        now = time.monotonic()
        self.progress.spent[activity] += now - since
        return now

    def end(self) -> Progress:
        """Everything is done."""
        self.progress.share, self.progress.left = 1.0, 0.0
        self._time()
        return self.progress

    def tell(self) -> None:
        """Call `on_progress`."""
        if self._on_progress is not None:
            self._on_progress(self.progress)

    def _time(self) -> None:
        self.progress.seconds = time.monotonic() - self._began


def _check_fdr(watermark: Watermark, settings: ScanSettings) -> None:
    """WatermarkError for e-BH without e-values."""
    if settings.fdr != "ebh":
        return
    scheme = settings.statistic(watermark).scheme
    if not scheme.evalues:
        known = [other.name for other in SCHEMES.values() if other.evalues]
        raise WatermarkError(
            f"fdr is 'ebh', but scheme {scheme.name!r} has no e-values, as {', '.join(known)} have: "
            "use 'bh' or 'by'"
        )
    if not watermark.key.fair:
        raise WatermarkError(
            "fdr is 'ebh', but this published key's rounded numbers do not have the law that e-values ask for: "
            "use 'bh' or 'by'"
        )


def _settled(
    watermark: Watermark, store: Store | None, tokenizer: Any, settings: ScanSettings
) -> tuple[Any, ScanSettings]:
    """The tokenizer that is used, and the settings with its name, that of the scores, and a seed."""
    if settings.tokens_field is None:
        tokenizer = tokenizer or settings.tokenizer or watermark.tokenizer
        if tokenizer is None:
            raise WatermarkError(
                "no tokenizer is given and the watermark names none: give its model's (--tokenizer)"
            )
        named = isinstance(tokenizer, str)
        name = tokenizer if named else getattr(tokenizer, "name_or_path", None)
        settings = replace(settings, tokenizer=name)
    statistic = settings.statistic(watermark)
    window, stride = window_and_stride(settings, statistic.scheme)
    settings = replace(settings, window=window, stride=stride)
    if window > watermark.key_length and not statistic.scheme.alignment.scored:
        warnings.warn(
            f"window is {window} tokens, longer than the key's {watermark.key_length} rows, which rules out "
            f"the proven bound for strong watermarks: use a window of {watermark.key_length}",
            stacklevel=4,
        )
    scores = settings.scores(watermark)
    settings = replace(settings, score_name=scores.name if isinstance(scores, Scores) else scores)
    if settings.seed is None:
        seed = watermark.key.default_seed
        if store is not None and (store.path / MANIFEST).exists():
            seed = read_manifest(store.path)["settings"].get("seed", seed)
        settings = replace(settings, seed=seed)
    return tokenizer, settings


def _calibration(job: Job) -> Calibration:
    """The null of a calibrated first pass, made of the first documents and kept in the output."""
    path = None if job.store is None else job.store.path / "calibration.npz"
    if path is not None and path.exists():
        return Calibration.load(path)
    settings = job.settings
    scanner = job.scanner(first="resamples")
    window = scanner.window
    if scanner.detector.statistic.scheme.alignment == LOCAL:
        window = min(window, _LOCAL_CALIBRATED)  # longer ones take resamples
    tokens: list[np.ndarray] = []
    for number, source in enumerate(job.sources):
        batch = next(source.batches(number, settings, ()))
        tokens += [c[0] for c in scanner.encode(batch.documents) if c is not None]
        if sum(map(len, tokens)) >= 64 * window:
            break
    stream = np.concatenate([np.empty(0, np.int64), *tokens])
    stream = stream[(stream >= 0) & (stream < job.watermark.vocab_size)]
    statistic = scanner.detector.statistic
    least = max(statistic.block_length or 1, min(16, window))
    if len(stream) < window:
        raise WatermarkError(
            f"first is 'calibrated', but the first documents have {len(stream)} tokens, fewer than a window of "
            f"{window}: use first='resamples'"
        )
    lengths = np.unique(np.geomspace(least, window, 12).astype(int)).tolist()
    made = Calibration.fit(
        job.watermark,
        lengths,
        2000,
        tokens=[stream],
        statistic=statistic,
        seed=derived_seed(settings.seed or 0, "calibration"),
        threads=job.threads,
        backend=job.backend,
    )
    if job.store is not None:
        job.store.replace("calibration.npz", made.save)
    return made
