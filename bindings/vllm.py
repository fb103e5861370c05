"""vLLM: a logits processor that writes our watermark, and a batch detector for vLLM's own.

Installing wmcore registers the processor (entry point group ``vllm.logits_processors``). It does nothing at all
unless the environment variable WMCORE_VLLM_WATERMARK names a watermark file when vLLM starts. Then each request with
a temperature above 0 is watermarked, as its ``extra_args`` (HTTP: ``vllm_xargs``) say:

    wmcore : True or 1 (the default), or False or 0 for no watermark
    wmcore_label : str, a sub-key of the watermark's key, as `Key.derive` makes it (for tenants)
    wmcore_shift : int, the key row of the first token; else it comes from the request's seed, else it is drawn

WMCORE_VLLM_REQUIRED=1 refuses requests that would go unmarked.

One class has both interfaces: the V1 runner's (logits, batch updates) and Model Runner V2's (logits, context). The
position of a token is known from the runner, so no history is kept. A second entry point (`guard`) refuses to start
what would leave the processor out. What was run, and on which versions: docs/bindings/vllm.md.
"""

import contextlib
import secrets
import sys
from collections.abc import Iterator, Sequence
from functools import wraps
from importlib import import_module
from itertools import count
from typing import TYPE_CHECKING, Any

from wmcore.bindings._serving import (
    Sampling,
    Service,
    Stream,
    Wish,
    admitted,
    force,
    installed,
    variable,
)
from wmcore.bindings.vllm_gumbel import GumbelDetection, GumbelDetector
from wmcore.errors import WatermarkError

if TYPE_CHECKING:
    WatermarkLogitsProcessor: type

__all__ = ["ENVIRONMENT", "GumbelDetection", "GumbelDetector", "WatermarkLogitsProcessor"]

SERVER = "vllm"
ENVIRONMENT = variable(SERVER)
"""Names the watermark file."""

_TEXTS = "_wmcore_texts"
_GUARDED = "_wmcore_guarded"
_INTERFACES = ("vllm.v1.sample.logits_processor", "vllm.v1.worker.gpu.sample.logits_processor")


def _service() -> Service | None:
    return installed(SERVER, "vllm.wmcore")  # vLLM shows the lines of its own loggers


class _Text:
    """A request in the batch. V1 also needs its tokens, for penalties that come after us there.

    stream : of a watermarked one, else None. output : V1's own list, which grows as the text does, and is the same one
    when the request comes again.
    """

    def __init__(self, stream: Stream | None, prompt: Any, output: Any) -> None:
        self.stream: Any = stream
        self.prompt: Sequence[int] = prompt or []
        self.output = output


class _Processor:
    """The processor without vLLM's base classes: see the module. Both constructors and both `apply` are here."""

    def __init__(self, vllm_config: Any, *rest: Any) -> None:
        # V2: (config, request states). V1: (config, device, is_pin_memory).
        self._states: Any = rest[0] if len(rest) == 1 else None
        self._service = _service()
        self._texts: dict[int, _Text] = {}
        self._lots = _lots(vllm_config)
        if self._service is not None:
            _refuse_unmarked(vllm_config)
            size = _vocabulary(vllm_config, self._states)
            self._service.check_vocabulary(size, ENVIRONMENT)

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raise WatermarkError (a ValueError) for a request that cannot be served as its extra_args ask."""
        service = _service()
        if service is not None:
            _check_guarded()
        wish = Wish.read(sampling_params.extra_args)
        admitted(service, SERVER, wish, _settings(sampling_params))

    def is_argmax_invariant(self) -> bool:
        """V1: whether greedy requests may skip `apply`."""
        return self._service is None

    def update_state(self, batch_update: Any) -> None:
        """V1: requests that left, came or moved."""
        if batch_update is None or self._service is None:
            return
        for index in batch_update.removed:
            self._texts.pop(index, None)
        for index, params, prompt, output in batch_update.added:
            self._set(index, params, bool(output), prompt, output)
        for source, target, direction in batch_update.moved:
            there = self._texts.pop(target, None)
            here = self._texts.pop(source, None)
            if here is not None:
                self._texts[target] = here
            if there is not None and direction.name == "SWAP":
                self._texts[source] = there

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """V2: a request enters a slot (again, after preemption). Whether its logits will change."""
        if self._service is None:
            return False
        self._set(req_idx, sampling_params, _resumed(self._states, req_idx))
        return req_idx in self._texts

    def apply_staged_writes(self) -> None:
        """V2: nothing is staged."""

    def apply(self, logits: Any, ctx: Any = None) -> Any:
        """Leave of each watermarked row, float32 [V], only the token that the key draws. In place."""
        if not self._texts:
            return logits
        if ctx is None:
            rows = sorted(index for index in self._texts if index < logits.shape[0])
            texts = [self._texts[index] for index in rows]
            positions = [len(one.output) for one in texts]
        else:
            if not any(int(slot) in self._texts for slot in ctx.idx_mapping_np):
                return logits
            slots = ctx.expanded_idx_mapping.cpu().numpy()
            rows = [row for row, slot in enumerate(slots.tolist()) if slot in self._texts]
            texts = [self._texts[int(slots[row])] for row in rows]
            prompts = self._states.prompt_len.gpu[ctx.expanded_idx_mapping.long()]
            positions = (ctx.pos + 1 - prompts).cpu().numpy()[rows].tolist()
        if rows:
            # The V1 runner applies penalties after custom processors, too late for a token that is drawn here.
            histories = [(one.prompt, one.output) for one in texts] if ctx is None else None
            force(logits, rows, [one.stream for one in texts], positions, histories=histories)
        return logits

    def _set(
        self, index: int, params: Any, resumed: bool, prompt: Any = None, output: Any = None
    ) -> None:
        """A request enters the batch: for the first time, or again, because it was preempted or had to wait."""
        self._texts.pop(index, None)
        # Parameters stay with their request; the requests of one call with n texts may share them.
        texts: list[_Text] = getattr(params, _TEXTS, [])
        text = next((one for one in texts if output is not None and one.output is output), None)
        if text is None:
            before = texts[-1].stream if resumed and texts else None
            text = _Text(before or self._open(params, resumed), prompt, output)
            with contextlib.suppress(AttributeError, TypeError):
                setattr(params, _TEXTS, [*texts, text])
        if text.stream is not None:
            self._texts[index] = text

    def _open(self, params: Any, resumed: bool) -> Stream | None:
        assert self._service is not None
        return self._service.open_admitted(
            params.extra_args,
            _settings(params),
            seed=params.seed,
            lot=next(self._lots),
            resumed=resumed,
        )


def guard() -> None:
    """vLLM's hook for plugins (``vllm.general_plugins``), which it calls before it makes a configuration.

    From then on a configuration whose text would not carry the watermark is a WatermarkError (a ValueError), so that
    vLLM does not start with it; see `_refuse_unmarked`. Without a watermark file nothing is refused.
    """
    config = import_module("vllm.config").VllmConfig
    verify = getattr(config, "__post_init__", None)
    if verify is None or hasattr(verify, _GUARDED):
        return

    @wraps(verify)
    def verified(self: Any) -> None:
        verify(self)
        if _service() is not None:
            _refuse_unmarked(self)

    setattr(verified, _GUARDED, True)
    config.__post_init__ = verified


def _refuse_unmarked(config: Any) -> None:
    drafts = getattr(config, "speculative_config", None)
    if getattr(drafts, "rejection_sample_method", "standard") == "synthetic":
        raise WatermarkError(
            "wmcore: synthetic rejection sampling keeps drafted tokens whatever the watermark draws: use another"
            f" rejection_sample_method, or unset {ENVIRONMENT}"
        )
    if drafts is not None and not getattr(config, "use_v2_model_runner", False):
        raise WatermarkError(
            "wmcore: under speculative decoding the V1 model runner leaves logits processors out, so no text would be"
            " watermarked: set VLLM_USE_V2_MODEL_RUNNER=1, start without --speculative-config, or unset"
            f" {ENVIRONMENT}"
        )
    if getattr(config, "watermark_config", None) is not None:
        raise WatermarkError(
            "wmcore: a text cannot carry vLLM's own watermark and this one: start without --watermark-config, or"
            f" unset {ENVIRONMENT}"
        )


def _check_guarded() -> None:
    """Raise WatermarkError if vLLM made its configuration without `guard`."""
    config = getattr(sys.modules.get("vllm.config"), "VllmConfig", None)
    if config is not None and not hasattr(getattr(config, "__post_init__", None), _GUARDED):
        raise WatermarkError(
            "wmcore: vLLM did not load the plugin that makes sure that its text is watermarked: name wmcore in"
            " VLLM_PLUGINS, or unset that"
        )


def _settings(params: Any) -> Sampling:
    return Sampling(
        temperature=float(params.temperature),
        top_k=int(params.top_k),
        top_p=float(params.top_p),
        min_p=float(params.min_p),
        repetition=float(getattr(params, "repetition_penalty", 1.0)),
        frequency=float(getattr(params, "frequency_penalty", 0.0)),
        presence=float(getattr(params, "presence_penalty", 0.0)),
        otherwise="beam search" if _beam_search(params) else "",
    )


def _beam_search(params: Any) -> bool:
    """Whether this is a step of vLLM's beam search, which reads the log probabilities and drops the token."""
    return params.max_tokens == 1 and not params.detokenize and bool(params.logprobs)


def _lots(vllm_config: Any) -> Iterator[str]:
    """A name for each request that needs a row, the same in all ranks of a tensor-parallel group.

    Each rank samples for itself, and all must draw the same token. They see the same requests in the same order and
    share vLLM's instance id, which is fresh for each server; data-parallel replicas differ by their rank.
    """
    instance = getattr(vllm_config, "instance_id", "") or secrets.token_hex(16)
    replica = getattr(getattr(vllm_config, "parallel_config", None), "data_parallel_rank", 0)
    return (f"{instance} {replica} {i}" for i in count())


def _resumed(states: Any, slot: int) -> bool:
    """V2: whether a request enters with tokens that it had before a preemption."""
    try:
        return bool(states.prefill_len.np[slot] > states.prompt_len.np[slot])
    except AttributeError:  # not what 0.31 to 0.33 have
        return False


def _vocabulary(vllm_config: Any, states: Any) -> int | None:
    """The model's number of logits, where vLLM says it."""
    size = getattr(states, "vocab_size", None)
    model: Any = getattr(vllm_config, "model_config", None)
    if size is None and hasattr(model, "get_vocab_size"):
        size = model.get_vocab_size()
    return size


def _processor_class() -> type:
    """`_Processor` with the base class of each runner that this vLLM has."""
    bases = []
    for name in _INTERFACES:
        try:
            bases.append(import_module(name).LogitsProcessor)
        except (ImportError, AttributeError):  # no vLLM, or one without this runner
            continue
    return type(
        "WatermarkLogitsProcessor",
        (_Processor, *bases),
        {"__doc__": __doc__, "__module__": __name__},
    )


def __getattr__(name: str) -> Any:
    if name == "WatermarkLogitsProcessor":  # made on demand: the detector needs no vLLM
        globals()[name] = _processor_class()
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
