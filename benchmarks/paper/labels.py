"""How numbers, settings and series are shown in tables and plots."""

from collections.abc import Iterable, Mapping
from typing import Any

Names = Mapping[Any, str]
"""{column, value, or tuple of values: what is shown for it}; what is not in it is shown as it is.

Its order is that of series, rows and panels.
"""


def number(value: float, digits: int = 2) -> str:
    """A number with this many significant digits, at least all before the point; plain unless below 1e-4.

    >>> number(0.001), number(0.4249), number(123.4), number(3.21e-5)
    ('0.0010', '0.42', '123', '3.2e-5')
    """
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if value == 0:
        return "0"
    if int(exponent) < -4:
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.{max(0, digits - 1 - int(exponent))}f}"


def with_error(value: float, error: float) -> str:
    """A share and its standard error, with two decimals, or as many as show one digit of the error.

    >>> with_error(0.82, 0.031), with_error(1.0, 0.0035)
    ('0.82 ± 0.03', '1.000 ± 0.004')
    """
    decimals = 2
    while 0 < error < 0.95 * 10**-decimals:
        decimals += 1
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def show(value: Any, names: Names) -> str:
    """A column, a value, or a tuple of values, as names say."""
    if value in names:
        return names[value]
    if isinstance(value, tuple):
        return ", ".join(shown for shown in (show(one, names) for one in value) if shown)
    if value is None:
        return "all"
    return f"{value:g}" if isinstance(value, float) else str(value)


def in_order(found: Iterable[tuple[Any, ...]], names: Names) -> list[tuple[Any, ...]]:
    """Distinct tuples of values: those in names first, then by the places of their values there, then as they came."""
    place = {named: i for i, named in enumerate(names)}

    def rank(values: tuple[Any, ...]) -> list[int]:
        return [place.get(one, len(place)) for one in (values, *values)]

    return sorted(dict.fromkeys(found), key=rank)
