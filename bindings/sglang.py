"""SGLang: a sampler and a logit processor that write our watermark, and a batch detector for SGLang's own.

Two ways in, both idle unless the environment variable WMCORE_SGLANG_WATERMARK names a watermark file as SGLang starts:

    sampler: ``--sampling-backend wmcore`` (entry point group ``sglang.srt.plugins``) marks every request
    processor: ``--enable-custom-logit-processor`` marks the requests that name `WatermarkLogitProcessor`

Each request with a temperature above 0 is then watermarked, as its ``custom_params`` say:

    wmcore : True or 1 (the default), or False or 0 for no watermark
    wmcore_label : str, a sub-key of the watermark's key, as `Key.derive` makes it (for tenants)
    wmcore_shift : int, the key row of the first token; else it follows from the request's seed, else from its id

WMCORE_SGLANG_REQUIRED=1 refuses requests that would go unmarked.

A request's text hangs on SGLang's own request object, so it lasts as long as that, through retraction too. What was
run, and on which version: docs/bindings/sglang.md.
"""

import dataclasses
import weakref
from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus
from importlib import import_module
from typing import TYPE_CHECKING, Any

from wmcore.bindings._serving import (
    Sampling,
    Service,
    Stream,
    Wish,
    admitted,
    drawn,
    force,
    installed,
    variable,
)
from wmcore.bindings.sglang_gumbel import GumbelDetection, SglangGumbelDetector
from wmcore.errors import WatermarkError, shown
from wmcore.truncate import JOINT

if TYPE_CHECKING:
    WatermarkLogitProcessor: type

__all__ = [
    "BACKEND",
    "ENVIRONMENT",
    "GumbelDetection",
    "SglangGumbelDetector",
    "WatermarkLogitProcessor",
    "register",
]

SERVER = "sglang"
ENVIRONMENT = variable(SERVER)
"""Names the watermark file."""

BACKEND = "wmcore"
"""The name of the sampler, for --sampling-backend."""

ALL_TOKENS = 1 << 30
"""SGLang's top_k for none."""

_STREAM = "_wmcore_stream"
"""The attribute of a request that holds its text."""


def register() -> None:
    """SGLang's plugin loader calls this in each of its processes, before it reads its arguments.

    Without a watermark file only requests are looked at: one that asks for a watermark is refused.
    """
    hooks = import_module("sglang.srt.plugins.hook_registry")
    add = hooks.HookRegistry.register
    add("sglang.srt.sampling.sampling_params.SamplingParams.verify", _request_arrives)
    add("sglang.srt.server_args.ServerArgs.check_server_args", _server_starts)
    if _service() is None:  # SGLang only logs what this raises; `_server_starts` raises it again
        return
    add(
        "sglang.srt.sampling.sampling_batch_info.SamplingBatchInfo",
        _batch_class(),
        hooks.HookType.REPLACE,
    )
    add("sglang.srt.layers.sampler.create_sampler", _sampler_made)
    _sglang("layers.sampler").register_sampler_backend(BACKEND, lambda: _sampler_class()())


def _service() -> Service | None:
    return installed(SERVER, "sglang.wmcore")


def _sglang(module: str) -> Any:
    return import_module(f"sglang.srt.{module}")


def _server_starts(result: Any, server_args: Any) -> None:
    """After ServerArgs.check_server_args: no server starts that names a watermark and could not write it."""
    if _service() is None:
        return
    if server_args.sampling_backend != BACKEND and not server_args.enable_custom_logit_processor:
        raise WatermarkError(
            f"{ENVIRONMENT} is set, but nothing would write a watermark: start SGLang with"
            f" --sampling-backend {BACKEND} or --enable-custom-logit-processor, or unset the variable"
        )
    for name in ("speculative_algorithm", "dllm_algorithm"):
        if getattr(server_args, name):
            raise WatermarkError(
                f"--{name.replace('_', '-')} {getattr(server_args, name)} takes tokens past the sampler, unmarked:"
                f" leave it out, or unset {ENVIRONMENT}"
            )
    if _sglang("hardware_backend.mlx.runtime").use_mlx():
        raise WatermarkError(
            f"SGLang's MLX runner has no sampler to watermark with: unset SGLANG_USE_MLX or {ENVIRONMENT}"
        )


def _request_arrives(result: Any, params: Any, vocab_size: int) -> None:
    """After SamplingParams.verify, in the process that takes requests: a WatermarkError becomes status 400."""
    if params.custom_params is None:  # SGLang shows a processor its request in a dict alone
        params.custom_params = {}
    _admit(params, vocab_size, _service() is not None and _draws_all())


def _sampler_made(result: Any, backend: str | None = None) -> Any:
    """After create_sampler: SGLang takes another than was asked for on a CPU and in its deterministic mode."""
    return result if isinstance(result, _Sampler) or not _draws_all() else _sampler_class()()


def _draws_all() -> bool:
    """Whether this server was started with our sampler, and not only for processors."""
    return bool(_sglang("runtime_context").get_server_args().sampling_backend == BACKEND)


def _admit(params: Any, width: int, ours: bool) -> Wish:
    """What a request wishes. Raises WatermarkError if it may not be served so.

    ours: its tokens come through here, and it is marked unless it says no.
    """
    wish, service, settings = _wish(params), _service(), _settings(params)
    if service is None and ours and wish.wanted is None:
        wish = dataclasses.replace(wish, wanted=True)  # it names our processor
    if admitted(service, SERVER, wish, settings) and (ours or wish.wanted):
        assert service is not None
        service.check_vocabulary(width, ENVIRONMENT)
    return wish


def _wish(params: Any) -> Wish:
    fields = params.custom_params
    return Wish.read(fields if isinstance(fields, dict) else None)


def _settings(params: Any) -> Sampling:
    """Penalties come before us. SGLang makes temperature 0 top_k 1 with temperature 1."""
    return Sampling(
        temperature=float(params.temperature) if params.top_k > 1 else 0.0,
        top_k=int(params.top_k) if params.top_k < ALL_TOKENS else 0,
        top_p=float(params.top_p),
        min_p=float(params.min_p),
        otherwise="beam search" if (params.beam_width or 1) > 1 else "",
    )


def _stream(request: Any, width: int) -> Stream | None:
    """The text of a request, which opens when we first see it; None for one that is not marked."""
    if not hasattr(request, _STREAM):
        try:
            stream = _open(request, width)
        except WatermarkError as error:
            stream = None
            _end(request, error)
        setattr(request, _STREAM, stream)
    kept: Stream | None = getattr(request, _STREAM)
    return kept


def _open(request: Any, width: int) -> Stream | None:
    params = request.sampling_params
    wish = _admit(params, width, ours=True)
    service = _service()
    if service is None:
        return None
    return service.open(
        wish,
        _settings(params),
        seed=params.sampling_seed if params.n == 1 else None,  # n texts of one request share it
        lot=request.rid,
        name=shown(request.rid),
        resumed=len(request.output_ids) > 0,  # the prefill was another server's
    )


def _end(request: Any, error: WatermarkError) -> None:
    """Refuse a request that the scheduler holds already: it ends with status 400 and its text is not sent."""
    aborted = _sglang("managers.schedule_batch").FINISH_ABORT
    request.to_finish = aborted(str(error), HTTPStatus.BAD_REQUEST, "BadRequestError")


def _position(request: Any) -> int:
    """How many new tokens a text has; below 0 in the middle of its prompt, where SGLang draws a token and drops it.

    The length of its key-value cache, which the scheduler sets before each forward pass. The request's own list of
    tokens lags behind, as batches overlap.
    """
    return int(request.kv.kv_committed_len) - len(request.origin_input_ids)


def _marked(requests: Sequence[Any], width: int) -> tuple[list[int], list[Stream], list[int]]:
    """Of the requests of a batch, those that are marked: rows, streams, positions."""
    found = [(i, _stream(one, width)) for i, one in enumerate(requests)]
    ours = [(i, stream) for i, stream in found if stream is not None]
    return [i for i, _ in ours], [s for _, s in ours], [_position(requests[i]) for i, _ in ours]


class _Processor:
    """The logit processor without SGLang's base class. It keeps nothing: SGLang makes a new one for each batch."""

    def __call__(
        self, logits: Any, custom_param_list: list[dict[str, Any] | None] | None = None
    ) -> Any:
        """Leave of each row, [V] before temperature, only the token that the request's key draws. In place."""
        given = custom_param_list or [None] * len(logits)
        requests = [(one or {}).get("__req__") for one in given]
        if any(one is None for one in requests):
            raise WatermarkError(
                "WatermarkLogitProcessor cannot see its request: custom_params has to be a dict, if an empty one"
            )
        if len({id(one) for one in requests}) < len(logits):
            for one in requests:
                _end(
                    one, WatermarkError("speculative decoding cannot be watermarked: leave it out")
                )
            return logits
        rows, streams, positions = _marked(requests, logits.shape[-1])
        if rows:
            force(logits, rows, streams, positions, order=JOINT)
        return logits


class _Batch:
    """What SGLang's SamplingBatchInfo lacks: whose the rows are. The methods are those it leaves for others."""

    wmcore_requests: list[Any] | None

    def adjusted_from_schedule_batch(self, batch: Any, vocab_size: int) -> None:
        theirs: Any = super()
        theirs.adjusted_from_schedule_batch(batch, vocab_size)
        draws_all = _draws_all()
        for one in batch.reqs:
            if not draws_all:
                _look_for_processor(one)
            elif one.sampling_params.max_new_tokens != 0:  # a prompt that n texts share
                _stream(one, vocab_size)
        self.wmcore_requests = [weakref.proxy(one) for one in batch.reqs]

    def adjusted_merge_batch(self, other: Any) -> None:
        theirs: Any = super()
        theirs.adjusted_merge_batch(other)
        self.wmcore_requests = [*(self.wmcore_requests or ()), *other.wmcore_requests]

    def adjusted_filter_batch(self, keep_indices: list[int], keep_indices_device: Any) -> None:
        theirs: Any = super()
        theirs.adjusted_filter_batch(keep_indices, keep_indices_device)
        self.wmcore_requests = [(self.wmcore_requests or [])[i] for i in keep_indices]


def _look_for_processor(request: Any) -> None:
    """Refuse a request that has to be marked where neither the server nor it names what would do it."""
    if request.custom_logit_processor is not None:
        processor = _sglang("sampling.custom_logit_processor").CustomLogitProcessor
        if isinstance(processor.from_str(request.custom_logit_processor), _Processor):
            return
    service, wish = _service(), _wish(request.sampling_params)
    if wish.asks or (service is not None and service.required):
        _end(
            request,
            WatermarkError(
                "wmcore: this server watermarks only requests that name WatermarkLogitProcessor as their"
                " custom_logit_processor"
            ),
        )


class _Sampler:
    """A draw from the keys in place of SGLang's. All else (logprobs, greedy batches, synchronisation) is theirs."""

    def __init__(self) -> None:
        super().__init__()
        context = _sglang("runtime_context")
        backend = context.get_exec().kernel.sampling_backend
        if backend == BACKEND:  # what SGLang takes where nothing is said
            backend = "flashinfer" if context.get_platform().has_flashinfer else "pytorch"
        elif backend == "ascend":
            raise WatermarkError("the ascend sampling backend draws from logits itself, unmarked")
        self._theirs = backend

    def _sample_from_probs(
        self, probs: Any, sampling_info: Any, positions: Any, simple_sampling_case: bool
    ) -> tuple[Any, Any]:
        """Tokens int32 [B], and what SGLang keeps of the truncated probabilities for requests that want them."""
        rows, ours = _draws(probs, sampling_info)
        if len(rows) == len(probs) and sampling_info.sampling_mask_batch_indices is None:
            return ours, None
        theirs: Any = super()
        kernel = _sglang("runtime_context").get_exec().kernel
        with kernel.override(sampling_backend=self._theirs):
            tokens, capture = theirs._sample_from_probs(
                probs, sampling_info, positions, simple_sampling_case
            )
        tokens[rows] = ours.to(tokens.dtype)
        if capture is not None:  # as SGLang does where ranks agree on another token
            capture = capture._replace(selected_weight=None)
        return tokens, capture

    def _sample_from_logprobs(self, logprobs: Any, sampling_info: Any, positions: Any) -> Any:
        """Tokens int32 [B]: the way of its deterministic mode for training."""
        theirs: Any = super()
        tokens = theirs._sample_from_logprobs(logprobs, sampling_info, positions)
        rows, ours = _draws(logprobs.exp(), sampling_info)
        tokens[rows] = ours
        return tokens


def _draws(probs: Any, sampling_info: Any) -> tuple[Any, Any]:
    """The rows of a batch that are marked and their tokens, int64 and int32 [R]. probs: [B, V], tempered."""
    import torch

    requests = getattr(sampling_info, "wmcore_requests", None)
    if requests is None or len(requests) != len(probs):
        raise WatermarkError(
            f"SGLang does not say whose its {len(probs)} rows are: another plugin may replace SamplingBatchInfo"
        )
    rows, streams, positions = _marked(requests, probs.shape[-1])
    index = torch.tensor(rows, dtype=torch.int64, device=probs.device)
    if not rows:
        return index, index.int()
    tokens = drawn(probs[index].log(), streams, positions, order=JOINT, tempered=True)
    return index[tokens >= 0], tokens[tokens >= 0].int()


@lru_cache(maxsize=1)
def _batch_class() -> type:
    base = _sglang("sampling.sampling_batch_info").SamplingBatchInfo
    fields = [("wmcore_requests", Any, None)]
    return dataclasses.make_dataclass(base.__name__, fields, bases=(_Batch, base))


@lru_cache(maxsize=1)
def _sampler_class() -> type:
    return type("WatermarkSampler", (_Sampler, _sglang("layers.sampler").Sampler), {})


def _processor_class() -> type:
    base = _sglang("sampling.custom_logit_processor").CustomLogitProcessor
    names = {"__doc__": _Processor.__doc__, "__module__": __name__}
    return type("WatermarkLogitProcessor", (_Processor, base), names)


def __getattr__(name: str) -> Any:
    if name == "WatermarkLogitProcessor":  # made on demand: the detector needs no SGLang
        globals()[name] = _processor_class()
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
