"""Which characters of a text its tokens are."""

from typing import Any


def characters(encoding: Any, first: int, last: int) -> tuple[int, int] | None:
    """The characters (start, end) of tokens first .. last - 1, or None where the tokenizer does not tell.

    encoding: the `tokenizers.Encoding` of the text, or None.
    """
    if encoding is None:
        return None
    start, end = encoding.token_to_chars(first), encoding.token_to_chars(last - 1)
    if start is None or end is None:
        return None
    return int(start[0]), int(end[1])
