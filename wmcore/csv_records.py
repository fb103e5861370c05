"""CSV and TSV files as rows, by the standard library's parser, in bounded memory.

A row that cannot be read is a `Fault`, and reading goes on with the next line: a quote that is never closed costs the
rows up to the byte limit, not the rest of the file.
"""

import csv
from collections.abc import Iterator
from typing import Any

from wmcore.json_records import lines
from wmcore.reading import Fault, Reading, decode, too_long

_SEPARATORS = {"csv": ",;\t", "tsv": "\t"}


def csv_records(name: str, stream: Any, kind: str, reading: Reading) -> Iterator[Any]:
    """The rows below the first line, which names the columns: dicts, a `Fault`, or b"" for a blank line.

    Of the separators comma, semicolon and tab, the first by which the columns asked for are there. kind: "csv", or
    "tsv", where it is a tab.
    """
    csv.field_size_limit(max(csv.field_size_limit(), reading.max_bytes))
    source = _Lines(stream, reading.max_bytes)
    try:
        head = next(source, None)
    except _Unusable as error:
        yield Fault(f"{name}: its first line, which names the columns, is {error}")
        return
    if head is None:
        return
    wanted = [reading.tokens_field or reading.text_field, *filter(None, [reading.id_field])]
    separators = _SEPARATORS[kind]
    headers = [_row(csv.reader([head], delimiter=s, strict=True)) for s in separators]
    fitting = (i for i, h in enumerate(headers) if isinstance(h, list) and not {*wanted} - {*h})
    chosen = next(fitting, None)
    if chosen is None:
        columns = max((h for h in headers if isinstance(h, list)), key=len, default=[])
        column = next(one for one in wanted if one not in columns)
        names = ", ".join(one[:80] for one in columns[:8]) or "none"
        yield Fault(f"{name} has no column {column!r} (columns: {names}): name the right one")
        return
    columns = [*(headers[chosen] or ())]
    rows = csv.reader(source, delimiter=separators[chosen], strict=True)
    while (row := _row(rows)) is not None:
        source.begin()
        if isinstance(row, Fault):
            yield row
        elif not row:
            yield b""
        elif len(row) != len(columns):
            yield Fault(f"a row of {len(row):,} cells below {len(columns):,} columns: mend it")
        else:
            yield dict(zip(columns, row, strict=True))


def _row(rows: Any) -> list[str] | Fault | None:
    """The next row; None at the end."""
    try:
        return next(rows, None)
    except _Unusable as error:
        return Fault(str(error))
    except csv.Error as error:
        return Fault(f"no row of a table ({error}): mend it")


class _Unusable(Exception):
    """A line that cannot be part of a row; the parser starts anew with the next."""


class _Lines:
    """Decoded lines for the parser, which asks for more of them while a quote is open."""

    def __init__(self, stream: Any, limit: int) -> None:
        self._lines = lines(stream, limit)
        self._limit = limit
        self._left = limit

    def begin(self) -> None:
        """A row ended, and the next one may be as long."""
        self._left = self._limit

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        raw = next(self._lines)
        self._left -= len(raw)
        if self._left < 0:
            raise _Unusable(f"{too_long(self._limit)}; or a quote is not closed")
        made, error = decode(raw, self._limit)
        if made is None:
            raise _Unusable(error)
        return made
