"""Prompts and human texts: from a file (JSON Lines, JSON, Parquet), or from `datasets` by name.

A source is ``PATH``, ``PATH:FIELD``, ``datasets:NAME``, ``datasets:NAME:CONFIG`` or ``datasets:NAME:CONFIG:FIELD``
(the training split, streamed). The field is "text" for news and "instruction" for instructions unless it is named.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from wmcore.errors import WatermarkError, reason

OPENING = 50
"""Tokens of a prompt made of real text."""

STRETCH = 180
"""Tokens that real text must have after the prompt."""

FIELDS = {"news": "text", "instructions": "instruction"}
DATASETS = "datasets:"


@dataclass(frozen=True)
class Prompt:
    """tokens: what the model continues; human: how a person went on (empty for instructions)."""

    tokens: list[int]
    human: list[int]


def read_prompts(kind: str, source: str, tokenizer: Any, count: int) -> list[Prompt]:
    """The first `count` prompts of a source, or as many as there are; WatermarkError if there are none.

    News: the first OPENING tokens of each text with STRETCH more, and those that follow. Instructions: in the chat
    format of the tokenizer.
    """
    make = _continuations if kind == "news" else _questions
    found = list(islice(make(texts(kind, source), tokenizer, source), count))
    if not found:
        least = f" of at least {OPENING + STRETCH} tokens" if kind == "news" else ""
        raise WatermarkError(f"--{kind} {source}: it has no text{least}; give another source")
    return found


def _continuations(found: Iterator[str], tokenizer: Any, source: str) -> Iterator[Prompt]:
    for text in found:
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(tokens) >= OPENING + STRETCH:
            yield Prompt(tokens[:OPENING], tokens[OPENING:])


def _questions(found: Iterator[str], tokenizer: Any, source: str) -> Iterator[Prompt]:
    if not getattr(tokenizer, "chat_template", None):
        raise WatermarkError(
            f"--instructions {source}: the model has no chat template; take an instruct model, or leave out the "
            "experiments with instructions"
        )
    for text in found:
        message = {"role": "user", "content": text}
        coded = tokenizer.apply_chat_template(
            [message], add_generation_prompt=True, return_dict=True
        )
        yield Prompt(list(coded["input_ids"]), [])


def texts(kind: str, source: str) -> Iterator[str]:
    """The texts of a source, in its order; a record without one is a WatermarkError."""
    if source.startswith(DATASETS):
        yield from _streamed(source, FIELDS[kind])
        return
    from wmcore.formats import given_format
    from wmcore.reading import Reading
    from wmcore.records import read_documents

    path, field = _path_and_field(source, FIELDS[kind])
    form = given_format(path, records=True)
    for found in read_documents(path, form, Reading(text_field=field)):
        if found.text is None:
            raise WatermarkError(f"--{kind} {source}: record {found.position + 1}: {found.error}")
        yield found.text


def _streamed(source: str, field: str) -> Iterator[str]:
    try:
        import datasets
    except ImportError as error:
        raise WatermarkError(
            f"{source}: the package datasets is not installed ({error}); pip install datasets, or give a file"
        ) from None
    name, *rest = source.removeprefix(DATASETS).split(":")
    config = rest[0] if rest else None
    field = rest[1] if len(rest) > 1 else field
    try:
        for record in datasets.load_dataset(name, config, split="train", streaming=True):
            if not isinstance(record.get(field), str):
                raise WatermarkError(
                    f"{source}: a record has no text in {field!r}: name one of {', '.join(record)}"
                )
            yield record[field]
    except WatermarkError:
        raise
    except Exception as error:  # whatever the network, the hub or a foreign format raises
        raise WatermarkError(
            f"{source}: it cannot be read ({reason(error)}); give a file instead"
        ) from None


def _path_and_field(source: str, field: str) -> tuple[str, str]:
    """A file and the field of its texts."""
    path, colon, named = source.rpartition(":")
    if colon and not Path(source).exists() and Path(path).exists():
        return path, named
    return source, field


@cache
def digest(kind: str, source: str) -> str:
    """What tells the content of one source from that of another: of a dataset its name."""
    if source.startswith(DATASETS):
        return source
    path, field = _path_and_field(source, FIELDS[kind])
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise WatermarkError(
            f"--{kind} {source}: it cannot be read ({error.strerror}); give a file or datasets:NAME"
        ) from None
    return f"{hashlib.sha256(content).hexdigest()}:{field}"
