"""`Detector`: texts in, `Detection` records out. It packs texts and calls kernels; a bad text costs nothing else."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wmcore.errors import WatermarkError
from wmcore.kernels import resolve
from wmcore.kernels.packing import block_error, pack
from wmcore.key import CostSource
from wmcore.significance import STOP_AFTER, permutation_test
from wmcore.watermark import Watermark


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
    error: str | None = None
    alignment: Alignment | None = None

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
    backend : {"auto", "cpu"}
        "auto" takes the best one that works; `Detection.backend` says which ran.
    threads : int, optional
        CPU threads (default: the cores this process may use). No result depends on it.
    tokenizer : str or tokenizer, optional
        Needed for texts given as strings: a name for `wmcore.models.load_tokenizer`, or an object of transformers.

    Raises
    ------
    WatermarkError
        For an unknown backend, a bad number of threads, or a tokenizer with more tokens than the watermark.
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
        if threads is not None and (not isinstance(threads, int) or threads < 1):
            raise WatermarkError(
                f"threads is {threads!r}, but must be a whole number of at least 1"
            )
        try:
            self._backend = resolve(backend)
        except ValueError as error:
            raise WatermarkError(str(error)) from None
        self.watermark = watermark
        self.threads = threads or _available_cores()
        self.tokenizer = _tokenizer(tokenizer, watermark)
        self._costs = CostSource(watermark.key, watermark.problem)

    def __repr__(self) -> str:
        return (
            f"Detector({self.watermark!r}, backend={self._backend.NAME!r}, threads={self.threads})"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_backend": self._backend.NAME}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _backend=resolve(state["_backend"]))

    def detect(
        self,
        texts: Sequence[Any],
        *,
        resamples: int = 999,
        stop_after: int | None = STOP_AFTER,
        seed: int | None = None,
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
        alignment : bool
            Also report which token met which key row.

        Returns
        -------
        list of Detection
            One for each text, in order. A text that cannot be tested has `error` set.

        Notes
        -----
        Time: n * m additions a resample without edits; with edits, mostly about 3 n * m, since bounds decide most
        resamples at once. Memory does not depend on the number of resamples.
        """
        _check_count("resamples", resamples, 1)
        if stop_after is not None:
            _check_count("stop_after", stop_after, 1)
        if isinstance(texts, (str, bytes)):
            raise TypeError("texts is one string: give a list of texts, as in detect([text])")
        results: list[Detection | None] = [None] * len(texts)
        arrays: list[np.ndarray] = []
        places: list[int] = []
        for place, text in enumerate(texts):
            array, length, error = self._tokens(text)
            if error is None:
                assert array is not None
                k = self.watermark.block_length or len(array)
                error = block_error(self.watermark.problem, len(array), k)
            if error is None:
                assert array is not None
                arrays.append(array)
                places.append(place)
            else:
                results[place] = self._failed(length, error)
        if arrays:
            found = self._detect(arrays, resamples, stop_after, seed, alignment)
            for place, detection in zip(places, found, strict=True):
                results[place] = detection
        return [result for result in results if result is not None]

    def _detect(
        self,
        arrays: list[np.ndarray],
        resamples: int,
        stop_after: int | None,
        seed: int | None,
        alignment: bool,
    ) -> list[Detection]:
        problem = self.watermark.problem
        packed = pack(arrays, self.watermark.block_length)
        costs, source = self._costs.costs(packed.distinct, self._backend, self.threads)
        value, block, tau = self._backend.observe(problem, packed, costs, source, self.threads)
        test = permutation_test(
            self._backend,
            problem,
            packed,
            value,
            resamples=resamples,
            stop_after=stop_after,
            seed=seed,
            threads=self.threads,
        )
        detections = []
        for a, array in enumerate(arrays):
            k = int(packed.k[a])
            # With edits the kernels leave out 2 gamma for each token of the block.
            taken_off = problem.offset * k if not problem.gaps_useless(k) else 0
            detections.append(
                Detection(
                    p_value=float(test.p_value[a]),
                    statistic=(int(value[a]) - taken_off) / problem.scale,
                    shift=int(tau[a]),
                    block=int(block[a]),
                    length=len(array),
                    resamples=int(test.resamples[a]),
                    hits=int(test.hits[a]),
                    backend=self._backend.NAME,
                    alignment=self._alignment(array, k, int(block[a]), int(tau[a]))
                    if alignment
                    else None,
                )
            )
        return detections

    def _alignment(self, tokens: np.ndarray, k: int, block: int, tau: int) -> Alignment:
        problem = self.watermark.problem
        positions = np.arange(block, block + k)
        distinct, inverse = np.unique(tokens[positions], return_inverse=True)
        costs, source = self._costs.costs(distinct, self._backend, self.threads)
        matrix = np.ascontiguousarray(costs[source][:, : problem.n])
        rows = np.empty(k, np.int64)
        if problem.edits and not problem.gaps_useless(k):
            from wmcore.kernels.cpu.path import edit_path

            edit_path(matrix, inverse, 0, k, problem.n, tau, problem.gamma, rows)
        else:
            rows[:] = (tau + np.arange(k)) % problem.n
        cost = np.where(rows >= 0, matrix[inverse, rows] / problem.scale, np.nan)
        return Alignment(positions, rows, cost)

    def _failed(self, length: int | None, error: str) -> Detection:
        return Detection(None, None, None, None, length, 0, 0, self._backend.NAME, error)

    def _tokens(self, text: Any) -> tuple[np.ndarray | None, int | None, str | None]:
        """(token ids int64 [m], m, None), or (None, m or None, what is wrong)."""
        if isinstance(text, str):
            if self.tokenizer is None:
                return None, None, "the text is a string: give the Detector a tokenizer"
            array = np.asarray(
                self.tokenizer(text, add_special_tokens=False)["input_ids"], np.int64
            )
        else:
            try:
                array = _as_array(text)
            except (TypeError, ValueError, OverflowError) as error:
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


def _as_array(text: Any) -> np.ndarray:
    """Token ids as a one-dimensional integer array (any integer dtype); TypeError or ValueError otherwise."""
    if hasattr(text, "detach"):  # torch, on any device
        text = text.detach().cpu().numpy()
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


def _check_count(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise WatermarkError(f"{name} is {value!r}, but must be a whole number of at least {least}")


def _available_cores() -> int:
    from wmcore.kernels.cpu.threads import available

    return available()
