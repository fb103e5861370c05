"""HTML pages from the templates: one file each, no script, nothing fetched, all text escaped."""

from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from wmcore.reading import clean

if TYPE_CHECKING:
    from jinja2 import Environment

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def fill(template: str, **values: Any) -> str:
    """A template of this package filled in: a string of HTML that UTF-8 can hold."""
    return clean(_environment().get_template(template).render(**values))


@cache
def _environment() -> "Environment":
    """Of all templates; it keeps them compiled, which takes longer than filling them in."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("wmcore"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        p=format_p, power=power_of_ten, meaning=p_in_words, count="{:,}".format, date=format_date
    )
    return environment


def format_p(p: float | None) -> str:
    """A p-value in three digits, or a dash when there is none."""
    return "\N{EN DASH}" if p is None else f"{p:.3g}"


def power_of_ten(p: float | None) -> str:
    """The same with small numbers as 1.23 × 10⁻⁹, which stays on one line."""
    digits, _, power = format_p(p).partition("e")
    return (
        f"{digits}\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}10{raised(int(power))}" if power else digits
    )


def raised(number: int) -> str:
    """A whole number as an exponent."""
    return str(number).translate(_RAISED)


def p_in_words(p: float) -> str:
    """What a p-value says, as the end of a sentence: how many unrelated texts look this good."""
    if p < 1e-9:
        return "practically no unrelated text looks this good"
    if p >= 0.995:
        return "every unrelated text looks this good"
    many = 100
    while p * many < 0.995 or (abs(round(p * many) - p * many) > 0.05 * p * many):
        many *= 10
    some = round(p * many)
    return f"{some:,} of {many:,} unrelated texts {'looks' if some == 1 else 'look'} this good"


def format_date(when: datetime) -> str:
    """A time in UTC to the minute: 29 November 2026, 06:52 UTC."""
    return f"{when.day} {when:%B %Y, %H:%M} UTC"
