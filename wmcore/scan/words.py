"""What the summary of a scan says, in sentences: for the page and for the command."""

from typing import Any

PRACTICALLY_NONE = 0.01
"""An expected number of documents below this is called practically none."""
MISSED = (
    "A document that is not called may still be ours: short or much edited texts can be missed."
)
"""What no call means, for the page and the command."""


def documents(count: int) -> str:
    """1 document, 543 documents."""
    return f"{count:,} document{'' if count == 1 else 's'}"


def expected(number: float) -> str:
    """An expected number of documents: practically none, about 0.3, about 1,200."""
    if number < PRACTICALLY_NONE:
        return "practically none"
    return f"about {number:.2g}" if number < 10 else f"about {number:,.0f}"


def verdict(summary: dict[str, Any]) -> str:
    """Whether documents are called, and how many."""
    tested, hits = summary["tested"], summary["hits"]
    if not tested:
        return "No verdict: no document could be tested"
    if not hits:
        return f"Not called: none of {documents(tested)} shows the watermark"
    return (
        f"Called: {hits:,} of {documents(tested)} carr{'ies' if hits == 1 else 'y'} the watermark"
    )


def by_chance(summary: dict[str, Any], fdr: str) -> str | None:
    """How many documents would match as well as the weakest called, or else the best one, if none were ours."""
    tested, hits, least = summary["tested"], summary["hits"], summary["least_p"]
    if not tested or least is None:
        return None
    number = summary["expected_by_chance"] if hits else tested * least
    match = "match this well" if hits else "match as well as the best one"
    many = expected(number)
    if hits and fdr == "ebh" and number >= PRACTICALLY_NONE:
        many = f"at most {many}"
    whole = f"none of the {documents(tested)} were" if tested > 1 else "the document were not"
    return f"If {whole} ours, we would expect {many} to {match}."


def one_key(summary: dict[str, Any], fdr: str) -> str | None:
    """Whether the calls hold for documents that have much in common, all tested with one key; None without calls."""
    if not summary["hits"]:
        return None
    controls = summary["controls"]
    if controls:
        return (
            f"{controls['count']:,} control keys found {expected(controls['false_mean'])} to match this well on "
            f"average, though no text carries them. With a confidence of {100 * controls['confidence']:.0f} % at most "
            f"{controls['false_bound']:,.3g} of those called are false, whatever the documents have in common."
        )
    if fdr == "ebh":
        return "Calls by e-values hold whatever the documents have in common."
    return "Our key may by accident resemble this whole collection; run again with --controls 19 to rule that out."
