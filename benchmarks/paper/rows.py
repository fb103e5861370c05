"""The raw rows of an experiment, one a text, test and setting, in Parquet."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wmcore.errors import WatermarkError, reason

Row = dict[str, Any]
"""A value for each of COLUMNS."""

COLUMNS = {
    "model": "string",
    "prompts": "string",
    "method": "string",
    "test": "string",
    "options": "string",
    "temperature": "double",
    "top_p": "double",
    "key_length": "int32",
    "cut": "int32",
    "attack": "string",
    "rate": "double",
    "text": "int64",
    "tokens": "int32",
    "written": "int32",
    "p": "double",
    "resamples": "int32",
    "entropy": "double",
    "potential": "double",
    "nll": "double",
}
"""{column: its type in Parquet}.

prompts: the set of prompts. method: how the text was written. options: of the test, as JSON. cut: tokens that the text
was cut to; None: the whole text. attack, rate: what was done to it first. text: its prompt's number in the set.
tokens: those tested; written: those that the model wrote. p: NaN if the text could not be tested. resamples: of the
test, at most. Means over the text's tokens: entropy, of the model's laws, nats; potential, 1 - P(token); nll,
-log P(token), nats.
"""
MAY_BE_NONE = {"cut"}


def schema() -> Any:
    """COLUMNS as a pyarrow schema."""
    import pyarrow as pa

    return pa.schema(
        [pa.field(name, kind, nullable=name in MAY_BE_NONE) for name, kind in COLUMNS.items()]
    )


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a whole Parquet file in place of the one that is there; one that is stopped leaves that as it was.

    Raises
    ------
    ValueError
        For a row whose columns are not COLUMNS, or a None that may not be.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = list(rows)
    for row in rows:
        if row.keys() != COLUMNS.keys():
            wrong = sorted(row.keys() ^ COLUMNS.keys())
            raise ValueError(f"row: columns {wrong} are missing or not among those of raw rows")
        empty = sorted(c for c in COLUMNS if row[c] is None and c not in MAY_BE_NONE)
        if empty:
            raise ValueError(f"row: columns {empty} are None: give a value, or NaN for none")
    table = pa.Table.from_pylist(rows, schema=schema())
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # Arrow takes some relative names, such as s3:x, for URLs.
        where = scratch.absolute()
        pq.write_table(table, where, compression="zstd", write_page_checksum=True)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        raise WatermarkError(
            f"rows {path}: cannot be read ({reason(error)}): delete the file and run the experiment again"
        ) from error


def count_rows(path: Path) -> int:
    """How many rows a file says it has; WatermarkError if it cannot be read."""
    import pyarrow.parquet as pq

    with _readable(path):
        return int(pq.read_metadata(path.absolute()).num_rows)


def read_rows(path: Path) -> list[Row]:
    """The rows of a file that `write_rows` wrote, in order.

    Raises
    ------
    WatermarkError
        If the file is not one of those.
    """
    import pyarrow.parquet as pq

    with _readable(path):
        table = pq.read_table(path.absolute(), partitioning=None, page_checksum_verification=True)
        found, right = table.column_names, table.schema.equals(schema())
    if not right:
        raise WatermarkError(
            f"rows {path}: columns {found} are not {list(COLUMNS)}: it was written by something else or "
            "by another version; move it away and run the experiment again"
        )
    rows: list[Row] = table.to_pylist()
    return rows
