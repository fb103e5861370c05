"""Texts of a model with the laws that their tokens were drawn from: what `detection_power` takes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from wmcore.checks import token_ids, whole_number
from wmcore.generation import generate
from wmcore.power.sampled import NONE, SampledText
from wmcore.progress import progress_bar

OTHERS = 20
"""Likeliest tokens of each law that are kept."""

_ROWS = 128  # logits turned into probabilities at a time


def sample_texts(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Any],
    *,
    max_new_tokens: int = 200,
    temperature: float = 1.0,
    top_p: float | None = None,
    samples: int = 1,
    batch_size: int = 16,
    seed: int | None = None,
) -> list[SampledText]:
    """Let a model write texts without a watermark, and keep how likely each token was.

    Parameters
    ----------
    model, tokenizer
        As for `wmcore.generate`.
    prompts : sequence of str or of token ids
        Of the kind that the model will get. One that cannot be used is left out.
    max_new_tokens, temperature, top_p, batch_size, seed
        As for `wmcore.generate`, and as the model will sample.
    samples : int
        Texts for each prompt.

    Raises
    ------
    WatermarkError
        For a setting out of range.

    Notes
    -----
    Time: that of writing the texts, and one forward pass over each.
    """
    samples = whole_number("samples", samples, 1)
    ids = [tokenizer(prompt).input_ids if isinstance(prompt, str) else prompt for prompt in prompts]
    made = generate(
        model,
        [one for one in ids for _ in range(samples)],
        None,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        batch_size=batch_size,
        seed=seed,
        tokenizer=tokenizer,
    )
    law = 1.0 if top_p is None else top_p
    texts = []
    with progress_bar() as bar:
        for one in bar.track(made, description="texts"):
            if one.error is None:
                before = token_ids(one.prompt).tolist()
                texts.append(_with_laws(model, before, one.tokens, temperature, law))
    return texts


def _with_laws(
    model: Any, before: list[int], tokens: list[int], temperature: float, top_p: float
) -> SampledText:
    """Tokens that a model wrote after others, and the law of each."""
    import torch

    from wmcore.stepping import language_model
    from wmcore.truncate import nucleus

    device = language_model(model).get_input_embeddings().weight.device
    ids = torch.tensor([[*before, *tokens]], device=device)
    parts = []
    with torch.inference_mode():
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits[0, len(before) - 1 :]
        drawn = ids[0, len(before) :, None].to(logits.device)
        for first in range(0, len(logits), _ROWS):
            scaled = logits[first : first + _ROWS].float() / temperature
            own = drawn[first : first + _ROWS]
            kept = nucleus(scaled, 1.0, top_p) if top_p < 1 else scaled
            # A token that another rounding than that of the draw excludes was there all the same.
            law = kept.scatter(1, own, scaled.gather(1, own)).log_softmax(-1)
            top = law.topk(min(OTHERS, law.shape[-1]), dim=-1)
            parts.append([x.cpu().numpy() for x in (law.gather(1, own)[:, 0], *top)])
    log_p, others_log_p, others = (np.concatenate(part) for part in zip(*parts, strict=True))
    others = np.where(np.isfinite(others_log_p) & (others_log_p > -100), others, NONE)
    return SampledText(tokens, np.maximum(log_p.astype(np.float64), -99.0), others, others_log_p)
