"""The prompts that `generate` and `learn-scores` read."""

from typing import Annotated, Any

import typer

from wmcore.cli.console import named, note
from wmcore.errors import WatermarkError

PromptsFile = Annotated[
    str,
    typer.Option(
        "--prompts",
        metavar="FILE",
        callback=named,
        help="Records with a field 'prompt': JSON Lines, .json or .parquet, or - for stdin.",
    ),
]


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
