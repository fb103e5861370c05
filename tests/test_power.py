"""How many tokens a text needs: simulated rates against real keys, and the arithmetic of lengths."""

import itertools
import json
import warnings

import numpy as np
import pytest
from scipy.special import digamma

from wmcore import Detector, Key, SampledText, Watermark, WatermarkError, attacks, detection_power
from wmcore.plan import Plan
from wmcore.power.lengths import Curve, curve, grid, isotonic
from wmcore.sampling import on_arrays

V, N, M = 40, 32, 24
FAR = 5  # standard errors that a difference may have: once in a million


@pytest.fixture(scope="module")
def laws():
    """A law for each position, of low entropy: float64 [M, V]."""
    rng = np.random.default_rng(1)
    law = rng.dirichlet(np.full(V, 0.035), size=M) + 1e-6
    return law / law.sum(axis=1, keepdims=True)


def plain_texts(laws, count, rng):
    texts = []
    others = np.tile(np.arange(V), (M, 1))
    for _ in range(count):
        tokens = np.array([rng.choice(V, p=law) for law in laws])
        log_law = np.log(laws)
        texts.append(SampledText(tokens, log_law[np.arange(M), tokens], others, log_law))
    return texts


def real_rates(laws, scheme, rate, level, count, rng):
    """The share of texts, written with real keys by the real sampler, that are found."""
    hits = 0
    for _ in range(count):
        mark = Watermark.create(scheme, vocab_size=V, key_length=N, key=Key(rng.bytes(32)))
        rows = (rng.integers(N) + np.arange(M)) % N
        tokens = on_arrays(mark)(np.log(laws).astype(np.float32), rows, 1.0)
        if rate:
            tokens = attacks.damage(tokens, rate, vocab_size=V, seed=rng)
        plan = Plan(resamples=199, stop_after=10)
        (found,) = Detector(mark, backend="cpu", threads=1).detect([tokens], plan=plan)
        hits += found.p_value <= level
    return hits / count


@pytest.mark.parametrize(
    ("scheme", "rate"),
    [
        ("exp", 0.0),
        pytest.param("exp-free", 0.1, marks=pytest.mark.slow),
        ("its", 0.0),
        pytest.param("its-edit", 0.1, marks=pytest.mark.slow),
    ],
)
def test_rates_are_those_of_real_keys(laws, scheme, rate):
    rng = np.random.default_rng(2)
    count, level = 200, 0.05
    power = detection_power(
        plain_texts(laws, count, rng),
        schemes=[scheme],
        key_lengths=[N],
        lengths=[M],
        rates=[rate],
        levels=[level],
        simulations=count,
        resamples=199,
        vocab_size=V,
    )
    (drawn,) = power.settings[0].edited[0].curves.values()
    real = real_rates(laws, scheme, rate, level, count, rng)
    both = (drawn.rate[0] + real) / 2
    assert 0.1 < both < 0.95
    assert abs(drawn.rate[0] - real) < FAR * (2 * both * (1 - both) / count) ** 0.5


def text(p, m=M):
    return SampledText(np.arange(m), np.log(np.broadcast_to(p, m)))


def test_certain_text_is_found_no_more_often_than_by_chance():
    power = detection_power(
        [text(1.0)], key_lengths=[N], lengths=[M], rates=[0], levels=[0.1], simulations=150,
        resamples=199,
    )  # fmt: skip
    (setting,) = power.settings
    (drawn,) = setting.edited[0].curves.values()
    assert drawn.rate[0] < 0.1 + FAR * (0.09 / 150) ** 0.5
    gain = setting.score_per_token - setting.chance_per_token
    assert abs(gain) < FAR * 0.5 / (150 * M) ** 0.5  # a score's deviation is below 0.5 nats


def test_scores_are_what_theory_says():
    power = detection_power(
        [text(0.3)], schemes=["exp", "exp-edit"], key_lengths=[N], lengths=[5], rates=[0],
        simulations=150, resamples=99,
    )  # fmt: skip
    for setting in power.settings:
        assert setting.chance_per_token == 1.0
        harmonic = digamma(1 / 0.3 + 1) - digamma(1)
        assert abs(setting.score_per_token - harmonic) < FAR * 1.3 / (150 * M) ** 0.5
    assert power.entropy == pytest.approx(-np.log(0.3))


def test_results_repeat_on_any_number_of_threads():
    options = {"key_lengths": [N], "lengths": [5, 20], "simulations": 12, "resamples": 99}
    one, two, other = (
        detection_power([text(0.3), text(0.6, 12)], **options, threads=threads, seed=seed).to_dict()
        for threads, seed in ((1, 1), (2, 1), (2, 2))
    )
    assert one == two
    assert one != other
    json.dumps(one)


def test_short_texts_leave_lengths_out():
    power = detection_power(
        [text(0.3, 30), text(0.3, 10)], key_lengths=[20, 400], rates=[0], simulations=10,
        resamples=99,
    )  # fmt: skip
    assert power.longest == 30
    first, second = (setting.edited[0].curves[0.01] for setting in power.settings)
    assert first.lengths[-1] == 20  # the key's
    assert second.lengths[-1] == 30
    assert second.trials[second.lengths <= 10].tolist() == [10] * (second.lengths <= 10).sum()
    assert second.trials[-1] == 5


def naive_isotonic(values, weights):
    """By the max-min formula."""
    mean = lambda a, b: np.average(values[a:b], weights=weights[a:b])  # noqa: E731
    m = len(values)
    return [
        max(min(mean(a, b) for b in range(i + 1, m + 1)) for a in range(i + 1)) for i in range(m)
    ]


def test_isotonic_regression():
    rng = np.random.default_rng(3)
    for m, _ in itertools.product((1, 2, 7), range(20)):
        values, weights = rng.random(m), rng.integers(1, 9, m)
        assert np.allclose(isotonic(values, weights), naive_isotonic(values, weights))


def test_intervals_hold_the_true_rate():
    """95 % intervals of a share, with texts that differ: no less than 90 % of 400 hold it, up to chance."""
    rng = np.random.default_rng(4)
    held = 0
    for _ in range(400):
        own = np.repeat(rng.beta(2, 2, 30), 4)
        found = (rng.random(120) < own).astype(float)[:, None]
        drawn = curve(found, np.repeat(np.arange(30), 4), np.array([10]))
        held += drawn.low[0] <= 0.5 <= drawn.high[0]
    assert held / 400 > 0.9 - FAR * (0.09 / 400) ** 0.5


def test_needed_is_interpolated_and_bounded():
    drawn = Curve(
        np.array([10, 20, 40]),
        np.array([0.2, 0.6, 0.9]),
        np.array([0.1, 0.5, 0.8]),
        np.array([0.3, 0.7, 1.0]),
        np.array([9, 9, 9]),
    )
    half = drawn.needed(0.5)
    assert (half.tokens, half.low, half.high) == (18, 10, 20)
    most = drawn.needed(0.9)
    assert (most.tokens, most.low, most.high) == (40, 20, None)
    assert drawn.needed(0.99).tokens is None
    assert drawn.needed(0.1).tokens == 10
    assert drawn.needed(0.1).low == 0


def test_grid():
    assert grid(5, 200).tolist() == [5, 7, 10, 14, 20, 28, 40, 57, 80, 113, 160, 200]
    assert grid(5, 5).tolist() == [5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schemes": ["its"]}, "needs the probabilities of other tokens"),
        ({"schemes": ["magic"]}, "magic"),
        ({"edit": "shuffle"}, "mixed, substitute"),
        ({"rates": [2]}, "rates"),
        ({"levels": [-1]}, "levels"),
        ({"simulations": 0}, "simulations"),
        ({"vocab_size": 3}, "vocab_size"),
        ({"lengths": [500]}, "lengths begin at 500"),
        ({"key_lengths": [0]}, "key_length"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(WatermarkError, match=message):
        detection_power([text(0.5)], **options)


def test_a_length_that_no_simulation_has():
    texts = [text(0.5, 10), text(0.5, 30), text(0.5, 30)]
    with pytest.raises(WatermarkError, match="no text that was simulated has 25 tokens"):
        detection_power(texts, lengths=[25], simulations=1, resamples=99)


def test_texts_must_be_sampled_texts():
    with pytest.raises(TypeError, match="SampledText"):
        detection_power([[1, 2, 3]])
    with pytest.raises(WatermarkError, match="texts is empty"):
        detection_power([])


def written_at(temperature, top, rng):
    """Texts sampled at a temperature, with the `top` likeliest tokens of the law at temperature 1."""
    log_law = np.log(rng.dirichlet(np.full(V, 0.1), size=(40, 100)) + 1e-9)
    drawn = (log_law / temperature + rng.gumbel(size=log_law.shape)).argmax(axis=-1)
    others = np.argsort(-log_law, axis=-1)[..., :top]
    return [
        SampledText(y, law[np.arange(100), y], at, np.take_along_axis(law, at, 1))
        for y, law, at in zip(
            drawn, log_law - np.log(np.exp(log_law).sum(-1, keepdims=True)), others, strict=True
        )
    ]


def test_laws_of_another_temperature_are_noticed():
    rng = np.random.default_rng(9)
    options = {"key_lengths": [N], "lengths": [5], "rates": [0], "simulations": 2, "resamples": 9}
    for top in (1, 5):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            detection_power(written_at(1.0, top, rng), **options)
        for temperature in (0.7, 1.4):
            with pytest.warns(UserWarning, match="not those of the law that was sampled from"):
                detection_power(written_at(temperature, top, rng), **options)
