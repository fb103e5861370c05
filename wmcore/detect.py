"""`Detector`: texts in, `Detection` records out. A bad text costs nothing else."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wmcore.binning import binning
from wmcore.checks import thread_count, token_ids
from wmcore.engine import Alignment, Engine
from wmcore.errors import WatermarkError, reason
from wmcore.learned_scores import chosen_scores
from wmcore.plan import STOP_AFTER, Columns, Plan, Subject, look_up, run
from wmcore.scores import Scores
from wmcore.watermark import Watermark

if TYPE_CHECKING:
    from wmcore.calibration import Calibration

__all__ = ["Alignment", "Detection", "Detector"]


@dataclass(frozen=True)
class Detection:
    """What a detector says of one text. Fields are None where `error` says why there is no answer.

    Attributes
    ----------
    p_value : float or None
        Probability of a statistic this low if the text does not depend on the key.
    statistic : float or None
        phi, the least alignment cost (nats for exp); lower means a better fit.
    shift : int or None
        The key row at which the best window starts, which the first token of the best block meets.
    block : int or None
        The first token of the best block (0 when the whole text is aligned).
    length : int or None
        Tokens in the text.
    resamples : int
        Resampled keys that were used.
    hits : int
        How many of them fit the text at least as well as the key.
    backend : str
        Which backend ran.
    method : str or None
        Where p comes from. "bound": a proven bound, no resamples. "permutation":
        (1 + hits) / (resamples + 1), exact. "sequential": hits / resamples, stopped early, exact. (With a plan that
        may use the bound, its `epsilon` is added to these two.) "first": as "sequential", in a short first pass.
        "calibrated": from stored statistics of other texts, approximate.
    p_error : float or None
        Standard error of a calibrated p from the size of its sample (the rest of its error is not in it).
    error : str or None
        Why there is no answer.
    alignment : Alignment or None
        On request.
    """

    p_value: float | None
    statistic: float | None
    shift: int | None
    block: int | None
    length: int | None
    resamples: int
    hits: int
    backend: str
    method: str | None = "permutation"
    p_error: float | None = None
    error: str | None = None
    alignment: Alignment | None = None

    @classmethod
    def failed(cls, error: str, backend: str, length: int | None = None) -> "Detection":
        """The record of a text that could not be tested."""
        return cls(None, None, None, None, length, 0, 0, backend, method=None, error=error)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values; a gap's cost is null."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        if self.alignment is None:
            del fields["alignment"]
        else:
            fields["alignment"] = {
                "positions": self.alignment.positions.tolist(),
                "rows": self.alignment.rows.tolist(),
                "costs": [None if np.isnan(c) else c for c in self.alignment.costs.tolist()],
            }
        return fields


@dataclass(frozen=True)
class Readable:
    """What can be tested of a batch.

    arrays : token ids, int64, of each good text; places : its place in the batch; failed : {place: (length or None,
    what is wrong)} of the others.
    """

    arrays: list[np.ndarray]
    places: list[int]
    failed: dict[int, tuple[int | None, str]]


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
        if not isinstance(watermark, Watermark):
            raise TypeError(
                f"watermark is a {type(watermark).__name__}, but must be a Watermark: "
                "use Watermark.load(path)"
            )
        self.watermark = watermark
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
        alignment: bool = False,
    ) -> list[Detection]:
        """Test each text for the watermark (paper, Algorithm 2, with exact p-values).

        Parameters
        ----------
        texts : sequence
            Each a sequence of token ids (list, NumPy or torch, integers below vocab_size), or a string.
        plan : Plan, optional
            How p is found. Default: a proven bound, which needs no resamples, for strongly watermarked texts; 1,999
            resamples, stopped early, for the rest (`wmcore.plan` says why p is valid).
        resamples : int, optional
            T: instead of a plan, the plain permutation test. The least possible p is 1 / (T + 1).
        stop_after : int or None
            Of the plain permutation test: stop a text after this many resamples that fit it as well as the key
            (Besag and Clifford 1991), which leaves p valid and makes texts without a watermark cheap. None uses all
            resamples: p = (1 + hits) / (T + 1).
        seed : int, optional
            Seed of the resampled keys (default: a fresh one). The same seed gives the same p-values; it is mixed with
            the key, so that an author who knows the seed, but not the key, cannot foresee them.
        calibration : Calibration, optional
            Take p from its stored statistics instead: approximate, and much faster.
        alignment : bool
            Also report which token met which key row.

        Returns
        -------
        list of Detection
            One for each text, in order. A text that cannot be tested has `error` set.

        Raises
        ------
        WatermarkError
            For a number out of range, a calibration of another scheme, or a plan beside resamples, stop_after
            or calibration.
        TypeError
            For one text in place of a list of texts.

        Notes
        -----
        Time: about 2 n * m additions a resample without edits; with edits, m * (n + m) cells of three operations for
        those that a bound decides, and some thirty times that for each of the others.
        Memory does not depend on the number of resamples.
        """
        if plan is not None:
            _alone(
                resamples=resamples is not None,
                stop_after=stop_after != STOP_AFTER,
                calibration=calibration is not None,
            )
        chosen = _plan(plan, resamples, stop_after)
        if calibration is not None:
            calibration.check(self.statistic, self.engine.problem)
        batch = self.read(texts)
        if calibration is not None:
            batch = _calibrated_only(calibration, batch)
        results: list[Detection | None] = [None] * (len(batch.places) + len(batch.failed))
        for place, (length, error) in batch.failed.items():
            results[place] = Detection.failed(error, self.backend, length)
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
        if isinstance(texts, (str, bytes)):
            raise TypeError("texts is one string: give a list of texts, as in detect([text])")
        one_text = getattr(texts, "ndim", 0) == 1 and _kind(texts) in "iuf"
        if not one_text:  # some arrays cannot even be listed
            texts = list(texts)
            one_text = bool(texts) and all(isinstance(t, (int, np.integer)) for t in texts)
        if one_text:
            raise TypeError(
                "texts is one text of token ids: give a list of texts, as in detect([ids])"
            )
        batch = Readable([], [], {})
        for place, text in enumerate(texts):
            array, length, error = self._tokens(text)
            if array is not None:
                error = self.engine.error(len(array)) or self._unread(array)
            if array is None or error is not None:
                batch.failed[place] = length, str(error)
            else:
                batch.arrays.append(array)
                batch.places.append(place)
        return batch

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


def _kind(array: Any) -> str:
    """The kind of an array's items, as NumPy names it; "i" where it has another's dtype (torch) or none."""
    return str(getattr(getattr(array, "dtype", None), "kind", "i"))


def _alone(**others: bool) -> None:
    """Raise WatermarkError for an argument that a plan would silently overrule."""
    for name in (name for name, given in others.items() if given):
        raise WatermarkError(f"{name} is given, but plan is given, too: leave one of them out")


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
    kept = Readable([], [], dict(batch.failed))
    for place, array in zip(batch.places, batch.arrays, strict=True):
        error = calibration.length_error(len(array))
        if error is not None:
            kept.failed[place] = len(array), error
        else:
            kept.arrays.append(array)
            kept.places.append(place)
    return kept
