"""Parquet files as rows; row groups that are done are passed over without being read."""

from collections.abc import Iterator
from typing import Any

from wmcore.checks import require
from wmcore.errors import reason
from wmcore.reading import Cursor, Fault, Reading


def parquet_records(name: str, raw: Any, reading: Reading, cursor: Cursor) -> Iterator[Any]:
    """The rows of a Parquet file as dicts of the columns asked for, or a `Fault`."""
    require("pyarrow", "run pip install 'wmcore-lm[scan]', which reads Parquet")
    import pyarrow.parquet as pq

    table = pq.ParquetFile(raw)
    columns = [reading.tokens_field or reading.text_field, *filter(None, [reading.id_field])]
    for column in columns:
        if column not in table.schema_arrow.names:
            names = ", ".join(table.schema_arrow.names[:8])
            yield Fault(f"{name} has no column {column!r} (columns: {names}): name the right one")
            return
    for group in range(table.metadata.num_row_groups):
        rows = table.metadata.row_group(group).num_rows
        if rows and cursor.skips(cursor.position, cursor.position + rows - 1):
            cursor.position += rows
            continue
        for part in table.iter_batches(
            1024, row_groups=[group], columns=columns, use_threads=False
        ):
            yield from _values(part)
            cursor.share = cursor.position / max(table.metadata.num_rows, 1)


def _values(part: Any) -> list[Any]:
    """The rows of a record batch; a `Fault` for one with a value that Arrow cannot hand to Python."""
    try:
        return list(part.to_pylist())
    except (
        Exception
    ):  # not UTF-8, a date beyond Python's, a time zone that is not known: each type has its own
        return [_value(part.slice(i, 1)) for i in range(part.num_rows)]


def _value(row: Any) -> Any:
    for name in row.schema.names:
        try:
            row.column(name).to_pylist()
        except Exception as error:
            return Fault(f"column {name!r} cannot be read ({reason(error)})")
    return row.to_pylist()[0]
