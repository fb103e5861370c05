"""The ``wmcore`` command: keygen, generate, detect, demo; scan and report are in `cli_scan`.

Exit code 0 whatever is found; 2 for bad usage or input, with one line on standard error that says
what to do; 130 when interrupted. Everything heavy is imported inside the command that needs it.
"""

import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.exceptions import TyperException

from wmcore import cli_scan, textio
from wmcore._version import __version__
from wmcore.errors import WatermarkError

if TYPE_CHECKING:
    from rich.progress import Progress

    from wmcore.detect import Detector
    from wmcore.watermark import Watermark

BATCH = 256  # documents tested at a time; results do not depend on it

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Watermark a language model's text, and find the watermark again after edits.",
    epilog="Start with [bold]wmcore demo[/bold]. Each command shows examples with -h.",
)

WatermarkFile = Annotated[
    str, typer.Option("--watermark", "-w", metavar="FILE", help="Watermark file made by keygen.")
]


def example(*lines: str) -> str:
    """The examples at the end of a command's help."""
    return "\n\n".join(["[bold]Examples[/bold]", *(f"[cyan]{line}[/cyan]" for line in lines)])


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(f"wmcore {__version__}")
    elif context.invoked_subcommand is None:
        raise WatermarkError(
            "no command given: wmcore -h lists keygen, generate, detect, demo, scan and report"
        )


@app.command(
    epilog=example(
        "wmcore keygen --scheme exp-edit --model smollm2 -o watermark.json",
        "wmcore keygen --scheme its --vocab-size 50257 --key-length 512 -o its.json",
    )
)
def keygen(
    scheme: Annotated[str, typer.Option(help="exp, exp-edit, its or its-edit.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="File to write.")],
    model: Annotated[
        str | None, typer.Option(help="Take the vocabulary size from this model: smollm2 or other.")
    ] = None,
    vocab_size: Annotated[int | None, typer.Option(help="Or give the vocabulary size.")] = None,
    key_length: Annotated[int, typer.Option(help="Rows of the key sequence (n).")] = 256,
    block_length: Annotated[
        int | None, typer.Option(help="Tokens aligned at a time (k). Default: the whole text.")
    ] = None,
    gap: Annotated[
        float | None, typer.Option(help="Cost of an insertion or deletion. Default: the scheme's.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace FILE, whose key is then lost.")] = False,
) -> None:
    """Make a secret key and write it, with its settings, to a watermark file (mode 0600)."""
    from wmcore.watermark import Watermark

    if output == "-":
        raise WatermarkError("--output -: a secret is only written to a file; give a file name")
    if Path(output).exists() and not force:
        raise WatermarkError(f"--output {output}: the file exists; choose another or add --force")
    if model is not None and vocab_size is None:
        from wmcore.models import vocab_size_of

        vocab_size = vocab_size_of(model)
    elif model is not None or vocab_size is None:
        raise WatermarkError("give either --model or --vocab-size, and not both")
    watermark = Watermark.create(
        scheme,
        vocab_size=vocab_size,
        key_length=key_length,
        block_length=block_length,
        gap=gap,
        tokenizer=model,
    )
    watermark.save(output)
    note(
        f"{output}: {scheme}, vocabulary {watermark.vocab_size:,}, key length {key_length:,}, "
        f"fingerprint {watermark.fingerprint}"
    )


@app.command(
    epilog=example(
        "wmcore generate -w watermark.json --model smollm2 --prompts prompts.jsonl -o out.jsonl",
        """echo '{"prompt": "The harbour"}' | wmcore generate -w watermark.json --prompts -""",
    )
)
def generate(
    watermark: WatermarkFile,
    prompts: Annotated[
        str, typer.Option(metavar="FILE", help="JSON Lines with a field 'prompt', or - for stdin.")
    ],
    model: Annotated[
        str, typer.Option(help="smollm2, or a transformers name or path.")
    ] = "smollm2",
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="JSON Lines, or - for stdout.")
    ] = "-",
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 200,
    temperature: Annotated[float, typer.Option()] = 1.0,
    top_k: Annotated[int | None, typer.Option()] = None,
    top_p: Annotated[float | None, typer.Option()] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    seed: Annotated[int | None, typer.Option(help="Makes the shifts repeatable.")] = None,
) -> None:
    """Continue each prompt with watermarked text.

    Lines are written as texts are finished, with the prompt's number from 0 as 'index'.
    """
    from wmcore.watermark import Watermark

    if output != "-" and Path(output).resolve() == Path(prompts).resolve():
        raise WatermarkError(f"--output {output}: these are the prompts; choose another file")
    mark = Watermark.load(watermark)
    texts: list[tuple[int, str]] = []
    failed: list[dict[str, Any]] = []
    with textio.open_input(prompts) as stream:
        for index, (where, record, error) in enumerate(textio.read_records(stream, prompts)):
            text = None
            if error is None:
                text, error = textio.text_of(record, "prompt")
            if text is None:
                note(f"{where}: {error}")
                failed.append({"index": index, "prompt": None, "error": error})
            else:
                texts.append((index, text))
    if not texts:
        raise WatermarkError(f"--prompts {prompts}: no line with a field 'prompt'; give some")

    from wmcore.generation import Generation
    from wmcore.generation import generate as continue_prompts
    from wmcore.models import load_model

    loaded, tokenizer = load_model(model)
    logits = loaded.config.get_text_config().vocab_size
    if logits != mark.vocab_size:
        raise WatermarkError(
            f"--model {model}: it has {logits:,} logits but the watermark was made for "
            f"{mark.vocab_size:,}: use {mark.tokenizer or 'its model'}, or make another watermark"
        )
    with textio.open_output(output) as out:

        def write(number: int, made: Generation) -> None:
            record: dict[str, Any] = {"index": texts[number][0], "prompt": made.prompt}
            if made.error is None:
                record |= {"text": made.text, "tokens": made.tokens, "shift": made.shift}
            else:
                record["error"] = made.error
            textio.write_record(out, record)

        for record in failed:
            textio.write_record(out, record)
        continue_prompts(
            loaded,
            [text for _, text in texts],
            mark,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            batch_size=batch_size,
            seed=seed,
            tokenizer=tokenizer,
            on_done=write,
        )


@app.command(
    epilog=example(
        "wmcore detect -w watermark.json --tokenizer smollm2 essay.txt letter.txt",
        "wmcore detect -w watermark.json --json out.jsonl > results.jsonl",
        "wmcore detect -w watermark.json --tokens-field tokens out.jsonl",
        "cat letter.txt | wmcore detect -w watermark.json -",
    )
)
def detect(
    files: Annotated[
        list[str], typer.Argument(help="Text files, .jsonl files, or - for standard input.")
    ],
    watermark: WatermarkFile,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="smollm2, or a transformers name or path. Default: the watermark's own."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line instead of a table.")
    ] = False,
    resamples: Annotated[int, typer.Option(min=1, help="Independent keys to compare with.")] = 999,
    stop_after: Annotated[
        int,
        typer.Option(
            min=0,
            help="Stop a text once this many of them fit as well as the key; 0 uses them all.",
        ),
    ] = 50,
    seed: Annotated[int | None, typer.Option(help="Makes the p-values repeatable.")] = None,
    text_field: Annotated[
        str | None, typer.Option(help="Field of JSON Lines with the text. Default: text.")
    ] = None,
    tokens_field: Annotated[
        str | None, typer.Option(help="Field of JSON Lines with token ids, instead of text.")
    ] = None,
) -> None:
    """Test texts for the watermark: a small p-value means it is there."""
    if text_field is not None and tokens_field is not None:
        raise WatermarkError("give either --text-field or --tokens-field, and not both")
    for path in files:
        if path != "-" and not os.access(path, os.R_OK):
            raise WatermarkError(f"{path}: no such file, or it cannot be read")
        if path != "-" and Path(path).is_dir():
            raise WatermarkError(f"{path}: a folder; name the files in it")

    from wmcore.detect import Detector
    from wmcore.watermark import Watermark

    mark = Watermark.load(watermark)
    only_tokens = tokens_field is not None and all(
        path == "-" or path.endswith(textio.JSON_LINES) for path in files
    )
    coder = None if only_tokens else tokenizer or mark.tokenizer
    if coder is None and not only_tokens:
        raise WatermarkError("no --tokenizer given and the watermark names none: give its model's")
    detector = Detector(mark, tokenizer=coder)
    documents = chain.from_iterable(
        textio.read_documents(path, text_field=text_field, tokens_field=tokens_field)
        for path in files
    )
    tested = failed = 0
    rows: list[dict[str, Any]] = []
    out = sys.stdout.buffer
    try:
        with progress_bar() as bar:
            results = detect_all(
                detector,
                documents,
                resamples=resamples,
                stop_after=stop_after or None,
                seed=seed,
            )
            for row in bar.track(results, description="documents"):
                failed += row["error"] is not None
                tested += 1
                if as_json:
                    textio.write_record(out, row)
                else:
                    rows.append(row)
    finally:
        if not as_json and rows:
            show_table(rows, mark)
    if failed:
        note(f"{failed:,} of {tested:,} documents could not be tested")
    if not tested:
        raise WatermarkError(f"{', '.join(files)}: no documents; give files with some")
    if failed == tested:
        raise typer.Exit(2)


@app.command(epilog=example("wmcore demo", "wmcore demo --scheme exp-edit -o page.html"))
def demo(
    scheme: Annotated[
        str | None, typer.Option(help="exp, exp-edit, its or its-edit. Default: all four.")
    ] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="HTML page to write.")
    ] = "wmcore-demo.html",
    seed: Annotated[int, typer.Option(help="Of the shifts, the damage and the tests.")] = 1,
) -> None:
    """Watermark SmolLM2's texts, damage 30 % of their tokens, and find the watermark again."""
    from wmcore.demo import run
    from wmcore.watermark import SCHEMES

    if scheme is not None and scheme not in SCHEMES:
        raise WatermarkError(f"--scheme {scheme}: unknown; choose one of {', '.join(SCHEMES)}")
    with Path(output).open("w", encoding="utf-8") as page:
        run(SCHEMES if scheme is None else (scheme,), page, seed=seed, stage=note)
    note(f"{output}: each token coloured by how well it fits its key row; open it in a browser")


cli_scan.register(app, example)


def detect_all(
    detector: "Detector", documents: Iterable[textio.Document], **options: Any
) -> Iterator[dict[str, Any]]:
    """A result for every document, in order; unreadable ones are passed through."""
    from wmcore.detect import Detection

    documents = iter(documents)
    while batch := list(islice(documents, BATCH)):
        contents = [d.content for d in batch if d.content is not None]
        found: Iterator[Detection] = iter(detector.detect(contents, **options) if contents else ())
        for document in batch:
            if document.content is None:
                result = Detection.failed(str(document.error), detector.engine.NAME)
            else:
                result = next(found)
            yield {"document": document.name, **result.to_dict()}


def show_table(rows: list[dict[str, Any]], mark: "Watermark") -> None:
    """The results as a table on standard output."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{mark.scheme}, watermark {mark.fingerprint}")
    table.add_column("document", overflow="fold")
    table.add_column("tokens", justify="right")
    table.add_column("statistic", justify="right")
    table.add_column("p", justify="right")
    table.add_column("note", overflow="fold")
    for row in rows:
        p = row["p_value"]
        table.add_row(
            Text(row["document"]),
            "" if row.get("length") is None else f"{row['length']:,}",
            "" if row.get("statistic") is None else f"{row['statistic']:.2f}",
            Text("" if p is None else f"{p:.4g}", style="bold" if p and p <= 0.01 else ""),
            Text(row["error"] or ""),
        )
    console = Console()
    if not console.is_terminal:
        console.width = 160
    console.print(table)


def progress_bar() -> "Progress":
    """A progress bar on standard error, when that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(console=console, disable=not console.is_terminal, transient=True)


def note(message: str) -> None:
    """One line on standard error."""
    typer.echo(f"wmcore: {message}", err=True)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command, turning every foreseen mistake into one line and exit code 2."""
    warnings.showwarning = lambda message, *_, **__: note(f"warning: {message}")
    try:
        sys.exit(app(args=arguments, prog_name="wmcore", standalone_mode=False) or 0)
    except TyperException as e:
        note(e.format_message())
    except WatermarkError as e:
        note(str(e))
    except textio.ReaderGone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as e:
        note(f"{e.filename}: {e.strerror}" if e.filename else str(e))
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(2)
