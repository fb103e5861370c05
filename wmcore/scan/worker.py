"""`Scanner`: documents in, rows of results out. The one place where a scan tokenises and tests, on any engine."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from wmcore.calibration import Calibration
from wmcore.characters import characters
from wmcore.detect import Detector
from wmcore.errors import WatermarkError
from wmcore.plan import Columns, run
from wmcore.records import Document
from wmcore.scan.batch import Batch
from wmcore.scan.settings import ScanSettings
from wmcore.scan.windows import Encoder, check_window, window_and_stride
from wmcore.schemes import LOCAL
from wmcore.significance import derived_seed
from wmcore.statistic import WHOLE_TEXT
from wmcore.types import BackendName
from wmcore.watermark import Watermark
from wmcore.windows import best_window, corrected, starts

EXCERPT_BELOW = 1e-3
_BEFORE = 200  # characters of an excerpt before and after the span
_LONGEST = 3000  # characters of an excerpt
_WINDOWS = 16_384  # windows tested at a time
Encoded = list[tuple[np.ndarray, Any] | None]


class Scanner:
    """Tests batches of documents for one watermark.

    Parameters
    ----------
    watermark : Watermark
    settings : ScanSettings
        With a seed.
    tokenizer : str or tokenizer, optional
        Default: the settings' tokenizer, unless documents come as token ids.
    backend, threads
        As for `Detector`.
    calibration : Calibration, optional
        Of a calibrated first pass.
    """

    def __init__(
        self,
        watermark: Watermark,
        settings: ScanSettings,
        *,
        tokenizer: Any = None,
        backend: BackendName = "auto",
        threads: int | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        if settings.seed is None:
            raise WatermarkError("seed is None, but a Scanner needs one: give ScanSettings a seed")
        if tokenizer is None and settings.tokens_field is None:
            tokenizer = settings.tokenizer
        self.detector = Detector(
            watermark,
            scheme=settings.scheme,
            gap=settings.gap,
            block_length=settings.block_length,
            score=settings.scores(watermark),
            backend=backend,
            threads=threads,
            tokenizer=tokenizer,
        )
        self.settings = settings
        self.window, self.stride = window_and_stride(settings, self.detector.statistic.scheme)
        check_window(self.detector.engine, self.window)
        self.calibration = calibration
        self._encoder = (
            None
            if self.detector.tokenizer is None
            else Encoder(self.detector.tokenizer, self.window)
        )

    def encode(self, documents: Sequence[Document]) -> Encoded:
        """Token ids of each document and what maps them to characters; None where there is an error."""
        given = [d.text for d in documents if d.text is not None and d.error is None]
        if given and self._encoder is None:
            raise WatermarkError(
                "no tokenizer is given and the watermark names none: give its model's (--tokenizer)"
            )
        statistic = self.detector.statistic
        spans = statistic.block_length is not None or statistic.scheme.alignment == LOCAL
        coded = iter(self._encoder.encode(given, spans) if self._encoder and given else ())
        encoded: Encoded = []
        for d in documents:
            if d.error is not None:
                encoded.append(None)
            elif d.text is not None:
                encoded.append(next(coded))
            else:
                encoded.append((np.empty(0, np.int64) if d.tokens is None else d.tokens, None))
        return encoded

    def rows(self, batch: Batch, encoded: Encoded | None = None) -> list[dict[str, Any]]:
        """A row for each document of a batch, in order: see `store.SCHEMA`.

        Rows depend on the watermark, the settings, the document and its shard, not on the rest of the batch.
        """
        documents = batch.documents
        if encoded is None:
            encoded = self.encode(documents)
        seed = derived_seed(self.settings.seed or 0, batch.source, batch.shard)
        rows: list[dict[str, Any] | None] = [None] * len(documents)
        held: list[int] = []
        windows = 0
        for i, coded in enumerate(encoded):
            if coded is None:
                rows[i] = self._row(batch, documents[i], None, None, [])
                continue
            held.append(i)
            windows += max(1, len(coded[0]) // self.stride)
            if windows >= _WINDOWS:
                self._test(batch, held, encoded, rows, seed)
                held, windows = [], 0
        self._test(batch, held, encoded, rows, seed)
        return [row for row in rows if row is not None]

    def _test(
        self, batch: Batch, held: list[int], encoded: Encoded, rows: list[Any], seed: int
    ) -> None:
        """Fill in the rows of the documents with the numbers `held`."""
        if not held:
            return
        detector, window, stride = self.detector, self.window, self.stride
        pieces: list[np.ndarray] = []
        edges: list[tuple[int, list[int], int]] = []  # document, window starts, first piece
        errors: dict[int, str] = {}
        read = detector.read([_ids(encoded[i]) for i in held])
        for place, (_, error) in read.failed.items():
            errors[held[place]] = error
        for array, place in zip(read.arrays, read.places, strict=True):
            at = starts(len(array), window, stride)
            edges.append((held[place], at, len(pieces)))
            pieces += [array[s : s + window] for s in at]
        # A whole text may be too long to align at once; its windows are not.
        for i in [i for i, e in errors.items() if len(_ids(encoded[i])) > window]:
            ids = _ids(encoded[i])
            at = starts(len(ids), window, stride)
            cut = detector.read([ids[s : s + window] for s in at])
            if not cut.failed:
                del errors[i]
                edges.append((i, at, len(pieces)))
                pieces += cut.arrays
        owners = [i for i, at, _ in edges for _ in at]
        plan = self.settings.plan
        found = run(
            plan,
            detector.subject,
            pieces,
            seed=seed,
            calibration=self.calibration,
            documents=owners,
        )
        controls = [
            run(plan, control.subject, pieces, seed=seed, documents=owners).p_value
            for control in self._controls()
        ]
        for i, at, first in edges:
            mine = slice(first, first + len(at))
            p = [corrected(null[mine]) for null in controls]
            rows[i] = self._row(batch, batch.documents[i], encoded[i], (at, first, found), p)
        for i, error in errors.items():
            document = batch.documents[i]
            failed_document = Document(document.position, document.id, error=error)
            rows[i] = self._row(batch, failed_document, encoded[i], None, [])

    def _controls(self) -> list[Detector]:
        """Detectors like this one for control keys."""
        marks = control_watermarks(
            self.detector.watermark, self.settings.seed or 0, self.settings.controls
        )
        statistic, engine = self.detector.statistic, self.detector.engine
        return [
            Detector(
                mark,
                scheme=statistic.scheme.name,
                gap=statistic.gap,
                block_length=statistic.block_length or WHOLE_TEXT,
                score=statistic.scores,
                backend=engine.backend.name,
                threads=engine.threads,
            )
            for mark in marks
        ]

    def _row(
        self,
        batch: Batch,
        document: Document,
        coded: tuple[np.ndarray, Any] | None,
        tested: tuple[list[int], int, Columns] | None,
        controls: list[float],
    ) -> dict[str, Any]:
        row: dict[str, Any] = {
            "source": batch.source,
            "position": document.position,
            "id": document.id,
            "length": None if coded is None else len(coded[0]),
            "error": document.error,
        }
        if tested is None or coded is None:
            return row
        at, first_piece, found = tested
        mine = slice(first_piece, first_piece + len(at))
        best = first_piece + best_window(found, mine)
        start = at[best - first_piece]
        first, last = start + int(found.block[best]), start + int(found.stop[best])
        p = corrected(found.p_value[mine])
        log_e = float(np.logaddexp.reduce(found.log_e[mine])) - math.log(len(at))
        row |= {
            "p_value": p,
            "log_e": log_e if log_e > -math.inf else None,
            "statistic": float(found.statistic[best]),
            "shift": int(found.shift[best]),
            "window": {"start": first, "end": last},
            "windows": len(at),
            "resamples": int(found.resamples[mine].sum()),
            "method": str(found.method[best]),
        }
        if controls:
            row["controls"] = controls
        if document.text is None:
            return row
        span: tuple[int, int] | None = None
        if (first, last) == (0, len(coded[0])):
            span = (0, len(document.text))
        elif first < last:  # a local alignment may have found nothing at all
            span = characters(coded[1], first, last)
        if span is not None:
            row["span"] = {"start": span[0], "end": span[1]}
            if p <= EXCERPT_BELOW and self.settings.excerpts:
                begin = max(0, span[0] - _BEFORE)
                end = min(span[1] + _BEFORE, begin + _LONGEST)
                row["excerpt"] = {"start": begin, "text": document.text[begin:end]}
        return row


@lru_cache(maxsize=4)
def control_watermarks(watermark: Watermark, seed: int, count: int) -> list[Watermark]:
    """Watermarks like this one with keys that no text carries, made from the scan's seed and the secret."""
    seeds = (derived_seed(seed, "control", c).to_bytes(32, "little") for c in range(count))
    key = watermark.key
    return [
        replace(watermark, key=key.control(watermark.sampler, each), tokenizer=None)
        for each in seeds
    ]


def _ids(coded: tuple[np.ndarray, Any] | None) -> np.ndarray:
    assert coded is not None
    return coded[0]
