"""Texts that were written before: a set-up that cannot be reached from here is audited by what it wrote."""

import json
from pathlib import Path

from wmcore.audit.writers import GivenTexts, Written
from wmcore.errors import WatermarkError


def read_texts(path: str) -> GivenTexts:
    """The texts of a file of JSON Lines.

    A line is an object with "text" (string) and, where they are known, "prompt" (string: equal ones are answers to the
    same prompt), "tokens" (list of int, as drawn) and "watermarked" (false: written with the watermark off).

    Raises
    ------
    WatermarkError
        For a file that cannot be read, or a line that is none of this; the message has its number.
    """
    try:
        lines = (
            Path(path).read_text(encoding="utf-8").split("\n")
        )  # no other line break ends a record
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise WatermarkError(f"--texts {path}: {reason}; give a file of JSON Lines") from None
    places: dict[str, int] = {}
    kinds: dict[bool, list[Written]] = {True: [], False: []}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            text, prompt, tokens = record["text"], record.get("prompt"), record.get("tokens")
            marked = record.get("watermarked", True)
            right = (
                isinstance(text, str)
                and (prompt is None or isinstance(prompt, str))
                and (tokens is None or all(type(token) is int for token in tokens))
                and isinstance(marked, bool)
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            right = False
        if not right:
            raise WatermarkError(
                f"--texts {path}: line {number} must be an object with 'text', and perhaps 'prompt', 'tokens' and "
                "'watermarked'; mend it"
            )
        place = None if prompt is None else places.setdefault(prompt, len(places))
        kinds[marked].append(Written(place, text, tokens))
    if not kinds[True]:
        raise WatermarkError(f"--texts {path}: there are no marked texts; give some")
    return GivenTexts(path, kinds[True], kinds[False])
