"""The colour, marker and dashes of each series: a scheme has the same ones in all plots."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

STYLES = {
    "exp": ("#0072b2", "o"),
    "exp-edit": ("#56b4e9", "s"),
    "exp-free": ("#1b3a66", "D"),
    "its": ("#d55e00", "^"),
    "its-edit": ("#f0a830", "v"),
    "its-free": ("#7a2d00", ">"),
    "kgw-1": ("#7fd1ae", "P"),
    "kgw-1.5": ("#009e73", "X"),
    "kgw-2": ("#00523c", "*"),
    "synthid": ("#cc79a7", "h"),
    "plain": ("#8c8c8c", "p"),
    "human": ("#000000", "d"),
}
"""{test or method: (colour, marker)}: a hue for each family, most of them Okabe and Ito's, which differ to all eyes,
and lighter and darker within it; the markers differ in print without colours."""

SPARE = (("#a6761d", "<"), ("#5e3c99", "H"), ("#e7298a", "8"), ("#666600", "+"))
"""For what is not in STYLES, in order of appearance; then the styles of those that are."""

UNMARKED = ("plain", "human")

DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1, 1, 1)))
"""For the series of one scheme, one after the other."""


def styles(series: Iterable[tuple[Any, ...]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """{values of a series: matplotlib's arguments for its line}, in order.

    A series is drawn as its scheme: unmarked text if it is that, or else the last of its values in STYLES.
    """
    spare = iter([*SPARE, *STYLES.values()])
    given: dict[Any, tuple[str, str]] = dict(STYLES)
    times: Counter[Any] = Counter()
    found = {}
    for values in series:
        known = [value for value in values if value in STYLES]
        unmarked = [value for value in known if value in UNMARKED]
        scheme = (unmarked or known[-1:] or [values])[0]
        if scheme not in given:
            given[scheme] = next(spare, ("#000000", "."))
        colour, marker = given[scheme]
        again = times[scheme]
        times[scheme] += 1
        found[values] = {
            "color": colour,
            "marker": marker,
            "linestyle": DASHES[again % len(DASHES)],
            "linewidth": 1.3,
            "markerfacecolor": "white" if again % 2 else colour,
            "markeredgewidth": 0.8,
            "markersize": 7 if marker == "*" else 5,
        }
    return found
