"""``wmcore generate``: prompts in, watermarked texts out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from wmcore.cli.console import MOST, ModelName, Seed, WatermarkFile, example, output_option
from wmcore.cli.output import Force, check_output, open_lines
from wmcore.cli.prompts import PROMPTS, as_question, given_prompt, read_prompts
from wmcore.errors import WatermarkError

EXAMPLES = example(
    "wmcore generate -w watermark.json --model smollm2 --prompts prompts.jsonl -o out.jsonl",
    'wmcore generate -w watermark.json --chat --prompt "Why is the sea salt?"',
    "wmcore generate -w watermark.json --prompt - < opening.txt",
)


def generate(
    watermark: WatermarkFile,
    prompts: Annotated[str | None, PROMPTS] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt",
            metavar="TEXT",
            help="In place of a file: one prompt, or - for a text on stdin. Can be given again.",
        ),
    ] = None,
    model: ModelName = "smollm2",
    chat: Annotated[
        bool, typer.Option("--chat", help="Give prompts as questions, in the model's chat format.")
    ] = False,
    output: Annotated[str, output_option("JSON Lines, or - for stdout.")] = "-",
    force: Force = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=MOST)] = 200,
    temperature: Annotated[float, typer.Option()] = 1.0,
    top_k: Annotated[int | None, typer.Option(min=1, max=MOST)] = None,
    top_p: Annotated[float | None, typer.Option()] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=MOST)] = 16,
    seed: Seed = None,
) -> None:
    """Continue each prompt with watermarked text.

    Lines are written as texts are finished, with the prompt's number from 0 as 'index'.
    """
    from wmcore.watermark import Watermark

    if output != "-":
        if prompts and Path(output).resolve() == Path(prompts).resolve():
            raise WatermarkError(f"--output {output}: these are the prompts; choose another file")
        check_output(output, force)
    mark = Watermark.load(watermark)
    texts, failed = _given(prompts, prompt or [])

    from wmcore.generation import Generation
    from wmcore.generation import generate as continue_prompts
    from wmcore.models import load_model
    from wmcore.progress import busy

    with busy(f"loading {model}"):
        loaded, tokenizer = load_model(model)
    logits = loaded.config.get_text_config().vocab_size
    if logits != mark.vocab_size:
        raise WatermarkError(
            f"--model {model}: it has {logits:,} logits but the watermark was made for "
            f"{mark.vocab_size:,}: use {mark.tokenizer or 'its model'}, or make another watermark"
        )
    inputs = [as_question(tokenizer, model, text) if chat else text for _, text in texts]
    with open_lines(output, force) as write:

        def done(number: int, made: Generation) -> None:
            index, text = texts[number]
            record: dict[str, Any] = {"index": index, "prompt": text}
            if made.error is None:
                record |= {"text": made.text, "tokens": made.tokens, "shift": made.shift}
            else:
                record["error"] = made.error
            write(record)

        for record in failed:
            write(record)
        continue_prompts(
            loaded,
            inputs,
            mark,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            batch_size=batch_size,
            seed=seed,
            tokenizer=tokenizer,
            on_done=done,
        )


def _given(
    path: str | None, single: list[str]
) -> tuple[list[tuple[int, str]], list[dict[str, Any]]]:
    """The numbered prompts, and results of those that cannot be used, from a file or from the command line."""
    if (path is None) == (not single):
        raise WatermarkError("give either --prompts, a file, or --prompt, a text")
    if path is not None:
        return read_prompts(path)
    if single.count("-") > 1:
        raise WatermarkError("--prompt - is given twice, but standard input is read once")
    return list(enumerate(map(given_prompt, single))), []
