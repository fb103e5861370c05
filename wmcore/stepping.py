"""How a causal language model of transformers is stepped: a batch of prompts, then a token of each text at a time.

transformers' own `prepare_inputs_for_generation` says what a step takes: state-space models want no mask after the
prompt, some models switch their positions, releases before 5 want ``cache_position``. What is decided here is which
models can be stepped, and which batches may be padded.
"""

import inspect
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from wmcore.errors import WatermarkError

CACHES = ("cache", "past_key_values", "cache_params")
"""Names of a cache in a model's output: since transformers 5.2x, before, and that of Mamba before."""

_PLACED_BY_MASK = frozenset({"bloom", "mpt"})
"""Types of models that take no ``position_ids``, but count positions from the attention mask."""

_ATTENTION = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
"""Types of layers that a mask keeps from seeing the padding."""


_KERNELS = ("conv_kernel", "mamba_d_conv", "conv_L_cache")
"""Names under which configurations have the width of a state-space model's convolution."""


def language_model(model: Any) -> Any:
    """The `PreTrainedModel` that is stepped: model itself, or what a wrapper (PEFT, torch.compile) holds.

    Raises
    ------
    WatermarkError
        If it is no causal language model of transformers in eval mode, or one that cannot be stepped.
    """
    from transformers import PreTrainedModel

    parts = model.modules() if hasattr(model, "modules") else ()
    inner = next((part for part in parts if isinstance(part, PreTrainedModel)), None)
    if inner is None or not hasattr(inner, "prepare_inputs_for_generation"):
        raise WatermarkError(
            f"model is a {type(inner or model).__name__}, but must be a causal language model of transformers:"
            " load it with AutoModelForCausalLM"
        )
    if inner.training:
        raise WatermarkError(
            "model is in training mode, where dropout changes it: call model.eval()"
        )
    if inner.config.is_encoder_decoder:
        raise _unsupported(inner, "it has an encoder")
    cache, _ = _dialect()
    if not _takes(type(inner).forward) & {cache, "cache_params"}:
        raise _unsupported(inner, "it keeps no cache of a known kind")
    if any(
        name.endswith("position_embeddings") and getattr(part, "padding_idx", None) is not None
        for name, part in inner.named_modules()
    ):  # RoBERTa and its kin
        raise _unsupported(inner, "it counts positions from its padding token's number")
    adapters = getattr(model, "peft_config", None)
    if isinstance(adapters, dict) and any(
        getattr(one, "is_prompt_learning", False) for one in adapters.values()
    ):
        raise _unsupported(inner, "its adapter puts something of its own before each prompt")
    return inner


def _unsupported(inner: Any, why: str) -> WatermarkError:
    return WatermarkError(
        f"model: {type(inner).__name__} is not supported here, because {why}; use transformers' model.generate"
        " with wmcore.bindings.transformers.WatermarkConfig"
    )


def _takes(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)


def _dialect() -> tuple[str, bool]:
    """What this release of transformers calls the cache, and whether steps are told their length.

    If not (before 5), they are told their places, and masks that hide nothing are passed as well.
    """
    from transformers import GenerationMixin

    names = _takes(GenerationMixin.prepare_inputs_for_generation)
    return "cache" if "cache" in names else "past_key_values", "next_sequence_length" in names


def cache_of(output: Any, model: Any) -> dict[str, Any]:
    """The cache in a model's output, under the name that its next call takes."""
    for name in CACHES:
        if name in output and output[name] is not None:
            return {name: output[name]}
    raise _unsupported(model, "its output holds no cache of a known kind")


def may_pad(model: Any) -> bool:
    """Whether padding on the left leaves the logits of a text as they are.

    So it is where a mask hides the padding from every layer, and positions are told, or counted from the mask. A
    recurrent state or a convolution could take padding in, and a model that prepares a step in its own way may
    forget the positions: none of these is padded.
    """
    from transformers import GenerationMixin

    inner = language_model(model)
    config = inner.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ())
    if getattr(inner, "_is_stateful", False) or not layers <= _ATTENTION:
        return False
    if config.model_type in _PLACED_BY_MASK:
        return True
    prepare = type(inner).prepare_inputs_for_generation
    own = prepare is not GenerationMixin.prepare_inputs_for_generation
    takes = _takes(type(inner).forward) & (_takes(prepare) if own else {"position_ids"})
    return "position_ids" in takes


def shortest_prompt(model: Any) -> int:
    """Tokens that a prompt must have.

    Before transformers gave all caches one name, Mamba and its kin lost part of the state of a prompt that is
    shorter than their convolution.
    """
    if _dialect()[0] == "cache":
        return 1
    config = language_model(model).config.get_text_config()
    return max([1, *(getattr(config, name, None) or 1 for name in _KERNELS)])


def batches(lengths: Sequence[int], size: int, padded: bool) -> list[list[int]]:
    """Places of the prompts of each batch, the longest prompts first; without padding, of one length each."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    groups = [order] if padded else [list(g) for _, g in groupby(order, key=lengths.__getitem__)]
    return [group[first : first + size] for group in groups for first in range(0, len(group), size)]


class Stepper:
    """Feeds one batch to a model: `logits` for the next token of each text, `append` for the tokens drawn.

    Parameters
    ----------
    model
        As for `language_model`. A wrapper's own forward is the one that is called.
    prompts : sequence of sequences of int
        Of one length unless `may_pad`.
    max_new_tokens : int
        How many tokens may be appended to each.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        import torch

        self._model = model
        self._inner = language_model(model)
        self.device = self._inner.get_input_embeddings().weight.device
        _, self._by_length = _dialect()
        takes = _takes(type(self._inner).forward)
        self._fixed: dict[str, Any] = {"use_cache": True}
        if "logits_to_keep" in takes:
            self._fixed["logits_to_keep"] = 1
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        width = int(lengths.max())
        room = width + max_new_tokens
        # Left padding: all prompts end together, so that new tokens form columns. Which token pads is of no account.
        ids = torch.zeros(len(prompts), room, dtype=torch.long)
        for row, prompt in zip(ids, prompts, strict=True):
            row[width - len(prompt) : width] = torch.as_tensor(prompt)
        self._ids = ids.to(self.device)
        self._mask = self._positions = None
        padded = int(lengths.min()) < width
        # transformers waits for the device at each step to ask whether a mask hides anything.
        if padded or not self._by_length:
            mask = (torch.arange(room) >= width - lengths[:, None]).long()
            self._mask = mask.to(self.device)
            if self._by_length and "position_ids" in takes:  # else they are made of the mask there
                self._positions = (mask.cumsum(1) - 1).clamp(min=0).to(self.device)
        self._cache: dict[str, Any] = {}
        self._fed, self._seen = 0, width

    def logits(self) -> Any:
        """The model's logits for the next token: float tensor [B, V] on the model's device."""
        import torch

        step: dict[str, Any] = {**self._fixed, **self._cache}
        if self._mask is not None:
            step["attention_mask"] = self._mask[:, : self._seen]
        if self._positions is not None:
            step["position_ids"] = self._positions[:, : self._seen]
        if self._by_length:
            step["next_sequence_length"] = self._seen - self._fed
            step["is_first_iteration"] = self._fed == 0
        else:
            step["cache_position"] = torch.arange(self._fed, self._seen, device=self.device)
        inputs = self._inner.prepare_inputs_for_generation(self._ids[:, : self._seen], **step)
        output = self._model(**inputs, return_dict=True)
        self._cache = cache_of(output, self._inner)
        self._fed = self._seen
        return output.logits[:, -1]

    def append(self, tokens: Any) -> None:
        """Put tokens, int64 [B], at the end of the texts."""
        self._ids[:, self._seen] = tokens.to(self.device)
        self._seen += 1
