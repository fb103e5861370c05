"""Keys drawn given that they wrote a text: the law of keys and texts is that of texts drawn with real keys."""

import numpy as np
import pytest
from scipy.special import digamma
from scipy.stats import ks_2samp, kstest

from wmcore import Key, SampledText, Watermark
from wmcore.kernels import load
from wmcore.kernels.constants import EXP_COST_MIN, EXP_SCALE
from wmcore.power.planting import PlantedKey
from wmcore.sampling import on_arrays

SURE = 1e-6  # the chance that a statistical test here fails by accident
LAW = np.array([0.5, 0.3, 0.15, 0.05])


def secret(rng):
    return rng.bytes(32)


def with_law(y, law, m=1):
    """A text of m tokens, each drawn from this law, whose laws are known."""
    others = np.tile(np.arange(len(law)), (m, 1))
    y = np.broadcast_to(y, m)
    return SampledText(y, np.log(law[y]), others, np.tile(np.log(law), (m, 1)))


def costs(key, sampler, n, v):
    """(costs of all tokens at all rows, the source)."""
    watermark = Watermark.create(sampler, vocab_size=v, key_length=n, key=key)
    source = key.costs(watermark.problem())
    return source.matrix(np.arange(v), load("cpu"), 1)[:, :n], source


def test_the_fit_of_a_token_is_its_probability_times_an_exponential_number():
    rng = np.random.default_rng(1)
    for p in (0.9, 0.3, 0.01):
        text = SampledText(np.arange(200), np.full(200, np.log(p)))
        fit = []
        for _ in range(10):
            key = PlantedKey(secret(rng), text)
            matrix, _ = costs(key, "exp", 200, 200)
            cost = matrix[np.arange(200), key.rows(200)] / EXP_SCALE
            fit.append(-np.log1p(-np.exp(cost)) / p)
        assert kstest(np.concatenate(fit), "expon").pvalue > SURE


def test_the_mean_cost_is_a_harmonic_number():
    """E -log(1 - U^p) = H(1/p), U uniform: what the planner's score of exp rests on."""
    rng = np.random.default_rng(2)
    for p in (1.0, 0.5, 0.1):
        text = SampledText(np.arange(250), np.full(250, np.log(p)))
        cost = []
        for _ in range(20):
            key = PlantedKey(secret(rng), text)
            matrix, _ = costs(key, "exp", 250, 250)
            cost.append(-matrix[np.arange(250), key.rows(250)] / EXP_SCALE)
        cost = np.concatenate(cost)
        harmonic = digamma(1 / p + 1) - digamma(1)
        assert abs(cost.mean() - harmonic) < 5 * cost.std() / len(cost) ** 0.5 + 1 / EXP_SCALE


@pytest.mark.parametrize("sampler", ["exp", "its"])
def test_a_planted_key_would_write_the_text(sampler):
    """With all laws known, the sampler's rule gives the text back from the planted numbers."""
    rng = np.random.default_rng(3)
    n = m = 12
    for _ in range(40):
        y = rng.choice(4, size=m, p=LAW)
        key = PlantedKey(secret(rng), with_law(y, LAW, m))
        matrix, source = costs(key, sampler, n, 4)
        rows = key.rows(n)
        if sampler == "exp":
            exponent = -np.log1p(-np.exp(matrix[:, rows] / EXP_SCALE))
            wrong = (exponent / LAW[:, None]).argmin(axis=0) != y
            assert wrong.mean() < 0.1  # costs are rounded
        else:
            u = source.numbers(np.arange(4), load("cpu")).matrix[0, rows] / 65536
            order = key.its_order(4)
            ends = np.cumsum(LAW[order])
            off = u[:, None] - ends
            drawn = order[(off < 0).argmax(axis=1)]
            assert (drawn == y)[np.abs(off).min(axis=1) > 1e-4].all()


def test_other_numbers_are_those_of_the_secret():
    rng = np.random.default_rng(4)
    raw = secret(rng)
    key = PlantedKey(raw, SampledText([3, 5, 3], np.log([0.5, 0.2, 0.1])))
    matrix, source = costs(key, "exp", 20, 8)
    plain, _ = costs(Key(raw), "exp", 20, 8)
    rows = key.rows(20)
    assert ((rows - rows[0]) % 20).tolist() == [0, 1, 2]
    changed = set(zip(*np.nonzero(matrix != plain), strict=True))
    assert changed <= set(zip([3, 5, 3], rows.tolist(), strict=True))
    assert len(changed) >= 2
    numbers = source.numbers(np.array([5, 3, 5]), load("cpu"))
    got = numbers.matrix[numbers.source] / 65536
    assert np.allclose(got, np.exp(np.log1p(-np.exp(matrix[[5, 3, 5]] / EXP_SCALE))), atol=4e-4)
    again, _ = costs(PlantedKey(raw, key._text), "exp", 20, 8)
    assert np.array_equal(matrix, again)


@pytest.mark.parametrize("sampler", ["exp", "its"])
def test_the_joint_law_is_that_of_real_keys(sampler):
    """Costs of every token at the row, given the token that was written: real keys write, planted ones are drawn."""
    rng = np.random.default_rng(5)
    count, v = 800, len(LAW)
    logits = np.log(LAW)[None].astype(np.float32)
    real = {y: [] for y in range(v)}
    planted = {y: [] for y in range(v)}
    for _ in range(count):
        key = Key(secret(rng))
        mark = Watermark.create(sampler, vocab_size=v, key_length=2, key=key)
        (y,) = on_arrays(mark)(logits, np.array([1]), 1.0)
        real[int(y)].append(costs(key, sampler, 2, v)[0][:, 1])
        y = int(rng.choice(v, p=LAW))
        key = PlantedKey(secret(rng), with_law(y, LAW))
        planted[y].append(costs(key, sampler, 2, v)[0][:, key.rows(2)[0]])
    for y in range(v):
        assert abs(len(real[y]) - count * LAW[y]) < 5 * (count * LAW[y]) ** 0.5
        for token in range(v):
            a, b = np.array(real[y])[:, token], np.array(planted[y])[:, token]
            assert ks_2samp(a, b).pvalue > SURE / 16, (y, token)


def test_the_rest_of_a_law_is_put_where_its_would_fit_least():
    """Of four equally likely tokens only the one written is known: the rest may be three, and is, not all others."""
    rng = np.random.default_rng(8)
    v, law = 500, np.full(4, 0.25)
    logits = np.full((1, v), -np.inf, np.float32)
    logits[0, :4] = np.log(law)
    real, planted = [], []
    for _ in range(400):
        key = Key(secret(rng))
        mark = Watermark.create("its", vocab_size=v, key_length=2, key=key)
        (y,) = on_arrays(mark)(logits, np.array([1]), 1.0)
        real.append(costs(key, "its", 2, v)[0][y, 1])
        key = PlantedKey(secret(rng), SampledText([2], np.log(law[:1])))
        planted.append(costs(key, "its", 2, v)[0][2, key.rows(2)[0]])
    assert ks_2samp(real, planted).pvalue > SURE


def test_the_law_test_tells_other_laws_apart():
    """The same comparison fails for a key that the text did not shape: it can fail."""
    rng = np.random.default_rng(6)
    text = with_law(1, LAW)
    planted, plain = [], []
    for _ in range(1000):
        raw = secret(rng)
        row = PlantedKey(raw, text).rows(2)[0]
        planted.append(costs(PlantedKey(raw, text), "exp", 2, 4)[0][1, row])
        plain.append(costs(Key(raw), "exp", 2, 4)[0][1, row])
    assert ks_2samp(planted, plain).pvalue < SURE


def test_costs_stay_in_range():
    rng = np.random.default_rng(7)
    text = SampledText([0, 1], [np.log(1e-11), 0.0])
    for _ in range(50):
        matrix, _ = costs(PlantedKey(secret(rng), text), "exp", 2, 2)
        assert matrix.min() >= EXP_COST_MIN
        assert matrix.max() <= 0
