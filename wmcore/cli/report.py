"""``wmcore report``: the page of a scan, and the evidence in a scan or an audit."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wmcore import whole_file
from wmcore.cli.console import (
    MOST,
    WATERMARK,
    MaxBytes,
    TextField,
    TokenizerName,
    TokensField,
    example,
    named,
    note,
    output_option,
    scheme_name,
)
from wmcore.cli.output import check_output
from wmcore.cli.texts import Documents
from wmcore.errors import WatermarkError
from wmcore.reading import MAX_BYTES

if TYPE_CHECKING:
    from wmcore.evidence.record import Section, TestedAs

LISTED = 200
EXAMPLES = example(
    "wmcore report scan/",
    "wmcore report scan/ -o page.html",
    "wmcore report --evidence scan/ -o evidence.html",
    "wmcore report --evidence audit.json --texts marked.jsonl -w watermark.json",
)


def report(
    result: Annotated[
        Path,
        typer.Argument(help="Output folder of a finished scan, or (--evidence) an audit's JSON."),
    ],
    output: Annotated[
        str | None,
        output_option("HTML page. Default: report.html or evidence.html beside the results."),
    ] = None,
    evidence: Annotated[
        bool,
        typer.Option(
            "--evidence",
            help="Make a page for an authority, and a .json with the same facts beside it: technique, parameters, "
            "versions, false alarms, robustness, dates, limits.",
        ),
    ] = False,
    texts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Marked texts, as detect reads them, to edit and test again for the table of robustness. Default: "
            "those that the audit kept.",
        ),
    ] = None,
    watermark: Annotated[
        str | None,
        typer.Option(
            "--watermark",
            "-w",
            metavar="FILE",
            envvar=WATERMARK,
            callback=named,
            help="The watermark file, to test these.",
        ),
    ] = None,
    tokenizer: TokenizerName = None,
    text_field: TextField = None,
    tokens_field: TokensField = None,
    max_bytes: MaxBytes = MAX_BYTES,
    hits: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST, help=f"Documents listed, the least p first. Default: {LISTED}."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the files of --evidence if they are there.")
    ] = False,
) -> None:
    """Show a scan as one HTML page: p-values against chance, hits with their passages, settings.

    With --evidence: what a scan or an audit shows and does not show, for an authority.
    """
    if evidence:
        if hits is not None:
            raise WatermarkError("--evidence lists no documents: leave --hits out")
        marked = _Marked(
            texts, watermark, tokenizer, Documents(text_field, tokens_field, max_bytes)
        )
        _evidence(result, output, marked, force)
        return
    given = {
        "--texts": texts,
        "--tokenizer": tokenizer,
        "--text-field": text_field,
        "--tokens-field": tokens_field,
        "--force": force,
    }
    for option in [name for name, value in given.items() if value]:
        raise WatermarkError(f"{option} is for --evidence: give --evidence, too, or leave it out")
    if result.is_file():
        raise WatermarkError(
            f"{result} is a file, and a page is made of a scan's folder: give that, or --evidence for an audit's JSON"
        )
    _need_arrow()
    from wmcore.scan.page import render

    page = render(result, hits=LISTED if hits is None else hits)
    _write(Path(output) if output else result / "report.html", page.encode())


@dataclass(frozen=True)
class _Marked:
    """The options that say which texts are edited and tested again, and with what."""

    files: list[str] | None
    watermark: str | None
    tokenizer: str | None
    documents: Documents

    def read(self) -> list[Any]:
        """The texts of the files; WatermarkError for one that cannot be read."""
        for path in self.files or ():
            if not Path(path).is_file():
                raise WatermarkError(
                    f"--texts {path}: no such file; its SHA-256 goes into the report"
                )
        found = []
        for document in self.documents.read(self.files or ()):
            if document.error is not None:
                raise WatermarkError(
                    f"--texts: {document.id}: {document.error}; mend it, or leave it out"
                )
            found.append(document.content)
        return found

    def measure(self, test: "TestedAs", texts: list[Any]) -> "Section":
        """What is found of the texts after edits; they are tested as those of the result were."""
        from wmcore.detect import Detector
        from wmcore.evidence.robustness import robustness
        from wmcore.watermark import Watermark

        if self.watermark is None:
            raise WatermarkError("--texts is given without the watermark: give it with -w")
        mark = Watermark.load(self.watermark)
        if mark.fingerprint != test.fingerprint:
            raise WatermarkError(
                f"watermark {self.watermark} has the key {mark.fingerprint}, but the result is of {test.fingerprint}: "
                "give the one that was tested"
            )
        detector = Detector(
            mark,
            scheme=scheme_name(test.scheme),
            gap=test.gap,
            block_length=test.block_length,
            score=test.score,
            tokenizer=self.documents.coder(self.tokenizer or mark.tokenizer),
        )
        note(f"{len(texts):,} marked texts: edited and tested again")
        return robustness(detector, texts, level=test.level)


def _evidence(result: Path, output: str | None, marked: _Marked, force: bool) -> None:
    """Write the page and the JSON."""
    from wmcore.evidence import audits
    from wmcore.evidence.page import render
    from wmcore.evidence.record import digest

    beside = result if result.is_dir() else result.parent
    page = Path(output) if output else beside / "evidence.html"
    facts = page.with_suffix(".json")
    if facts == page or (facts.exists() and result.exists() and facts.samefile(result)):
        raise WatermarkError(
            f"--output {page}: {facts} is for the same facts as JSON; give the page another name"
        )
    for path in (page, facts):
        check_output(str(path), force)
    kept: list[Any] = []
    if result.is_dir():
        _need_arrow()
        from wmcore.evidence import scans

        evidence, test = scans.of_scan(result), scans.how_tested(result)
    else:
        audit = audits.read_audit(result)
        evidence, test = audits.of_audit(result), audits.how_tested(audit)
        kept = audits.marked_texts(audit)
    if marked.files or (kept and marked.watermark is not None):
        texts = marked.read() if marked.files else kept
        files = [digest(Path(path)) for path in marked.files or ()]
        evidence = evidence.with_robustness(marked.measure(test, texts), files)
    shown, content = render(evidence, facts.name)
    _write(facts, content)
    _write(page, shown.encode())


def _write(path: Path, content: bytes) -> None:
    try:
        whole_file.write(path, content)
    except OSError as error:
        raise WatermarkError(f"--output {path}: {error.strerror}; choose another file") from error
    how = "open it in a browser" if path.suffix != ".json" else "the same facts for programs"
    note(f"{path}: {how}")


def _need_arrow() -> None:
    """WatermarkError that names the extra, if what reads a scan is missing."""
    from wmcore.checks import require

    require("pyarrow", "run pip install 'wmcore-lm[scan]'")
