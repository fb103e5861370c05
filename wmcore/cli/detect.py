"""``wmcore detect``: documents in, a table or JSON lines out."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wmcore.cli.console import (
    MOST,
    AsJson,
    TestBlock,
    TestGap,
    TestScheme,
    TestScore,
    TokenizerName,
    WatermarkFile,
    example,
    named,
    note,
    say,
    scheme_name,
    show_table,
    standard_output,
    table_console,
    write_record,
)
from wmcore.cli.inputs import Inputs
from wmcore.errors import WatermarkError
from wmcore.progress import Pace, busy
from wmcore.reading import MAX_BYTES, Reading
from wmcore.records import Document, printable

if TYPE_CHECKING:
    from wmcore.cli.text_page import TextPage
    from wmcore.detect import Detector
    from wmcore.locate import Span

BATCH = 256  # documents tested at a time; results do not depend on it
BATCH_BYTES = 16_000_000  # a batch also ends once it is so large

EXAMPLES = example(
    "wmcore detect -w watermark.json --tokenizer smollm2 essay.txt letter.txt",
    "wmcore detect -w watermark.json --json out.jsonl > results.jsonl",
    "wmcore detect -w watermark.json --tokens-field tokens out.jsonl",
    "wmcore detect -w watermark.json --tokenizer smollm2 --spans report.txt",
    "wmcore detect -w watermark.json --tokenizer smollm2 --html page.html essay.txt",
    "wmcore detect -w watermark.json --proxy smollm2 essay.txt",
    "cat letter.txt | wmcore detect -w watermark.json -",
)


def detect(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Texts (.txt, .md), HTML, or records in .jsonl, .json, .csv, .tsv, .warc (each also .gz, .bz2, .xz, "
            ".zst) or .parquet; - for standard input."
        ),
    ],
    watermark: WatermarkFile,
    tokenizer: TokenizerName = None,
    scheme: TestScheme = None,
    gap: TestGap = None,
    block_length: TestBlock = None,
    score: TestScore = None,
    proxy: Annotated[
        str | None,
        typer.Option(
            help="A model that reads each text and says how expected its tokens were: smollm2, or a transformers name "
            "or path. Finds more at low temperatures.",
        ),
    ] = None,
    as_json: AsJson = False,
    resamples: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST,
            help="Compare with this many independent keys. Default: a proven bound, or else 1,999 keys.",
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            callback=named,
            help="Take p from the statistics that calibrate stored: approximate, and much faster.",
        ),
    ] = None,
    stop_after: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MOST,
            help="Stop a text once this many of them fit as well as the key; 0 uses them all. Default: 50.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2**63 - 1,
            help="Of these keys. Default: follows from the key, so that p is repeatable.",
        ),
    ] = None,
    spans: Annotated[
        bool,
        typer.Option(
            "--spans",
            help="Also say where in a text the watermark is: passages, in tokens and characters.",
        ),
    ] = False,
    verdict_only: Annotated[
        bool,
        typer.Option(
            "--verdict-only",
            help="Say found or not found, and nothing that helps a stranger to forge a text.",
        ),
    ] = False,
    level: Annotated[
        float | None,
        typer.Option(
            help="The p up to which a text or (--spans) a passage is found. Default: 0.001 and 0.01."
        ),
    ] = None,
    html: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Also write a page with the texts, each token coloured by how well it fits the key.",
            callback=named,
        ),
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace the page of --html.")] = False,
    text_field: Annotated[
        str | None, typer.Option(help="Field of the records with the text. Default: text.")
    ] = None,
    tokens_field: Annotated[
        str | None, typer.Option(help="Field of the records with token ids, instead of text.")
    ] = None,
    max_bytes: Annotated[
        int, typer.Option(min=1, max=MOST, help="Longest line, record or text that is read.")
    ] = MAX_BYTES,
) -> None:
    """Test texts for the watermark: a small p-value means it is there."""
    if text_field is not None and tokens_field is not None:
        raise WatermarkError("give either --text-field or --tokens-field, and not both")
    for path in files:
        if not path:
            raise WatermarkError("a file's name is empty: give one, or - for standard input")
        if path != "-" and not os.access(path, os.R_OK):
            raise WatermarkError(f"{path}: no such file, or it cannot be read")
        if path != "-" and Path(path).is_dir():
            raise WatermarkError(f"{path}: a folder; name the files in it, or use wmcore scan")
    tuning = {"--resamples": resamples, "--stop-after": stop_after, "--seed": seed}
    for option in [name for name, value in tuning.items() if value is not None and verdict_only]:
        raise WatermarkError(f"--verdict-only has a test of its own: leave {option} out")
    if spans and verdict_only:
        raise WatermarkError("--spans says more than found or not: leave it or --verdict-only out")
    for option in [name for name, value in tuning.items() if value is not None and calibration]:
        raise WatermarkError(f"--calibration has its own statistics: leave {option} out")
    if calibration and (spans or verdict_only):
        raise WatermarkError(
            "--calibration is for plain p-values: leave --spans and --verdict-only out"
        )
    if html is not None and verdict_only:
        raise WatermarkError("--html shows more than found or not: leave it or --verdict-only out")
    if force and html is None:
        raise WatermarkError("--force is for the page of --html: give --html, too, or leave it out")
    named = text_field is not None or tokens_field is not None

    from wmcore.checks import real_number
    from wmcore.detect import Detector
    from wmcore.detection import LEVEL
    from wmcore.locate import LEVEL as SPAN_LEVEL
    from wmcore.locate import RESAMPLES as SPAN_RESAMPLES
    from wmcore.locate import local_detector, locate
    from wmcore.plan import STOP_AFTER
    from wmcore.watermark import Watermark

    mark = Watermark.load(watermark)
    coder = None if tokens_field is not None else tokenizer or mark.tokenizer
    if coder is None and tokens_field is None:
        raise WatermarkError("no --tokenizer given and the watermark names none: give its model's")
    reading = Reading(text_field or "text", tokens_field=tokens_field, max_bytes=max_bytes)
    with busy(f"loading {proxy}") if proxy else nullcontext():
        detector = Detector(
            mark,
            scheme=scheme_name(scheme),
            gap=gap,
            block_length=block_length,
            score=score,
            proxy=proxy,
            tokenizer=coder,
        )
    how = detector.statistic
    if how != mark.statistic:
        scores = "" if how.scores is None else f", score {how.scores.name}"
        note(f"tested as {how.scheme.name}, gap {how.gap:g}{scores}")
    null = None
    if calibration is not None:
        from wmcore.calibration import Calibration

        null = Calibration.load(calibration)
    documents = Inputs(files, named, reading)
    find = None
    if spans:
        find = partial(
            locate,
            local_detector(detector),
            level=SPAN_LEVEL if level is None else level,
            resamples=SPAN_RESAMPLES if resamples is None else resamples,
            seed=seed,
        )
    text_level = LEVEL if level is None else real_number("--level", level, 0, 1)
    page = None
    if html is not None:
        page = _page(html, detector, tokenizer or mark.tokenizer, text_level, force)
    tested = failed = 0
    rows: list[dict[str, Any]] = []
    try:
        with Pace() as pace:
            out = standard_output()
            if verdict_only:
                results = judge_all(detector, documents, text_level)
            else:
                results = detect_all(
                    detector,
                    documents,
                    Report(text_level, find, page),
                    resamples=resamples,
                    stop_after=STOP_AFTER if stop_after is None else stop_after or None,
                    seed=seed,
                    calibration=null,
                )
            for row in results:
                if as_json:
                    write_record(out, row)
                else:
                    rows.append(row)
                failed += row["error"] is not None
                tested += 1
                pace.show(tested, documents.share)
    except KeyboardInterrupt:
        kept = "their lines are written" if as_json else "the table shows them"
        note(f"stopped after {tested:,} documents: {kept}; the rest was not tested")
        raise
    finally:
        if rows:
            _show(rows, detector, text_level, verdict_only=verdict_only, spans=spans)
    if page is not None:
        page.write()
        more = f", without {page.left_out:,} texts that it has no room for" if page.left_out else ""
        note(f"{html}: each token coloured by how well it fits its key row{more}")
    if failed:
        note(f"{failed:,} of {tested:,} documents could not be tested")
    if failed == tested:
        raise typer.Exit(2)


@dataclass(frozen=True)
class Report:
    """What is said of a text beside its numbers: a verdict at a level, the passages that `find` finds, a page."""

    level: float
    find: "Callable[[Any], list[Span]] | None" = None
    page: "TextPage | None" = None


def detect_all(
    detector: "Detector", documents: Iterable[Document], report: Report, **options: Any
) -> Iterator[dict[str, Any]]:
    """A result for every document, in order; unreadable ones pass through."""
    from wmcore.detect import Detection

    options["alignment"] = report.page is not None
    scores = detector.statistic.scores
    how = {
        "level": report.level,
        "scheme": detector.statistic.scheme.name,
        "score": None if scores is None else scores.name,
        "fingerprint": detector.watermark.fingerprint,
    }
    for batch in batches(documents):
        contents = [d.content for d in batch if d.error is None]
        found: Iterator[Detection] = iter(detector.detect(contents, **options) if contents else ())
        for document in batch:
            if document.error is not None:
                result = Detection.failed(document.error, detector.backend)
            else:
                result = next(found)
            words = None if result.error is not None else result.verdict(report.level)
            numbers = replace(result, alignment=None).to_dict()
            row = {"document": document.id, **numbers, "verdict": words, **how}
            spans: list[Span] = []
            if report.find is not None:
                spans = _spans(row, document, report.find)
            if report.page is not None:
                text = None if result.error is not None else document.content
                report.page.add(document.id, text, result, spans)
            yield row


def _spans(
    row: dict[str, Any], document: Document, find: "Callable[[Any], list[Span]]"
) -> "list[Span]":
    """The passages of the document, which the row gets, too: None where there is an error."""
    row["spans"] = None
    if row["error"] is None:
        try:
            spans = find(document.content)
        except WatermarkError as error:
            row["error"] = str(error)
        else:
            row["spans"] = [span.to_dict() for span in spans]
            return spans
    return []


def _page(
    path: str, detector: "Detector", tokenizer: str | None, level: float, force: bool
) -> "TextPage":
    """The page of --html, for texts in words."""
    from wmcore.cli.text_page import TextPage
    from wmcore.models import load_tokenizer

    words = detector.tokenizer
    if words is None:
        if tokenizer is None:
            raise WatermarkError("--html shows words: give the model's --tokenizer, too")
        words = load_tokenizer(tokenizer)
    return TextPage(path, detector, words, level=level, force=force)


def judge_all(
    detector: "Detector", documents: Iterable[Document], level: float
) -> Iterator[dict[str, Any]]:
    """A verdict for every document, in order; unreadable ones are passed through."""
    from wmcore.verdict import Verdict, verdicts

    for batch in batches(documents):
        contents = [d.content for d in batch if d.error is None]
        found: Iterator[Verdict] = iter(verdicts(detector, contents, level=level))
        for document in batch:
            answer = next(found) if document.error is None else Verdict(None, document.error)
            yield {"document": document.id, "found": answer.found, "error": answer.error}


def batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents in lists of `BATCH`, or of about `BATCH_BYTES` where they are long."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += document.size
        if len(batch) == BATCH or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _show(
    rows: list[dict[str, Any]],
    detector: "Detector",
    level: float,
    *,
    verdict_only: bool,
    spans: bool,
) -> None:
    """The results as a table on standard output, and what they mean."""
    from rich.table import Table
    from rich.text import Text

    from wmcore.detection import MEANING, verdict_words

    how = f"{detector.statistic.scheme.name}, watermark {detector.watermark.fingerprint}"
    table = Table(title=f"{how}, found: p <= {level:g}")
    table.add_column("document", overflow="fold")
    for name in [] if verdict_only else ["tokens", "statistic", "p"]:
        table.add_column(name, justify="right")
    table.add_column("verdict")
    if spans:
        table.add_column("passages (tokens)", overflow="fold")
    table.add_column("note", overflow="fold")
    for row in rows:
        said = row["error"] or ""
        verdict = row.get("verdict") or ""
        if verdict_only and row["found"] is not None:
            verdict = verdict_words(row["found"], level)
        words, _, more = verdict.partition(": ")
        if not said and not words.startswith("not found"):  # of which the line below speaks
            said = more
        bold = "bold" if words.startswith("found") else ""
        table.add_row(
            Text(printable(row["document"])),
            *([] if verdict_only else [Text(cell, style=bold) for cell in _numbers(row)]),
            Text(words, style=bold),
            *([Text(_passages(row["spans"] or []))] if spans else []),
            Text(printable(said)),
        )
    show_table(table_console(160), table)
    if any(row["error"] is None for row in rows):
        say(f'{MEANING}\n"Not found" does not say that a text is not ours.')


def _passages(spans: list[dict[str, Any]]) -> str:
    """A line for each passage: its tokens, its characters where they are known, its p."""
    lines = []
    for span in spans:
        at = f"{span['start']:,} to {span['stop']:,}"
        if span["char_start"] is not None:
            at += f" (characters {span['char_start']:,} to {span['char_stop']:,})"
        lines.append(f"{at}: p = {span['p_value']:.4g}")
    return "\n".join(lines)


def _numbers(row: dict[str, Any]) -> list[str]:
    """Tokens, statistic and p."""
    p, length, statistic = row["p_value"], row["length"], row["statistic"]
    return [
        "" if length is None else f"{length:,}",
        "" if statistic is None else f"{statistic:.2f}",
        "" if p is None else f"{p:.4g}",
    ]
