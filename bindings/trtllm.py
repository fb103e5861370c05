"""TensorRT-LLM and NVIDIA Dynamo: logits processors that write our watermark.

    llm.generate(prompts, marked(SamplingParams(temperature=0.8), "mark.json"))

`marked` gives each request a `WatermarkLogitsProcessor`. `BatchedWatermarkLogitsProcessor` is the form that
TensorRT-LLM calls once for a batch (TensorRT backend alone), and `DynamoWatermarkLogitsProcessor` has Dynamo's
interface. All three draw a token from the key and leave only that token, before TensorRT-LLM samples.

Processors are pickled to the ranks. What they carry is the path of the watermark file, never the key; each rank reads
the file itself and compares the key's fingerprint. The row of a text's first token follows from what is pickled and the
request's id, so that all ranks draw the same token.

TensorRT-LLM's history may lag by a token (overlap scheduler) and is shown again for each chunk of a prompt. So
positions are counted by calls, and the history serves to check that what was drawn is what was served.

Nothing here imports TensorRT-LLM or Dynamo. What was read and what was run: docs/bindings/trtllm.md.
"""

import contextlib
import copy
import logging
import os
import secrets
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Any, NoReturn

from wmcore.bindings._serving import Sampling, Service, Stream, Wish, force, opened
from wmcore.errors import WatermarkError, shown
from wmcore.watermark import Watermark

__all__ = [
    "BatchedWatermarkLogitsProcessor",
    "DynamoWatermarkLogitsProcessor",
    "WatermarkLogitsProcessor",
    "marked",
]

LOGGER = "TRT-LLM.wmcore"  # below TensorRT-LLM's own
MOST_TEXTS = 16_384
"""Texts that are remembered, the latest. More than a rank serves at a time: its batch is called at each step."""

AFTERWARDS = {
    "guided_decoding": None,
    "structured_outputs": None,
    "bad": None,
    "bad_words": None,
    "bad_token_ids": None,
    "embedding_bias": None,
    "logit_bias": None,
    "min_tokens": 0,
    "no_repeat_ngram_size": 0,
    "thinking_token_budget": -1,
    "repetition_penalty": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "top_p_decay": 1,
    "lookahead_config": None,
    "use_beam_search": False,
    "beam_width_array": None,
}
"""What TensorRT-LLM does after logits processors, or instead of a draw, and the value that switches it off. It would
forbid the only token that is left, or have no effect on it."""

_NOT_DRAWN = (
    "the server wrote a token that the key did not draw: TensorRT-LLM passes over logits processors with speculative"
    " decoding and for one token after a preemption, and others may change what they leave"
)


class _Text:
    """One text that is being written: its stream, the tokens drawn for it, the length of its prompt."""

    def __init__(self, stream: Stream, prompt: int) -> None:
        self.stream = stream
        self.drawn = 0
        self._prompt = prompt
        self._latest: tuple[int, ...] = ()

    def check(self, history: Sequence[int]) -> None:
        """Count tokens of a history that were not drawn here. It may lag: then its last is the last but one drawn."""
        new = len(history) - self._prompt
        if new > self.drawn:
            for _ in range(new - self.drawn):
                self.stream.unmarked(_NOT_DRAWN)
            self.drawn, self._latest = new, ()
        elif new > 0 and self._latest and {-1, history[-1]}.isdisjoint(self._latest):
            self.stream.unmarked(_NOT_DRAWN)

    def draws(self, token: int) -> None:
        """A token was drawn; -1 if the row had no distribution."""
        self._latest = (*self._latest, token)[-2:]
        self.drawn += 1


class _Writer:
    """What the processors share, and all that is pickled of them."""

    def __init__(
        self, watermark: str | os.PathLike[str], params: Any, label: str | None, shift: int | None
    ) -> None:
        if isinstance(watermark, Watermark):
            raise WatermarkError(
                "watermark is a Watermark, but processors are pickled to the ranks, and its key would go with them:"
                " save it and give the file's path"
            )
        self._path = os.path.abspath(watermark)
        service = opened(self._path, LOGGER, True)
        self._what = _identity(service.watermark)
        fields = {"wmcore": True, "wmcore_label": label, "wmcore_shift": shift}
        self.wish = Wish.read(fields)
        self.settings = _settings(params)
        self.seed: int | None = getattr(params, "seed", None)
        _check(service, params, self.wish)
        service.admit(self.wish, self.settings)
        self._lot = secrets.token_hex(16)
        self._texts: OrderedDict[int, _Text] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_texts": OrderedDict()}

    def service(self) -> Service:
        """Of this process. Raises WatermarkError if its file is not the one that the processor was made with."""
        service = opened(self._path, LOGGER, True)
        if _identity(service.watermark) != self._what:
            raise WatermarkError(
                f"{self._path} holds {_identity(service.watermark)} here, but the processor was made with"
                f" {self._what}: give all ranks the same file"
            )
        return service

    def write(
        self, ids: Sequence[int], rows: Sequence[Any], histories: Sequence[Sequence[int]]
    ) -> None:
        """Leave of each row, float [..., V] with one distribution, only the token that the key draws. In place."""
        import torch

        service = self.service()
        x = torch.stack([row.reshape(-1).float() for row in rows])
        service.check_vocabulary(x.shape[1], "TensorRT-LLM")
        texts = [self._text(service, *one) for one in zip(ids, histories, strict=True)]
        force(x, range(len(texts)), [one.stream for one in texts], [one.drawn for one in texts])
        single = x.isfinite().sum(dim=-1) == 1
        for i, token in enumerate(torch.where(single, x.argmax(dim=-1), -1).tolist()):
            rows[i].copy_(x[i].view(rows[i].shape))
            texts[i].draws(token)

    def _text(self, service: Service, name: int, history: Sequence[int]) -> _Text:
        text = self._texts.get(name)
        if text is None:
            lot = f"{self._lot} {name}"
            stream = service.open(self.wish, self.settings, seed=self.seed, lot=lot, name=f"{name}")
            assert stream is not None  # greedy requests were refused
            text = self._texts[name] = _Text(stream, len(history))
            if len(self._texts) > MOST_TEXTS:
                self._texts.popitem(last=False)
        else:
            text.check(history)
            self._texts.move_to_end(name)
        return text


class WatermarkLogitsProcessor:
    """A logits processor for `SamplingParams(logits_processor=...)`. `marked` makes one and sets it.

    Parameters
    ----------
    watermark : path
        Of the watermark file, on every node.
    params : SamplingParams
        Of the request: its temperature, top_k, top_p, min_p and seed are read.
    label : str, optional
        A tenant, whose key is `Key.derive(label)`.
    shift : int, optional
        The key row of the first token; else it follows from the seed, else it is random for each request.

    Raises
    ------
    WatermarkError
        For what cannot be watermarked: greedy decoding, beam search, and all that TensorRT-LLM does after logits
        processors (`AFTERWARDS`); several texts (n, best_of) with one shift or seed.
    """

    def __init__(
        self,
        watermark: str | os.PathLike[str],
        params: Any,
        *,
        label: str | None = None,
        shift: int | None = None,
    ) -> None:
        self._writer = _Writer(watermark, params, label, shift)

    @property
    def counts(self) -> Counter[str]:
        """Of this process and watermark file; see `Service.counts`."""
        return self._writer.service().counts

    def __call__(
        self,
        req_id: int,
        logits: Any,
        token_ids: list[list[int]],
        stream_ptr: int | None,
        client_id: int | None = None,
    ) -> None:
        """TensorRT-LLM's: logits float [1, 1, V] are changed in place, on the given CUDA stream."""
        with _stream(stream_ptr):
            self._writer.write([req_id], [_row(logits)], [token_ids[0]])


class BatchedWatermarkLogitsProcessor:
    """A batched logits processor for `LLM(batched_logits_processor=...)`, which the TensorRT backend alone calls.

    All requests have the settings of `params`; `marked` makes the parameters of each. For the PyTorch backend,
    use the function `marked`.

    Parameters
    ----------
    watermark, params, label
        As for `WatermarkLogitsProcessor`. A seed is refused: requests differ in theirs.
    """

    def __init__(
        self, watermark: str | os.PathLike[str], params: Any, *, label: str | None = None
    ) -> None:
        self._writer = _Writer(watermark, params, label, None)
        self._refuse_seed(params)

    @property
    def counts(self) -> Counter[str]:
        """Of this process and watermark file; see `Service.counts`."""
        return self._writer.service().counts

    def marked(self, params: Any) -> Any:
        """A request's parameters, copied, with apply_batched_logits_processor set. Raises as the class does."""
        service = self._writer.service()
        _check(service, params, self._writer.wish)
        self._refuse_seed(params)
        if _settings(params) != self._writer.settings:
            _refuse(
                service,
                f"the request's {_settings(params)} differs from the batched processor's {self._writer.settings},"
                " which is never told: use the same in all requests",
            )
        made = copy.copy(params)
        made.apply_batched_logits_processor = True
        return made

    def __call__(
        self,
        req_ids: list[int],
        logits: list[Any],
        token_ids: list[list[list[int]]],
        stream_ptr: int | None,
        client_ids: list[int | None],
    ) -> None:
        """TensorRT-LLM's: logits, float [1, 1, V] each, are changed in place, on the given CUDA stream."""
        with _stream(stream_ptr):
            rows = [_row(one) for one in logits]
            if rows:
                self._writer.write(req_ids, rows, [one[0] for one in token_ids])

    def _refuse_seed(self, params: Any) -> None:
        if getattr(params, "seed", None) is not None:
            _refuse(
                self._writer.service(),
                f"seed {params.seed} does not reach a batched processor: leave it out",
            )


class DynamoWatermarkLogitsProcessor:
    """A processor with NVIDIA Dynamo's interface (`BaseLogitsProcessor`); one for each request.

    Dynamo's adapter for TensorRT-LLM logs what a processor raises, and serves the row as it is. So this one first ends
    the text: after an error, end_id is the only token that is left.

    Parameters
    ----------
    watermark, params, label, shift
        As for `WatermarkLogitsProcessor`. n above 1 is refused: Dynamo does not say whose row it is.
    end_id : int
        The token that ends a text.
    """

    def __init__(
        self,
        watermark: str | os.PathLike[str],
        params: Any,
        *,
        end_id: int,
        label: str | None = None,
        shift: int | None = None,
    ) -> None:
        self._writer = _Writer(watermark, params, label, shift)
        service = self._writer.service()
        if _asked(params) > 1:
            _refuse(
                service,
                f"n is {_asked(params)}, but Dynamo's interface is for 1: send requests apart",
            )
        size = service.watermark.vocab_size
        if not 0 <= end_id < size:
            _refuse(service, f"end_id {shown(end_id)} is outside 0 to {size - 1}, the vocabulary")
        self._end = int(end_id)

    @property
    def counts(self) -> Counter[str]:
        """Of this process and watermark file; see `Service.counts`. "ended" counts calls that met an error."""
        return self._writer.service().counts

    def __call__(self, input_ids: Sequence[int], logits: Any) -> None:
        """Dynamo's: logits float [V] are changed in place."""
        try:
            self._writer.write([0], [_row(logits)], [input_ids])
        except Exception as error:
            logits.fill_(-float("inf"))
            logits[..., self._end] = 0
            logging.getLogger(LOGGER).error("wmcore: a text is ended, unfinished: %s", error)
            with contextlib.suppress(WatermarkError):  # where the file is what is wrong
                self.counts["ended"] += 1
            raise


def marked(
    params: Any,
    watermark: str | os.PathLike[str],
    *,
    label: str | None = None,
    shift: int | None = None,
) -> Any:
    """A request's SamplingParams, copied, with a `WatermarkLogitsProcessor` behind the processors that it has.

    Parameters
    ----------
    params : SamplingParams
        With a temperature (or top_k, top_p): TensorRT-LLM is greedy without.
    watermark, label, shift
        See `WatermarkLogitsProcessor`, which says what is refused, too.
    """
    before = getattr(params, "logits_processor", None) or []
    before = before if isinstance(before, list) else [before]
    if any(isinstance(one, WatermarkLogitsProcessor) for one in before):
        raise WatermarkError("the request is marked already: mark the parameters as they were")
    made = copy.copy(params)
    mine = WatermarkLogitsProcessor(watermark, params, label=label, shift=shift)
    made.logits_processor = [*before, mine] if before else mine
    return made


def _settings(params: Any) -> Sampling:
    """With TensorRT-LLM's defaults: greedy where nothing is said, and for temperature 0, top_k 1, top_p 0, min_p 1."""
    names = ("temperature", "top_k", "top_p", "min_p")
    temperature, top_k, top_p, min_p = (getattr(params, name, None) for name in names)
    silent = temperature is None and top_k is None and top_p is None and not min_p
    if silent or temperature == 0 or top_k == 1 or top_p == 0 or min_p == 1:
        return Sampling(temperature=0.0)
    return Sampling(
        temperature=1.0 if temperature is None else float(temperature),
        top_k=int(top_k or 0),
        top_p=1.0 if top_p is None else float(top_p),
        min_p=float(min_p or 0),
    )


def _check(service: Service, params: Any, wish: Wish) -> None:
    """Raise WatermarkError, and count it, for a request whose forced token would not be served as it was drawn."""
    for name, off in AFTERWARDS.items():
        value = getattr(params, name, None)
        if not (
            value is None or (isinstance(value, (int, float, str, list)) and value in (off, "", []))
        ):
            _refuse(
                service,
                f"{name} is set, but acts after logits processors in TensorRT-LLM, where the token is drawn already:"
                " leave it out, or do not mark this request",
            )
    if _settings(params).temperature == 0:
        _refuse(
            service,
            "the request is greedy (TensorRT-LLM's default), which draws no token that could carry a mark:"
            " give a temperature above 0",
        )
    given = wish.shift is not None or getattr(params, "seed", None) is not None
    if _asked(params) > 1 and given:
        _refuse(
            service,
            f"n is {_asked(params)} with a shift or seed, so that all texts would take the same key rows: leave it out",
        )


def _refuse(service: Service, why: str) -> NoReturn:
    service.counts["refused"] += 1
    service.logger.warning("wmcore: request refused: %s", why)
    raise WatermarkError(why)


def _asked(params: Any) -> int:
    """How many texts a request asks for."""
    return max(getattr(params, "n", None) or 1, getattr(params, "best_of", None) or 1)


def _identity(watermark: Watermark) -> str:
    return (
        f"key {watermark.fingerprint} ({watermark.sampler}, {watermark.key_length} rows,"
        f" {watermark.vocab_size} tokens)"
    )


def _row(logits: Any) -> Any:
    """The logits of one text, or WatermarkError."""
    if logits.numel() != logits.shape[-1]:
        raise WatermarkError(
            f"logits {tuple(logits.shape)} are of several beams, and beam search draws no token: switch it off"
        )
    return logits


def _stream(pointer: int | None) -> contextlib.AbstractContextManager[Any]:
    """The CUDA stream that TensorRT-LLM works on; None: the current one."""
    if pointer is None:
        return contextlib.nullcontext()
    import torch

    return torch.cuda.stream(torch.cuda.ExternalStream(pointer))
