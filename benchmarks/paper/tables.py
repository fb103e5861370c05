"""Summaries as Markdown tables."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from wmcore.paper.labels import Names, in_order, number, show, with_error
from wmcore.paper.summary import Summary, token_mean

Cell = Callable[[Summary], str]
"""What a cell says of a summary."""

UNREACHABLE = "–"
"""Where no p-value can be that small."""


def median_cell(summary: Summary) -> str:
    """The median p and its quartiles."""
    lower, upper = summary["quartiles"]
    return f"{number(summary['median_p'])} ({number(lower)}–{number(upper)})"


def share_cell(level: str) -> Cell:
    """The share with p at or below a level, a key of `summary.LEVELS`, and its standard error."""

    def cell(summary: Summary) -> str:
        share = summary[level]
        return UNREACHABLE if share is None else with_error(*share)

    return cell


def mean_cell(column: str) -> Cell:
    """The summary's entropy (nats a token), potential, or median tokens."""

    def cell(summary: Summary) -> str:
        return "" if summary[column] is None else number(summary[column])

    return cell


def table(
    summaries: Sequence[Summary],
    rows: Sequence[str],
    columns: str,
    cell: Cell,
    caption: str,
    names: Names,
    texts: bool = False,
) -> str:
    """A pivot: a row for each combination of values in the columns `rows`, a column for each value in `columns`.

    Parameters
    ----------
    caption : what a cell holds, without a full stop. The line under the table adds n, T, and how many failed.
    names : see `labels.Names`.
    texts : add the mean entropy and potential of the row's tokens.

    Raises
    ------
    ValueError
        If two summaries belong into one cell.
    """
    cells: dict[tuple[object, ...], dict[tuple[object, ...], Summary]] = {}
    for summary in summaries:
        row = cells.setdefault(tuple(summary[column] for column in rows), {})
        if row.setdefault((summary[columns],), summary) is not summary:
            raise ValueError(f"rows: {[*rows, columns]} do not tell all summaries apart")
    across = in_order(((summary[columns],) for summary in summaries), names)
    heads = [show(column, names) for column in rows]
    heads += [show(value, names) for (value,) in across]
    heads += ["nats a token", "potential"] if texts else []
    body = []
    for values in in_order(cells, names):
        row = cells[values]
        line = [show(value, names) for value in values]
        line += [cell(row[value]) if value in row else "" for value in across]
        line += [_row_mean(row.values(), key) for key in ("entropy", "potential") if texts]
        body.append(line)
    what = f"{caption}; across: {show(columns, names)}"
    return markdown(heads, body, len(rows), f"{what}. {sizes(summaries)}")


def listing(
    summaries: Sequence[Summary],
    rows: Sequence[str],
    cells: Mapping[str, Cell],
    caption: str,
    names: Names,
) -> str:
    """A row for each summary: the columns `rows`, then the cells under their headings. Else as `table`."""
    keyed = {tuple(summary[column] for column in rows): summary for summary in summaries}
    if len(keyed) < len(summaries):
        raise ValueError(f"rows: {list(rows)} do not tell all summaries apart")
    heads = [*(show(column, names) for column in rows), *cells]
    body = [
        [*(show(value, names) for value in values), *(c(keyed[values]) for c in cells.values())]
        for values in in_order(keyed, names)
    ]
    return markdown(heads, body, len(rows), f"{caption}. {sizes(summaries)}")


def markdown(
    heads: Sequence[str], body: Iterable[Sequence[str]], left: int, caption: str = ""
) -> str:
    """A Markdown table, its first columns (this many) to the left, the rest to the right, and a line under it."""
    marks = ["---"] * left + ["---:"] * (len(heads) - left)
    lines = [heads, marks, *body]
    text = "".join(f"| {' | '.join(_escaped(one) for one in line)} |\n" for line in lines)
    return f"{text}\n{caption}\n" if caption else text


def sizes(summaries: Sequence[Summary]) -> str:
    """n, T, and how many texts could not be tested, as a sentence."""
    n = _range({summary["n"] for summary in summaries})
    resamples = _range({summary["resamples"] for summary in summaries})
    failed = sum(summary["failed"] for summary in summaries)
    total = sum(summary["n"] for summary in summaries)
    told = f"n = {n} texts, T = {resamples} resamples"
    if failed:
        told += (
            f"; {failed:,} of {total:,} tests could not be made (too short a text, or a token that the watermark does "
            "not know), and count as p = 1"
        )
    shorter = sum(summary["shorter"] for summary in summaries)
    if shorter:
        told += f"; {shorter:,} of {total:,} had fewer than m tokens left"
    return told + "."


def _row_mean(summaries: Iterable[Summary], key: str) -> str:
    mean = token_mean((summary[key], summary["all_tokens"]) for summary in summaries)
    return "" if mean is None else number(mean)


def _range(values: set[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _escaped(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")
