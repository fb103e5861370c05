"""HTML pages from the templates: one file each, no script, nothing fetched, all text escaped."""

from typing import Any

from wmcore.reading import clean


def fill(template: str, **values: Any) -> str:
    """A template of this package filled in: a string of HTML that UTF-8 can hold."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("wmcore"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["p"] = format_p
    return clean(environment.get_template(template).render(**values))


def format_p(p: float | None) -> str:
    """A p-value in three digits, or a dash when there is none."""
    return "\N{EN DASH}" if p is None else f"{p:.3g}"
