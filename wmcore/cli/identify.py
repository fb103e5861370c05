"""``wmcore identify``: which of many keys, if any, wrote each text."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wmcore import watermark_file
from wmcore.cli.console import (
    MOST,
    AsJson,
    MaxBytes,
    Seed,
    TextField,
    TokenizerName,
    TokensField,
    example,
    named,
    note,
    say,
    show_table,
    standard_output,
    table_console,
    write_record,
)
from wmcore.cli.detect import batches
from wmcore.cli.texts import Documents
from wmcore.errors import WatermarkError
from wmcore.pages import format_p
from wmcore.progress import progress_bar
from wmcore.reading import MAX_BYTES
from wmcore.records import Document, printable

if TYPE_CHECKING:
    from wmcore.watermark import Watermark

EXAMPLES = example(
    "wmcore identify -w keys/ essay.txt letter.txt",
    "wmcore identify -w january.json -w february.json --json out.jsonl",
    "wmcore identify -w master.json --labels tenants.txt essay.txt",
)


def identify(
    files: Annotated[
        list[str],
        typer.Argument(help="What detect reads; - for standard input."),
    ],
    watermarks: Annotated[
        list[str],
        typer.Option(
            "--watermark",
            "-w",
            metavar="FILE|FOLDER",
            help="A watermark file, or a folder of them (*.json). Can be given again.",
        ),
    ],
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            callback=named,
            help="Labels, one a line: the keys are those that derive makes of one watermark.",
        ),
    ] = None,
    tokenizer: TokenizerName = None,
    as_json: AsJson = False,
    level: Annotated[
        float, typer.Option(min=0, max=1, help="The p up to which a key is found.")
    ] = 0.001,
    resamples: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST,
            help="Compare with this many independent keys. Default: a proven bound, or else 99,999 keys.",
        ),
    ] = None,
    seed: Seed = None,
    text_field: TextField = None,
    tokens_field: TokensField = None,
    max_bytes: MaxBytes = MAX_BYTES,
) -> None:
    """Find which of many watermarks each text carries. p is corrected for their number.

    The watermarks are of one scheme and size, and differ in the key.
    """
    documents = Documents(text_field, tokens_field, max_bytes)
    marks = _labelled(watermarks, labels) if labels is not None else _loaded(watermarks)
    coder = documents.coder(tokenizer or next(iter(marks.values())).tokenizer)
    given = documents.read(files)

    from wmcore.identify import RESAMPLES

    tried = RESAMPLES if resamples is None else resamples
    if len(marks) > level * (tried + 1):
        known = "" if resamples is not None else ", but for strong watermarks,"
        note(
            f"{len(marks):,} keys and {tried:,} resamples give{known} no p below {len(marks) / (tried + 1):.2g}: "
            f"none is found at {level:g}; try --resamples {math.ceil(len(marks) / max(level, 1e-9))}"
        )
    tested = failed = 0
    rows: list[dict[str, Any]] = []
    options = {"resamples": resamples, "seed": seed, "tokenizer": coder}
    try:
        with progress_bar() as bar:
            out = standard_output()
            for row in bar.track(
                _identified(given, marks, level, options), description="documents"
            ):
                failed += row["error"] is not None
                tested += 1
                if as_json:
                    write_record(out, row)
                else:
                    rows.append(row)
    finally:
        if rows:
            _show(rows, len(marks), level)
    if failed:
        note(f"{failed:,} of {tested:,} documents could not be tested")
    if failed == tested:
        raise typer.Exit(2)


def _loaded(paths: Sequence[str]) -> "dict[str, Watermark]":
    """The watermarks of files and folders, by the names of their files."""
    from wmcore.watermark import Watermark

    return {str(path): Watermark.load(path) for path in watermark_file.files(paths)}


def _labelled(paths: Sequence[str], labels: str) -> "dict[str, Watermark]":
    """The watermarks that one has for the labels in a file."""
    if len(paths) != 1 or Path(paths[0]).is_dir():
        raise WatermarkError("--labels is for one watermark file, the master's: give one -w")
    ((_, master),) = _loaded(paths).items()
    try:
        lines = Path(labels).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise WatermarkError(f"--labels {labels}: not UTF-8: convert it") from None
    names = dict.fromkeys(line for line in lines if line.strip())
    if not names:
        raise WatermarkError(f"--labels {labels}: no label in it; give one a line")
    return {name: replace(master, key=master.key.derive(name)) for name in names}


def _identified(
    documents: Iterable[Document],
    marks: "dict[str, Watermark]",
    level: float,
    options: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    """A result for every document, in order; unreadable ones are passed through."""
    from wmcore.identify import Identification
    from wmcore.identify import identify as find

    names, keys = list(marks), list(marks.values())
    for batch in batches(documents):
        contents = [d.content for d in batch if d.error is None]
        found = iter(find(contents, keys, **options) if contents else ())
        for document in batch:
            if document.error is not None:
                one = Identification(None, None, None, None, None, None, 0, document.error)
            else:
                one = next(found)
            best = one.index
            yield {
                "document": document.id,
                "found": None if one.p_value is None else one.p_value <= level,
                "watermark": None if best is None else names[best],
                "fingerprint": None if best is None else keys[best].fingerprint,
                "p_value": one.p_value,
                "keys": len(keys),
                "statistic": one.statistic,
                "shift": one.shift,
                "block": one.block,
                "length": one.length,
                "resamples": one.resamples,
                "error": one.error,
            }


def _show(rows: list[dict[str, Any]], count: int, level: float) -> None:
    """The results as a table on standard output, and what they mean."""
    from rich.table import Table
    from rich.text import Text

    from wmcore.detection import MEANING

    table = Table(
        title=f"{count:,} keys; one is found where p, corrected for them, is at most {level:g}"
    )
    table.add_column("document", overflow="fold")
    for name in ("tokens", "p"):
        table.add_column(name, justify="right")
    table.add_column("watermark", overflow="fold")
    table.add_column("note", overflow="fold")
    for row in rows:
        who = {True: row["watermark"], False: "none found", None: ""}[row["found"]]
        table.add_row(
            Text(printable(row["document"])),
            "" if row["length"] is None else f"{row['length']:,}",
            "" if row["p_value"] is None else format_p(row["p_value"]),
            Text(printable(who), style="bold" if row["found"] else ""),
            Text(printable(row["error"] or "")),
        )
    show_table(table_console(160), table)
    if any(row["error"] is None for row in rows):
        say(f'{MEANING}\n"None found" does not say that a text is not ours.')
