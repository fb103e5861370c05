"""vLLM: a logits processor that writes our watermark, and a batch detector for vLLM's own.

Installing wmcore registers the processor (entry point group ``vllm.logits_processors``). It does nothing at all
unless the environment variable WMCORE_VLLM_WATERMARK names a watermark file when vLLM starts. Then each request with
a temperature above 0 is watermarked, as its ``extra_args`` (HTTP: ``vllm_xargs``) say:

    wmcore : True or 1 (the default), or False or 0 for no watermark
    wmcore_label : str, a sub-key of the watermark's key, as `Key.derive` makes it (for tenants)
    wmcore_shift : int, the key row of the first token; else it comes from the request's seed, else it is drawn

One class has both interfaces: the V1 runner's (logits, batch updates) and Model Runner V2's (logits, context). The
position of a token is known from the runner, so no history is kept. vLLM itself was never run with it: it is tested
on the interface files of the wheels 0.30, 0.31 and 0.33, and on stubs (see docs/bindings/vllm.md).
"""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from wmcore import sampling
from wmcore.bindings.vllm_gumbel import GumbelDetection, GumbelDetector
from wmcore.errors import WatermarkError
from wmcore.truncate import penalised, truncated
from wmcore.watermark import Watermark

if TYPE_CHECKING:
    WatermarkLogitsProcessor: type

__all__ = ["ENVIRONMENT", "GumbelDetection", "GumbelDetector", "WatermarkLogitsProcessor"]

ENVIRONMENT = "WMCORE_VLLM_WATERMARK"
"""Names the watermark file."""

_GREEDY = 1e-5
"""Temperatures below this are greedy in vLLM."""
_OURS = ("wmcore", "wmcore_label", "wmcore_shift")
_DRAWN = "_wmcore_drawn_shift"
_INTERFACES = ("vllm.v1.sample.logits_processor", "vllm.v1.worker.gpu.sample.logits_processor")


class _Request:
    """How one request is watermarked."""

    def __init__(
        self, watermark: Watermark, params: Any, shift: int, prompt: Any = None, output: Any = None
    ) -> None:
        extra = params.extra_args or {}
        self.params = params
        self.prompt, self.output = prompt or [], output
        self.draw = _draw_of(watermark, extra.get("wmcore_label"))
        self.shift = shift

    @property
    def penalties(self) -> dict[str, float]:
        """Those that the V1 runner would apply after the draw, too late."""
        return {
            "repetition": float(getattr(self.params, "repetition_penalty", 1.0)),
            "frequency": float(getattr(self.params, "frequency_penalty", 0.0)),
            "presence": float(getattr(self.params, "presence_penalty", 0.0)),
        }


class _Processor:
    """The processor without vLLM's base classes: see the module. Both constructors and both `apply` are here."""

    def __init__(self, vllm_config: Any, *rest: Any) -> None:
        # V2: (config, request states). V1: (config, device, is_pin_memory).
        self._states: Any = rest[0] if len(rest) == 1 else None
        self._watermark = _installed()
        self._requests: dict[int, _Request] = {}
        self._lots = _lots(vllm_config)
        if self._watermark is not None:
            _check_vocabulary(self._watermark, vllm_config, self._states)

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raise WatermarkError (a ValueError) for extra_args of ours that cannot be honoured."""
        extra = getattr(sampling_params, "extra_args", None) or {}
        if not any(name in extra for name in _OURS):
            return
        watermark = _installed()
        if not _wanted(extra):
            return
        if watermark is None:
            raise WatermarkError(
                f"wmcore: no watermark is set up on this server: start it with {ENVIRONMENT} naming a watermark file"
            )
        label, shift = extra.get("wmcore_label"), extra.get("wmcore_shift")
        if label is not None and not isinstance(label, str):
            raise WatermarkError(f"wmcore_label is a {type(label).__name__}, but must be a string")
        if label is not None and any("\ud800" <= c <= "\udfff" for c in label):
            raise WatermarkError("wmcore_label holds half a surrogate pair, which UTF-8 cannot say")
        if label is not None:
            watermark.key.derive(label)  # a published key says that it has no sub-keys
        n = watermark.key_length
        if shift is not None and (
            isinstance(shift, bool) or not isinstance(shift, int) or not 0 <= shift < n
        ):
            raise WatermarkError(
                f"wmcore_shift {shift!r} is outside 0 to {n - 1}, the rows of the key"
            )

    def is_argmax_invariant(self) -> bool:
        """V1: whether greedy requests may skip `apply`."""
        return self._watermark is None

    def update_state(self, batch_update: Any) -> None:
        """V1: requests that left, came or moved."""
        if batch_update is None or self._watermark is None:
            return
        for index in batch_update.removed:
            self._requests.pop(index, None)
        for index, params, prompt, output in batch_update.added:
            self._set(index, params, bool(output), prompt, output)
        for source, target, direction in batch_update.moved:
            there = self._requests.pop(target, None)
            here = self._requests.pop(source, None)
            if here is not None:
                self._requests[target] = here
            if there is not None and direction.name == "SWAP":
                self._requests[source] = there

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """V2: a request enters a slot (again, after preemption). Whether its logits will change."""
        if self._watermark is None:
            return False
        self._set(req_idx, sampling_params, _resumed(self._states, req_idx))
        return req_idx in self._requests

    def apply_staged_writes(self) -> None:
        """V2: nothing is staged."""

    def apply(self, logits: Any, ctx: Any = None) -> Any:
        """Leave of each watermarked row, float32 [V], only the token that the key draws. In place."""
        if not self._requests:
            return logits
        if ctx is None:
            rows = sorted(index for index in self._requests if index < logits.shape[0])
            requests = [self._requests[index] for index in rows]
            positions = np.array([len(one.output) for one in requests], np.int64)
        else:
            if not any(int(slot) in self._requests for slot in ctx.idx_mapping_np):
                return logits
            slots = ctx.expanded_idx_mapping.cpu().numpy()
            rows = [row for row, slot in enumerate(slots.tolist()) if slot in self._requests]
            requests = [self._requests[int(slots[row])] for row in rows]
            prompts = self._states.prompt_len.gpu[ctx.expanded_idx_mapping.long()]
            positions = (ctx.pos + 1 - prompts).cpu().numpy()[rows].astype(np.int64)
        if rows:
            self._force(logits, rows, requests, positions, penalise=ctx is None)
        return logits

    def _set(
        self, index: int, params: Any, resumed: bool, prompt: Any = None, output: Any = None
    ) -> None:
        self._requests.pop(index, None)
        if params.temperature >= _GREEDY and _wanted(params.extra_args or {}):
            assert self._watermark is not None
            shift = _shift(self._watermark.key_length, params, self._lots, resumed)
            self._requests[index] = _Request(self._watermark, params, shift, prompt, output)

    def _force(
        self,
        logits: Any,
        rows: list[int],
        requests: list[_Request],
        positions: np.ndarray,
        penalise: bool,
    ) -> None:
        import torch

        assert self._watermark is not None
        size, n = self._watermark.vocab_size, self._watermark.key_length
        device = logits.device
        index = torch.tensor(rows, device=device)
        x = logits[index, :size]
        for i, one in enumerate(requests) if penalise else ():
            if one.penalties != {"repetition": 1.0, "frequency": 0.0, "presence": 0.0}:
                x[i] = penalised(x[i], one.prompt, one.output, **one.penalties)

        def column(name: str, dtype: Any) -> Any:
            return torch.tensor(
                [getattr(one.params, name) for one in requests], dtype=dtype, device=device
            )

        x = truncated(
            x,
            column("temperature", torch.float32),
            column("top_k", torch.int64),
            column("top_p", torch.float32),
            column("min_p", torch.float32),
        )
        # A row without a distribution (everything masked, NaN) is left to vLLM.
        usable = (x.amax(dim=-1).isfinite()).cpu().numpy()
        key_rows = (np.array([one.shift for one in requests]) + positions) % n
        for draw in dict.fromkeys(one.draw for one in requests):
            members = np.array(
                [i for i, one in enumerate(requests) if one.draw is draw and usable[i]]
            )
            if not len(members):
                continue
            tokens = draw(x[torch.from_numpy(members).to(device)], key_rows[members], 1.0).to(
                device
            )
            at = index[torch.from_numpy(members).to(device)]
            kept = logits[at, tokens]
            logits[at] = -torch.inf
            logits[at, tokens] = kept


def _wanted(extra: dict[str, Any]) -> bool:
    """What extra_args say about the watermark: on unless switched off."""
    wanted = extra.get("wmcore", True)
    if wanted not in (True, False):  # 1 and 0 are these
        raise WatermarkError(f"wmcore is {wanted!r}, but must be true or false (1 or 0)")
    return bool(wanted)


def _shift(n: int, params: Any, lots: Iterator[str], resumed: bool) -> int:
    """The first key row of a request: given, from its seed, or drawn and kept with its parameters.

    Only a resumed request looks for a kept one: the requests of one call with n texts may share their parameters.
    """
    extra = params.extra_args or {}
    if extra.get("wmcore_shift") is not None:
        return int(extra["wmcore_shift"]) % n
    if params.seed is not None:
        return _hashed(f"shift\x00{int(params.seed)}") % n
    if resumed and isinstance(extra.get(_DRAWN), int):
        return int(extra[_DRAWN]) % n
    drawn = _hashed(f"lot\x00{next(lots)}") % n
    with contextlib.suppress(
        AttributeError, TypeError
    ):  # kept where parameters outlive a preemption
        params.extra_args = {**extra, _DRAWN: drawn}
    return drawn


def _hashed(what: str) -> int:
    return int.from_bytes(hashlib.sha256(f"wmcore vllm {what}".encode()).digest()[:8], "little")


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


@lru_cache(maxsize=1)
def _load(path: str) -> Watermark:
    return Watermark.load(path)


def _installed() -> Watermark | None:
    """The watermark that the environment names, if it names one."""
    path = os.environ.get(ENVIRONMENT)
    return _load(path) if path else None


@lru_cache(maxsize=256)
def _draw_of(watermark: Watermark, label: str | None) -> Any:
    if label is not None:
        watermark = replace(watermark, key=watermark.key.derive(label))
    return sampling.watermarked(watermark)


def _check_vocabulary(watermark: Watermark, vllm_config: Any, states: Any) -> None:
    size = getattr(states, "vocab_size", None)
    model: Any = getattr(vllm_config, "model_config", None)
    if size is None and hasattr(model, "get_vocab_size"):
        size = model.get_vocab_size()
    if size is not None and size < watermark.vocab_size:
        raise WatermarkError(
            f"{ENVIRONMENT}: the watermark's vocab_size {watermark.vocab_size} exceeds the model's {size} logits; "
            "use the watermark made for this model"
        )


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
