"""`Detector`: texts in, `Detection` records out. It packs texts and calls kernels; a bad text costs nothing else."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from wmcore.errors import WatermarkError
from wmcore.kernels import resolve
from wmcore.kernels.packing import Texts, block_error, distinct_tokens, pack
from wmcore.key import CostSource
from wmcore.significance import STOP_AFTER, permutation_test
from wmcore.watermark import Watermark

if TYPE_CHECKING:
    from wmcore.calibration import Calibration


@dataclass(frozen=True)
class Alignment:
    """How the best block met the key.

    positions : int64 [k], positions in the text; rows : int64 [k], the key row of each, or -1 for a gap;
    costs : float64 [k], the token cost (nats for exp; NaN for a gap). Lower is a better fit: an exp cost averages
    -1 by chance, an its cost 1/3.
    """

    positions: np.ndarray
    rows: np.ndarray
    costs: np.ndarray


@dataclass(frozen=True)
class _Fits:
    """Packed texts and where the key fits each best: value int32, block int64, tau int64 [N]."""

    texts: Texts
    value: np.ndarray
    block: np.ndarray
    tau: np.ndarray


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
        Where p comes from. "permutation": (1 + hits) / (resamples + 1), exact. "sequential": hits / resamples,
        stopped early, exact. "calibrated": from stored statistics of other texts, approximate.
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


class Detector:
    """Finds one watermark in texts.

    Parameters
    ----------
    watermark : Watermark
    backend : {"auto", "cpu", "cuda"}
        "auto" takes "cuda" where CuPy and a device work, else "cpu"; `Detection.backend` says which ran.
    threads : int, optional
        CPU threads (default: the cores this process may use). No result depends on it.
    tokenizer : str or tokenizer, optional
        Needed for texts given as strings: a name for `wmcore.models.load_tokenizer`, or an object of transformers.

    Raises
    ------
    WatermarkError
        For a backend that is unknown or cannot run here (with the reason), a bad number of threads, or a tokenizer
        with more tokens than the watermark.
    """

    def __init__(
        self,
        watermark: Watermark,
        *,
        backend: str = "auto",
        threads: int | None = None,
        tokenizer: Any = None,
    ) -> None:
        if not isinstance(watermark, Watermark):
            raise TypeError(
                f"watermark is a {type(watermark).__name__}, but must be a Watermark: "
                "use Watermark.load(path)"
            )
        try:
            self.engine = resolve(backend)
        except ValueError as error:
            raise WatermarkError(str(error)) from None
        self.watermark = watermark
        self.threads = default_threads(threads)
        self.tokenizer = _tokenizer(tokenizer, watermark)
        self.costs = CostSource(watermark.key, watermark.problem)

    def __repr__(self) -> str:
        return f"Detector({self.watermark!r}, backend={self.engine.NAME!r}, threads={self.threads})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "engine": self.engine.NAME}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, engine=resolve(state["engine"]))

    def detect(
        self,
        texts: Sequence[Any],
        *,
        resamples: int = 999,
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
        resamples : int
            T. The least possible p is 1 / (T + 1).
        stop_after : int or None
            Stop a text after this many resamples that fit it as well as the key (Besag and Clifford 1991), which
            leaves p valid and makes texts without a watermark cheap. None uses all resamples:
            p = (1 + hits) / (T + 1).
        seed : int, optional
            Seed of the resampled keys (default: a fresh one). The same seed gives the same p-values.
        calibration : Calibration, optional
            Take p from its stored statistics instead: approximate, and much faster.
        alignment : bool
            Also report which token met which key row.

        Returns
        -------
        list of Detection
            One for each text, in order. A text that cannot be tested has `error` set.

        Notes
        -----
        Time: about 2 n * m additions a resample without edits; with edits, m * (n + m) cells of three operations for
        those that a bound decides, and some thirty times that for each of the others.
        Memory does not depend on the number of resamples.
        """
        check_count("resamples", resamples, 1)
        if stop_after is not None:
            check_count("stop_after", stop_after, 1)
        if calibration is not None:
            calibration.check(self.watermark)
        arrays, places, failed = self.read(texts)
        if calibration is not None:
            arrays, places = _calibrated_only(calibration, arrays, places, failed)
        results: list[Detection | None] = [None] * (len(places) + len(failed))
        for place, (length, error) in failed.items():
            results[place] = Detection.failed(error, self.engine.NAME, length)
        if arrays:
            fits = self._fits(arrays)
            if calibration is None:
                found = self._permutation(fits, resamples, stop_after, seed)
            else:
                found = self._look_up(fits, calibration)
            for place, array, detection in zip(places, arrays, found, strict=True):
                if alignment:
                    detection = replace(detection, alignment=self._alignment(array, detection))
                results[place] = detection
        return [result for result in results if result is not None]

    def read(
        self, texts: Sequence[Any]
    ) -> tuple[list[np.ndarray], list[int], dict[int, tuple[int | None, str]]]:
        """What can be tested of a batch: (token ids of each good text, their places, {place: (length, error)})."""
        if isinstance(texts, (str, bytes)):
            raise TypeError("texts is one string: give a list of texts, as in detect([text])")
        texts = list(texts)
        if texts and all(isinstance(text, (int, np.integer)) for text in texts):
            raise TypeError(
                "texts is one text of token ids: give a list of texts, as in detect([ids])"
            )
        arrays: list[np.ndarray] = []
        places: list[int] = []
        failed: dict[int, tuple[int | None, str]] = {}
        for place, text in enumerate(texts):
            array, length, error = self._tokens(text)
            if array is not None:
                k = self.watermark.block_length or len(array)
                error = block_error(self.watermark.problem, len(array), k)
            if array is None or error is not None:
                failed[place] = length, str(error)
            else:
                arrays.append(array)
                places.append(place)
        return arrays, places, failed

    def _fits(self, arrays: list[np.ndarray]) -> "_Fits":
        packed = pack(arrays, self.watermark.block_length)
        costs, source = self.costs.costs(packed.distinct, self.engine, self.threads)
        best = np.full(len(packed), 2**31 - 1, np.int32)
        found = self.engine.observe(
            self.watermark.problem, packed, costs, source, best, self.threads
        )
        return _Fits(packed, *found)

    def _permutation(
        self, fits: "_Fits", resamples: int, stop_after: int | None, seed: int | None
    ) -> list[Detection]:
        test = permutation_test(
            self.engine,
            self.watermark.problem,
            fits.texts,
            fits.value,
            resamples=resamples,
            stop_after=stop_after,
            seed=seed,
            threads=self.threads,
        )
        return [
            Detection(
                p_value=float(test.p_value[a]),
                **self._fit(fits, a),
                resamples=int(test.resamples[a]),
                hits=int(test.hits[a]),
                method="sequential" if test.hits[a] == stop_after else "permutation",
            )
            for a in range(len(fits.value))
        ]

    def _look_up(self, fits: "_Fits", calibration: "Calibration") -> list[Detection]:
        detections = []
        for a in range(len(fits.value)):
            fit = self._fit(fits, a)
            hits = calibration.hits(fit["statistic"], fit["length"])
            p = (1 + hits) / (calibration.resamples + 1)
            detections.append(
                Detection(
                    p_value=p,
                    **fit,
                    resamples=calibration.resamples,
                    hits=hits,
                    method="calibrated",
                    p_error=float(np.sqrt(p * (1 - p) / (calibration.resamples + 1))),
                )
            )
        return detections

    def _fit(self, fits: "_Fits", a: int) -> dict[str, Any]:
        """The fields of a `Detection` that do not depend on the null."""
        problem = self.watermark.problem
        taken_off = problem.taken_off(int(fits.texts.k[a]))
        return {
            "statistic": (int(fits.value[a]) - taken_off) / problem.scale,
            "shift": int(fits.tau[a]),
            "block": int(fits.block[a]),
            "length": int(fits.texts.offsets[a + 1] - fits.texts.offsets[a]),
            "backend": self.engine.NAME,
        }

    def _alignment(self, tokens: np.ndarray, detection: Detection) -> Alignment:
        problem = self.watermark.problem
        k = self.watermark.block_length or len(tokens)
        assert detection.block is not None
        assert detection.shift is not None
        positions = np.arange(detection.block, detection.block + k)
        distinct, inverse = distinct_tokens(tokens[positions])
        costs, source = self.costs.costs(distinct, self.engine, self.threads)
        matrix = np.ascontiguousarray(costs[source][:, : problem.n])
        rows = np.empty(k, np.int64)
        if problem.edits and not problem.gaps_useless(k):
            from wmcore.kernels.cpu.path import edit_path

            edit_path(matrix, inverse, 0, k, problem.n, detection.shift, problem.gamma, rows)
        else:
            rows[:] = (detection.shift + np.arange(k)) % problem.n
        cost = np.where(rows >= 0, matrix[inverse, rows] / problem.scale, np.nan)
        return Alignment(positions, rows, cost)

    def _tokens(self, text: Any) -> tuple[np.ndarray | None, int | None, str | None]:
        """(token ids int64 [m], m, None), or (None, m or None, what is wrong)."""
        if isinstance(text, str):
            if self.tokenizer is None:
                return None, None, "the text is a string: give the Detector a tokenizer"
            try:
                coded = self.tokenizer(text, add_special_tokens=False)["input_ids"]
                array = np.asarray(coded, np.int64)
            except Exception as error:  # a tokenizer's own, such as for half of a surrogate pair
                return None, None, f"the tokenizer cannot read the text: {error}"
        else:
            try:
                array = as_token_ids(text)
            except Exception as error:  # a foreign array's own, too
                return None, None, f"the text is not a sequence of token ids: {error}"
        outside = np.flatnonzero((array < 0) | (array >= self.watermark.vocab_size))
        if len(outside):
            at = int(outside[0])
            return (
                None,
                len(array),
                f"token {array[at]} at position {at} is outside the vocabulary of "
                f"{self.watermark.vocab_size} tokens: is this the watermark's tokenizer?",
            )
        return array.astype(np.int64), len(array), None


def as_token_ids(text: Any) -> np.ndarray:
    """Token ids as a one-dimensional integer array (any integer dtype); TypeError or ValueError otherwise."""
    if hasattr(text, "detach"):  # torch, on any device
        text = text.detach().cpu().numpy()
    elif hasattr(text, "__cuda_array_interface__"):  # CuPy
        text = text.get()
    array = np.asarray(text)
    if array.ndim != 1:
        raise ValueError(f"it has {array.ndim} dimensions, but one is needed")
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"its items are of type {array.dtype}, but integers are needed")
    if (
        array.dtype.kind == "u"
        and array.dtype.itemsize == 8
        and array.max() > np.iinfo(np.int64).max
    ):
        raise ValueError("an item exceeds 64 bits")
    return array


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
    if len(tokenizer) > watermark.vocab_size:
        raise WatermarkError(
            f"the tokenizer has {len(tokenizer)} tokens, but the watermark a vocabulary of "
            f"{watermark.vocab_size}: use the tokenizer of the watermark's model"
        )
    return tokenizer


def _calibrated_only(
    calibration: "Calibration",
    arrays: list[np.ndarray],
    places: list[int],
    failed: dict[int, tuple[int | None, str]],
) -> tuple[list[np.ndarray], list[int]]:
    """The texts whose length is calibrated; the others are added to failed."""
    keep = []
    for i, array in enumerate(arrays):
        error = calibration.length_error(len(array))
        if error is None:
            keep.append(i)
        else:
            failed[places[i]] = len(array), error
    return [arrays[i] for i in keep], [places[i] for i in keep]


def check_count(name: str, value: object, least: int) -> None:
    """Raise WatermarkError unless value is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise WatermarkError(f"{name} is {value!r}, but must be a whole number of at least {least}")


def default_threads(threads: int | None) -> int:
    """threads, checked, or the cores that this process may use."""
    from wmcore.kernels.cpu.threads import available

    if threads is None:
        return available()
    check_count("threads", threads, 1)
    return threads
