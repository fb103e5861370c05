"""``wmcore derive``: a tenant's watermark from a master watermark."""

import contextlib
from dataclasses import replace
from typing import Annotated

import typer

from wmcore.cli.console import WatermarkFile, example, named, note, output_option
from wmcore.cli.output import Force, check_output, reserved
from wmcore.errors import WatermarkError

EXAMPLES = example(
    'wmcore derive -w master.json --label "tenant 7" -o tenant-7.json',
    "wmcore derive -w master.json --label 2026-11 -o november.json",
)


def derive(
    watermark: WatermarkFile,
    label: Annotated[
        str,
        typer.Option(callback=named, help="Of the tenant, month or model. No secret; keep it."),
    ],
    output: Annotated[str, output_option("Watermark file to write (mode 0600).")],
    force: Force = False,
) -> None:
    """Make the watermark of a tenant: the same settings, with a key that follows from the master's and a label.

    Whoever holds it learns nothing of the master's key or of other labels.
    """
    from wmcore.watermark import Watermark

    if output == "-":
        raise WatermarkError("--output -: a secret is only written to a file; give a file name")
    check_output(output, force)
    master = Watermark.load(watermark)
    derived = replace(master, key=master.key.derive(label))
    with contextlib.nullcontext() if force else reserved(output):
        derived.save(output, replace=True)
    note(f"{output}: key {derived.fingerprint}, derived from key {master.fingerprint}")
