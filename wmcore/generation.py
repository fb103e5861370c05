"""Text from a causal language model, its tokens drawn from a key sequence (Algorithm 1).

Kuditipudi et al., arXiv 2307.15593: token i (from 0) of a text with shift s is a function of the
model's probabilities and of key row (s + i) mod n.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wmcore import sampling, stepping
from wmcore.checks import real_number, text_list, token_ids, whole_number
from wmcore.errors import WatermarkError
from wmcore.kernels.constants import DOMAIN_SHIFT
from wmcore.progress import progress_bar
from wmcore.types import Array, Texts, TokenIds
from wmcore.watermark import Watermark, checked_watermark

MAX_ROWS = 1 << 32
"""Key rows are one ChaCha nonce word."""


@dataclass(frozen=True)
class Generation:
    """A prompt and its continuation."""

    prompt: str | TokenIds
    """As it was given."""
    text: str | None
    """The new tokens decoded without special tokens; None when no tokenizer was given."""
    tokens: list[int] = field(repr=False)
    """The new tokens, with the end-of-text token if it was drawn: what a detector should see."""
    shift: int | None
    """Key row of the first token; None without a watermark, or with an error."""
    error: str | None = None
    """Why the prompt could not be continued; then there are no tokens."""


def generate(
    model: Any,
    prompts: Texts,
    watermark: Watermark | None,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    batch_size: int = 16,
    shifts: int | Sequence[int] | Array | None = None,
    seed: int | None = None,
    eos: bool = True,
    progress: bool = True,
    tokenizer: Any = None,
    on_done: Callable[[int, Generation], None] | None = None,
) -> list[Generation]:
    """Continue prompts with tokens drawn from a watermark's key.

    Averaged over keys, a text has the distribution of ordinary sampling as long as it is not longer
    than the key (the generation budget; a longer one is warned about).

    Parameters
    ----------
    model
        A causal language model of transformers, on any device, in eval mode; also in a wrapper, as PEFT's.
    prompts
        Strings (then a tokenizer is needed) or token ids, in lists or arrays. An empty string starts from
        the tokenizer's beginning-of-text token. One that the model cannot read gives a Generation
        with an error, and the others are continued.
    watermark
        None samples without a watermark in the same loop.
    max_new_tokens
        The most tokens that a text may gain.
    temperature, top_k, top_p
        As in transformers, which also applies them; a temperature alone is applied in the kernel.
    batch_size
        Prompts run at once. They are sorted by length inside, and padded on the left; models that padding
        would change (state-space models and others, see `wmcore.stepping.may_pad`) get prompts of one length.
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
    on_done
        Called with (place in ``prompts``, Generation) as soon as a text is finished.

    Returns
    -------
    list of Generation
        In the order of the prompts.

    Raises
    ------
    WatermarkError
        For a setting out of range, a model that cannot be stepped or has fewer logits than
        ``watermark.vocab_size`` (more are cut off), or logits without a distribution.
    TypeError
        For one prompt in place of a list of prompts, or something that is no watermark.

    Examples
    --------
    >>> model, tokenizer = load_model("smollm2")  # doctest: +SKIP
    >>> watermark = Watermark.create("exp", vocab_size=49152)  # doctest: +SKIP
    >>> made = generate(
    ...     model, ["The sea"], watermark, max_new_tokens=50, tokenizer=tokenizer
    ... )  # doctest: +SKIP
    """
    max_new_tokens = whole_number("max_new_tokens", max_new_tokens, 1, MAX_ROWS)
    batch_size = whole_number("batch_size", batch_size, 1)
    seed = None if seed is None else whole_number("seed", seed)
    asked = text_list("prompts", prompts)
    if watermark is not None:
        checked_watermark("watermark", watermark)
    inner = stepping.language_model(model)
    starts = _starts(watermark, len(asked), max_new_tokens, shifts, seed)
    draw = sampling.ordinary(seed) if watermark is None else sampling.watermarked(watermark)
    loop = _Loop(
        model=model,
        pick=_picker(draw, watermark, temperature, top_k, top_p),
        key_length=MAX_ROWS if watermark is None else watermark.key_length,
        max_new_tokens=max_new_tokens,
        eos_ids=_eos_ids(inner, tokenizer) if eos else frozenset(),
    )
    made: dict[int, Generation] = {}

    def done(i: int, tokens: list[int], error: str | None = None) -> None:
        text = shift = None
        if error is None and tokenizer is not None:
            text = tokenizer.decode(tokens, skip_special_tokens=True)
        if error is None and watermark is not None:
            shift = int(starts[i])
        made[i] = Generation(asked[i], text, tokens, shift, error)
        if on_done is not None:
            on_done(i, made[i])

    ids, errors = _encode(inner, asked, tokenizer, max_new_tokens)
    for i, error in errors.items():
        done(i, [], error)
    places = list(ids)
    batches = stepping.batches(
        [len(ids[i]) for i in places], batch_size, bool(ids) and stepping.may_pad(inner)
    )
    with progress_bar(wanted=progress) as bar:
        task = bar.add_task("tokens", total=len(ids) * max_new_tokens)
        finished = 0
        for batch in ([places[p] for p in batch] for batch in batches):
            loop.run({i: ids[i] for i in batch}, starts[batch], done, bar, task)
            finished += len(batch)
            bar.update(task, completed=finished * max_new_tokens)
    return [made[i] for i in range(len(asked))]


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
        self,
        prompts: dict[int, list[int]],
        starts: NDArray[np.int64],
        done: Callable[[int, list[int]], None],
        bar: Any,
        task: Any,
    ) -> None:
        """Continue one batch; done(its key, new tokens) as soon as a text is finished.

        Text b of the batch draws its token i from row (starts[b] + i) mod n.
        """
        import torch

        with torch.inference_mode():
            stepper = stepping.Stepper(self.model, list(prompts.values()), self.max_new_tokens)
            device = stepper.device
            keys = list(prompts)
            texts: list[list[int]] = [[] for _ in keys]
            active = np.arange(len(keys))
            chosen = torch.from_numpy(active).to(device)
            unread: list[Any] = []
            for i in range(self.max_new_tokens):  # hot loop
                logits = stepper.logits()
                if len(active) < len(keys):
                    logits = logits[chosen.to(logits.device)]
                drawn = self.pick(logits, (starts[active] + i) % self.key_length)
                unread.append(drawn)
                tokens = drawn.to(device).clamp(min=0)
                if len(active) < len(keys):  # what is read after a text's end is of no account
                    tokens = tokens.new_zeros(len(keys)).index_copy_(0, chosen, tokens)
                stepper.append(tokens)
                bar.advance(task, len(active))
                last = i + 1 == self.max_new_tokens
                if last or len(unread) == self.read_every(device):
                    left = self._read(torch.stack(unread, 1).cpu(), active, texts)
                    unread = []
                    if last:
                        left = left[:0]
                    if len(left) < len(active):
                        for b in np.setdiff1d(active, left).tolist():
                            done(keys[b], texts[b])
                        active, chosen = left, torch.from_numpy(left).to(device)
                    if not left.size:
                        break

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


def _picker(
    draw: sampling.Draw,
    watermark: Watermark | None,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> Callable[[Any, NDArray[np.int64]], Any]:
    """(logits [B, V], key rows [B]) to tokens [B]: cut, warp as transformers does, draw."""
    temperature = real_number("temperature", temperature, 0)
    if temperature == 0:
        raise WatermarkError("temperature is 0, but must be above it; 1.0 leaves the model as is")
    if top_k is not None:
        top_k = whole_number("top_k", top_k, 1)
    if top_p is not None:
        top_p = real_number("top_p", top_p, 0, 1)
        if top_p == 0:
            raise WatermarkError("top_p is 0, but must be above it; 1.0 keeps every token")
    warpers: list[Any] = []
    if top_k is not None or top_p is not None:
        from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        warpers.append(TemperatureLogitsWarper(temperature))
        warpers += [TopKLogitsWarper(top_k)] if top_k is not None else []
        warpers += [TopPLogitsWarper(top_p)] if top_p is not None else []

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
    model: Any, prompts: Sequence[str | TokenIds], tokenizer: Any, max_new_tokens: int
) -> tuple[dict[int, list[int]], dict[int, str]]:
    """By place: the token ids of the prompts that the model can continue, and what is wrong with the others."""
    known = model.get_input_embeddings().weight.shape[0]
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    least = stepping.shortest_prompt(model)
    ids: dict[int, list[int]] = {}
    errors: dict[int, str] = {}
    for i, prompt in enumerate(prompts):
        if isinstance(prompt, str) and tokenizer is None:
            raise WatermarkError(f"prompt {i} is a string: give tokenizer=, or token ids")
        try:
            tokens = _tokens(prompt, tokenizer)
        except (TypeError, ValueError, OverflowError) as error:
            errors[i] = f"prompt {i} cannot be read ({error}); give a string or token ids"
            continue
        if not tokens:
            errors[i] = f"prompt {i} has no tokens; give at least one"
        elif len(tokens) < least:
            errors[i] = (
                f"prompt {i} has {len(tokens)} tokens, but with this release of transformers"
                f" the model needs {least}; lengthen the prompt or install a newer transformers"
            )
        elif not 0 <= min(tokens) <= max(tokens) < known:
            errors[i] = (
                f"prompt {i} has a token outside the model's 0 to {known - 1};"
                " use the tokenizer of this model"
            )
        elif limit is not None and len(tokens) + max_new_tokens > limit:
            errors[i] = (
                f"prompt {i} has {len(tokens)} tokens: with max_new_tokens {max_new_tokens} they"
                f" exceed the model's {limit} positions; shorten the prompt or lower max_new_tokens"
            )
        else:
            ids[i] = tokens
    return ids, errors


def _tokens(prompt: Any, tokenizer: Any) -> list[int]:
    if not isinstance(prompt, str):
        return token_ids(prompt).tolist()
    tokens = list(tokenizer(prompt).input_ids)
    if not tokens and tokenizer.bos_token_id is not None:
        tokens = [tokenizer.bos_token_id]
    return tokens


def _starts(
    watermark: Watermark | None,
    count: int,
    max_new_tokens: int,
    shifts: int | Sequence[int] | Array | None,
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
            stacklevel=3,
        )
    if shifts is None:
        entropy = None if seed is None else [seed, DOMAIN_SHIFT]
        return np.random.default_rng(entropy).integers(n, size=count)
    given = key_rows("shifts", shifts, n)
    if isinstance(given, int):
        return np.full(count, given)
    if len(given) != count:
        raise WatermarkError(f"shifts: {len(given)} given for {count} prompts; give one for each")
    return np.array(given, np.int64)


def key_rows(name: str, rows: Any, key_length: int) -> int | list[int]:
    """One key row or several, in whatever form they came, as plain integers in [0, key_length)."""
    plain = rows.tolist() if hasattr(rows, "tolist") else rows
    if isinstance(plain, Iterable):
        return [whole_number(name, row, 0, key_length - 1) for row in plain]
    return whole_number(name, plain, 0, key_length - 1)


def _eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """End-of-text tokens: the model's generation settings, else its configuration or tokenizer."""
    for holder in (getattr(model, "generation_config", None), model.config, tokenizer):
        ids = getattr(holder, "eos_token_id", None)
        if ids is not None:
            return frozenset([ids] if isinstance(ids, int) else ids)
    return frozenset()
