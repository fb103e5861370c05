"""Detection end to end on token ids: the right statistic, one result per text, the same for any split."""

import math
import pickle

import naive
import numpy as np
import pytest
from matrices import PAPER

from wmcore import SCHEMES, Detector, Key, Watermark, WatermarkError
from wmcore.kernels.cpu.sample import exp_sample
from wmcore.plan import Plan

V = 300


def make(scheme="exp-edit", **settings):
    return Watermark.create(scheme, vocab_size=V, **{"key_length": 40, **settings})


def watermarked_tokens(watermark, count, shift, temperature=1.0):
    """Tokens drawn from a flat model with the watermark's exp key."""
    rows = (shift + np.arange(count)) % watermark.key_length
    out = np.empty(count, np.int64)
    logits = np.zeros((count, watermark.vocab_size), np.float32)
    exp_sample(logits, np.float32(1 / temperature), watermark.key.words, 1, rows, out)
    return out


@pytest.mark.parametrize("scheme", PAPER)
@pytest.mark.parametrize("generator", ["torch", "mersenne"])
@pytest.mark.parametrize("block_length", [None, 5])
def test_the_statistic_is_the_published_formula(scheme, generator, block_length):
    if generator == "torch":
        pytest.importorskip("torch")
    n, k = 12, block_length or 14
    watermark = Watermark.published(
        scheme,
        seed=5,
        generator=generator,
        vocab_size=V,
        key_length=n,
        block_length=block_length,
    )
    text = np.random.default_rng(3).integers(0, V, size=14)
    key = watermark.key
    its = watermark.sampler == "its"
    if its:
        rank = np.argsort(key.its_order(V))
        u = key.its_uniforms(n, V).astype(float)
        costs = [[abs(u[j] - rank[v] / V) for j in range(n)] for v in text]
    else:
        xi = key.exp_table(n, V).astype(float)
        costs = [[math.log(1 - xi[j, v]) for j in range(n)] for v in text]
    phi, block, tau = naive.statistic(
        costs,
        list(range(14)),
        k,
        watermark.gap if watermark.statistic.scheme.alignment.gaps else None,
    )
    (found,) = Detector(watermark).detect([text], resamples=1)
    # At most k token costs, each off by half a unit (its: 1.5 units), and 2 k gaps by half a unit.
    unit = watermark.problem().scale
    rounding = k * (1.5 if its else 0.5) / unit + (k / unit if watermark.gap else 0)
    assert found.statistic == pytest.approx(phi, abs=rounding)
    assert (found.block, found.shift) == (block, tau)


@pytest.mark.parametrize("scheme", ["exp", "exp-edit"])
def test_a_watermarked_text_is_found_where_it_starts(scheme):
    watermark = make(scheme, key=Key(b"k" * 32))
    texts = [watermarked_tokens(watermark, 35, shift) for shift in (0, 13, 39)]
    found = Detector(watermark).detect(texts, resamples=199)
    assert [d.p_value for d in found] == [1 / 200] * 3
    assert [d.shift for d in found] == [0, 13, 39]
    assert [d.hits for d in found] == [0] * 3
    # Under another key the same texts are ordinary (a fixed one: by chance, p <= 0.05 happens too).
    other = make(scheme, key=Key(bytes(32)))
    assert min(d.p_value for d in Detector(other).detect(texts, resamples=199, seed=1)) > 0.05


def test_a_block_is_found_inside_ordinary_text():
    watermark = make("exp", block_length=20)
    rng = np.random.default_rng(1)
    part = watermarked_tokens(watermark, 20, 8)
    text = np.concatenate([rng.integers(0, V, 30), part, rng.integers(0, V, 25)])
    (found,) = Detector(watermark).detect([text])
    assert (found.block, found.shift, found.length) == (30, 8, 75)
    assert found.p_value <= Plan().epsilon


def test_one_bad_text_costs_nothing_else():
    watermark = make("exp-edit", key_length=16)
    rng = np.random.default_rng(2)
    texts = [rng.integers(0, V, size=12) for _ in range(1000)]
    good = Detector(watermark).detect(texts, resamples=49, seed=9)
    texts[17], texts[500], texts[999] = [], [5, V, 7], [3]
    found = Detector(watermark).detect(texts, resamples=49, seed=9)
    assert len(found) == 1000
    assert "no tokens" in found[17].error
    assert f"token {V} at position 1 is outside the vocabulary of {V} tokens" in found[500].error
    assert found[17].p_value is found[500].p_value is None
    assert (found[17].length, found[500].length) == (0, 3)
    assert found[999].error is None
    assert 0 < found[999].p_value <= 1
    same = [i for i in range(1000) if i not in (17, 500, 999)]
    assert [found[i] for i in same] == [good[i] for i in same]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ([1.5, 2.0], "integers are needed"),
        ([[1, 2], [3, 4]], "2 dimensions"),
        ([-1], "token -1 at position 0"),
        ([2**70], "not a sequence of token ids"),
        (["a"], "integers are needed"),
        (None, "not a sequence of token ids"),
        (5, "0 dimensions"),
        ("words", "give the Detector a tokenizer"),
        ([True, False], "integers are needed"),
        (np.array([2**63 + 1], np.uint64), "64 bits"),
    ],
)
def test_what_is_said_of_a_bad_text(text, message):
    found, fine = Detector(make()).detect([text, [1, 2]], resamples=9)
    assert message in found.error
    assert found.p_value is None
    assert fine.error is None


def test_a_text_shorter_than_the_block():
    found, fine = Detector(make(block_length=4)).detect([[1, 2, 3], [1, 2, 3, 4]], resamples=9)
    assert found.error.startswith("block_length 4 exceeds the text's 3 tokens")
    assert fine.error is None


def test_a_gap_that_could_overflow_is_refused_for_that_text_only():
    found, fine = Detector(make(gap=1500.0)).detect([np.arange(200), np.arange(20)], resamples=9)
    assert "gap 1500 exceeds" in found.error
    assert fine.error is None


def test_texts_of_every_kind():
    torch = pytest.importorskip("torch")
    detector = Detector(make())
    tokens = [3, 1, 4, 1, 5, 9, 2, 6]
    kinds = [
        tokens,
        tuple(tokens),
        np.array(tokens, np.uint16),
        np.array(tokens * 2)[::2] * 0 + np.array(tokens),
        torch.tensor(tokens),
        torch.tensor(tokens, dtype=torch.int32),
    ]
    found = detector.detect(kinds, seed=4)
    assert len({(d.p_value, d.statistic) for d in found}) == 1
    assert found == detector.detect(torch.tensor([tokens] * 6), seed=4)


def test_strings_need_the_right_tokenizer():
    class Letters:
        def __len__(self):
            return 26

        def __call__(self, text, add_special_tokens):
            assert not add_special_tokens
            return {"input_ids": [ord(c) - 97 for c in text]}

    watermark = Watermark.create("exp", vocab_size=26, key_length=8)
    by_text, by_ids = Detector(watermark, tokenizer=Letters()).detect(
        ["abca", [0, 1, 2, 0]], seed=1
    )
    assert by_text == by_ids


class Tokenizer:
    """Of letters; knows as many as it says, or does not say."""

    def __init__(self, vocab_size=None):
        if vocab_size is not None:
            self.vocab_size = vocab_size

    def __call__(self, text, add_special_tokens):
        return {"input_ids": self.ids(text)}

    def ids(self, text):
        return [ord(c) - 97 for c in text]


def test_only_tokens_that_occur_must_be_of_the_watermark(recwarn):
    watermark = Watermark.create("exp", vocab_size=25, key_length=8)
    by_ids = Detector(watermark).detect([[0, 1, 2, 0], [24]], seed=1)
    for tokenizer in (Tokenizer(), Tokenizer(25)):
        good, bad, last = Detector(watermark, tokenizer=tokenizer).detect(
            ["abca", "yz", "y"], seed=1
        )
        assert [good, last] == by_ids
        assert "token 25 at position 1 is outside the vocabulary of 25 tokens" in bad.error
        assert bad.p_value is None
    assert not recwarn.list
    with pytest.warns(UserWarning, match="the tokenizer knows 26 tokens, but the watermark 25"):
        detector = Detector(watermark, tokenizer=Tokenizer(26))
    assert detector.detect(["abca"], seed=1) == by_ids[:1]


def test_a_tokenizer_with_an_added_token_beyond_the_logits(recwarn):
    tiny = pytest.importorskip("tiny")
    tokenizer = tiny.words(30)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert len(tokenizer) == 31
    watermark = Watermark.create("its", vocab_size=30, key_length=8)
    detector = Detector(watermark, tokenizer=tokenizer)
    assert not [w for w in recwarn.list if "tokenizer" in str(w.message)]
    good, padded = detector.detect(["w1 w29", "w1 [PAD]"], seed=1)
    assert good == detector.detect([[1, 29]], seed=1)[0]
    assert "token 30 at position 1" in padded.error


@pytest.mark.parametrize(
    "ids", [[[0, 1]], [0.5], ["a"], [2**70], [None], None, 3, [True], np.array([1.0])]
)
def test_what_a_tokenizer_gives_is_checked(ids):
    tokenizer = Tokenizer()
    tokenizer.ids = lambda text: ids
    watermark = Watermark.create("exp", vocab_size=25, key_length=8)
    (found,) = Detector(watermark, tokenizer=tokenizer).detect(["a"])
    assert "the tokenizer cannot read the text" in found.error


@pytest.mark.parametrize("scheme", PAPER)
def test_costs_are_looked_at_few_at_a_time(scheme, monkeypatch):
    watermark = make(scheme)
    texts = [
        np.random.default_rng(i).integers(0, V, size=m) for i, m in enumerate([30, 5, 60, 1, 40])
    ]
    expected = Detector(watermark).detect(texts, seed=1, resamples=99)
    asked = []
    for rows in (1, 35, 10**6):
        monkeypatch.setattr("wmcore.engine._COSTS_AT_ONCE", rows * 4 * 40)
        detector = Detector(watermark)
        table = detector.costs.table
        monkeypatch.setattr(
            detector.costs,
            "table",
            lambda t, *rest, table=table: asked.append(len(t)) or table(t, *rest),
        )
        assert detector.detect(texts, seed=1, resamples=99) == expected
        asked.append(None)
    counts = [len(part) for part in "".join("x" if a else " " for a in asked).split()]
    assert counts == [5, 4, 1]


def test_a_text_whose_costs_would_not_fit_is_an_error_of_its_own():
    watermark = Watermark.create("exp", vocab_size=10_000, key_length=2**20, block_length=2)
    detector = Detector(watermark)
    assert detector.engine.error(1024) is None
    assert "the table of costs of 1,025 tokens at 1,048,576 key rows needs 4,299,161,600 bytes" in (
        detector.engine.error(1025)
    )
    assert detector.engine.error(10**6) is not None


@pytest.mark.parametrize("scheme", SCHEMES)
def test_threads_batches_and_order_do_not_matter(scheme):
    watermark = make(scheme)
    rng = np.random.default_rng(5)
    texts = [rng.integers(0, V, size=m) for m in rng.integers(1, 60, size=30)]
    whole = Detector(watermark, threads=2).detect(texts, seed=6, resamples=299)
    assert Detector(watermark, threads=1).detect(texts, seed=6, resamples=299) == whole
    assert Detector(watermark, threads=5).detect(texts[::-1], seed=6, resamples=299) == whole[::-1]
    one_by_one = [Detector(watermark).detect([t], seed=6, resamples=299)[0] for t in texts]
    assert one_by_one == whole


def test_resamples_depend_on_the_seed_only():
    detector = Detector(make())
    texts = [np.arange(20)]
    few, many = (
        detector.detect(texts, seed=1, resamples=t, stop_after=None)[0] for t in (320, 960)
    )
    again = detector.detect(texts, seed=1, resamples=320, stop_after=None)[0]
    assert few == again
    assert few.hits <= many.hits
    assert few.p_value == (1 + few.hits) / 321
    other = detector.detect(texts, seed=2, resamples=960, stop_after=None)[0]
    assert other.hits != many.hits


@pytest.mark.parametrize("scheme", PAPER)
def test_alignment_adds_up_to_the_statistic(scheme):
    watermark = make(scheme, block_length=9)
    text = np.random.default_rng(8).integers(0, V, size=15)
    (found,) = Detector(watermark).detect([text], alignment=True, resamples=9)
    a = found.alignment
    assert a.positions.tolist() == list(range(found.block, found.block + 9))
    gaps = int((a.rows < 0).sum())
    # Two gaps (a token and a row) for each token left out; gamma is rounded to half a unit.
    problem = watermark.problem()
    total = np.nansum(a.costs) + 2 * gaps * problem.gamma / problem.scale
    assert total == pytest.approx(found.statistic, abs=1e-9)
    if not watermark.statistic.scheme.alignment.gaps:
        assert a.rows.tolist() == [(found.shift + i) % 40 for i in range(9)]
    document = found.to_dict()
    assert len(document["alignment"]["costs"]) == 9
    assert "alignment" not in Detector(watermark).detect([text], resamples=9)[0].to_dict()


def test_a_detector_pickles_and_never_shows_its_secret():
    watermark = make()
    detector = Detector(watermark)
    texts = [np.arange(250) % V]
    before = detector.detect(texts, seed=3)
    copy = pickle.loads(pickle.dumps(detector))
    assert copy.detect(texts, seed=3) == before
    assert len(pickle.dumps(detector)) < 2000
    assert watermark.key.secret_hex not in repr(detector)
    assert watermark.fingerprint in repr(detector)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "tpu"}, "backend 'tpu' is not known"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_bad_detector_settings(settings, message):
    with pytest.raises(WatermarkError, match=message):
        Detector(make(), **settings)
    with pytest.raises(TypeError, match="must be a Watermark"):
        Detector("watermark.json")


@pytest.mark.parametrize("seed", ["x", 1.5, True])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(WatermarkError, match="must be a whole number, or None"):
        Detector(make()).detect([[1]], seed=seed)


@pytest.mark.parametrize("name", ["resamples", "stop_after"])
def test_bad_detect_settings(name):
    for value in (0, -1, 1.5, True):
        with pytest.raises(WatermarkError, match=f"{name} is {value}"):
            Detector(make()).detect([[1]], **{name: value})
    with pytest.raises(TypeError, match="one string"):
        Detector(make()).detect("text")


def test_nothing_to_detect():
    assert Detector(make()).detect([]) == []


@pytest.mark.parametrize(
    ("written", "tested"),
    [("exp", "exp-edit"), ("exp-edit", "exp"), ("its", "its-edit"), ("its-edit", "its")],
)
def test_a_text_is_tested_under_any_scheme_of_its_sampler(written, tested):
    """A text of one scheme, with one token missing: tested as a watermark file of the other scheme would."""
    key = Key(b"w" * 32)
    mark = make(written, key=key)
    text = np.delete(watermarked_tokens(mark, 36, 5), 20)
    found = Detector(mark, scheme=tested, gap=None).detect([text], resamples=199, seed=1)
    other = make(tested, key=key)
    assert found == Detector(other).detect([text], resamples=199, seed=1)
    assert found != Detector(mark).detect([text], resamples=199, seed=1)
    edits = [s for s in (written, tested) if SCHEMES[s].alignment.gaps]
    if mark.sampler == "exp":  # tokens of the best exp cost
        again = Detector(mark, scheme=edits[0]).detect([text], resamples=199)
        assert again[0].p_value == 1 / 200


def test_how_to_test_is_chosen_at_detection():
    mark = make("exp-edit", gap=0.5, block_length=7)
    detector = Detector(mark)
    assert detector.statistic == mark.statistic
    other = Detector(mark, gap=1.5, block_length=0)
    assert (other.statistic.gap, other.statistic.block_length) == (1.5, None)
    assert Detector(mark, scheme="exp").statistic.gap == 0.0
    assert Detector(mark, scheme="exp").statistic.block_length == 7
    assert Detector(make("exp"), scheme="exp-edit").statistic.gap == SCHEMES["exp-edit"].gap
    text = np.random.default_rng(2).integers(0, V, size=30)
    same = make("exp-edit", gap=1.5, key=mark.key)
    assert other.detect([text], resamples=50, seed=1) == Detector(same).detect(
        [text], resamples=50, seed=1
    )
    for settings, message in [
        ({"scheme": "its"}, "scheme 'its' tests text of the sampler 'its', but this watermark"),
        ({"scheme": "exp-local-edit"}, "scheme 'exp-local-edit' is not known: use one of exp,"),
        ({"scheme": "exp", "gap": 1.0}, "gap is 1.0, but scheme 'exp' has no edits"),
        ({"gap": -1.0}, "gap is -1.0, but must be a number of at least 0"),
        ({"block_length": -1}, "block_length is -1"),
        ({"block_length": True}, "block_length is True"),
    ]:
        with pytest.raises(WatermarkError, match=message):
            Detector(mark, **settings)


def test_one_text_in_place_of_a_batch():
    for text in ([1, 2, 3], np.array([1, 2, 3])):
        with pytest.raises(TypeError, match="texts is one text of token ids"):
            Detector(make()).detect(text)


def test_any_iterable_of_texts():
    texts = [[1, 2], [3]]
    detector = Detector(make())
    assert detector.detect((t for t in texts), seed=1) == detector.detect(texts, seed=1)


def test_a_tokenizer_or_array_that_raises_costs_one_text():
    class Fragile:
        def __len__(self):
            return 10

        def __call__(self, text, add_special_tokens):
            text.encode()
            return {"input_ids": [1, 2, 3]}

    class Broken:
        def __array__(self, *args, **kwargs):
            raise RuntimeError("no such memory")

    detector = Detector(make(), tokenizer=Fragile())
    good, bad, broken = detector.detect(["fine", "half \ud800 of a pair", Broken()])
    assert good.error is None
    assert "the tokenizer cannot read the text" in bad.error
    assert "no such memory" in broken.error
    assert (bad.method, bad.p_value, bad.hits) == (None, None, 0)


@pytest.mark.parametrize("gap", [1e6, 1e15, 1e300])
def test_gaps_that_are_never_used(gap):
    tokens = [np.arange(150) % V]
    plain = make("exp")
    edits = Watermark.create("exp-edit", vocab_size=V, key_length=40, key=plain.key, gap=gap)
    a, b = (Detector(w).detect(tokens, seed=1) for w in (plain, edits))
    assert a == b


def test_the_environment_can_name_the_backend(monkeypatch):
    monkeypatch.setenv("WMCORE_BACKEND", "nonsense")
    with pytest.raises(WatermarkError, match="WMCORE_BACKEND 'nonsense' is not known"):
        Detector(make())
    assert Detector(make(), backend="cpu").detect([[1]], resamples=1)[0].backend == "cpu"
