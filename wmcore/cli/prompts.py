"""The prompts that `generate` and `learn-scores` read."""

from typing import Annotated, Any

import typer

from wmcore.cli.console import named, note
from wmcore.errors import WatermarkError

PROMPTS = typer.Option(
    "--prompts",
    metavar="FILE",
    callback=named,
    help="Records with a field 'prompt': JSON Lines, .json, .csv or .parquet, or - for stdin.",
)
PromptsFile = Annotated[str, PROMPTS]


def read_prompts(path: str) -> tuple[list[tuple[int, str]], list[dict[str, Any]]]:
    """The prompts of a file, each with its number from 0, and a result for each record that has none.

    Raises WatermarkError if there are no prompts at all.
    """
    from wmcore import records
    from wmcore.formats import WHOLE, Format, given_format
    from wmcore.reading import Reading

    form = given_format(path, records=True)
    if form.kind in WHOLE:
        form = Format("json", form.packing)
    texts: list[tuple[int, str]] = []
    failed: list[dict[str, Any]] = []
    reading = Reading(text_field="prompt")
    for index, prompt in enumerate(records.read_documents(path, form, reading)):
        if prompt.text is None:
            note(f"{prompt.id}: {prompt.error}")
            failed.append({"index": index, "prompt": None, "error": prompt.error})
        else:
            texts.append((index, prompt.text))
    if not texts:
        raise WatermarkError(f"--prompts {path}: no line with a field 'prompt'; give some")
    return texts, failed


def given_prompt(text: str) -> str:
    """A prompt of the command line; ``-`` is the text on standard input, without the line end that a shell adds."""
    if text != "-":
        return text
    from wmcore import records
    from wmcore.reading import MAX_BYTES, decode

    with records.open_input("-") as stream:
        found, error = decode(stream.read(MAX_BYTES + 1), MAX_BYTES)
    if found is None:
        raise WatermarkError(f"--prompt -: {error}")
    return found.removesuffix("\n").removesuffix("\r")


def as_question(tokenizer: Any, model: str, text: str) -> list[int]:
    """Token ids of a question in the chat format of a model; WatermarkError if it has none."""
    if not getattr(tokenizer, "chat_template", None):
        raise WatermarkError(f"--chat: model {model} has no chat format; leave it out")
    message = {"role": "user", "content": text}
    coded = tokenizer.apply_chat_template([message], add_generation_prompt=True, return_dict=True)
    return list(coded["input_ids"])
