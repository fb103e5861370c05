"""What the command says: lines, tables and JSON, with nothing in them that a terminal or a log could obey."""

import contextlib
import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from wmcore.errors import WatermarkError
from wmcore.records import printable
from wmcore.schemes import SCHEMES, scheme_of
from wmcore.scores import SCORES
from wmcore.types import SchemeName

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MOST = 2**31 - 1
"""The largest number that an option takes."""

# JSON itself escapes the rest of what a terminal obeys.
_COMMANDS = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def named(value: str | None) -> str | None:
    """Callback of an option: the name, which may not be empty."""
    if value == "":
        raise typer.BadParameter("it is empty: give a name")
    return value


WATERMARK = "WMCORE_WATERMARK"
"""The environment variable that names the watermark file where no option does."""

WatermarkFile = Annotated[
    str,
    typer.Option(
        "--watermark",
        "-w",
        metavar="FILE",
        envvar=WATERMARK,
        callback=named,
        help="Watermark file made by keygen.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(min=0, max=2**63 - 1, help="Makes what is drawn, and so the result, repeatable."),
]
TokenizerName = Annotated[
    str | None,
    typer.Option(help="smollm2, or a transformers name or path. Default: the watermark's own."),
]

ModelName = Annotated[str, typer.Option("--model", help="smollm2, or a transformers name or path.")]

TextField = Annotated[
    str | None,
    typer.Option("--text-field", help="Field of the records with the text. Default: text."),
]
TokensField = Annotated[
    str | None,
    typer.Option("--tokens-field", help="Field of the records with token ids, instead of text."),
]
MaxBytes = Annotated[
    int,
    typer.Option("--max-bytes", min=1, max=MOST, help="Longest line, record or text that is read."),
]

NAMES = ", ".join(SCHEMES)
TestScheme = Annotated[
    str | None,
    typer.Option(
        "--scheme",
        help=f"How to test: {NAMES}, as far as the sampler is the same. Default: the watermark's.",
    ),
]
TestGap = Annotated[
    float | None,
    typer.Option("--gap", help="Cost of an insertion or deletion. Default: the watermark's."),
]
TestBlock = Annotated[
    int | None,
    typer.Option(
        "--block-length",
        min=0,
        max=MOST,
        help="Tokens aligned at a time, of schemes without scores; 0 for the whole text. Default: the watermark's.",
    ),
]


AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line instead of a table.")]


TestScore = Annotated[
    str | None,
    typer.Option(
        "--score",
        metavar="NAME|FILE",
        help=f"What free and local schemes add up: {', '.join(SCORES)}, or a file of learn-scores. "
        "Default: the scheme's.",
    ),
]


def scheme_name(given: str | None) -> SchemeName | None:
    """What --scheme names, if it is given; WatermarkError for no scheme's name."""
    return None if given is None else scheme_of(given).name


def output_option(help: str, metavar: str = "FILE") -> Any:
    """The option --output, which may not be empty."""
    return typer.Option("--output", "-o", metavar=metavar, help=help, callback=named)


class ReaderGone(Exception):
    """Whoever reads standard output, such as ``head``, has seen enough."""


def example(*lines: str) -> str:
    """The examples at the end of a command's help."""
    return "\n\n".join(["[bold]Examples[/bold]", *(f"[cyan]{line}[/cyan]" for line in lines)])


def note(message: str) -> None:
    """One line on standard error."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):  # nobody is left to tell
            sys.stderr.write(f"wmcore: {printable(message)}\n")
            sys.stderr.flush()


def say(text: str) -> None:
    """Text on standard output, if there is one."""
    if sys.stdout is not None:
        with _reader():
            sys.stdout.write(text + "\n")
            sys.stdout.flush()


def write_record(stream: BinaryIO, record: dict[str, Any]) -> None:
    """Write one JSON object as a line and flush it, so that an interrupted file stays valid."""
    line = _COMMANDS.sub(lambda c: f"\\u{ord(c[0]):04x}", json.dumps(record, ensure_ascii=False))
    with _reader():
        stream.write(line.encode() + b"\n")
        stream.flush()


def standard_output() -> BinaryIO:
    """Standard output, for bytes; WatermarkError if it is closed."""
    if sys.stdout is None:
        raise WatermarkError("standard output is closed: leave it open, or name a file")
    return sys.stdout.buffer


def table_console(width: int) -> "Console":
    """Where a table is drawn; so wide where standard output is no terminal."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = width
    return console


def show_table(console: "Console", table: "Table") -> None:
    """Draw a table on standard output."""
    with console.capture() as drawn:
        console.print(table)
    say(drawn.get().removesuffix("\n"))


@contextmanager
def _reader() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise ReaderGone from None


class _Notes(logging.Handler):
    """Shows what the library logs as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


def prepare() -> None:
    """Show what the library logs, and let every character through to terminals that know only some, as an escape."""
    log = logging.getLogger("wmcore")
    if not log.handlers:
        log.addHandler(_Notes())
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
