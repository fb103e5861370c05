"""Arguments of watermarks, detectors, plans, scans, calibrations and edits: taken as what they are, or refused."""

import dataclasses
import math

import numpy as np
from commands import V
from hypothesis import assume
from hypothesis import strategies as st

from fuzz.budget import inputs
from fuzz.holds import only_refusals
from fuzz.marks import HEX, OPTIONS, SECRET, mark
from fuzz.values import numbers, odd_values
from wmcore import Detector, Key, PublishedKey, Watermark, attacks
from wmcore.calibration import Calibration
from wmcore.identify import identify
from wmcore.plan import Plan
from wmcore.scan import ScanSettings
from wmcore.schemes import SCHEMES

TEXT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]
LARGEST_TABLE = 1 << 20
"""Vocabulary times key length up to which a watermark is also tried; others only take long."""


def is_stored_plain(thing, given):
    """Every number of a record is Python's own, and the value that was given is still the same."""
    for field in dataclasses.fields(thing):
        value = getattr(thing, field.name)
        assert not isinstance(value, np.generic), field.name
        if field.name in given and given[field.name] is not None:
            assert value == given[field.name], field.name


CREATE = ["vocab_size", "key_length", "block_length", "gap", "scheme", "tokenizer"]


@inputs(
    0.05,
    scheme=st.sampled_from(list(SCHEMES)),
    changes=st.dictionaries(st.sampled_from(CREATE), numbers(), min_size=1, max_size=3),
)
def test_watermarks(scheme, changes, tmp_path_factory):
    options = {"vocab_size": V, "key_length": 40, "key": Key(SECRET), **changes}
    name = options.pop("scheme", scheme)
    with only_refusals(HEX):
        made = Watermark.create(name, **options)
        is_stored_plain(made, options)
        path = tmp_path_factory.getbasetemp() / "made.json"
        made.save(path, replace=True)
        again = Watermark.load(path)
        assert (again.vocab_size, again.gap, again.key) == (made.vocab_size, made.gap, made.key)
        if made.vocab_size * made.key_length <= LARGEST_TABLE:
            plain = Watermark.create(
                name, **{**options, "vocab_size": made.vocab_size, "key_length": made.key_length}
            )
            found = Detector(made, threads=1).detect([TEXT], **OPTIONS)
            assert found == Detector(plain, threads=1).detect([TEXT], **OPTIONS)


DETECTOR = ["scheme", "gap", "block_length", "backend", "threads", "tokenizer"]


@inputs(
    0.03,
    scheme=st.sampled_from(list(SCHEMES)),
    changes=st.dictionaries(
        st.sampled_from(DETECTOR),
        numbers() | st.sampled_from(list(SCHEMES)),
        min_size=1,
        max_size=2,
    ),
)
def test_detectors(scheme, changes):
    assume(not isinstance(changes.get("tokenizer"), str))  # the name of one, to be loaded
    with only_refusals(HEX):
        of = Detector(mark(scheme), **{"threads": 1, **changes})
        assert isinstance(of.statistic.gap, float)
        if changes.get("tokenizer") is None:
            (found,) = of.detect([TEXT], **OPTIONS)
            assert (found.error is None) == (0 < (found.p_value or -1) <= 1)


PLAN = ["resamples", "stop_after", "bound", "first_resamples", "first_stop"]


@inputs(0.02, changes=st.dictionaries(st.sampled_from(PLAN), numbers(), min_size=1, max_size=3))
def test_plans(changes):
    with only_refusals():
        plan = Plan(**changes)
        is_stored_plain(plan, changes)
        assert 0 <= plan.epsilon < 1
        if plan.resamples <= 1000 and plan.first_resamples <= 1000:
            (found,) = Detector(mark("exp"), threads=1).detect([TEXT], plan=plan, seed=1)
            assert 0 < found.p_value <= 1


SETTINGS = [field.name for field in dataclasses.fields(ScanSettings)]


@inputs(0.02, changes=st.dictionaries(st.sampled_from(SETTINGS), numbers(), min_size=1, max_size=3))
def test_scan_settings(changes):
    with only_refusals():
        settings = ScanSettings(**changes)
        is_stored_plain(settings, changes)
        assert settings.difference(settings.to_dict()) is None
        assert settings.plan.resamples >= 1
        assert settings.reading.max_bytes >= 1


@inputs(
    0.01,
    changes=st.dictionaries(
        st.sampled_from(["lengths", "resamples", "tokens", "seed", "threads"]),
        numbers() | odd_values() | st.lists(numbers(), max_size=3),
        min_size=1,
        max_size=2,
    ),
)
def test_calibrations(changes):
    options = {"lengths": [8, 16], "resamples": 9, "seed": 1, "threads": 1, **changes}
    assume(_size(options["resamples"]) <= 1000 and _size(options["lengths"]) <= 1000)
    with only_refusals(HEX):
        made = Calibration.fit(mark("exp"), **options)
        assert made.statistics.shape == (len(made.lengths), made.resamples)
        assert np.isfinite(made.statistics).all()


def _size(value):
    """The largest whole number in a value, which is how long it takes."""
    if isinstance(value, list):
        return max(map(_size, value), default=0)
    try:
        return value if value > 0 and math.isfinite(value) else 0
    except (TypeError, ValueError, ArithmeticError, RuntimeError):
        return 0


@inputs(
    0.01, name=st.sampled_from(["resamples", "stop_after", "seed", "watermarks"]), value=numbers()
)
def test_identify(name, value):
    assume(name != "resamples" or _size(value) <= 1000)
    options = {"watermarks": [mark("exp")], "resamples": 9, "seed": 1, "threads": 1, name: value}
    with only_refusals(HEX):
        (found,) = identify([TEXT], **options)
        assert 0 < found.p_value <= 1


@inputs(0.01, seed=numbers(), generator=st.sampled_from(["torch", "mersenne", "x"]))
def test_published_keys(seed, generator):
    """A seed is a secret: it is not in the message either."""
    digits = [f"{seed % 10**30:030}"] if isinstance(seed, int) and seed > 10**30 else []
    with only_refusals(*digits):
        key = PublishedKey(seed, generator)
        assert type(key.seed) is int


@inputs(0.01, secret=odd_values() | st.binary() | st.text(), label=odd_values() | st.text())
def test_keys(secret, label):
    with only_refusals():
        Key(secret)
    with only_refusals():
        Key.from_hex(secret)
    with only_refusals(HEX):
        assert Key(SECRET).derive(label) != Key(SECRET)


@inputs(
    0.01,
    edit=st.sampled_from([attacks.substitute, attacks.insert, attacks.damage]),
    tokens=st.just(TEXT) | odd_values(),
    rate=numbers(),
    vocab_size=numbers(),
)
def test_edits(edit, tokens, rate, vocab_size):
    with only_refusals():
        edited = edit(tokens, rate, vocab_size=vocab_size, seed=1)
        assert edited.dtype == np.int64
