"""``wmcore learn-scores``: texts of a model in, a file of scores out."""

from typing import Annotated

import typer

from wmcore.cli.console import MOST, ModelName, Seed, example, note, output_option
from wmcore.cli.output import Force, check_output
from wmcore.cli.prompts import PromptsFile, as_question, read_prompts
from wmcore.errors import WatermarkError

EXAMPLES = example(
    "wmcore learn-scores --prompts questions.jsonl --chat --temperature 0.7 --top-p 0.9 -o scores.json",
    "wmcore learn-scores --prompts prompts.jsonl --model gpt2 --by tokens -o scores.json",
    "wmcore detect -w watermark.json --proxy smollm2 --score scores.json essay.txt",
)


def learn_scores(
    prompts: PromptsFile,
    output: Annotated[str, output_option("File to write, with a name in .json.")],
    force: Force = False,
    model: ModelName = "smollm2",
    by: Annotated[
        str,
        typer.Option(
            help="Scores by a proxy, a model that reads the text, or by token ids (tokens)."
        ),
    ] = "proxy",
    proxy: Annotated[
        str | None,
        typer.Option(help="The model that will read texts at detection. Default: the same."),
    ] = None,
    temperature: Annotated[float, typer.Option(help="As the model will sample.")] = 1.0,
    top_p: Annotated[float | None, typer.Option(help="As the model will sample.")] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Give prompts as questions, in the model's chat format.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=MOST)] = 120,
    batch_size: Annotated[int, typer.Option(min=1, max=MOST)] = 16,
    seed: Seed = None,
) -> None:
    """Let a model write texts without a watermark, and learn which of its tokens say something of a key.

    detect finds more with such scores where texts were written at a low temperature.
    """
    if not output.endswith(".json"):
        raise WatermarkError(
            f"--output {output}: by its name it is no file of scores; end it in .json"
        )
    check_output(output, force)
    if proxy is not None and by != "proxy":
        raise WatermarkError(f"--proxy is for scores by a proxy: leave it out, or --by {by}")
    texts, _ = read_prompts(prompts)

    from wmcore import learning
    from wmcore.models import load_model
    from wmcore.progress import busy

    with busy(f"loading {model}"):
        loaded, tokenizer = load_model(model)
    questions = [as_question(tokenizer, model, text) if chat else text for _, text in texts]
    scores = learning.learn_scores(
        loaded,
        tokenizer,
        questions,
        temperature=temperature,
        top_p=top_p,
        by=by,
        proxy=proxy,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        seed=seed,
        name=model,
    )
    scores.save(output)
    origin = scores.origin
    note(f"{output}: scores by {by}, from {origin.texts:,} texts of {origin.tokens:,} tokens")
