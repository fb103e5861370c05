"""``wmcore calibrate``: texts in, a file of null statistics for ``wmcore detect --calibration`` out."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from wmcore.cli.console import (
    MOST,
    MaxBytes,
    Seed,
    TestBlock,
    TestGap,
    TestScheme,
    TestScore,
    TextField,
    TokenizerName,
    TokensField,
    WatermarkFile,
    example,
    note,
    output_option,
    scheme_name,
)
from wmcore.cli.detect import batches
from wmcore.cli.output import Force, check_output
from wmcore.cli.texts import Documents
from wmcore.errors import WatermarkError
from wmcore.reading import MAX_BYTES
from wmcore.records import Document

if TYPE_CHECKING:
    import numpy as np

    from wmcore.detect import Detector

NAMED_ERRORS = 10  # documents that cannot be used and are named

EXAMPLES = example(
    "wmcore calibrate -w watermark.json -o null.npz articles.jsonl",
    "wmcore calibrate -w watermark.json --lengths 50,100,200 -o null.npz",
    "wmcore detect -w watermark.json --calibration null.npz essay.txt",
)


def calibrate(
    watermark: WatermarkFile,
    output: Annotated[str, output_option("File to write, with a name in .npz.")],
    files: Annotated[
        list[str] | None,
        typer.Argument(
            help="Texts like those to be tested. Without any, tokens are drawn uniformly, which repeat less."
        ),
    ] = None,
    force: Force = False,
    lengths: Annotated[
        str,
        typer.Option(
            metavar="LENGTHS",
            help="In tokens. Texts shorter or longer than these get no p; between two it is interpolated.",
        ),
    ] = "25,50,100,200",
    resamples: Annotated[
        int, typer.Option(min=1, max=MOST, help="Keys to try at each length.")
    ] = 2000,
    tokenizer: TokenizerName = None,
    scheme: TestScheme = None,
    gap: TestGap = None,
    block_length: TestBlock = None,
    score: TestScore = None,
    seed: Seed = None,
    text_field: TextField = None,
    tokens_field: TokensField = None,
    max_bytes: MaxBytes = MAX_BYTES,
) -> None:
    """Store how well keys fit unmarked texts by chance, so that detect needs one look at each text.

    p is then approximate. The file holds no secret.
    """
    if not output.endswith(".npz"):
        raise WatermarkError(
            f"--output {output}: by its name it is no calibration file; end it in .npz"
        )
    check_output(output, force)
    sizes = _sizes(lengths)
    documents = Documents(text_field, tokens_field, max_bytes)

    from wmcore.calibration import Calibration
    from wmcore.detect import Detector
    from wmcore.watermark import Watermark

    mark = Watermark.load(watermark)
    detector = Detector(
        mark,
        scheme=scheme_name(scheme),
        gap=gap,
        block_length=block_length,
        score=score,
        tokenizer=documents.coder(tokenizer or mark.tokenizer) if files else None,
    )
    texts = _token_ids(detector, documents.read(files)) if files else None
    made = Calibration.fit(
        mark, sizes, resamples, tokens=texts, statistic=detector.statistic, seed=seed
    )
    made.save(output)
    note(
        f"{output}: {detector.statistic.scheme.name}, {made.resamples:,} resamples at each of "
        f"{', '.join(map(str, made.lengths))} tokens"
    )


def _token_ids(detector: "Detector", documents: Iterable[Document]) -> "list[np.ndarray]":
    """Token ids of the documents that can be used; the first of the others are named on standard error."""
    arrays: list[np.ndarray] = []
    count = failed = 0
    for batch in batches(documents):
        readable = [one for one in batch if one.error is None]
        found = detector.read([one.content for one in readable])
        arrays += found.arrays
        errors = [(one.id, one.error) for one in batch if one.error is not None]
        errors += [(readable[place].id, error) for place, (_, error) in found.failed.items()]
        for name, error in errors[: max(NAMED_ERRORS - failed, 0)]:
            note(f"{name}: {error}")
        count += len(batch)
        failed += len(errors)
    if failed:
        note(f"{failed:,} of {count:,} documents could not be used")
    return arrays


def _sizes(text: str) -> list[int]:
    """The numbers of a list with commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise WatermarkError(
            f"--lengths {text}: give whole numbers with commas between them, such as 50,100,200"
        ) from None
