"""Points: texts of one setting under one attack and one test. Experiments share them; each is computed once."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from wmcore.paper.attacks import BUILT_IN as ATTACKS_BUILT_IN
from wmcore.paper.attacks import attack_of
from wmcore.paper.contract import Trial
from wmcore.paper.report import Row, count_rows, read_rows, write_rows
from wmcore.paper.study import Study, tokenizer_of, vocab_size_of
from wmcore.paper.testing import BUILT_IN, TESTS
from wmcore.paper.texts import (
    Text,
    TextSet,
    description,
    is_written,
    load,
    secret_of,
    texts_under,
)
from wmcore.schemes import SCHEMES

FORMAT = 1
"""Changes when p-values are found in another way."""

STOP_AFTER = 100
"""A test stops after this many resamples that fit as well: p above 100 / T is known to a tenth of itself."""


@dataclass(frozen=True)
class Point:
    """What is tested, and how.

    Attributes
    ----------
    texts : TextSet
        Its own `attack` changed the texts as a whole.
    test : str
        A name in TESTS.
    cut : int or None
        m, the tokens that are tested, after everything that was done to the text; None for all.
    edit, rate : str, float
        A name in ATTACKS of an edit of tokens, and the share of them.
    options : tuple of (str, value)
        Of the test: gap, block_length.
    resamples : int
    count : int
        How many texts.
    """

    texts: TextSet
    test: str
    cut: int | None = None
    edit: str = "none"
    rate: float = 0.0
    options: tuple[tuple[str, Any], ...] = ()
    resamples: int = 999
    count: int = field(default=100, compare=False)


def merged(points: Iterable[Point]) -> list[Point]:
    """Each point once, with as many texts as any asks for; points are equal whatever their counts."""
    most: dict[Point, Point] = {}
    for point in points:
        if point not in most or most[point].count < point.count:
            most[point] = point
    return list(most.values())


def point_path(study: Study, point: Point) -> Path:
    """The file of a point's rows: its name changes with whatever changes a p-value."""
    about = asdict(point) | {
        "format": FORMAT,
        "stop_after": STOP_AFTER,
        # Texts without a key sequence are tested for keys of some length, too.
        "texts": description(study, point.texts) | {"key_length": point.texts.key_length},
    }
    del about["count"]
    if point.test not in BUILT_IN or point.edit not in ATTACKS_BUILT_IN:
        about["additions"] = study.additions
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:20]
    return study.folder / "tests" / name[:2] / f"{name}.parquet"


def point_under(study: Study, point: Point) -> Point | None:
    """A point under the study's watermark: see `texts_under`; None for a test of other key sequences, too."""
    if study.mark is None:
        return point
    texts = texts_under(study, point.texts)
    others = {scheme.sampler for scheme in SCHEMES.values()} - {study.mark.sampler}
    if texts is None or TESTS[point.test].family in others:
        return None
    return replace(point, texts=texts)


def rows_of(study: Study, point: Point) -> list[dict[str, Any]]:
    """The rows of a point that were made before, of its first `count` texts."""
    path = point_path(study, point)
    rows = read_rows(path) if path.exists() else []
    return [row for row in rows if row["text"] < point.count]


def is_done(study: Study, point: Point) -> bool:
    """Whether a point was tested on as many texts as it asks for, or on all that there are."""
    path = point_path(study, point)
    if not path.exists():
        return False
    tested = _tested(path, path.stat().st_mtime_ns)
    return tested >= point.count or (
        is_written(study, point.texts, point.count)
        and tested >= len(load(study, point.texts, point.count))
    )


@lru_cache(maxsize=65536)
def _tested(path: Path, changed: int) -> int:
    """How many texts a point's file holds; changed: when it was."""
    return count_rows(path)


def evaluate(study: Study, point: Point) -> None:
    """Test the texts of a point that were not tested before, and keep the rows."""
    path = point_path(study, point)
    rows = read_rows(path) if path.exists() else []
    have = {row["text"] for row in rows}
    missing = [text for text in load(study, point.texts, point.count) if text.number not in have]
    if missing:
        rows += _test(study, point, missing)
        rows.sort(key=lambda row: row["text"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_rows(path, rows)


def _test(study: Study, point: Point, texts: Sequence[Text]) -> list[dict[str, Any]]:
    tokens = [received(study, point, text) for text in texts]
    trial = trial_of(study, point)
    p = np.full(len(texts), np.nan)
    good = [i for i, one in enumerate(tokens) if len(one)]
    p[good] = TESTS[point.test].p_values(
        [tokens[i] for i in good],
        [secret_of(study, point.texts, texts[i].number) for i in good],
        trial,
    )
    return [row_of(study, point, text, len(tokens[i]), float(p[i])) for i, text in enumerate(texts)]


def trial_of(study: Study, point: Point) -> Trial:
    """How the texts of a point are tested."""
    mark = study.mark
    if mark is None or TESTS[point.test].family != mark.sampler:
        vocab_size = vocab_size_of(study.model)
    else:
        vocab_size = mark.vocab_size
    return Trial(
        vocab_size=vocab_size,
        key_length=point.texts.key_length,
        resamples=point.resamples,
        stop_after=STOP_AFTER,
        seed=study.number(1 << 62, "resamples"),
        options=dict(point.options),
    )


def row_of(study: Study, point: Point, text: Text, tokens: int, p: float) -> Row:
    """The row of a text: see `rows.COLUMNS`."""
    return {
        "model": study.model,
        "prompts": point.texts.kind,
        "method": point.texts.method,
        "test": point.test,
        "options": json.dumps(dict(point.options), sort_keys=True),
        "temperature": point.texts.temperature,
        "top_p": point.texts.top_p,
        "key_length": point.texts.key_length,
        "cut": point.cut,
        "attack": point.texts.attack if point.edit == "none" else point.edit,
        "rate": point.rate,
        "resamples": point.resamples,
        "text": text.number,
        "tokens": tokens,
        "written": len(text.tokens),
        "p": p,
        **law(text, point.cut),
    }


def law(text: Text, cut: int | None) -> dict[str, float]:
    """Means over the first tokens of a text as it was written: NaN where no law is known."""
    if not len(text.entropy[:cut]):
        return {"entropy": np.nan, "potential": np.nan, "nll": np.nan}
    log_probability = text.log_probability[:cut].astype(np.float64)
    return {
        "entropy": float(text.entropy[:cut].mean(dtype=np.float64)),
        "potential": float((1 - np.exp(log_probability)).mean()),
        "nll": float(-log_probability.mean()),
    }


def received(study: Study, point: Point, text: Text) -> np.ndarray:
    """The tokens that a detector sees, int64 [m]: edited, written out, read again, cut."""
    found = _read_again(study, point.texts, point.edit, point.rate, text)
    return found[: point.cut]


@lru_cache(maxsize=1000)
def _read_again(study: Study, texts: TextSet, edit: str, rate: float, text: Text) -> np.ndarray:
    tokenizer = tokenizer_of(study.model)
    string = text.text
    if edit != "none":
        change = attack_of(edit).tokens
        if change is None or texts.attack != "none":
            raise ValueError(
                f"edit {edit!r} of {texts.attack!r} texts: tokens as written alone are edited, by edits"
            )
        seed = study.digest("edit", edit, rate, texts.method, text.number)
        rng = np.random.default_rng(np.frombuffer(seed, np.uint32))
        edited = change(text.tokens, rate, vocab_size_of(study.model), rng)
        string = tokenizer.decode(edited.tolist(), skip_special_tokens=True)
    return np.array(tokenizer(string, add_special_tokens=False)["input_ids"], np.int64)
