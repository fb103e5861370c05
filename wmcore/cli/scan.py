"""``wmcore scan``."""

import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wmcore.cli.console import (
    MOST,
    TestBlock,
    TestGap,
    TestScheme,
    TestScore,
    TokenizerName,
    WatermarkFile,
    example,
    note,
    output_option,
    say,
    standard_output,
    write_record,
)
from wmcore.errors import WatermarkError
from wmcore.progress import duration, progress_bar
from wmcore.records import printable
from wmcore.scan.settings import ScanSettings
from wmcore.types import BackendName

if TYPE_CHECKING:
    from wmcore.scan import Progress

LOG_EVERY = 1.0  # seconds between two lines of --json
NAMED_ERRORS = 10  # documents that could not be tested and are named

EXAMPLES = example(
    "wmcore scan corpus/ -w watermark.json -o scan/",
    "wmcore scan s3://bucket/part-*.parquet -w watermark.json -o scan/ --id-field url",
    "wmcore scan tokens.jsonl.zst -w watermark.json -o scan/ --tokens-field tokens",
)


def scan(
    context: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Texts, HTML, JSON Lines, .json, CSV, TSV, WARC (also .gz, .bz2, .xz, .zst) or Parquet files, folders "
            "of them, or fsspec URLs; - for records on standard input."
        ),
    ],
    watermark: WatermarkFile,
    output: Annotated[
        str, output_option("For results. Run again to go on after a stop.", "FOLDER")
    ],
    tokenizer: TokenizerName = ScanSettings.tokenizer,
    scheme: TestScheme = ScanSettings.scheme,
    gap: TestGap = ScanSettings.gap,
    block_length: TestBlock = ScanSettings.block_length,
    score: TestScore = ScanSettings.score,
    text_field: Annotated[
        str, typer.Option(help="Field or column with the text.")
    ] = ScanSettings.text_field,
    id_field: Annotated[
        str | None,
        typer.Option(help="Field or column with a document's id. Default: file and line."),
    ] = ScanSettings.id_field,
    tokens_field: Annotated[
        str | None, typer.Option(help="Field or column with token ids, instead of text.")
    ] = ScanSettings.tokens_field,
    window: Annotated[
        int | None,
        typer.Option(
            help="Longer documents are tested in windows, in tokens. Default: 256, with a local scheme 4,096."
        ),
    ] = ScanSettings.window,
    stride: Annotated[
        int | None,
        typer.Option(help="From one window to the next, in tokens. Default: half of the window."),
    ] = ScanSettings.stride,
    resamples: Annotated[
        int, typer.Option(help="Keys to compare with in the full test.")
    ] = ScanSettings.resamples,
    stop_after: Annotated[
        int, typer.Option(help="End the full test of a document once so many of them fit as well.")
    ] = ScanSettings.stop_after,
    first: Annotated[
        str,
        typer.Option(help="First pass: 'resamples' (exact) or 'calibrated' (faster with edits)."),
    ] = ScanSettings.first,
    first_resamples: Annotated[
        int, typer.Option(help="Keys to compare with in the first pass.")
    ] = ScanSettings.first_resamples,
    controls: Annotated[
        int,
        typer.Option(help="Control keys to run over the same documents, for an empirical null."),
    ] = ScanSettings.controls,
    fdr: Annotated[
        str,
        typer.Option(
            help="q-values: bh (Benjamini-Hochberg), by or ebh (any dependence; by e-values, not for its)."
        ),
    ] = ScanSettings.fdr,
    shard_size: Annotated[
        int, typer.Option(help="Records in a file of results.")
    ] = ScanSettings.shard_size,
    max_bytes: Annotated[
        int, typer.Option(help="Longest line or text that is read.")
    ] = ScanSettings.max_bytes,
    excerpts: Annotated[
        bool, typer.Option(help="Keep the passage of documents with p <= 0.001 for the report.")
    ] = ScanSettings.excerpts,
    seed: Annotated[
        int | None, typer.Option(help="Of the resampled keys. Default: follows from the key.")
    ] = ScanSettings.seed,
    threads: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Default: the cores there are.")
    ] = None,
    backend: Annotated[BackendName, typer.Option(help="What tests.")] = "auto",
    engine: Annotated[str, typer.Option(help="local, or ray for more than one machine.")] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="Of a Ray cluster. Default: the one there is, or a local one."),
    ] = None,
    actors: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST, help="Ray: workers that test. Default: one for every two CPUs."
        ),
    ] = None,
    gpus: Annotated[float, typer.Option(min=0, max=1024, help="Ray: GPUs of each worker.")] = 0.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Progress and summary as JSON lines on standard output.")
    ] = False,
) -> None:
    """Find the documents of a corpus that carry the watermark.

    Stopped at any moment, the same command goes on where it stopped.
    """
    _need("pyarrow", "fsspec", "scipy")
    from wmcore.scan import local_shards
    from wmcore.scan import scan as run
    from wmcore.scan.finish import resolution_note
    from wmcore.scan.manifest import read_manifest
    from wmcore.scan.store import shards
    from wmcore.watermark import Watermark

    mark = Watermark.load(watermark)
    given = context.params
    settings = ScanSettings(
        **{f.name: given[f.name] for f in fields(ScanSettings) if f.name in given}
    )
    runner: Any
    if engine == "local":
        runner = local_shards
    elif engine == "ray":
        _need("ray")
        from wmcore.bindings.ray import ray_shards

        runner = ray_shards(address=address, actors=actors, num_gpus=gpus)
    else:
        raise WatermarkError(f"--engine {engine}: unknown; use local or ray")
    with _Reporter(as_json) as reporter:
        results = run(
            _expanded(inputs),
            mark,
            output,
            settings=settings,
            backend=backend,
            threads=threads,
            runner=runner,
            on_progress=reporter.show,
        )
        try:
            failed = 0
            for row in results:
                failed += row["error"] is not None
                if row["error"] is not None and failed <= NAMED_ERRORS:
                    reporter.note(f"{row['id'][:300]}: {row['error']}")
            if failed > NAMED_ERRORS:
                reporter.note(
                    f"and {failed - NAMED_ERRORS:,} more that could not be tested: the column error says why"
                )
        except KeyboardInterrupt:
            kept = len(list(shards(Path(output))))
            reporter.note(
                f"stopped: {output} keeps the {kept:,} shards of {settings.shard_size:,} records that are done; run "
                "the same command to go on after them"
            )
            raise
    manifest = read_manifest(output)
    summary = manifest["summary"]
    hint = resolution_note(summary, settings)
    if as_json:
        seconds = round(manifest["seconds"], 3)
        _line({"event": "done", **summary, "seconds": seconds, "note": hint})
    else:
        for text in _summary(summary, settings.fdr, output):
            say(printable(text))
        if hint is not None:
            note(hint)
    if not summary["tested"]:
        what = (
            "none could be tested"
            if summary["documents"]
            else "no documents; give inputs with some"
        )
        note(f"{', '.join(inputs)}: {what}")
        raise typer.Exit(2)


class _Reporter:
    """A line that moves on a terminal, or JSON lines."""

    def __init__(self, as_json: bool) -> None:
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

        self._as_json = as_json
        self._last = 0.0
        self._bar = progress_bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            wanted=not as_json,
        )
        self._task = self._bar.add_task("starting", total=1.0)

    def __enter__(self) -> "_Reporter":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, progress: "Progress") -> None:
        """Take note of progress."""
        if not self._as_json:
            left = "" if progress.left is None else f", {duration(progress.left)} left"
            self._bar.update(
                self._task,
                completed=progress.share,
                description=f"{progress.documents:,} documents, {progress.rate:,.0f}/s, "
                f"{progress.notable:,} with p \N{LESS-THAN OR EQUAL TO} 0.001{left}",
            )
        elif time.monotonic() - self._last >= LOG_EVERY or progress.share == 1.0:
            self._last = time.monotonic()
            _line(
                {
                    "event": "progress",
                    "documents": progress.documents,
                    "errors": progress.errors,
                    "p_at_most_0.001": progress.notable,
                    "share": round(progress.share, 4),
                    "per_second": round(progress.rate, 1),
                    "seconds": round(progress.seconds, 1),
                    "seconds_left": None if progress.left is None else round(progress.left, 1),
                }
            )

    def note(self, message: str) -> None:
        """One line on standard error, above the bar."""
        if self._bar.disable:
            note(message)
        else:
            self._bar.console.print(f"wmcore: {printable(message)}", markup=False, highlight=False)


def _summary(summary: dict[str, Any], fdr: str, output: str) -> list[str]:
    from wmcore.scan.words import MISSED, by_chance, one_key, verdict

    method = {"bh": "Benjamini-Hochberg", "by": "Benjamini-Yekutieli", "ebh": "e-BH"}[fdr]
    lines = [
        f"{summary['documents']:,} documents, {summary['errors']:,} of them could not be tested",
        verdict(summary) + (f" at q <= {summary['level']} ({method})" if summary["tested"] else ""),
    ]
    lines += filter(None, [by_chance(summary, fdr), one_key(summary, fdr)])
    if summary["tested"] > summary["hits"]:
        lines.append(MISSED)
    lines.append(f"results: {output}; see them with: wmcore report {output}")
    return lines


def _expanded(inputs: list[str]) -> list[str]:
    """Inputs with * in a URL expanded (the shell does it for files)."""
    import fsspec

    found: list[str] = []
    for given in inputs:
        if "*" in given and not Path(given).exists():
            filesystem, path = fsspec.core.url_to_fs(given)
            matches = sorted(filesystem.glob(path))
            if not matches:
                raise WatermarkError(f"input {given}: nothing matches: check the pattern")
            found += [filesystem.unstrip_protocol(m) for m in matches]
        else:
            found.append(given)
    return found


def _need(*packages: str) -> None:
    """WatermarkError that names the extra, if a package is missing."""
    from wmcore.checks import require

    for package in packages:
        extra = "ray" if package == "ray" else "scan"
        require(package, f"run pip install 'wmcore-lm[{extra}]'")


def _line(record: dict[str, Any]) -> None:
    write_record(standard_output(), record)
