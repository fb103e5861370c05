"""Keys: secrets that stay secret, and the numbers of the published code."""

import hmac
import math
import pickle
import re
import tracemalloc

import naive
import numpy as np
import pytest

from wmcore import Detector, Key, PublishedKey, WatermarkError
from wmcore.kernels import resolve
from wmcore.watermark import Watermark

SECRET = bytes(range(32))


def test_generated_keys_differ_and_have_256_bits():
    keys = [Key.generate() for _ in range(20)]
    assert len({key.secret_hex for key in keys}) == 20
    assert all(len(key.secret_hex) == 64 for key in keys)
    assert keys[0].words.dtype == np.uint32
    assert keys[0].words.shape == (8,)


@pytest.mark.parametrize("secret", [b"", bytes(31), bytes(33), "00" * 32])
def test_a_secret_of_another_size_is_refused(secret):
    with pytest.raises(WatermarkError, match="needs exactly 32"):
        Key(secret)


def test_derived_keys_are_independent_and_stable():
    key = Key(SECRET)
    assert key.derive("a") == Key(SECRET).derive("a")
    derived = {key.secret_hex, *(key.derive(x).secret_hex for x in ("", "a", "b", "ab", "ä"))}
    assert len(derived) == 6
    assert key.derive("a").derive("b") != key.derive("ab")


def test_a_label_is_the_same_however_it_is_typed():
    key = Key(SECRET)
    assert key.derive("caf\u00e9") == key.derive("cafe\u0301") == key.derive("caf\u00e9")
    assert key.derive("\u212b") == key.derive("\u00c5") == key.derive("A\u030a")
    assert (
        len(
            {
                key.derive(label)
                for label in ("caf\u00e9", "cafe", "Caf\u00e9", "caf\u00e9 ", "ﬁ", "fi")
            }
        )
        == 6
    )
    message = b"wmcore derive\x00caf\xc3\xa9"
    assert key.derive("cafe\u0301").secret_hex == hmac.new(SECRET, message, "sha256").hexdigest()


@pytest.mark.parametrize("label", ["\ud800", "a\udfffb", "\ude00\ud83d", "\ud800" * 1000])
def test_a_label_that_is_no_text_is_one_sentence(label):
    for key in (Key(SECRET), PublishedKey(1)):
        with pytest.raises(WatermarkError, match=r"^label '") as error:
            key.derive(label)
        str(error.value).encode()
        assert len(str(error.value)) < 200
    for other in (None, 3, b"a"):
        with pytest.raises(WatermarkError, match="label"):
            Key(SECRET).derive(other)


def test_a_published_key_has_no_sub_keys():
    with pytest.raises(WatermarkError, match="label 'a' asks for a sub-key"):
        PublishedKey(1).derive("a")


HUGE = 2**31 - 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda s, **n: Watermark.create(s, **n), "the permutation of an its key for vocab_size 2,147,483,647 needs"),
        (lambda s, **n: Watermark.published(s, seed=1, generator="torch", **n), "the permutation of an its key"),
        (lambda s, **n: Watermark.published(s, seed=1, generator="mersenne", **n), "the permutation of an its key"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("scheme", ["its", "its-edit"])
def test_the_permutation_is_refused_before_it_takes_memory(make, said, scheme):
    watermark = make(scheme, vocab_size=HUGE, key_length=4)
    refused(said, lambda: Detector(watermark))
    refused(said, lambda: watermark.key.numbers("its", 4, HUGE))
    refused(said, lambda: watermark.key.its_order(HUGE))


@pytest.mark.parametrize("generator", ["torch", "mersenne"])
@pytest.mark.parametrize(
    ("vocab_size", "key_length"), [(HUGE, 1), (2**16, 2**20), (300_000, 2**12)]
)
def test_the_published_table_is_refused_before_it_takes_memory(generator, vocab_size, key_length):
    watermark = Watermark.published(
        "exp", seed=1, generator=generator, vocab_size=vocab_size, key_length=key_length
    )
    said = (
        f"{key_length:,} rows of {vocab_size:,} tokens, needs {4 * vocab_size * key_length:,} bytes"
    )
    refused(said, lambda: Detector(watermark))
    refused(said, lambda: watermark.key.numbers("exp", key_length, vocab_size))
    refused(said, lambda: watermark.key.exp_table(key_length, vocab_size))


def refused(said, call):
    tracemalloc.start()
    try:
        with pytest.raises(WatermarkError, match=re.escape(said)):
            call()
        assert tracemalloc.get_traced_memory()[1] < 1 << 27  # the imports
    finally:
        tracemalloc.stop()


def test_a_secret_exp_key_needs_no_table():
    watermark = Watermark.create("exp", vocab_size=HUGE, key_length=4)
    (found,) = Detector(watermark).detect([[HUGE - 1, 0, 5]], resamples=9)
    assert found.error is None


def test_the_secret_never_shows():
    key = Key(SECRET)
    for text in (
        repr(key),
        str(key),
        key.fingerprint,
        f"{Watermark.create('exp', vocab_size=5, key=key)}",
    ):
        assert key.secret_hex not in text
        assert key.secret_hex[:16] not in text
    assert repr(key) == f"Key({key.fingerprint})"
    assert repr(PublishedKey(123456789, "torch")).find("123456789") < 0
    with pytest.raises(WatermarkError) as error:
        Key.from_hex(key.secret_hex + "zz")
    assert key.secret_hex not in str(error.value)


def test_keys_pickle_without_their_tables():
    key = PublishedKey(3, "mersenne")
    key.exp_table(50, 200)
    data = pickle.dumps(key)
    assert len(data) < 500
    assert pickle.loads(data) == key
    assert pickle.loads(pickle.dumps(Key(SECRET))) == Key(SECRET)


def test_key_words_equal_the_twin():
    key, n, vocab_size = Key(SECRET), 20, 600
    words = np.frombuffer(SECRET, "<u4")
    u = [naive.chacha_block(words, j // 16, 2, 0, 8)[j % 16] for j in range(n)]
    assert key.its_words(n).tolist() == u
    draws = [naive.chacha_block(words, v // 16, 3, 0, 8)[v % 16] for v in range(vocab_size)]
    order = key.its_order(vocab_size)
    assert order.tolist() == sorted(range(vocab_size), key=lambda v: draws[v])
    assert order.dtype == np.int32


def published_mersenne(seed):
    """MT19937 straight from its definition (Matsumoto and Nishimura 1998), as a generator of 32-bit words."""
    state = [seed]
    for i in range(1, 624):
        state.append((1812433253 * (state[-1] ^ state[-1] >> 30) + i) & 0xFFFFFFFF)
    while True:
        for i in range(624):
            y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7FFFFFFF)
            state[i] = state[(i + 397) % 624] ^ (y >> 1) ^ (0x9908B0DF if y & 1 else 0)
        for word in state:
            y = word ^ (word >> 11)
            y ^= (y << 7) & 0x9D2C5680
            y ^= (y << 15) & 0xEFC60000
            yield y ^ (y >> 18)


@pytest.mark.parametrize("seed", [0, 42, 2**32 - 1])
def test_mersenne_keys_equal_the_published_numbers(seed):
    words = published_mersenne(seed)
    xi = PublishedKey(seed, "mersenne").exp_table(30, 100)
    expected = np.array([next(words) / 4294967296.0 for _ in range(3000)], np.float32)
    assert (xi.reshape(-1) == expected).all()

    words = published_mersenne(seed)
    order = list(range(77))
    for i in range(76, 0, -1):
        j = next(words) % i
        order[i], order[j] = order[j], order[i]
    key = PublishedKey(seed, "mersenne")
    assert key.its_order(77).tolist() == order
    expected = np.array([next(words) / 4294967296.0 for _ in range(9)], np.float32)
    assert (key.its_uniforms(9, 77) == expected).all()


def test_mersenne_keys_stay_below_one():
    # Demo keys 40 and 41 hold a uniform that rounds to 1.0 in float32 (n = 256, V = 50,272).
    xi = PublishedKey(40, "mersenne").exp_table(256, 50272)
    assert xi.max() == np.float32(1 - 2.0**-24)
    raw = np.random.RandomState(40).bytes(4 * xi.size)
    unclamped = (np.frombuffer(raw, "<u4") / 4294967296.0).astype(np.float32).reshape(xi.shape)
    assert (unclamped == 1).sum() >= 1
    assert (xi[unclamped < 1] == unclamped[unclamped < 1]).all()


def test_torch_keys_equal_the_published_numbers():
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(42)
    xi = torch.rand((20, 300), generator=generator)
    assert (PublishedKey(42, "torch").exp_table(20, 300) == xi.numpy()).all()
    generator.manual_seed(42)
    pi = torch.randperm(300, generator=generator)
    xi = torch.rand((20, 1), generator=generator)
    key = PublishedKey(42, "torch")
    assert (key.its_order(300) == pi.numpy()).all()
    assert (key.its_uniforms(20, 300) == xi.numpy()[:, 0]).all()
    assert (
        key.numbers("its", 20, 300).words == np.floor(xi.numpy()[:, 0].astype(float) * 2**32)
    ).all()


@pytest.mark.parametrize(
    ("seed", "generator", "message"),
    [(1, "philox", "not known"), (-1, "torch", "outside"), (2**32, "mersenne", "outside 0")],
)
def test_bad_published_keys(seed, generator, message):
    with pytest.raises(WatermarkError, match=message):
        PublishedKey(seed, generator)


def source_costs(watermark, tokens):
    source = watermark.key.costs(watermark.problem())
    backend = resolve("cpu")
    return backend.gather(source.table(np.asarray(tokens), backend, 1), watermark.key_length)


def test_exp_costs_are_the_same_with_and_without_the_table():
    watermark = Watermark.create("exp", vocab_size=700, key_length=20, key=Key(SECRET))
    tokens = np.arange(700)
    source = watermark.key.costs(watermark.problem())
    few, rows = source.table(tokens[:9], resolve("cpu"), 1)
    assert few.shape[0] == 9
    table, table_rows = source.table(tokens, resolve("cpu"), 2)
    assert table.shape[0] >= 700
    assert (few[rows][:, :20] == table[table_rows[:9]][:, :20]).all()
    word = naive.exp_key_word(np.frombuffer(SECRET, "<u4"), 1, 7, 300)
    assert abs(table[300, 7] - 4096 * naive.exp_cost_nats(word)) <= 0.52


def test_its_costs_equal_the_twin():
    watermark = Watermark.create("its", vocab_size=50, key_length=20, key=Key(SECRET))
    found = source_costs(watermark, np.arange(50))
    words = Key(SECRET).its_words(20)
    rank = {int(v): r for r, v in enumerate(Key(SECRET).its_order(50))}
    for v in range(50):
        expected = [naive.its_cost_units(word, rank[v], 49) for word in words]
        assert found[v].tolist() == expected


@pytest.mark.parametrize("generator", ["torch", "mersenne"])
def test_published_costs_are_the_published_formulas_rounded(generator):
    if generator == "torch":
        pytest.importorskip("torch")
    tokens = np.arange(90)
    exp = Watermark.published("exp", seed=7, generator=generator, vocab_size=90, key_length=12)
    xi = exp.key.exp_table(12, 90).astype(float)
    expected = np.array([[math.log(1 - xi[j, v]) for j in range(12)] for v in tokens])
    assert np.abs(source_costs(exp, tokens) / 4096 - expected).max() <= 0.5 / 4096 + 1e-12

    its = Watermark.published("its", seed=7, generator=generator, vocab_size=90, key_length=12)
    u = its.key.its_uniforms(12, 90).astype(float)
    rank = np.argsort(its.key.its_order(90))
    expected = np.abs(u[None, :] - rank[:, None] / 90)
    # u is cut to 16 bits (up to a unit), eta rounded (half a unit).
    assert np.abs(source_costs(its, tokens) / 65536 - expected).max() <= 1.5 / 65536
