"""``wmcore bench``: the experiments of the paper, and more, on any model."""

from pathlib import Path
from typing import Annotated

import typer

from wmcore.cli.console import MOST, example, named, note

EXAMPLES = example(
    "wmcore bench list",
    "wmcore bench substitution --quick --news articles.jsonl",
    "wmcore bench all --model gpt2 --news datasets:allenai/c4:realnewslike",
    "wmcore bench paraphrase --attack my_module:my_attack --news articles.parquet:body",
)


def bench(
    experiment: Annotated[
        str, typer.Argument(metavar="NAME", help="An experiment, all, or list: what there is.")
    ],
    model: Annotated[
        str, typer.Option(help="smollm2, or a transformers name or path.")
    ] = "smollm2",
    news: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            callback=named,
            help="Real text: FILE, FILE:FIELD or datasets:NAME[:CONFIG[:FIELD]].",
        ),
    ] = None,
    instructions: Annotated[
        str | None, typer.Option(metavar="SOURCE", callback=named, help="Questions, likewise.")
    ] = None,
    folder: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Texts, tests and results; also to resume."
        ),
    ] = Path("wmcore-bench"),
    quick: Annotated[bool, typer.Option("--quick", help="Small: minutes on two cores.")] = False,
    paper: Annotated[bool, typer.Option("--paper", help="The paper's sizes: for a GPU.")] = False,
    watermark: Annotated[
        Path | None,
        typer.Option(
            "--watermark",
            "-w",
            metavar="FILE",
            help="What texts carry. Default: a key of its own for each text.",
        ),
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="In place of the paraphrases: a function of (list of texts, seed) that gives a list of texts.",
        ),
    ] = None,
    modules: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="MODULE",
            help="Imported first: adds methods, tests, attacks or experiments to the tables.",
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Default: the cores, or 1 with a GPU."),
    ] = None,
    device: Annotated[str, typer.Option(help="Where the model runs, such as cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(min=0, max=MOST, help="Of everything random.")] = 1,
) -> None:
    """Run an experiment on a model: raw results, a table and a plot in FOLDER/results.

    Stopped at any moment, it goes on where it was. Texts and tests are shared by all experiments.
    """
    from wmcore.paper import command

    command.run(
        experiment,
        command.Options(
            model=model,
            sources={k: v for k, v in (("news", news), ("instructions", instructions)) if v},
            folder=folder,
            size=command.size_named(quick, paper),
            watermark=watermark,
            attacks=tuple(attack or ()),
            modules=tuple(modules or ()),
            processes=processes,
            device=device,
            seed=seed,
        ),
        note,
    )
