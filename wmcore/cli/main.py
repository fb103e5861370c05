"""The ``wmcore`` command: keygen and demo here, the others in modules of their own.

Exit code 0 whatever is found; 2 for bad usage or input, with one line on standard error that says what to do; 130 when
interrupted; 1 for an error of wmcore's own. `audit` alone answers by its code: 1 where the set-up fails, 3 where it
cannot tell. Everything heavy is imported inside the command that needs it.
"""

import contextlib
import io
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from wmcore import whole_file
from wmcore._version import __version__
from wmcore.cli import (
    audit,
    bench,
    calibrate,
    console,
    derive,
    detect,
    generate,
    identify,
    learn,
    plan,
    report,
    scan,
    serve,
)
from wmcore.cli.console import NAMES, example, named, note, output_option
from wmcore.cli.output import check_output, reserved
from wmcore.errors import WatermarkError
from wmcore.schemes import DEFAULT_SCHEME, scheme_of

if TYPE_CHECKING:
    from wmcore.key import Key

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Watermark a language model's text, and find the watermark again after edits.",
    epilog="Start with [bold]wmcore demo[/bold]. Each command shows examples with -h.",
)


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False,
) -> None:
    if version:
        console.say(f"wmcore {__version__}")
    elif context.invoked_subcommand is None:
        names = ", ".join(typer.main.get_group(app).list_commands(context))
        raise WatermarkError(f"no command given: wmcore -h lists {names}")


@app.command(
    epilog=example(
        "wmcore keygen --model smollm2 -o watermark.json",
        "wmcore keygen --scheme its --vocab-size 50257 --tokenizer gpt2 --key-length 512 -o its.json",
    )
)
def keygen(
    output: Annotated[str, output_option("File to write.")],
    scheme: Annotated[str, typer.Option(help=f"One of {NAMES}.")] = DEFAULT_SCHEME,
    model: Annotated[
        str | None, typer.Option(help="Take the vocabulary size from this model: smollm2 or other.")
    ] = None,
    vocab_size: Annotated[
        int | None, typer.Option(help="Or give the vocabulary size: the logits of the model.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            callback=named, help="What detect reads texts with, unless told. Default: the model's."
        ),
    ] = None,
    key_length: Annotated[int, typer.Option(help="Rows of the key sequence (n).")] = 256,
    block_length: Annotated[
        int | None,
        typer.Option(
            help="Tokens aligned at a time (k), of schemes without scores. Default: the whole text."
        ),
    ] = None,
    gap: Annotated[
        float | None, typer.Option(help="Cost of an insertion or deletion. Default: the scheme's.")
    ] = None,
    key_from_env: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            callback=named,
            help="Take the secret, 64 hexadecimal digits, from this environment variable, and leave it there: the "
            "file has its name and the key's fingerprint.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace FILE, whose key is then lost.")
    ] = False,
) -> None:
    """Make a secret key and write it, with its settings, to a watermark file (mode 0600)."""
    from wmcore.watermark import Watermark

    if output == "-":
        raise WatermarkError("--output -: a secret is only written to a file; give a file name")
    if model is not None and vocab_size is None:
        from wmcore.models import vocab_size_of

        vocab_size = vocab_size_of(model)
    elif model is not None or vocab_size is None:
        raise WatermarkError(
            "give one of --model and --vocab-size (and --tokenizer with it, if detect is to read texts)"
        )
    watermark = Watermark.create(
        scheme_of(scheme).name,
        vocab_size=vocab_size,
        key_length=key_length,
        block_length=block_length,
        gap=gap,
        key=None if key_from_env is None else _key_in(key_from_env),
        tokenizer=tokenizer or model,
    )
    with contextlib.nullcontext() if force else reserved(output):
        watermark.save(output, key_from_env=key_from_env, replace=True)
    note(
        f"{output}: {scheme}, vocabulary {watermark.vocab_size:,}, key length {key_length:,}, "
        f"fingerprint {watermark.fingerprint}"
    )


def _key_in(variable: str) -> "Key":
    """The key whose secret is in an environment variable."""
    from wmcore.key import Key

    secret = os.environ.get(variable)
    if not secret:
        raise WatermarkError(
            f"--key-from-env {variable}: the variable is not set: put 64 hexadecimal digits into it, as with "
            f"export {variable}=$(openssl rand -hex 32)"
        )
    return Key.from_hex(secret, f"--key-from-env {variable}")


app.command(epilog=generate.EXAMPLES)(generate.generate)
app.command(epilog=detect.EXAMPLES)(detect.detect)
app.command(epilog=identify.EXAMPLES)(identify.identify)
app.command(epilog=derive.EXAMPLES)(derive.derive)
app.command(epilog=calibrate.EXAMPLES)(calibrate.calibrate)
app.command(epilog=learn.EXAMPLES)(learn.learn_scores)
app.command(epilog=serve.EXAMPLES)(serve.serve)
app.command(epilog=plan.EXAMPLES)(plan.plan)


@app.command(epilog=example("wmcore demo", "wmcore demo --scheme exp-edit -o page.html"))
def demo(
    scheme: Annotated[
        str | None, typer.Option(help=f"One of {NAMES}. Default: all of them.")
    ] = None,
    output: Annotated[str, output_option("HTML page to write.")] = "wmcore-demo.html",
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Of the shifts, the damage and the tests.")
    ] = 1,
) -> None:
    """Watermark SmolLM2's texts, damage 30 % of their tokens, and find the watermark again."""
    from wmcore.cli.demo import run
    from wmcore.schemes import SCHEMES

    if scheme is not None and scheme not in SCHEMES:
        raise WatermarkError(f"--scheme {scheme}: unknown; choose one of {', '.join(SCHEMES)}")
    check_output(output, replace=True)
    page = io.StringIO()
    run(tuple(SCHEMES) if scheme is None else (scheme,), page, seed=seed, stage=note)
    whole_file.write(output, page.getvalue().encode())
    note(f"{output}: each token coloured by how well it fits its key row; open it in a browser")


app.command(epilog=scan.EXAMPLES)(scan.scan)
app.command(epilog=report.EXAMPLES)(report.report)
app.command(epilog=audit.EXAMPLES)(audit.audit)
app.command(epilog=bench.EXAMPLES)(bench.bench)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command, turning every mistake into one line and an exit code."""
    console.prepare()
    warnings.showwarning = lambda message, *_, **__: note(
        f"warning: {' '.join(str(message).split())}"
    )
    try:
        code = app(args=arguments, prog_name="wmcore", standalone_mode=False) or 0
        if sys.stdout is not None:
            sys.stdout.flush()
        sys.exit(code)
    except TyperException as e:
        note(e.format_message())
    except WatermarkError as e:
        note(str(e))
    except console.ReaderGone:
        _forget_output()
        sys.exit(0)
    except OSError as e:
        _forget_output()
        note(f"{e.filename}: {e.strerror}" if e.filename else str(e))
    except KeyboardInterrupt:
        sys.exit(130)
    except MemoryError:
        note("out of memory: give smaller numbers, or fewer or shorter texts")
    except Exception as e:
        note(_to_report(e.__cause__ if isinstance(e, typer.Abort) and e.__cause__ else e))
        sys.exit(1)
    sys.exit(2)


def _forget_output() -> None:
    """What could not be written to standard output is not tried again at exit."""
    with contextlib.suppress(OSError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _to_report(error: BaseException) -> str:
    """The line for an error that should not happen: what to report, without values of variables."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    ours = [f for f in frames if "wmcore" in f.filename]
    via = f", called from {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    return (
        f"{type(error).__name__} at {place}{via} ({str(error)[:200]}): this is a fault of wmcore {__version__}; please "
        "report this line and the command that you ran"
    )
