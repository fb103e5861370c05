"""Rewriting by an instruct model on this machine, through its chat template: a `TextAttack`."""

from functools import cache
from typing import Any

from wmcore.checks import real_number
from wmcore.errors import WatermarkError
from wmcore.generation import generate
from wmcore.models import PACKAGED, load_model
from wmcore.paper.contract import TextAttack
from wmcore.paper.study import default_device

BATCH = 50
"""Texts that are rewritten together."""

PROMPT = (
    "Rewrite the input text in your own words while preserving its meaning. Keep all the details,"
    " and write only the new text.\n\nInput text: {}"
)
"""What the user says. Of seven wordings tried on SmolLM2-135M-Instruct, the one whose answers stayed closest to the
text's subject and length; a model that small still drops and invents details, and now and then comments."""


def rewriter(
    model_name: str = PACKAGED,
    *,
    temperature: float = 0.5,
    top_p: float | None = None,
    device: str | None = None,
) -> TextAttack:
    """A function (texts, seed) -> texts that lets a model say each text in other words.

    Sampled without a watermark. A text of m of the model's tokens is given back as at most m + 16; blank text
    stays as it is, without asking the model, and a text for which the model says nothing becomes empty. The model is
    loaded when first needed and kept for the process. A rewritten text depends on the texts, their order and the seed.

    Parameters
    ----------
    model_name
        As for `wmcore.models.load_model`; the model needs a chat template.
    temperature, top_p
        As for `wmcore.generate`.
    device
        Where the model runs, in torch's words. None: where the study's model does.

    Raises
    ------
    WatermarkError
        At once for a number out of range. When called: for a model that does not load or has no chat template, and for
        a text that is too long for it.
    """
    temperature = real_number("temperature", temperature, 0)
    top_p = None if top_p is None else real_number("top_p", top_p, 0, 1)

    def rewrite(texts: list[str], seed: int) -> list[str]:
        model, tokenizer = _loaded(model_name, device or default_device())
        places = [i for i, text in enumerate(texts) if text.strip()]
        if not places:
            return list(texts)
        limits = [len(tokenizer(texts[i]).input_ids) + 16 for i in places]
        made = generate(
            model,
            [_prompt(tokenizer, texts[i]) for i in places],
            None,
            max_new_tokens=max(limits),
            temperature=temperature,
            top_p=top_p,
            batch_size=BATCH,
            seed=seed,
            tokenizer=tokenizer,
        )
        result = list(texts)
        for i, limit, one in zip(places, limits, made, strict=True):
            if one.error is not None:
                raise WatermarkError(f"text {i} cannot be rewritten: {one.error}")
            result[i] = tokenizer.decode(one.tokens[:limit], skip_special_tokens=True).strip()
        return result

    return rewrite


def _prompt(tokenizer: Any, text: str) -> list[int]:
    """Token ids of the chat in which the user asks for the text."""
    chat = [{"role": "user", "content": PROMPT.format(text)}]
    written = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(written, add_special_tokens=False).input_ids)


@cache
def _loaded(name: str, device: str) -> tuple[Any, Any]:
    model, tokenizer = load_model(name)
    if not tokenizer.chat_template:
        raise WatermarkError(
            f"model {name!r} has no chat template, so it cannot be asked to rewrite a text;"
            f" give an instruct model such as {PACKAGED!r}"
        )
    return model.to(device), tokenizer
