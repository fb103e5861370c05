"""Records of texts with log-probabilities, as this package and OpenAI's interfaces write them.

    {"tokens": [17, 4, …], "logprobs": [-0.1, -2.3, …], "top_logprobs": [[[17, -0.1], [9, -3.0]], …]}

is our own; `top_logprobs` may be missing. Of OpenAI's we take a whole answer, one of its choices, or its field
`logprobs`: chat (`content`, a list of `token`, `logprob`, `top_logprobs`) and completions (`tokens`, `token_logprobs`,
`top_logprobs`, a list of objects). Tokens that are strings get numbers of their own.
"""

import json
from collections.abc import Iterator
from typing import Any

from wmcore import records
from wmcore.errors import WatermarkError, reason
from wmcore.formats import given_format
from wmcore.power.sampled import NONE, SampledText
from wmcore.reading import MAX_BYTES, Cursor, Fault, Reading, decode


class SampleReader:
    """Reads files of records. Equal token strings get equal numbers in all of them.

    Attributes
    ----------
    errors : list of str
        What is wrong with the records that could not be used.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self._ids: dict[str, int] = {}

    def read(self, path: str) -> list[SampledText]:
        """The texts of a file (JSON Lines or .json, also packed), or of standard input for ``-``."""
        form = given_format(path, records=True)
        if form.kind not in ("jsonl", "json"):
            raise WatermarkError(
                f"{path}: texts with log-probabilities are records in .jsonl or .json: convert it"
            )
        texts = []
        with records.open_input(path) as stream:
            items = records.read_items(path, stream, form, Reading(), Cursor())
            for position, item in items:
                place = f"{'stdin' if path == '-' else path}:{position + 1}"
                try:
                    texts += [self._text(*fields) for fields in _found(item)]
                except WatermarkError as error:
                    self.errors.append(f"{place}: {error}")
                except Exception as error:  # whatever shape a record has
                    self.errors.append(
                        f"{place}: not a text with log-probabilities ({reason(error)})"
                    )
        return texts

    def _text(self, tokens: list[Any], log_p: list[float], top: list[Any] | None) -> SampledText:
        ids = [self._id(token) for token in tokens]
        if top is None or not any(top):
            return SampledText(ids, log_p)
        width = max(len(row or ()) for row in top)
        others = [[self._id(token) for token, _ in _pairs(row)] for row in top]
        known = [[float(p) for _, p in _pairs(row)] for row in top]
        return SampledText(
            ids,
            log_p,
            [row + [NONE] * (width - len(row)) for row in others],
            [row + [0.0] * (width - len(row)) for row in known],
        )

    def _id(self, token: Any) -> int:
        if isinstance(token, str):
            return self._ids.setdefault(token, len(self._ids))
        if type(token) is not int:
            raise WatermarkError("tokens must be token ids or strings")
        return token


def _pairs(row: Any) -> list[tuple[Any, float]]:
    """(token, log-probability) of the alternatives of one token, without those that a service does not know."""
    if isinstance(row, dict):
        pairs = list(row.items())
    else:
        pairs = [
            (one["token"], one["logprob"]) if isinstance(one, dict) else (one[0], one[1])
            for one in row or ()
        ]
    return [(token, p) for token, p in pairs if p > -100]


def _found(item: Any) -> Iterator[tuple[list[Any], list[float], list[Any] | None]]:
    """(tokens, their log-probabilities, alternatives) of each text in a record; none of a blank line."""
    if isinstance(item, Fault):
        raise WatermarkError(item.error)
    text, error = decode(item, MAX_BYTES)
    if text is None:
        raise WatermarkError(str(error))
    if text.strip():
        record = json.loads(text)
        for one in record.get("choices") or [record]:
            yield _fields(one)


def _fields(one: dict[str, Any]) -> tuple[list[Any], list[float], list[Any] | None]:
    inner = one.get("logprobs")
    if isinstance(inner, list):
        return one["tokens"], inner, one.get("top_logprobs")
    given = inner if isinstance(inner, dict) else one
    if given.get("content") is not None:
        steps = given["content"]
        return (
            [step["token"] for step in steps],
            [step["logprob"] for step in steps],
            [step.get("top_logprobs") for step in steps],
        )
    if "token_logprobs" not in given:
        raise WatermarkError(
            "no log-probabilities: give 'tokens' and 'logprobs', or an answer of an OpenAI interface with logprobs"
        )
    return given["tokens"], given["token_logprobs"], given.get("top_logprobs")


def record_of(text: SampledText) -> dict[str, Any]:
    """A text as our own record."""
    record: dict[str, Any] = {
        "tokens": text.tokens.tolist(),
        "logprobs": [round(p, 4) for p in text.log_p.tolist()],
    }
    if (text.others >= 0).any():
        record["top_logprobs"] = [
            [[int(v), round(float(p), 4)] for v, p in zip(*row, strict=True) if v != NONE]
            for row in zip(text.others, text.others_log_p, strict=True)
        ]
    return record
