"""``wmcore detect``: documents in, a table or JSON lines out."""

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wmcore.cli.console import (
    MOST,
    Seed,
    TestBlock,
    TestGap,
    TestScheme,
    TestScore,
    TokenizerName,
    WatermarkFile,
    example,
    note,
    open_output,
    show_table,
    table_console,
    write_record,
)
from wmcore.cli.inputs import Inputs
from wmcore.errors import WatermarkError
from wmcore.progress import Pace
from wmcore.reading import MAX_BYTES, Reading
from wmcore.records import Document, printable

if TYPE_CHECKING:
    from wmcore.detect import Detector
    from wmcore.locate import Span

BATCH = 256  # documents tested at a time; results do not depend on it
BATCH_BYTES = 16_000_000  # a batch also ends once it is so large

EXAMPLES = example(
    "wmcore detect -w watermark.json --tokenizer smollm2 essay.txt letter.txt",
    "wmcore detect -w watermark.json --json out.jsonl > results.jsonl",
    "wmcore detect -w watermark.json --tokens-field tokens out.jsonl",
    "wmcore detect -w watermark.json --tokenizer smollm2 --spans report.txt",
    "wmcore detect -w watermark.json --proxy smollm2 essay.txt",
    "cat letter.txt | wmcore detect -w watermark.json -",
)


def detect(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Texts (.txt, .md), HTML, or records in .jsonl, .json, .csv, .tsv, .warc (each also .gz, .zst) or "
            ".parquet; - for standard input."
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
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line instead of a table.")
    ] = False,
    resamples: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST,
            help="Compare with this many independent keys. Default: a proven bound, or else 1,999 keys.",
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
    seed: Seed = None,
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
            help="The p up to which a text (--verdict-only) or a passage (--spans) is found. Default: 0.001 and 0.01."
        ),
    ] = None,
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
            raise WatermarkError(f"{path}: a folder; name the files in it")
    tuning = {"--resamples": resamples, "--stop-after": stop_after, "--seed": seed}
    for option in [name for name, value in tuning.items() if value is not None and verdict_only]:
        raise WatermarkError(f"--verdict-only has a test of its own: leave {option} out")
    if spans and verdict_only:
        raise WatermarkError("--spans says more than found or not: leave it or --verdict-only out")
    if level is not None and not (verdict_only or spans):
        raise WatermarkError(
            "--level is for --verdict-only and --spans: give one of them, too, or leave --level out"
        )
    named = text_field is not None or tokens_field is not None

    from wmcore.detect import Detector
    from wmcore.locate import LEVEL as SPAN_LEVEL
    from wmcore.locate import RESAMPLES as SPAN_RESAMPLES
    from wmcore.locate import local_detector, locate
    from wmcore.plan import STOP_AFTER
    from wmcore.verdict import LEVEL
    from wmcore.watermark import Watermark

    mark = Watermark.load(watermark)
    coder = None if tokens_field is not None else tokenizer or mark.tokenizer
    if coder is None and tokens_field is None:
        raise WatermarkError("no --tokenizer given and the watermark names none: give its model's")
    reading = Reading(text_field or "text", tokens_field=tokens_field, max_bytes=max_bytes)
    detector = Detector(
        mark,
        scheme=scheme,
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
    tested = failed = 0
    rows: list[dict[str, Any]] = []
    try:
        with Pace() as pace, open_output("-") as out:
            if verdict_only:
                results = judge_all(detector, documents, LEVEL if level is None else level)
            else:
                results = detect_all(
                    detector,
                    documents,
                    find,
                    resamples=resamples,
                    stop_after=STOP_AFTER if stop_after is None else stop_after or None,
                    seed=seed,
                )
            for row in results:
                failed += row["error"] is not None
                tested += 1
                pace.show(tested, documents.share)
                if as_json:
                    write_record(out, row)
                else:
                    rows.append(row)
    except KeyboardInterrupt:
        kept = "their lines are written" if as_json else "the table shows them"
        note(f"stopped after {tested:,} documents: {kept}; the rest was not tested")
        raise
    finally:
        if rows:
            _show(rows, detector, verdict_only, spans)
    if failed:
        note(f"{failed:,} of {tested:,} documents could not be tested")
    if not tested:
        raise WatermarkError(f"{', '.join(files)}: no documents; give files with some")
    if failed == tested:
        raise typer.Exit(2)


def detect_all(
    detector: "Detector",
    documents: Iterable[Document],
    find: "Callable[[Any], list[Span]] | None",
    **options: Any,
) -> Iterator[dict[str, Any]]:
    """A result for every document, in order, with the passages that `find` finds; unreadable ones pass through."""
    from wmcore.detect import Detection

    for batch in _batches(documents):
        contents = [d.content for d in batch if d.error is None]
        found: Iterator[Detection] = iter(detector.detect(contents, **options) if contents else ())
        for document in batch:
            if document.error is not None:
                result = Detection.failed(document.error, detector.backend)
            else:
                result = next(found)
            row = {"document": document.id, **result.to_dict()}
            yield row if find is None else _with_spans(row, document, find)


def _with_spans(
    row: dict[str, Any], document: Document, find: "Callable[[Any], list[Span]]"
) -> dict[str, Any]:
    """The row with the passages of the document, None where there is an error."""
    row["spans"] = None
    if row["error"] is None:
        try:
            row["spans"] = [span.to_dict() for span in find(document.content)]
        except WatermarkError as error:
            row["error"] = str(error)
    return row


def judge_all(
    detector: "Detector", documents: Iterable[Document], level: float
) -> Iterator[dict[str, Any]]:
    """A verdict for every document, in order; unreadable ones are passed through."""
    from wmcore.verdict import Verdict, verdicts

    for batch in _batches(documents):
        contents = [d.content for d in batch if d.error is None]
        found: Iterator[Verdict] = iter(verdicts(detector, contents, level=level))
        for document in batch:
            answer = next(found) if document.error is None else Verdict(None, document.error)
            yield {"document": document.id, "found": answer.found, "error": answer.error}


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
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
    rows: list[dict[str, Any]], detector: "Detector", verdict_only: bool, spans: bool
) -> None:
    """The results as a table on standard output."""
    from rich.table import Table
    from rich.text import Text

    title = f"{detector.statistic.scheme.name}, watermark {detector.watermark.fingerprint}"
    table = Table(title=title)
    table.add_column("document", overflow="fold")
    for name in ["verdict"] if verdict_only else ["tokens", "statistic", "p"]:
        table.add_column(name, justify="right")
    if spans:
        table.add_column("passages (tokens)", overflow="fold")
    table.add_column("note", overflow="fold")
    for row in rows:
        cells = [_verdict(row["found"])] if verdict_only else _numbers(row)
        table.add_row(
            Text(printable(row["document"])),
            *(Text(cell, style="bold" if bold else "") for cell, bold in cells),
            *([Text(_passages(row["spans"] or []))] if spans else []),
            Text(printable(row["error"] or "")),
        )
    show_table(table_console(160), table)


def _verdict(found: bool | None) -> tuple[str, bool]:
    """A verdict in words, and whether it is bold."""
    return {True: ("found", True), False: ("not found", False), None: ("", False)}[found]


def _passages(spans: list[dict[str, Any]]) -> str:
    """A line for each passage: its tokens, its characters where they are known, its p."""
    lines = []
    for span in spans:
        at = f"{span['start']:,} to {span['stop']:,}"
        if span["char_start"] is not None:
            at += f" (characters {span['char_start']:,} to {span['char_stop']:,})"
        lines.append(f"{at}: p = {span['p_value']:.4g}")
    return "\n".join(lines)


def _numbers(row: dict[str, Any]) -> list[tuple[str, bool]]:
    """Tokens, statistic and p, each with whether it is bold."""
    p, length, statistic = row["p_value"], row["length"], row["statistic"]
    return [
        ("" if length is None else f"{length:,}", False),
        ("" if statistic is None else f"{statistic:.2f}", False),
        ("" if p is None else f"{p:.4g}", p is not None and p <= 0.01),
    ]
