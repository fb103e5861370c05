"""Round trips through another language with machine translation models of transformers: a `TextAttack`."""

import re
import warnings
from functools import cache
from importlib.util import find_spec
from typing import Any

from wmcore import stepping
from wmcore.checks import whole_number
from wmcore.errors import WatermarkError, reason
from wmcore.models import without_bars
from wmcore.paper.contract import TextAttack
from wmcore.paper.study import default_device

FRENCH = ("Helsinki-NLP/opus-mt-tc-big-en-fr", "Helsinki-NLP/opus-mt-tc-big-fr-en")
RUSSIAN = ("Helsinki-NLP/opus-mt-en-ru", "Helsinki-NLP/opus-mt-ru-en")
"""The models of the published scripts: there and back."""

MOST_TOKENS = 512
"""The most tokens of a sentence: what these models have positions for."""

STEP = 16
"""Sentences whose lengths are equal when rounded up to a multiple of this go in one batch."""

_BETWEEN = re.compile(r"""((?<=[.!?])\s+|(?<=[.!?]["'”’)\]])\s+|\s*\n\s*)""")


def round_trip(
    there: str, back: str, *, batch_size: int = 8, device: str | None = None
) -> TextAttack:
    """A function (texts, seed) -> texts that translates each text and translates the result back.

    Sentence by sentence, with the beams of the models' own generation settings; it draws nothing, so the seed is of no
    account. White space between sentences is kept, blank text stays as it is. Sentences of all texts go in batches of
    about equal lengths, whose composition changes a text by rounding alone. A translation may have twice the tokens of
    its sentence (rounded up to a multiple of 16) and 16 more, at most 512; a sentence of more than 512 tokens is cut.

    The published scripts split at ". ", which loses the full stops, cut the first translation to 52 tokens, split it
    again, and give an empty text where translation fails.

    Parameters
    ----------
    there, back
        Names or folders of sequence-to-sequence models, such as MarianMT's; FRENCH and RUSSIAN are the published ones.
        They are loaded when first needed and kept for the process.
    batch_size
        Sentences translated at once.
    device
        Where the models run, in torch's words. None: where the study's model does.

    Raises
    ------
    WatermarkError
        At once for a batch size below 1; when called, for a model that cannot be loaded.
    """
    batch_size = whole_number("batch_size", batch_size, 1)

    def translate_and_back(texts: list[str], seed: int) -> list[str]:
        # Sentences are at even places, what is between them at odd ones.
        parts = [_BETWEEN.split(text) for text in texts]
        places = [
            (t, s)
            for t, split in enumerate(parts)
            for s in range(0, len(split), 2)
            if split[s].strip()
        ]
        sentences = [parts[t][s] for t, s in places]
        loaded = [
            _loaded(name, device or default_device()) for name in (there, back)
        ]  # both, before any work
        for model, tokenizer in loaded:
            sentences = _translated(model, tokenizer, sentences, batch_size)
        for (t, s), sentence in zip(places, sentences, strict=True):
            parts[t][s] = sentence
        return ["".join(split) for split in parts]

    return translate_and_back


def _translated(model: Any, tokenizer: Any, sentences: list[str], batch_size: int) -> list[str]:
    """Each sentence in the model's other language; an empty one stays empty."""
    import torch

    result = list(sentences)
    places = [i for i, sentence in enumerate(sentences) if sentence.strip()]
    if not places:
        return result
    ids = tokenizer([sentences[i] for i in places], truncation=True, max_length=MOST_TOKENS)
    # Sentences of a batch share a limit that follows from each one's own length: company changes nothing.
    widths = [-(-len(one) // STEP) * STEP for one in ids.input_ids]
    for batch in stepping.batches(widths, batch_size, padded=False):
        given = tokenizer.pad({"input_ids": [ids.input_ids[b] for b in batch]}, return_tensors="pt")
        limit = min(2 * widths[batch[0]] + STEP, MOST_TOKENS)
        with torch.inference_mode():
            made = model.generate(**given.to(model.device), max_new_tokens=limit, do_sample=False)
        for b, tokens in zip(batch, made, strict=True):
            result[places[b]] = tokenizer.decode(tokens, skip_special_tokens=True).strip()
    return result


@cache
def _loaded(name: str, device: str) -> tuple[Any, Any]:
    """A sequence-to-sequence model in eval mode and its tokenizer."""
    for package in ("transformers", "sentencepiece"):
        if find_spec(package) is None:
            raise WatermarkError(
                f"translation model {name!r}: the package {package} is not installed;"
                " pip install 'wmcore-lm[paper]'"
            )
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    try:
        with without_bars(), warnings.catch_warnings():
            # MarianTokenizer advises a package that it no longer calls.
            warnings.filterwarnings("ignore", "Recommended: pip install sacremoses")
            tokenizer = AutoTokenizer.from_pretrained(name)
            model = AutoModelForSeq2SeqLM.from_pretrained(name)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise WatermarkError(
            f"translation model {name!r}: transformers cannot load it ({reason(error)}); give the"
            " folder of a MarianMT model, or its name where the model hub can be reached"
        ) from error
    model.generation_config.max_length = None  # each batch has a limit of its own
    return model.eval().to(device), tokenizer
