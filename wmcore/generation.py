"""Text from a causal language model, its tokens drawn from a key sequence (Algorithm 1).

Kuditipudi et al., arXiv 2307.15593: token i (from 0) of a text with shift s is a function of the
model's probabilities and of key row (s + i) mod n.
"""

import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wmcore import sampling
from wmcore.errors import WatermarkError
from wmcore.kernels.constants import DOMAIN_SHIFT

if TYPE_CHECKING:
    from wmcore.watermark import Watermark

MAX_ROWS = 1 << 32
"""Key rows are one ChaCha nonce word."""


@dataclass(frozen=True)
class Generation:
    """A prompt and its continuation."""

    prompt: str | Sequence[int]
    """As it was given."""
    text: str | None
    """The new tokens decoded without special tokens; None when no tokenizer was given."""
    tokens: list[int] = field(repr=False)
    """The new tokens, with the end-of-text token if it was drawn: what a detector should see."""
    shift: int | None
    """Key row of the first token; None without a watermark."""


def generate(
    model: Any,
    prompts: Sequence[str | Sequence[int]],
    watermark: "Watermark | None",
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    batch_size: int = 16,
    shifts: int | Sequence[int] | None = None,
    seed: int | None = None,
    eos: bool = True,
    progress: bool = True,
    tokenizer: Any = None,
) -> list[Generation]:
    """Continue prompts with tokens drawn from a watermark's key.

    Averaged over keys, a text has the distribution of ordinary sampling as long as it is not longer
    than the key (the generation budget; a longer one is warned about).

    Parameters
    ----------
    model
        A causal language model of transformers, on any device, in eval mode.
    prompts
        Strings (then a tokenizer is needed) or sequences of token ids. An empty string starts from
        the tokenizer's beginning-of-text token.
    watermark
        None samples without a watermark in the same loop.
    max_new_tokens
        The most tokens that a text may gain.
    temperature, top_k, top_p
        As in transformers, which also applies them; a temperature alone is applied in the kernel.
    batch_size
        Prompts run at once. They are sorted by length inside, and padded on the left.
    shifts
        Key row at which each text starts, in [0, key length): one for all or one per prompt.
        None draws them at random, so that one key gives many texts.
    seed
        Of the shifts, and of the draws without a watermark: these depend on the seed and on the
        prompt's place in ``prompts`` alone, not on the batch size. None takes fresh entropy.
    eos
        End a text at the model's end-of-text token. False draws ``max_new_tokens`` tokens always.
    progress
        Show a bar on standard error if that is a terminal.
    tokenizer
        Of the model; encodes prompts, decodes texts.

    Returns
    -------
    list of Generation
        In the order of the prompts.

    Raises
    ------
    WatermarkError
        For a setting out of range, a prompt the model cannot read, a model with fewer logits than
        ``watermark.vocab_size`` (more are cut off), or logits without a distribution.

    Examples
    --------
    >>> model, tokenizer = load_model("smollm2")  # doctest: +SKIP
    >>> watermark = Watermark.create("exp", vocab_size=49152)  # doctest: +SKIP
    >>> made = generate(
    ...     model, ["The sea"], watermark, max_new_tokens=50, tokenizer=tokenizer
    ... )  # doctest: +SKIP
    """
    made = generate_iter(
        model,
        prompts,
        watermark,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        batch_size=batch_size,
        shifts=shifts,
        seed=seed,
        eos=eos,
        progress=progress,
        tokenizer=tokenizer,
    )
    return [generation for _, generation in sorted(made, key=lambda pair: pair[0])]


def generate_iter(
    model: Any,
    prompts: Sequence[str | Sequence[int]],
    watermark: "Watermark | None",
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    batch_size: int = 16,
    shifts: int | Sequence[int] | None = None,
    seed: int | None = None,
    eos: bool = True,
    progress: bool = True,
    tokenizer: Any = None,
) -> Iterator[tuple[int, Generation]]:
    """`generate`, but giving (place in ``prompts``, Generation) as soon as a batch is done.

    Settings are checked before the first batch, when this is called.
    """
    _at_least("max_new_tokens", max_new_tokens, 1)
    _at_least("batch_size", batch_size, 1)
    if seed is not None:
        _at_least("seed", seed, 0)
    ids = _encode(model, prompts, tokenizer, max_new_tokens)
    starts = _starts(watermark, len(prompts), max_new_tokens, shifts, seed)
    draw = sampling.ordinary(seed) if watermark is None else sampling.watermarked(watermark)
    loop = _Loop(
        model=model,
        pick=_picker(draw, watermark, temperature, top_k, top_p),
        key_length=MAX_ROWS if watermark is None else watermark.key_length,
        max_new_tokens=max_new_tokens,
        eos_ids=_eos_ids(model, tokenizer) if eos else frozenset(),
    )

    def batches() -> Iterator[tuple[int, Generation]]:
        longest_first = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        with _progress(progress) as bar:
            task = bar.add_task("tokens", total=len(ids) * max_new_tokens)
            for first in range(0, len(ids), batch_size):
                batch = longest_first[first : first + batch_size]
                texts = loop.run([ids[i] for i in batch], starts[batch], bar, task)
                bar.update(task, completed=(first + len(batch)) * max_new_tokens)
                for i, tokens in zip(batch, texts, strict=True):
                    text = None
                    if tokenizer is not None:
                        text = tokenizer.decode(tokens, skip_special_tokens=True)
                    shift = None if watermark is None else int(starts[i])
                    yield i, Generation(prompts[i], text, tokens, shift)

    return batches()


READ_EVERY = 16
"""Steps of a CUDA device between two looks for the end-of-text token."""


@dataclass(frozen=True)
class _Loop:
    """What every batch shares."""

    model: Any
    pick: Callable[[Any, NDArray[np.int64]], Any]
    key_length: int
    max_new_tokens: int
    eos_ids: frozenset[int]

    def run(
        self, prompts: list[list[int]], starts: NDArray[np.int64], bar: Any, task: Any
    ) -> list[list[int]]:
        """The new tokens of one batch. Text b draws its token i from row (starts[b] + i) mod n."""
        import torch

        with torch.inference_mode():
            device = self.model.get_input_embeddings().weight.device
            lengths = torch.tensor([len(p) for p in prompts])
            width = int(lengths.max())
            # Left padding: all prompts end together, so that new tokens form columns. Which token
            # pads is of no account: the mask hides it.
            inputs = torch.tensor([[0] * (width - len(p)) + p for p in prompts]).to(device)
            mask = torch.ones(len(prompts), width + self.max_new_tokens, dtype=torch.long)
            mask[:, :width] = torch.arange(width) >= width - lengths[:, None]
            positions = (mask.cumsum(1) - 1).clamp(min=0).to(device)
            mask = mask.to(device)
            optional = _optional_inputs(self.model)
            cache: dict[str, Any] = {}
            texts: list[list[int]] = [[] for _ in prompts]
            active = np.arange(len(prompts))
            chosen = torch.from_numpy(active).to(device)
            unread: list[Any] = []
            for i in range(self.max_new_tokens):  # hot loop
                seen = width + i
                extra = {"position_ids": positions[:, seen - inputs.shape[1] : seen]}
                extra["logits_to_keep"] = 1
                output = self.model(
                    input_ids=inputs,
                    attention_mask=mask[:, :seen],
                    use_cache=True,
                    **{name: value for name, value in extra.items() if name in optional},
                    **cache,
                )
                cache = cache_of(output)
                logits = output.logits[:, -1]
                if len(active) < len(prompts):
                    logits = logits[chosen.to(logits.device)]
                drawn = self.pick(logits, (starts[active] + i) % self.key_length)
                unread.append(drawn)
                inputs = torch.zeros(len(prompts), 1, dtype=torch.long, device=device)
                inputs[chosen, 0] = drawn.to(device).clamp(min=0)
                bar.advance(task, len(active))
                if len(unread) == self.read_every(device) or i + 1 == self.max_new_tokens:
                    left = self._read(torch.stack(unread, 1).cpu(), active, texts)
                    unread = []
                    if not left.size:
                        break
                    if len(left) < len(active):
                        active, chosen = left, torch.from_numpy(left).to(device)
        return texts

    @staticmethod
    def read_every(device: Any) -> int:
        """Steps between two looks at the tokens. On a CUDA device a look waits for all that was launched."""
        return READ_EVERY if device.type == "cuda" else 1

    def _read(
        self, drawn: Any, active: NDArray[np.int64], texts: list[list[int]]
    ) -> NDArray[np.int64]:
        """Append the new tokens [A, steps] of the active texts, each up to its end; the texts that go on."""
        left = []
        for b, tokens in zip(active.tolist(), drawn.tolist(), strict=True):
            ends = [s for s, token in enumerate(tokens) if token in self.eos_ids]
            tokens = tokens[: ends[0] + 1] if ends else tokens
            sampling.check_tokens(tokens)
            texts[b] += tokens
            if not ends:
                left.append(b)
        return np.array(left, int)


def _optional_inputs(model: Any) -> set[str]:
    """Which of two inputs to pass. A wrapper that only shows ``*args, **kwargs`` gets both."""
    names = set(inspect.signature(model.forward).parameters)
    wanted = {"position_ids", "logits_to_keep"}
    return wanted & names if "input_ids" in names else wanted


def cache_of(output: Any) -> dict[str, Any]:
    """The KV cache under the name that the next call takes: `cache` since transformers 5.2x."""
    for name in ("cache", "past_key_values"):
        if name in output and output[name] is not None:
            return {name: output[name]}
    raise WatermarkError(
        "model: its output has no KV cache; load it with transformers' AutoModelForCausalLM,"
        " with use_cache=True in its configuration"
    )


def _picker(
    draw: sampling.Draw,
    watermark: "Watermark | None",
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> Callable[[Any, NDArray[np.int64]], Any]:
    """(logits [B, V], key rows [B]) to tokens [B]: cut, warp as transformers does, draw."""
    if not 0 < temperature < float("inf"):
        raise WatermarkError(
            f"temperature {temperature} is not above 0; 1.0 leaves the model as is"
        )
    if top_k is not None:
        _at_least("top_k", top_k, 1)
    if top_p is not None and not 0 < top_p <= 1:
        raise WatermarkError(f"top_p {top_p} is outside (0, 1]; give a share of the probability")
    warpers: list[Any] = []
    if top_k is not None or top_p is not None:
        from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        warpers.append(TemperatureLogitsWarper(float(temperature)))
        warpers += [TopKLogitsWarper(top_k)] if top_k is not None else []
        warpers += [TopPLogitsWarper(float(top_p))] if top_p is not None else []

    def pick(logits: Any, rows: NDArray[np.int64]) -> Any:
        if watermark is not None:
            if logits.shape[-1] < watermark.vocab_size:
                raise WatermarkError(
                    f"watermark: vocab_size {watermark.vocab_size} exceeds the model's"
                    f" {logits.shape[-1]} logits; use the watermark made for this model"
                )
            logits = logits[:, : watermark.vocab_size]
        if not warpers:
            return draw(logits, rows, 1 / temperature, check=False)
        logits = logits.float()
        for warper in warpers:
            logits = warper(None, logits)
        return draw(logits, rows, 1.0, check=False)

    return pick


def _encode(
    model: Any, prompts: Sequence[str | Sequence[int]], tokenizer: Any, max_new_tokens: int
) -> list[list[int]]:
    """Token ids of each prompt, checked against what the model can read."""
    known = model.get_input_embeddings().weight.shape[0]
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    ids: list[list[int]] = []
    for i, prompt in enumerate(prompts):
        if isinstance(prompt, str):
            if tokenizer is None:
                raise WatermarkError(f"prompt {i} is a string: give tokenizer=, or token ids")
            tokens = list(tokenizer(prompt).input_ids)
            if not tokens and tokenizer.bos_token_id is not None:
                tokens = [tokenizer.bos_token_id]
        else:
            tokens = [int(t) for t in prompt]
        if not tokens:
            raise WatermarkError(f"prompt {i} has no tokens; give at least one")
        if not 0 <= min(tokens) <= max(tokens) < known:
            raise WatermarkError(
                f"prompt {i} has a token outside the model's 0 to {known - 1};"
                " use the tokenizer of this model"
            )
        if limit is not None and len(tokens) + max_new_tokens > limit:
            raise WatermarkError(
                f"prompt {i} has {len(tokens)} tokens: with max_new_tokens {max_new_tokens} they"
                f" exceed the model's {limit} positions; shorten the prompt or lower max_new_tokens"
            )
        ids.append(tokens)
    return ids


def _starts(
    watermark: "Watermark | None",
    count: int,
    max_new_tokens: int,
    shifts: int | Sequence[int] | None,
    seed: int | None,
) -> NDArray[np.int64]:
    """The first row of each text."""
    if watermark is None:
        if shifts is not None:
            raise WatermarkError("shifts: there is no key to shift without a watermark; leave None")
        if count * max_new_tokens > MAX_ROWS:
            raise WatermarkError(
                f"prompts: {count} times max_new_tokens {max_new_tokens} exceeds {MAX_ROWS} draws;"
                " split the prompts"
            )
        return np.arange(count) * max_new_tokens
    n = watermark.key_length
    if max_new_tokens > n:
        warnings.warn(
            f"max_new_tokens {max_new_tokens} exceeds the key length {n}: beyond it, key rows are"
            " used again and the text is no longer distortion-free; use a longer key",
            stacklevel=4,
        )
    if shifts is None:
        entropy = None if seed is None else [seed, DOMAIN_SHIFT]
        return np.random.default_rng(entropy).integers(n, size=count)
    given = np.array(shifts, np.int64)
    if given.ndim == 0:
        given = np.full(count, given)
    if given.shape != (count,):
        raise WatermarkError(f"shifts: {given.size} given for {count} prompts; give one for each")
    for shift in given[(given < 0) | (given >= n)][:1]:
        raise WatermarkError(f"shifts: {shift} is outside 0 to {n - 1}, the rows of the key")
    return given


def _eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """End-of-text tokens: the model's generation settings, else its configuration or tokenizer."""
    for holder in (getattr(model, "generation_config", None), model.config, tokenizer):
        ids = getattr(holder, "eos_token_id", None)
        if ids is not None:
            return frozenset([ids] if isinstance(ids, int) else ids)
    return frozenset()


def _progress(wanted: bool) -> Any:
    from rich.console import Console
    from rich.progress import Progress

    return Progress(
        console=Console(stderr=True), transient=True, disable=not (wanted and sys.stderr.isatty())
    )


def _at_least(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise WatermarkError(f"{name} is {value!r}, but must be a whole number of at least {least}")
