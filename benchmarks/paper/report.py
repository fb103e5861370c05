"""From raw rows to tables, plots and intervals: what an experiment needs to report what it found."""

from wmcore.paper.intervals import (
    bootstrap_tpr,
    distinct,
    paired_difference,
    perplexity,
    with_interval,
)
from wmcore.paper.labels import Names, number, show
from wmcore.paper.panels import Interval, bars, intervals
from wmcore.paper.plots import Figure, draw
from wmcore.paper.rows import Row, count_rows, read_rows, write_rows
from wmcore.paper.summary import LEVELS, Summary, summarise
from wmcore.paper.tables import (
    UNREACHABLE,
    listing,
    markdown,
    mean_cell,
    median_cell,
    share_cell,
    table,
)

__all__ = [
    "LEVELS",
    "UNREACHABLE",
    "Figure",
    "Interval",
    "Names",
    "Row",
    "Summary",
    "bars",
    "bootstrap_tpr",
    "count_rows",
    "distinct",
    "draw",
    "intervals",
    "listing",
    "markdown",
    "mean_cell",
    "median_cell",
    "number",
    "paired_difference",
    "perplexity",
    "read_rows",
    "share_cell",
    "show",
    "summarise",
    "table",
    "with_interval",
    "write_rows",
]
