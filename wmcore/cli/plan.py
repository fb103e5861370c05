"""``wmcore plan``: how many tokens a watermarked text needs to be found."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wmcore.cli.console import (
    MOST,
    NAMES,
    example,
    named,
    note,
    output_option,
    say,
    show_table,
    standard_output,
    table_console,
    write_record,
)
from wmcore.cli.output import Force, check_output, open_lines
from wmcore.cli.prompts import PROMPTS, as_question, read_prompts
from wmcore.errors import WatermarkError
from wmcore.records import printable
from wmcore.schemes import DEFAULT_SCHEME, scheme_of
from wmcore.scores import SCORES

if TYPE_CHECKING:
    from rich.table import Table

    from wmcore.power.lengths import Needed
    from wmcore.power.sampled import SampledText
    from wmcore.power.simulation import DetectionPower, SettingPower

NAMED_ERRORS = 10

EXAMPLES = example(
    "wmcore plan --prompts prompts.jsonl --chat --temperature 0.7 --top-p 0.9",
    "wmcore plan --prompts prompts.jsonl --samples 5 -o sampled.jsonl",
    "wmcore plan sampled.jsonl --scheme exp --scheme exp-free --key-length 256 --key-length 1024 --plot plan.png",
)


def plan(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            help="Unmarked texts with log-probabilities: records in .jsonl or .json, ours or of an OpenAI interface; "
            "- for standard input."
        ),
    ] = None,
    prompts: Annotated[str | None, PROMPTS] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model", help="What answers --prompts: smollm2, or a transformers name or path."
        ),
    ] = "smollm2",
    chat: Annotated[
        bool, typer.Option("--chat", help="Give prompts as questions, in the model's chat format.")
    ] = False,
    temperature: Annotated[float, typer.Option(help="As the model will sample.")] = 1.0,
    top_p: Annotated[float | None, typer.Option(help="As the model will sample.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=MOST)] = 200,
    samples: Annotated[int, typer.Option(min=1, max=MOST, help="Texts for each prompt.")] = 1,
    batch_size: Annotated[int, typer.Option(min=1, max=MOST)] = 16,
    output: Annotated[
        str | None,
        output_option("Keep what the model wrote, with its log-probabilities, to plan again."),
    ] = None,
    scheme: Annotated[
        list[str] | None,
        typer.Option(help=f"One of {NAMES}. Can be given again. Default: {DEFAULT_SCHEME}."),
    ] = None,
    score: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            callback=named,
            help=f"What free and local schemes add up: {', '.join(SCORES)}, or a file of learn-scores --by tokens.",
        ),
    ] = None,
    key_length: Annotated[
        list[int] | None,
        typer.Option(help="Rows of the key (n). Can be given again. Default: 256."),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            metavar="LENGTHS",
            callback=named,
            help="Tokens to try, such as 50,100,200. Default: from 5 on, each 1.4 times the one before.",
        ),
    ] = None,
    edit: Annotated[
        str, typer.Option(help="Kind of edits: mixed, substitute, insert or delete.")
    ] = "mixed",
    rates: Annotated[
        str, typer.Option(metavar="SHARES", help="Shares of tokens that are edited.")
    ] = "0,0.1,0.3",
    levels: Annotated[
        str, typer.Option(metavar="LEVELS", help="A text is found where p is at most this.")
    ] = "1e-2,1e-4,1e-6",
    simulations: Annotated[
        int, typer.Option(min=1, max=MOST, help="For each scheme and key length.")
    ] = 200,
    resamples: Annotated[
        int,
        typer.Option(
            min=1, max=MOST, help="Of each test. Smaller p-values come from the proven bound alone."
        ),
    ] = 19_999,
    vocab_size: Annotated[
        int | None, typer.Option(help="Default: the model's, or what the token ids need.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of everything random.")] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object instead of a table.")
    ] = False,
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", callback=named, help="A picture, too: .png, .svg or .pdf (extra plot)."
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Will this be detectable? How many tokens a text needs, at several levels, clean and edited.

    Takes unmarked texts, from FILES or by letting a model answer prompts, draws keys given that they wrote them, and
    tests the result as detect does. No watermark file is needed.
    """
    if (prompts is None) == (not files):
        raise WatermarkError("give either FILES or --prompts")
    if output is not None and prompts is None:
        raise WatermarkError("--output keeps what a model writes: give --prompts, or leave it out")
    for path, option in ((plot, "--plot"), (output, "--output")):
        if path == "-":
            raise WatermarkError(f"{option} -: give the name of a file")
        if path is not None:
            check_output(path, force, option)
    if plot is not None:
        _check_plot(plot)

    from wmcore.power.simulation import detection_power

    tried = None if lengths is None else _numbers("--lengths", lengths, int)
    shares, found_at = _numbers("--rates", rates, float), _numbers("--levels", levels, float)
    if files:
        texts = _read(files)
    else:
        from wmcore.models import load_model
        from wmcore.power.model import sample_texts
        from wmcore.progress import busy

        given, _ = read_prompts(str(prompts))
        with busy(f"loading {model}"):
            loaded, tokenizer = load_model(model)
        vocab_size = vocab_size or loaded.config.get_text_config().vocab_size
        texts = sample_texts(
            loaded,
            tokenizer,
            [as_question(tokenizer, model, text) if chat else text for _, text in given],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            samples=samples,
            batch_size=batch_size,
            seed=seed,
        )
        if output is not None:
            _keep(texts, output, force)
    power = detection_power(
        texts,
        schemes=[scheme_of(name).name for name in scheme or [DEFAULT_SCHEME]],
        key_lengths=key_length or [256],
        score=score,
        lengths=tried,
        rates=shares,
        edit=edit,
        levels=found_at,
        simulations=simulations,
        resamples=resamples,
        vocab_size=vocab_size,
        seed=seed,
    )
    if not any((text.others >= 0).any() for text in texts):
        note(
            "log-probabilities must be those after temperature and top-p, or the plan is wrong: without top_logprobs "
            "this cannot be checked"
        )
    if plot is not None:
        from wmcore import whole_file
        from wmcore.power.plot import picture

        whole_file.write(plot, picture(power, Path(plot).suffix[1:].lower()))
        note(f"{plot}: the share of texts found against their length")
    if as_json:
        write_record(standard_output(), power.to_dict())
    else:
        _show(power)


def _read(files: list[str]) -> "list[SampledText]":
    """The texts of all files; the first records that cannot be used are named on standard error."""
    from wmcore.power.reading import SampleReader

    reader = SampleReader()
    texts = [text for path in files for text in reader.read(path)]
    for error in reader.errors[:NAMED_ERRORS]:
        note(error)
    if reader.errors:
        note(f"{len(reader.errors):,} records could not be used")
    if not texts:
        raise WatermarkError("no text with log-probabilities: see docs/plan.md for the format")
    return texts


def _keep(texts: "list[SampledText]", path: str, force: bool) -> None:
    from wmcore.power.reading import record_of

    with open_lines(path, force) as write:
        for text in texts:
            write(record_of(text))
    note(f"{path}: {len(texts):,} texts with log-probabilities")


def _check_plot(path: str) -> None:
    """WatermarkError unless a picture of this name can be made: before the work."""
    from wmcore.checks import require
    from wmcore.power.plot import ENDINGS

    if not path.lower().endswith(ENDINGS):
        raise WatermarkError(f"--plot {path}: end its name in {', '.join(ENDINGS)}")
    require("matplotlib", "run pip install 'wmcore-lm[plot]'")


def _numbers(option: str, text: str, kind: Any) -> list[Any]:
    """The numbers of a list with commas."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise WatermarkError(
            f"{option} {text}: give numbers with commas between them, such as "
            f"{'50,100,200' if kind is int else '0.01,0.1'}"
        ) from None


def _show(power: "DetectionPower") -> None:
    console = table_console(110)
    for setting in power.settings:
        gain = setting.score_per_token - setting.chance_per_token
        score = f", score {setting.score}" if setting.score else ""
        say(
            printable(
                f"{setting.scheme}{score}, n = {setting.key_length:,}: {setting.score_per_token:.3f} a token, "
                f"{setting.chance_per_token:.3f} by chance: gain {gain:.3f}"
            )
        )
        show_table(console, _table(setting))
    note(
        f"{power.texts:,} texts, {power.tokens:,} tokens of {power.entropy:.2f} nats; half of the texts have "
        f"{power.longest:,} or more. {power.simulations:,} simulations, T = {power.resamples:,}"
    )
    note(
        "tokens written, before edits; in brackets the 95 % interval, '…' where this sample leaves its end open; "
        "> n: more than could be tried"
    )


def _table(setting: "SettingPower") -> "Table":
    """The tokens that are needed: a line for each rate of edits and level."""
    from rich.table import Table

    table = Table()
    table.add_column("edited")
    table.add_column("p ≤")
    for share in next(iter(setting.edited[0].needed.values())):
        table.add_column(f"{share:.0%} found", justify="right")
    for edited in setting.edited:
        for level, shares in edited.needed.items():
            longest = int(edited.curves[level].lengths[-1])
            cells = [_cell(one, longest) for one in shares.values()]
            table.add_row(f"{edited.rate:.0%}", f"{level:g}", *cells)
        table.add_section()
    return table


def _cell(needed: "Needed", longest: int) -> str:
    """A number of tokens and its interval."""
    high = "…" if needed.high is None else f"{needed.high:,}"
    tokens = f"> {longest:,}" if needed.tokens is None else f"{needed.tokens:,}"
    # More than all lengths, and surely so: there is no interval to give.
    return tokens if needed.low == longest else f"{tokens} ({needed.low:,}–{high})"
