"""transformers: `model.generate(..., watermarking_config=WatermarkConfig(watermark))`, and a detector of its shape.

The watermark belongs in ``watermarking_config``, which transformers applies after temperature, top-k and top-p.
``logits_processor=[...]`` would be the wrong place: it runs before them, so the drawn token could be cut away.
"""

import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

import numpy as np

from wmcore import sampling
from wmcore.checks import require, text_list
from wmcore.detect import Detector
from wmcore.errors import WatermarkError
from wmcore.generation import key_rows
from wmcore.plan import STOP_AFTER
from wmcore.watermark import Watermark, checked_watermark

require("transformers", "run pip install 'wmcore-lm[generate]'", "4.57", "6")

import torch  # noqa: E402
from transformers import LogitsProcessor  # noqa: E402
from transformers.generation import BaseWatermarkingConfig  # noqa: E402


class WatermarkConfig(BaseWatermarkingConfig):
    """Makes `model.generate(..., do_sample=True)` write a watermark.

    Pass the object itself: ``watermarking_config=WatermarkConfig(watermark)``. A dict is always read as
    transformers' own ``WatermarkingConfig``. Everything that sampling offers stays: temperature, top-k, top-p and
    the other warpers, left-padded batches, ``num_return_sequences``, streamers, stopping criteria, assistant
    models. Beam search, greedy search and continuous batching are refused.

    Parameters
    ----------
    watermark : Watermark
        Its vocab_size may be below the model's number of logits (the rest is never drawn), not above it.
    shift : int or sequence of int, optional
        Key row of the first new token: one for all texts or one for each (after ``num_return_sequences``). None
        draws each at random from torch's global generator, so that ``torch.manual_seed`` repeats a call.

    Raises
    ------
    WatermarkError
        For a shift outside the key; in `generate`, for a search that is not sampling, a model with too few logits
        or logits without a distribution.

    Examples
    --------
    >>> config = WatermarkConfig(watermark)  # doctest: +SKIP
    >>> model.generate(**inputs, do_sample=True, watermarking_config=config)  # doctest: +SKIP
    """

    def __init__(self, watermark: Watermark, shift: int | Sequence[int] | None = None) -> None:
        self.watermark = watermark
        self.shift: int | list[int] | None = shift  # type: ignore[assignment]
        self.validate()

    def validate(self) -> None:
        """Check the watermark and the shift; transformers calls this in each `generate`."""
        checked_watermark("watermark", self.watermark)
        if self.shift is not None:
            self.shift = key_rows("shift", self.shift, self.watermark.key_length)

    def construct_processor(self, vocab_size: int, device: Any = None) -> "WatermarkProcessor":
        """The logits processor of one `generate` call. transformers calls this."""
        settings = sys._getframe(1).f_locals.get("generation_config")
        if (
            device is None
        ):  # what continuous batching does, and it would drop an unsupported processor
            raise WatermarkError(
                "continuous batching cannot be watermarked: it mixes texts at different positions in one row "
                "and drops processors that it does not know; call model.generate instead"
            )
        if settings is not None:
            _refuse_other_searches(settings)
        if vocab_size < self.watermark.vocab_size:
            raise WatermarkError(
                f"watermark: vocab_size {self.watermark.vocab_size} exceeds the model's {vocab_size} logits; "
                "use the watermark made for this model"
            )
        return WatermarkProcessor(self.watermark, self.shift)

    def to_dict(self) -> None:
        """Nothing: the null that a generation configuration holds in its file in place of this object.

        The file must not hold the key, and from anything but null transformers would make a watermark of its own
        kind, or fail to load the model. Warns when it is written to a file.
        """
        if _is_writing(sys._getframe(1)):
            warnings.warn(
                "the watermark is not saved with the generation configuration, so that its key stays secret: keep "
                "it with Watermark.save, and pass watermarking_config=WatermarkConfig(watermark) after loading",
                stacklevel=2,
            )

    def __iter__(self) -> Any:
        yield from {"watermark": repr(self.watermark), "shift": self.shift}.items()

    def to_json_string(self) -> str:
        """What may be shown, as JSON: no key."""
        return json.dumps(dict(self), indent=2) + "\n"

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> NoReturn:
        """Always a WatermarkError: a saved generation configuration does not hold the key."""
        raise WatermarkError(
            "a generation configuration does not hold the watermark's key: load the watermark file and pass "
            "watermarking_config=WatermarkConfig(Watermark.load(path))"
        )


def _is_writing(frame: FrameType | None) -> bool:
    """Whether transformers is writing a generation configuration to a file, in this frame or one that called it."""
    while frame is not None and frame.f_code.co_name != "to_json_file":
        frame = frame.f_back
    return frame is not None


def _refuse_other_searches(settings: Any) -> None:
    if (getattr(settings, "num_beams", None) or 1) > 1:
        raise WatermarkError(
            f"num_beams {settings.num_beams} cannot be watermarked: beam search compares texts, but a watermarked "
            "token is drawn; set num_beams=1"
        )
    if not getattr(settings, "do_sample", True):
        raise WatermarkError(
            "do_sample=False cannot be watermarked: greedy search draws no token, and a watermark is in the draw; "
            "set do_sample=True"
        )


class WatermarkProcessor(LogitsProcessor):
    """Leaves of each row of scores only the token that the watermark draws. One for each `generate` call.

    Position 0 is the length of the first ``input_ids``; a text with shift s draws its token i from key row
    (s + i) mod n. So a call for an earlier position (assisted decoding) gives the same token again.
    """

    # Not False: continuous batching drops what says so, and its text would be unwatermarked. See construct_processor.
    supports_continuous_batching = None

    def __init__(self, watermark: Watermark, shift: int | Sequence[int] | None) -> None:
        self._draw = sampling.watermarked(watermark)
        self._watermark = watermark
        self._shift = shift
        self._start: int | None = None
        self._warned = False
        self.shifts: np.ndarray | None = None
        """Key row of the first token of each text: int64 [rows], known after the first call."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores [rows, V] with -inf everywhere but at the drawn tokens, which keep theirs."""
        rows = scores.shape[0]
        if self.shifts is None or self._start is None:
            self._start = input_ids.shape[-1]
            self.shifts = self._first_rows(rows)
        if len(self.shifts) != rows or input_ids.shape[0] != rows:
            raise WatermarkError(
                f"scores has {rows} rows, but {len(self.shifts)} texts were begun: use a new generate call for each "
                "batch"
            )
        n = self._watermark.key_length
        position = input_ids.shape[-1] - self._start
        if position == n and not self._warned:
            self._warned = True
            warnings.warn(
                f"a text exceeds the key length {n}: beyond it, key rows are used again and the text is no longer "
                "distortion-free; use a longer key",
                stacklevel=2,
            )
        cut = scores[:, : self._watermark.vocab_size]
        tokens = self._draw(cut, (self.shifts + position) % n, 1.0)[:, None]
        only = torch.full_like(scores, -torch.inf)
        return only.scatter_(1, tokens, scores.gather(1, tokens))

    def _first_rows(self, rows: int) -> np.ndarray:
        if self._shift is None:
            return torch.randint(self._watermark.key_length, (rows,)).numpy()
        shifts = np.array(self._shift, np.int64)
        if shifts.ndim and len(shifts) != rows:
            raise WatermarkError(
                f"shift: {len(shifts)} given for {rows} texts; give one for each, or one number"
            )
        return np.broadcast_to(shifts, (rows,)).copy()


@dataclass(frozen=True)
class WatermarkDetectorOutput:
    """One entry for each text. p_value and statistic are NaN, and prediction False, where error says why.

    num_tokens_scored : int64; statistic : float64, phi; p_value : float64; prediction : bool, p_value <= threshold;
    confidence : float64, 1 - p_value; shift : int64, the key row of the first token (-1: none); error : str or None.
    """

    num_tokens_scored: np.ndarray
    statistic: np.ndarray
    p_value: np.ndarray
    prediction: np.ndarray
    confidence: np.ndarray
    shift: np.ndarray
    error: tuple[str | None, ...]


class WatermarkDetector:
    """Finds a watermark in `input_ids`, called as transformers' detector is.

    Parameters
    ----------
    watermark : Watermark or WatermarkConfig
    pad_token_id : int, optional
        Stripped from both ends of each text: `generate` pads rows that ended early.
    p_threshold : float
        The largest p-value that counts as watermarked.
    resamples, stop_after, seed
        As in `Detector.detect`: the least possible p is 1 / (resamples + 1).

    Examples
    --------
    >>> detector = WatermarkDetector(watermark)  # doctest: +SKIP
    >>> new = model.generate(**inputs, do_sample=True, watermarking_config=config)  # doctest: +SKIP
    >>> detector(new[:, inputs.input_ids.shape[1] :], return_dict=True).p_value  # doctest: +SKIP
    """

    def __init__(
        self,
        watermark: Watermark | WatermarkConfig,
        *,
        pad_token_id: int | None = None,
        p_threshold: float = 0.01,
        resamples: int = 999,
        stop_after: int | None = STOP_AFTER,
        seed: int | None = None,
        **settings: Any,
    ) -> None:
        if isinstance(watermark, WatermarkConfig):
            watermark = watermark.watermark
        self.detector = Detector(watermark, **settings)
        self.pad_token_id = pad_token_id
        self.p_threshold = p_threshold
        self._how: dict[str, Any] = {"resamples": resamples, "stop_after": stop_after, "seed": seed}

    def __call__(
        self, input_ids: Any, p_threshold: float | None = None, return_dict: bool = False
    ) -> WatermarkDetectorOutput | np.ndarray:
        """Test each row of input_ids, int [B, m] (torch, NumPy or lists, which may differ in length).

        Remove the prompt first: its tokens carry no watermark, and with a scheme without edits a whole-text
        alignment that begins with them finds little.

        Returns
        -------
        bool array [B], or WatermarkDetectorOutput with return_dict

        Raises
        ------
        TypeError
            For one text, a string, or a tokenizer's output instead of the ``input_ids`` in it.
        """
        threshold = self.p_threshold if p_threshold is None else p_threshold
        texts = [self._stripped(row) for row in text_list("input_ids", input_ids)]
        found = self.detector.detect(texts, **self._how)
        p_value = np.array([np.nan if d.p_value is None else d.p_value for d in found])
        prediction = p_value <= threshold
        if not return_dict:
            return prediction
        return WatermarkDetectorOutput(
            num_tokens_scored=np.array([d.length or 0 for d in found], np.int64),
            statistic=np.array([np.nan if d.statistic is None else d.statistic for d in found]),
            p_value=p_value,
            prediction=prediction,
            confidence=1 - p_value,
            shift=np.array([-1 if d.shift is None else d.shift for d in found], np.int64),
            error=tuple(d.error for d in found),
        )

    def _stripped(self, row: Any) -> Any:
        if isinstance(row, (str, Mapping)):
            return row  # the detector says what is wrong with it
        tokens = np.asarray(row.detach().cpu() if hasattr(row, "detach") else row)
        kept = np.flatnonzero(tokens != self.pad_token_id)
        if self.pad_token_id is None or tokens.ndim != 1:
            return tokens
        return tokens[kept[0] : kept[-1] + 1] if len(kept) else tokens[:0]
