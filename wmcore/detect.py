"""`Detector`: texts in, `Detection` records out. A bad text costs nothing else, a long one is tested in windows."""

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from wmcore.binning import binning
from wmcore.checks import real_number, text_list, thread_count, token_ids
from wmcore.detection import Detection
from wmcore.engine import Alignment, Engine
from wmcore.errors import WatermarkError, reason
from wmcore.learned_scores import chosen_scores
from wmcore.plan import MOST, RESAMPLES, STOP_AFTER, Columns, Plan, Subject, look_up, run
from wmcore.scores import Scores
from wmcore.significance import seed_key
from wmcore.watermark import Watermark, checked_watermark
from wmcore.windows import best_window, corrected, fitting_window, plan_of_windows, starts

if TYPE_CHECKING:
    from wmcore.calibration import Calibration

__all__ = ["Alignment", "Detection", "Detector"]


@dataclass(frozen=True)
class Readable:
    """What can be tested of a batch.

    arrays : token ids, int64, of each good text; places : its place in the batch; failed : {place: (length or None,
    what is wrong)} of the others; long : {place: token ids} of those that failed but can be tested in windows.
    """

    arrays: list[np.ndarray]
    places: list[int]
    failed: dict[int, tuple[int | None, str]]
    long: dict[int, np.ndarray]


class Detector:
    """Finds one watermark in texts.

    Parameters
    ----------
    watermark : Watermark
    scheme, gap, block_length : optional
        How to test, where not as the watermark says: see `Watermark.tested_as`. A scheme of the same sampler; a gap
        cost; the tokens aligned at a time (0 for the whole text).
    score : str, path or Scores, optional
        What a free or local scheme adds up: a name of `wmcore.scores.SCORES`, learnt scores (`wmcore.learned_scores`),
        or their file (.json). Default: the scheme's. It implies the free scheme unless one is given, as a proxy does.
    proxy : optional
        What says of each token how expected it was, for scores by a proxy: a model of the watermark's tokenizer, a name
        for `wmcore.models.load_model`, or a callable (`wmcore.proxy`). Without a score, tables learnt from SmolLM2.
    backend : {"auto", "cpu", "cuda"}
        "auto" takes "cuda" where CuPy and a device work, else "cpu"; `Detection.backend` says which ran.
    threads : int, optional
        CPU threads (default: the cores this process may use). No result depends on it.
    tokenizer : str or tokenizer, optional
        Needed for texts given as strings: a name for `wmcore.models.load_tokenizer`, or an object of transformers.

    Raises
    ------
    WatermarkError
        For a scheme of another sampler, a backend that is unknown or cannot run here (with the reason), or a bad
        number.
    """

    def __init__(
        self,
        watermark: Watermark,
        *,
        scheme: str | None = None,
        gap: float | None = None,
        block_length: int | None = None,
        score: Scores | str | os.PathLike | None = None,
        proxy: Any = None,
        backend: str = "auto",
        threads: int | None = None,
        tokenizer: Any = None,
    ) -> None:
        self.watermark = checked_watermark("watermark", watermark)
        scores = chosen_scores(watermark.sampler, watermark.vocab_size, score, proxy)
        self.statistic = watermark.tested_as(scheme, gap, block_length, scores)
        problem = watermark.problem(self.statistic)
        self.costs = watermark.key.costs(problem)
        self.engine = Engine(
            backend,
            problem,
            self.statistic.block_length,
            thread_count(threads),
            binning(self.statistic, self.costs),
        )
        self.tokenizer = _tokenizer(tokenizer, watermark)

    @property
    def backend(self) -> str:
        """The backend that runs."""
        return self.engine.backend.name

    @property
    def threads(self) -> int:
        """CPU threads."""
        return self.engine.threads

    @property
    def subject(self) -> Subject:
        """What texts are tested for, as `plan.run` takes it."""
        key = self.watermark.key
        return Subject(self.statistic, self.engine, self.costs, key.fair, key.salt)

    def __repr__(self) -> str:
        return f"Detector({self.watermark!r}, scheme={self.statistic.scheme.name!r}, backend={self.backend!r})"

    def detect(
        self,
        texts: Sequence[Any],
        *,
        plan: Plan | None = None,
        resamples: int | None = None,
        stop_after: int | None = STOP_AFTER,
        seed: int | None = None,
        calibration: "Calibration | None" = None,
        level: float | None = None,
        alignment: bool = False,
    ) -> list[Detection]:
        """Test each text for the watermark (paper, Algorithm 2, with exact p-values).

        Parameters
        ----------
        texts : sequence
            Each a sequence of token ids (list, NumPy or torch, integers below vocab_size), or a string. Of an array of
            two dimensions each row is a text: cut prompts and padding off first.
        plan : Plan, optional
            How p is found. Default: a proven bound, which needs no resamples, for strongly watermarked texts; 1,999
            resamples, stopped early, for the rest (`wmcore.plan` says why p is valid); more for a text that is too
            long to be aligned at once (`wmcore.windows`).
        resamples : int, optional
            T: instead of a plan, the plain permutation test. The least possible p is 1 / (T + 1).
        stop_after : int or None
            Of the plain permutation test: stop a text after this many resamples that fit it as well as the key
            (Besag and Clifford 1991), which leaves p valid and makes texts without a watermark cheap. None uses all
            resamples: p = (1 + hits) / (T + 1).
        seed : int, optional
            Seed of the resampled keys (default: `Key.default_seed`, so that a text has one p under a key, today and
            tomorrow, whatever else is tested). It is mixed with the key: an author who knows the seed, but not the
            key, cannot foresee them. Not so with a published key, whose numbers anybody can make.
        calibration : Calibration, optional
            Take p from its stored statistics instead: approximate, and much faster.
        level : float, optional
            Instead of a plan: resamples enough for a p of half of this level, and as many more for a text in windows.
        alignment : bool
            Also report which token met which key row.

        Returns
        -------
        list of Detection
            One for each text, in order. A text that cannot be tested has `error` set.

        Raises
        ------
        WatermarkError
            For a number out of range, a level that would need over 2^31 resamples, a calibration of another scheme,
            or a plan or level beside another way to find p.
        TypeError
            For one text, a dict or a tokenizer's output in place of a list of texts.

        Notes
        -----
        Time: about 2 n * m additions a resample without edits; with edits, m * (n + m) cells of three operations for
        those that a bound decides, and some thirty times that for each of the others.
        Memory does not depend on the number of resamples.
        """
        if plan is not None:
            _alone(
                "plan",
                resamples=resamples is not None,
                stop_after=stop_after != STOP_AFTER,
                calibration=calibration is not None,
            )
        if level is not None:
            _alone(
                "level",
                plan=plan is not None,
                resamples=resamples is not None,
                calibration=calibration is not None,
            )
            chosen = Plan(resamples_for(level), stop_after)
        else:
            chosen = _plan(plan, resamples, stop_after)
        if calibration is not None:
            calibration.check(self.statistic, self.engine.problem)
        batch = self.read(texts)
        if calibration is not None:
            batch = _calibrated_only(calibration, batch)
        results: list[Detection | None] = [None] * (len(batch.places) + len(batch.failed))
        for place, (length, error) in batch.failed.items():
            results[place] = Detection.failed(error, self.backend, length)
        seed = self.seed(seed)
        for place, array in batch.long.items():
            by_default = plan is None and resamples is None
            results[place] = self._in_windows(array, chosen, by_default, seed, alignment)
        if batch.arrays:
            if calibration is None:
                columns = run(chosen, self.subject, batch.arrays, seed=seed)
            else:
                columns = look_up(self.subject, batch.arrays, calibration)
            for i, (place, array) in enumerate(zip(batch.places, batch.arrays, strict=True)):
                results[place] = self._detection(columns, i, array if alignment else None)
        return [result for result in results if result is not None]

    def read(self, texts: Sequence[Any]) -> Readable:
        """Token ids of the texts that can be tested, and what is wrong with the others."""
        batch = Readable([], [], {}, {})
        for place, text in enumerate(text_list("texts", texts)):
            array, length, error = self._tokens(text)
            if array is not None:
                error = self.engine.error(len(array)) or self._unread(array)
            if array is None or error is not None:
                batch.failed[place] = length, str(error)
                if array is not None and self._window(array) is not None:
                    batch.long[place] = array
            else:
                batch.arrays.append(array)
                batch.places.append(place)
        return batch

    def seed(self, seed: int | None) -> int:
        """The seed itself, or that of the key where none is given."""
        return self.watermark.key.default_seed if seed is None else seed

    def seed_key(self, seed: int | None) -> np.ndarray:
        """The ChaCha key of this detector's resamples: uint32 [8]."""
        return seed_key(self.seed(seed), self.watermark.key.salt)

    def _window(self, array: np.ndarray) -> int | None:
        """Tokens in the windows in which a text is tested; None where it need not or cannot be."""
        if not self.engine.too_long(len(array)):
            return None
        return fitting_window(self.engine, self.statistic.scheme, len(array))

    def _in_windows(
        self, array: np.ndarray, plan: Plan, by_default: bool, seed: int, alignment: bool
    ) -> Detection:
        """A text that is too long to be aligned at once; by_default: whether the plan may be fitted to it."""
        window = self._window(array)
        assert window is not None
        at = starts(len(array), window, (window + 1) // 2)
        pieces = self.read([array[first : first + window] for first in at])
        for length, error in pieces.failed.values():
            return Detection.failed(error, self.backend, length)
        if by_default:
            plan = plan_of_windows(plan, len(at))
        documents = [0] * len(at)
        columns = run(plan, self.subject, pieces.arrays, seed=seed, documents=documents)
        best = best_window(columns, slice(None))
        first = at[best]
        found = self._detection(columns, best, pieces.arrays[best] if alignment else None)
        path = found.alignment
        if path is not None:
            path = path._replace(positions=path.positions + first)
        return replace(
            found,
            p_value=corrected(columns.p_value),
            block=first + int(columns.block[best]),
            length=len(array),
            alignment=path,
            windows=len(at),
            window=(first, first + window),
        )

    def _unread(self, array: np.ndarray) -> str | None:
        """Why the scores cannot tell the bins of a text, which a proxy may have to read; or None."""
        try:
            if self.engine.binning is not None:
                self.engine.binning.bins(array)
        except WatermarkError as error:
            return str(error)
        return None

    def _detection(self, columns: Columns, i: int, array: np.ndarray | None) -> Detection:
        """Row i of the columns; with the alignment of `array`, if that is given."""
        block, shift = int(columns.block[i]), int(columns.shift[i])
        path = None
        if array is not None:
            path = self.engine.alignment(array, self.costs, block, shift)
        error = float(columns.p_error[i])
        return Detection(
            p_value=float(columns.p_value[i]),
            statistic=float(columns.statistic[i]),
            shift=shift,
            block=block,
            length=int(columns.length[i]),
            resamples=int(columns.resamples[i]),
            hits=int(columns.hits[i]),
            backend=self.backend,
            method=str(columns.method[i]),
            p_error=None if np.isnan(error) else error,
            alignment=path,
        )

    def _tokens(self, text: Any) -> tuple[np.ndarray | None, int | None, str | None]:
        """(token ids int64 [m], m, None), or (None, m or None, what is wrong)."""
        if isinstance(text, str):
            if self.tokenizer is None:
                return None, None, "the text is a string: give the Detector a tokenizer"
            try:
                coded = self.tokenizer(text, add_special_tokens=False)["input_ids"]
                array = token_ids(coded).astype(np.int64)
            except Exception as error:  # a tokenizer's own, such as for half of a surrogate pair
                return None, None, f"the tokenizer cannot read the text: {reason(error)}"
        else:
            try:
                # A copy first, then the checks: what another thread may change is not looked at twice.
                array = token_ids(text).astype(np.int64)
            except Exception as error:  # a foreign array's own, too
                return None, None, f"the text is not a sequence of token ids: {reason(error)}"
        outside = np.flatnonzero((array < 0) | (array >= self.watermark.vocab_size))
        if len(outside):
            at = int(outside[0])
            return (
                None,
                len(array),
                f"token {array[at]} at position {at} is outside the vocabulary of "
                f"{self.watermark.vocab_size} tokens: is this the watermark's tokenizer?",
            )
        return array, len(array), None


def checked_detector(detector: Any) -> Detector:
    """The detector itself; TypeError for anything else, such as a watermark."""
    if not isinstance(detector, Detector):
        raise TypeError(
            f"detector is a {type(detector).__name__}, but must be a Detector: use Detector(watermark)"
        )
    return detector


def resamples_for(level: float) -> int:
    """So many resamples that the least p of the permutation test is about half of the level; the default at least."""
    level = real_number("level", level, 0, 1)
    needed = 2 / level - 1 if level else math.inf
    if needed > MOST:
        raise WatermarkError(f"level is {level:g}, but must be at least {2 / MOST:.1g}: raise it")
    return max(RESAMPLES, math.ceil(needed))


def _alone(ruler: str, **others: bool) -> None:
    """Raise WatermarkError for an argument that a plan or level would silently overrule."""
    for name in (name for name, given in others.items() if given):
        raise WatermarkError(f"{name} is given, but {ruler} is given, too: leave one of them out")


def _plan(plan: Plan | None, resamples: int | None, stop_after: int | None) -> Plan:
    """The plan that the arguments of `detect` ask for."""
    if plan is not None:
        if not isinstance(plan, Plan):
            raise TypeError(f"plan is a {type(plan).__name__}, but must be a Plan: use Plan(...)")
        return plan
    if resamples is not None:
        return Plan(resamples, stop_after, bound=False)
    return Plan(stop_after=stop_after)


def _tokenizer(tokenizer: Any, watermark: Watermark) -> Any:
    """The tokenizer itself, checked against the watermark."""
    if tokenizer is None:
        return None
    if isinstance(tokenizer, str):
        if watermark.tokenizer is not None and tokenizer != watermark.tokenizer:
            warnings.warn(
                f"tokenizer {tokenizer!r} is not {watermark.tokenizer!r}, which the watermark was made for: "
                "detection fails if the two differ",
                stacklevel=3,
            )
        from wmcore.models import load_tokenizer

        tokenizer = load_tokenizer(tokenizer)
    if not callable(tokenizer):
        raise TypeError(
            f"tokenizer is a {type(tokenizer).__name__}, but must be a name, or a tokenizer as transformers has them, "
            "which is called with a text"
        )
    # Of a tokenizer of transformers, without added tokens: a [PAD] or the like may lie beyond the model's logits.
    known = getattr(tokenizer, "vocab_size", None)
    if isinstance(known, int) and known > watermark.vocab_size:
        warnings.warn(
            f"the tokenizer knows {known} tokens, but the watermark {watermark.vocab_size}: texts with a token beyond "
            "get an error, and all fail if it is not the tokenizer of the watermark's model",
            stacklevel=3,
        )
    return tokenizer


def _calibrated_only(calibration: "Calibration", batch: Readable) -> Readable:
    """The texts whose length is calibrated; the others fail."""
    kept = Readable([], [], dict(batch.failed), {})
    for place, array in zip(batch.places, batch.arrays, strict=True):
        error = calibration.length_error(len(array))
        if error is not None:
            kept.failed[place] = len(array), error
        else:
            kept.arrays.append(array)
            kept.places.append(place)
    return kept
