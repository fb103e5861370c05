"""Scores learnt from samples: tables and bins, exactness against brute force, uniformity, power, files, errors."""

import json
import math
import pickle

import chains
import naive
import numpy as np
import pytest
from matrices import SEED_KEY
from scipy import stats

from wmcore import Detector, Watermark, WatermarkError
from wmcore.kernels.problem import LOCAL, Resamples
from wmcore.learned_scores import (
    LearnedScores,
    Origin,
    ProxyScores,
    TokenScores,
    chosen_scores,
    default_scores,
)
from wmcore.learning import Sample, fit_scores
from wmcore.scores import levels

V = chains.V
ORIGIN = Origin("toy", 0.7, 0.9, 3, 500)


@pytest.fixture(scope="module")
def by_proxy():
    return fit_scores(chains.samples(40, 50, seed=1), by="proxy", model="toy")


@pytest.fixture(scope="module")
def by_tokens():
    return fit_scores(chains.samples(40, 50, seed=2), by="tokens", vocab_size=V, model="toy")


def watermark(**settings):
    return Watermark.create("exp", vocab_size=V, **{"key_length": 24, **settings})


# what is learnt


def test_bins_by_a_proxy_are_cut_at_quantiles(by_proxy):
    """In the toy language z has three values: there are as many bins, each with one probability."""
    values = sorted({float(f"{p:.4g}") for p in (chains.SURE, 1 / V, chains.LAWS[1, 5])})
    assert [sorted(set(row)) for row in by_proxy.probabilities.tolist()] in (
        [[p] for p in values],
        [[values[0], values[1]], [values[2]]],
        [[values[1]], [values[2]]],
    )
    scores = by_proxy.read_by(chains.proxy)
    text = chains.unmarked(np.random.default_rng(0), 30)
    expected = [
        sum(edge <= z for edge in by_proxy.edges.tolist()) for z in chains.proxy(text).tolist()
    ]
    assert scores.bins(text).tolist() == expected
    assert scores.bins(text).dtype == np.uint8
    assert len(set(expected)) > 1


def test_many_values_of_z_make_ten_bins_of_one_size():
    rng = np.random.default_rng(3)
    z = rng.normal(size=2000)
    scores = fit_scores([Sample(np.zeros(2000, int), 1 / (1 + np.exp(-z)), z)], by="proxy")
    assert len(scores.edges) == 9
    count = np.bincount(np.searchsorted(scores.edges, z, side="right"))
    assert np.abs(count - 200).max() <= 1
    # A bin's quantiles of p are those of the values of z between its edges.
    inside = 1 / (1 + np.exp(-np.sort(z)))[::-1]
    middle = scores.probabilities.mean(1)
    assert middle == pytest.approx(np.sort(inside).reshape(10, 200).mean(1), abs=0.01)


def test_token_bins_follow_how_likely_a_token_was(by_tokens):
    """Of the toy language, 1, 5, 9, .. seldom come for certain; and their table says so."""
    bins = by_tokens.token_bins.astype(int)
    free = bins[1::4]
    others = np.delete(bins, np.arange(1, V, 4))
    assert free.max() <= 1
    assert others.mean() > 4
    assert by_tokens.probabilities[0].mean() < 0.1
    assert by_tokens.probabilities[2:].mean() > 0.5


def test_a_rare_token_is_drawn_towards_the_mean():
    p = np.full(1000, 0.5)
    p[:3] = 0.001
    tokens = np.zeros(1000, int)
    tokens[1::2] = 1
    p[1::2] = 0.9
    tokens[0] = 2  # once, at 0.001
    scores = fit_scores([Sample(tokens, p)], by="tokens", vocab_size=5)
    unseen = scores.token_bins[4]
    assert scores.token_bins[0] <= unseen <= scores.token_bins[1]
    assert scores.token_bins[0] < scores.token_bins[1]


def test_the_density_is_the_formula(by_tokens):
    """0.01 + 0.99 mean of p^-1 u^(1/p - 1), averaged over each level, in Python's own numbers."""
    level = levels("exp").tolist()
    for row, density in zip(by_tokens.probabilities, by_tokens.table.density, strict=True):
        wanted = level[30_000]
        inside = [(i + 0.5) / 65536 for i in range(65536) if level[i] == wanted]
        total = 0.0
        for u in inside:
            total += 0.01 + 0.99 * sum(u ** (1 / p - 1) / p for p in row.tolist()) / len(row)
        # The table is scaled, so that its mean over 65,536 midpoints is 1: less than 1e-3 where p >= 1e-3.
        assert density[wanted] == pytest.approx(total / len(inside), rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": "proxy", "samples": [Sample([1] * 600, [0.5] * 600)]}, "no z"),
        ({"by": "tokens", "samples": chains.samples(20, 50, 1)}, "vocab_size is not given"),
        ({"by": "tokens", "samples": chains.samples(20, 50, 1), "vocab_size": 20}, "outside"),
        ({"by": "length", "samples": chains.samples(20, 50, 1)}, "use one of proxy, tokens"),
        ({"samples": chains.samples(2, 50, 1)}, "have 100 tokens, but 500 are needed"),
        ({"samples": []}, "have 0 tokens, but 500"),
    ],
)
def test_what_cannot_be_learnt_from(settings, message):
    samples = settings.pop("samples")
    with pytest.raises(WatermarkError, match=message):
        fit_scores(samples, **settings)


@pytest.mark.parametrize(
    ("p", "z"),
    [([0.5], None), ([0.5, 0.0], None), ([0.5, 1.1], None), ([0.5, math.nan], None)]
    + [([0.5, 0.5], z) for z in ([1.0], [1.0, math.nan], [1.0, -math.inf])],
)
def test_samples_are_checked(p, z):
    with pytest.raises(WatermarkError, match="for each of 2 tokens"):
        Sample([1, 2], p, z)


# exactness


def naive_value(engine, scored, a, bins, number):
    """The statistic of text a with these bins; number(i, j) is that of its distinct token i at row j."""
    costs, level = scored.scoring.costs.tolist(), scored.scoring.levels.tolist()
    first, last = scored.texts.offsets[a : a + 2]
    rows = [
        [costs[b][level[number(i, j)]] for j in range(engine.problem.n)]
        for i, b in zip(scored.texts.inverse[first:last].tolist(), bins, strict=True)
    ]
    local = engine.problem.alignment == LOCAL
    return naive.scored_statistic(rows, engine.problem.gamma, int(scored.bonus[a]), local)


@pytest.mark.parametrize("kind", ["proxy", "tokens"])
@pytest.mark.parametrize("scheme", ["exp-free", "exp-local"])
def test_equals_brute_force(scheme, kind, by_proxy, by_tokens):
    rng = np.random.default_rng(5)
    texts = [chains.unmarked(rng, m) for m in (1, 7, 15)]
    score = {"proxy": by_proxy.read_by(chains.proxy), "tokens": by_tokens}[kind]
    detector = Detector(watermark(key_length=9), scheme=scheme, score=score, backend="cpu")
    engine = detector.engine
    scored = engine.pack(texts)
    fits = engine.fit(scored, detector.costs)
    numbers = detector.costs.numbers(scored.distinct, engine.backend)
    for a, text in enumerate(texts):
        if kind == "proxy":
            bins = [sum(e <= z for e in by_proxy.edges) for z in chains.proxy(text)]
        else:
            bins = [int(by_tokens.token_bins[t]) for t in text]
        own = numbers.matrix[numbers.source[scored.distinct_offsets[a] :]]
        value = naive_value(engine, scored, a, bins, lambda i, j, own=own: int(own[i, j]))
        assert fits.value[a] == value
        null = engine.null(scored, a, Resamples(SEED_KEY, 0, 33)) * engine.problem.scale
        for t in (0, 1, 32):
            value = naive_value(
                engine,
                scored,
                a,
                bins,
                lambda i, j, t=t: naive.null_word(SEED_KEY, t, i, j, 9) >> 16,
            )
            assert null[t] == value


COUNT, ALPHA = 1000, 1e-6


@pytest.mark.parametrize("kind", ["proxy", "tokens"])
def test_p_values_are_uniform_over_keys(kind, by_proxy, by_tokens):
    """As in test_significance.py: the bound of Dvoretzky, Kiefer, Wolfowitz and Massart."""
    rng = np.random.default_rng(6)
    score = {"proxy": by_proxy.read_by(chains.proxy), "tokens": by_tokens}[kind]
    resamples = 199
    p = np.empty(COUNT)
    for i in range(COUNT):
        text = chains.unmarked(rng, rng.integers(8, 30))
        detector = Detector(watermark(), score=score, threads=1)
        (found,) = detector.detect([text], resamples=resamples, stop_after=None)
        p[i] = found.p_value
    grid = np.arange(1, resamples + 2) / (resamples + 1)
    distance = np.abs(np.searchsorted(np.sort(p), grid, side="right") / COUNT - grid).max()
    assert distance <= math.sqrt(math.log(2 / ALPHA) / (2 * COUNT))
    for level in (0.01, 0.05):
        low, high = stats.binom.ppf([ALPHA / 2, 1 - ALPHA / 2], COUNT, level)
        # Ties of a statistic in units can only make it less.
        assert (p <= level).sum() <= high
        assert (p <= level).sum() >= low


# power


def test_learnt_scores_find_more_than_the_log(by_proxy, by_tokens):
    """Each text has a key of its own, so that hits are independent: the difference of two counts of the same texts has
    the standard error sqrt(discordant pairs)."""
    rng = np.random.default_rng(7)
    count = 120
    found = {"log": [], "proxy": [], "tokens": []}
    for _ in range(count):
        mark = watermark(key_length=64)
        text = chains.marked(mark, rng, 12)
        for name, score, proxy in (
            ("log", "log", None),
            ("proxy", by_proxy, chains.proxy),
            ("tokens", by_tokens, None),
        ):
            detector = Detector(mark, scheme="exp-free", score=score, proxy=proxy, threads=1)
            (one,) = detector.detect([text], resamples=199, stop_after=None, seed=1)
            found[name].append(one.p_value <= 0.01)
    share = {name: np.array(hits) for name, hits in found.items()}
    for name in ("proxy", "tokens"):
        gain = int(share[name].sum()) - int(share["log"].sum())
        discordant = int((share[name] != share["log"]).sum())
        assert gain > 3 * math.sqrt(discordant)


# detectors


def test_a_score_or_a_proxy_implies_the_free_scheme(by_proxy, by_tokens):
    mark = watermark()
    for options in (
        {"proxy": chains.proxy},
        {"proxy": chains.proxy, "score": by_proxy},
        {"score": by_tokens},
        {"score": "mixture"},
    ):
        detector = Detector(mark, **options)
        assert detector.statistic.scheme.name == "exp-free"
        assert detector.statistic.gap == (3.0 if "proxy" in options else 1.8)
    assert Detector(mark).statistic.scheme.name == "exp"
    assert Detector(mark, proxy=chains.proxy, scheme="exp-local").statistic.scheme.name == (
        "exp-local"
    )
    local = Watermark.create("exp-local", vocab_size=V, gap=1.0)
    assert Detector(local, score="mixture").statistic.gap == 1.0
    assert Detector(local, proxy=chains.proxy).statistic.gap == 3.0
    assert Detector(local, proxy=chains.proxy, gap=2.0).statistic.gap == 2.0
    with pytest.raises(WatermarkError, match="scheme 'exp' adds up the token cost itself"):
        Detector(mark, proxy=chains.proxy, scheme="exp")


def test_what_does_not_go_together(by_proxy, by_tokens):
    mark = watermark()
    its = Watermark.create("its-free", vocab_size=V)
    with pytest.raises(
        WatermarkError, match="sampler 'exp' alone, and this watermark writes with 'its'"
    ):
        Detector(its, proxy=chains.proxy)
    with pytest.raises(WatermarkError, match="sampler 'exp', but scheme 'its-free'"):
        Detector(its, score=by_tokens)
    with pytest.raises(
        WatermarkError,
        match=r"none is given: use Detector\(..., proxy=...\) or detect --proxy, such as 'toy'",
    ):
        Detector(mark, score=by_proxy)
    for score in ("log", by_tokens):
        with pytest.raises(WatermarkError, match="score is not by a proxy"):
            Detector(mark, score=score, proxy=chains.proxy)
    with pytest.raises(WatermarkError, match="vocabulary of 50 tokens, but the watermark's has 60"):
        Detector(Watermark.create("exp", vocab_size=60), score=by_tokens)
    with pytest.raises(TypeError, match="proxy is a int"):
        Detector(mark, proxy=3)


def test_default_scores_are_those_of_the_package():
    scores = default_scores()
    assert isinstance(scores, ProxyScores)
    assert scores.probabilities.shape == (10, 32)
    assert (scores.origin.model, scores.origin.temperature, scores.origin.top_p) == (
        "smollm2",
        0.7,
        0.9,
    )
    # The more expected a token, the likelier it was; but for the least expected, some of which are the prompt's.
    assert (np.diff(scores.probabilities.mean(1)[1:]) > 0).all()
    assert chosen_scores("exp", V, proxy=chains.proxy).name == scores.name


def test_one_bad_text_costs_no_other():
    """Whatever a proxy does to a text is that text's error."""

    def odd(tokens):
        what = {
            3: lambda: 1 / 0,
            4: lambda: np.zeros(3),
            5: lambda: np.full(len(tokens), np.nan),
            6: lambda: "no",
            7: lambda: None,
            8: lambda: np.zeros((len(tokens), 1)),
            9: lambda: np.full(len(tokens), -np.inf),
        }
        return what.get(int(tokens[0]), lambda: chains.proxy(tokens))()

    detector = Detector(watermark(), proxy=odd)
    texts = [[first, 1, 2, 3] for first in range(2, 11)]
    found = detector.detect(texts, resamples=9, seed=1)
    (good,) = Detector(watermark(), proxy=odd).detect([texts[0]], resamples=9, seed=1)
    assert [one.error is None for one in found] == [True] + [False] * 7 + [True]
    assert good.error is None
    for one, message in zip(
        found[1:8],
        (
            "the proxy cannot read the text: division by zero",
            "numbers of the shape (3,), but must give one for each of 4 tokens",
            "the proxy gives nan for token 0",
            "items of type <U2",
            "items of type object",
            "of the shape (4, 1)",
            "the proxy gives -inf for token 0",
        ),
        strict=True,
    ):
        assert message in one.error
        assert (one.length, one.p_value) == (4, None)


def test_a_text_is_read_once(by_proxy):
    seen = []

    def counted(tokens):
        seen.append(len(tokens))
        tokens[:] = 0  # what a proxy does to its copy is of no account
        return np.zeros(len(tokens), np.float32)

    detector = Detector(watermark(), proxy=counted, score=by_proxy)
    texts = [[1, 2, 3], [4, 5], [1, 2, 3]]
    found = detector.detect(texts, seed=1)
    assert seen == [3, 2]
    assert found[0] == found[2]
    assert detector.detect(texts, seed=1, alignment=True)[1].statistic == found[1].statistic
    assert seen == [3, 2]


def test_the_latest_texts_are_remembered(monkeypatch, by_proxy):
    monkeypatch.setattr("wmcore.learned_scores._REMEMBERED", 10)
    seen = []

    def counted(tokens):
        seen.append(int(tokens[0]))
        return np.zeros(len(tokens))

    scores = by_proxy.read_by(counted)
    texts = [np.array([i] * 5) for i in range(10)]
    for text in texts:
        scores.bins(text)
    for text in texts[-2:]:
        scores.bins(text)
    assert seen == list(range(10))
    scores.bins(texts[0])
    assert seen == [*range(10), 0]


def test_torch_numbers_are_taken(by_proxy):
    import torch

    plain = Detector(watermark(), proxy=chains.proxy, score=by_proxy)
    other = Detector(plain.watermark, proxy=lambda t: torch.tensor(chains.proxy(t)), score=by_proxy)
    text = chains.unmarked(np.random.default_rng(8), 20)
    assert plain.detect([text], seed=1) == other.detect([text], seed=1)


# files


def test_files_give_back_what_was_saved(tmp_path, by_proxy, by_tokens):
    path = tmp_path / "scores.json"
    text = chains.unmarked(np.random.default_rng(9), 20)
    for scores, proxy in ((by_proxy, chains.proxy), (by_tokens, None)):
        scores.save(path)
        again = LearnedScores.load(path)
        assert type(again) is type(scores)
        assert (again.name, again.origin) == (scores.name, scores.origin)
        assert (again.table.density == scores.table.density).all()
        mark = watermark()
        results = [
            Detector(mark, score=score, proxy=proxy).detect([text], seed=1)
            for score in (scores, path, str(path), pickle.loads(pickle.dumps(scores)))
        ]
        assert all(result == results[0] for result in results)
    assert by_proxy.name != by_tokens.name


def altered(fields, **changes):
    return {name: value for name, value in {**fields, **changes}.items() if value != "gone"}


PROXY = [
    {"format": "wmcore.watermark"},
    {"kind": "other"},
    {"kind": "tokens"},
    {"kind": ["proxy"]},
    {"sampler": "its"},
    {"model": 3},
    {"temperature": "warm"},
    {"temperature": math.nan},
    {"top_p": 1.5},
    {"texts": -1},
    {"tokens": 1.5},
    {"edges": "gone"},
    {"edges": [2.0, 1.0]},
    {"edges": [1.0]},
    {"edges": [1.0, math.inf]},
    {"edges": [1.0, 10**400]},
    {"edges": ["1", "2"]},
    {"edges": {"0": 1}},
    {"edges": None},
    {"probabilities": "gone"},
    {"probabilities": [[0.5], [0.5]]},
    {"probabilities": [[0.5], [0.5], [0.0]]},
    {"probabilities": [[0.5], [0.5], [1.5]]},
    {"probabilities": [[0.5], [0.5], [math.nan]]},
    {"probabilities": [[0.5], [0.5], [0.5, 0.5]]},
    {"probabilities": [[0.5], [0.5], ["0.5"]]},
    {"probabilities": [[], [], []]},
    {"probabilities": [[0.5] * 1001] * 3},
    {"probabilities": [[[0.5]], [[0.5]], [[0.5]]]},
    {"probabilities": []},
]
TOKENS = [
    {"token_bins": "gone"},
    {"token_bins": ""},
    {"token_bins": "!"},
    {"token_bins": [0, 1]},
    {"token_bins": "eJwDAAAAAAE="},
    {"vocab_size": 3},
    {"vocab_size": 5},
    {"vocab_size": 2**40},
    {"vocab_size": True},
    {"vocab_size": "gone"},
    {"probabilities": [[0.5]]},
]


@pytest.mark.parametrize("changes", PROXY + TOKENS, ids=repr)
def test_hostile_files_are_refused(tmp_path, changes):
    path = tmp_path / "scores.json"
    if changes in PROXY:
        ProxyScores([[0.1], [0.5], [0.9]], [-1.0, 0.5], ORIGIN).save(path)
    else:
        TokenScores([[0.1], [0.9]], np.array([0, 1, 1, 0], np.uint8), ORIGIN).save(path)
    LearnedScores.load(path)
    path.write_text(json.dumps(altered(json.loads(path.read_text()), **changes)))
    with pytest.raises(
        WatermarkError, match=r"damaged or not of learnt scores .*learn-scores"
    ) as e:
        LearnedScores.load(path)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 400


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b"3", b" " * (1 << 22) + b"{}"]
)
def test_what_is_no_file_of_scores(tmp_path, data):
    path = tmp_path / "scores.json"
    path.write_bytes(data)
    with pytest.raises(WatermarkError, match="no such file"):
        LearnedScores.load(path)


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "none.json", tmp_path, "a\0b.json"):
        with pytest.raises(WatermarkError, match="cannot be read"):
            LearnedScores.load(path)
    path = tmp_path / "scores.json"
    default_scores().save(path)
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "version": 2}))
    with pytest.raises(WatermarkError, match="has version 2, but this wmcore reads version 1"):
        LearnedScores.load(path)


def test_a_packed_vocabulary_unpacks_to_its_size_alone(tmp_path):
    """A small file that would unpack to gigabytes is not unpacked."""
    import base64
    import zlib

    path = tmp_path / "scores.json"
    TokenScores([[0.1]], np.zeros(4, np.uint8), ORIGIN).save(path)
    document = json.loads(path.read_text())
    document["token_bins"] = base64.b64encode(zlib.compress(bytes(1 << 26))).decode()
    path.write_text(json.dumps(document))
    with pytest.raises(WatermarkError, match="token_bins are not those of 4 tokens"):
        LearnedScores.load(path)
