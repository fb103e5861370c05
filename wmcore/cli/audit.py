"""``wmcore audit``: does this set-up write text that is found?"""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wmcore.cli.console import (
    MOST,
    Seed,
    TestScheme,
    TokenizerName,
    WatermarkFile,
    example,
    named,
    note,
    say,
    scheme_name,
    standard_output,
    write_record,
)
from wmcore.cli.prompts import PROMPTS, as_question, read_prompts
from wmcore.errors import WatermarkError

if TYPE_CHECKING:
    from wmcore.audit.result import Audit
    from wmcore.audit.writers import Sampling, Writer
    from wmcore.watermark import Watermark

EXAMPLES = example(
    "wmcore audit -w watermark.json --model smollm2 --temperature 0.7 --top-p 0.9",
    "wmcore audit -w watermark.json --url http://127.0.0.1:8000/v1 --served-model m --chat "
    """--off-fields '{"vllm_xargs": {"wmcore": false}}'""",
    "wmcore audit -w watermark.json --texts answers.jsonl --json > audit.json",
)

EXIT = {"good": 0, "bad": 1, "cannot tell": 3}


def audit(
    watermark: WatermarkFile,
    model: Annotated[
        str | None,
        typer.Option(help="Write with wmcore.generate: smollm2, or a transformers name or path."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            callback=named,
            help="Or ask an OpenAI-compatible server, as in http://127.0.0.1:8000/v1.",
        ),
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(
            "--texts",
            metavar="FILE",
            callback=named,
            help="Or take texts written before: JSON Lines with 'text', and where known 'prompt', 'tokens' and "
            "'watermarked' (false for texts written with the watermark off).",
        ),
    ] = None,
    served_model: Annotated[
        str | None, typer.Option(callback=named, help="The model's name on the server.")
    ] = None,
    key_env: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            callback=named,
            help="Environment variable with the server's API key.",
        ),
    ] = None,
    fields: Annotated[
        str, typer.Option(metavar="JSON", help="More fields of each request that is marked.")
    ] = "{}",
    off_fields: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="The same for requests that opt out: docs/bindings has each server's.",
        ),
    ] = None,
    off_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", callback=named, help="Or a second server that has no watermark."
        ),
    ] = None,
    at_once: Annotated[int, typer.Option(min=1, max=256, help="Requests at a time.")] = 4,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for one answer.")] = 300.0,
    prompts: Annotated[str | None, PROMPTS] = None,
    unmarked: Annotated[
        list[str] | None,
        typer.Option(
            "--unmarked",
            metavar="FILE",
            help="Texts that were surely written without this watermark. Can be given again.",
        ),
    ] = None,
    tokenizer: TokenizerName = None,
    scheme: TestScheme = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Give prompts as questions, in the model's chat format.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=MOST)] = 200,
    temperature: Annotated[
        float | None, typer.Option(help="Default: 1.0, and for a server its own.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1, max=MOST)] = None,
    top_p: Annotated[float | None, typer.Option()] = None,
    count: Annotated[
        int, typer.Option("--texts-count", min=1, max=10_000, help="Marked texts to write.")
    ] = 20,
    answers: Annotated[
        int, typer.Option(min=0, max=10_000, help="More answers to the first prompt.")
    ] = 12,
    level: Annotated[float, typer.Option(help="The p up to which a text is found.")] = 0.001,
    need: Annotated[float, typer.Option(help="Share of marked texts that must be found.")] = 0.8,
    seed: Seed = None,
    with_texts: Annotated[
        bool, typer.Option("--with-texts", help="Put the texts into the JSON, too.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The whole audit as JSON, with a row for each text.")
    ] = False,
) -> None:
    """Write, read back, detect: would this set-up fail, and would anybody notice?

    Exit code 0: good. 1: it fails without a word. 3: cannot tell, from these texts.
    """
    from wmcore.audit.run import Settings
    from wmcore.audit.run import audit as run
    from wmcore.audit.writers import Sampling
    from wmcore.detect import Detector
    from wmcore.watermark import Watermark

    if [model, url, texts].count(None) != 2:
        raise WatermarkError("give one of --model, --url and --texts")
    for option, value in {"--off-fields": off_fields, "--off-url": off_url}.items():
        if value is not None and url is None:
            raise WatermarkError(f"{option} is for servers: give --url, too, or leave it out")
    mark = Watermark.load(watermark)
    coder = tokenizer or mark.tokenizer
    if coder is None:
        raise WatermarkError("no --tokenizer given and the watermark names none: give its model's")
    if temperature is None and model is not None:
        temperature = 1.0
    sampling = Sampling(max_new_tokens, temperature, top_k, top_p, chat)
    writer: Writer
    if model is not None:
        writer = _model(model, mark, sampling, seed)
    elif url is not None:
        from wmcore.audit.endpoint import Endpoint, EndpointWriter

        on = Endpoint(url, served_model, key_env, timeout, _object("--fields", fields))
        off = None
        if off_url is not None or off_fields is not None:
            body = _object("--off-fields", off_fields or fields)
            off = Endpoint(off_url or url, served_model, key_env, timeout, body)
        writer = EndpointWriter(on, off, sampling, at_once)
    else:
        from wmcore.audit.given import read_texts

        writer = read_texts(str(texts))
    settings = Settings(
        texts=count,
        answers=answers,
        level=level,
        need=need,
        seed=seed or 0,
        keep_texts=with_texts,
    )
    done = run(
        Detector(mark, scheme=scheme_name(scheme), tokenizer=coder),
        writer,
        _prompts(prompts),
        settings=settings,
        unmarked=_unmarked(unmarked or [], writer.unmarks),
        stage=note,
    )
    if as_json:
        write_record(standard_output(), done.to_dict())
    else:
        show(done)
    code = EXIT[done.verdict]
    if code:
        raise typer.Exit(code)


def show(audit: "Audit") -> None:
    """A line for each check, each diagnosis, and the whole."""
    from wmcore.records import printable

    for check in audit.checks:
        say(f"{check.verdict:<11} {check.name}: {printable(check.words)}")
    for one in audit.diagnoses:
        say(f"{'sure' if one.sure else 'fits':<11} {one.fault}: {printable(one.words)}")
    say(f"{audit.verdict:<11} in all (watermark {audit.fingerprint})")


def _model(name: str, mark: "Watermark", sampling: "Sampling", seed: int | None) -> "Writer":
    from wmcore.audit.writers import ModelWriter
    from wmcore.models import load_model
    from wmcore.progress import busy

    with busy(f"loading {name}"):
        loaded, coder = load_model(name)

    def encode(text: str) -> Any:
        return as_question(coder, name, text) if sampling.chat else text

    return ModelWriter(name, loaded, coder, mark, sampling, seed, encode=encode)


def _prompts(path: str | None) -> list[str]:
    from wmcore.cli.demo import openings

    if path is None:
        return [one["prompt"] for one in openings()]
    return [text for _, text in read_prompts(path)[0]]


def _unmarked(files: list[str], writes: bool) -> list[str]:
    """Ordinary texts: those of files; the packaged openings where there are no others."""
    from wmcore.cli.demo import openings
    from wmcore.cli.texts import Documents
    from wmcore.reading import MAX_BYTES

    if not files:
        return [] if writes else [one["prompt"] for one in openings()]
    found = [one.text for one in Documents(None, None, MAX_BYTES).read(files) if one.text]
    if not found:
        raise WatermarkError(f"--unmarked {files[0]}: no text in it; give some")
    return found


def _object(option: str, text: str) -> dict[str, Any]:
    """A JSON object of the command line."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise WatermarkError(f"{option} {text}: no JSON object; give one, as in '{{\"seed\": 1}}'")
    return found
