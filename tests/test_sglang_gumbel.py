"""The batch detector for SGLang's own watermark: its numbers from the definition, recorded values, and its wheel."""

import importlib
import struct

import naive
import numpy as np
import peers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from wmcore import WatermarkError
from wmcore.bindings.sglang_gumbel import SglangGumbelDetector, stack
from wmcore.kernels.cpu import murmur

# Twenty tokens each, drawn after PROMPT by select_watermark_tokens_torch of SGLang 0.5.23 (100 equal probabilities, key
# A; keys A and B, mixing probability 0.3), and what its WatermarkDetector says of them: the combined score, log_p_value
# and contexts. Recorded by running the wheel's own files.
A, B = "0123456789abcdef", "0xFEDCBA9876543210"
PROMPT = [11, 12]
TEXT = [64, 20, 40, 86, 24, 62, 76, 94, 7, 0, 62, 43, 79, 28, 39, 35, 74, 26, 16, 83]
BOTH = [64, 5, 18, 59, 79, 97, 20, 24, 38, 63, 95, 34, 41, 36, 21, 6, 28, 3, 49, 67]
REPEATS = [5] * 12 + [0, 4294967295]
DUAL = {"key": A, "key_b": B, "mixing_probability": 0.3}
RECORDED = [
    (TEXT, PROMPT, {"key": A}, 105.15098365445284, -55.84151165221878, 20),
    (TEXT, None, {"key": A}, 82.91372897221312, -44.34956490943088, 16),
    (TEXT, PROMPT, {"key": B}, 13.641244655318658, -0.06483409540200524, 20),
    (TEXT, PROMPT, {"key": A, "max_contexts": 7}, 37.77818391700523, -22.39962148488651, 7),
    (BOTH, PROMPT, DUAL, 103.21664965851913, -54.25592413596817, 20),
    (BOTH, PROMPT, {"key": A}, 59.722743456226056, -20.98582260964471, 20),
    (REPEATS, [5] * 3, {"key": "7", "context_window": 2}, 2.462870225493924, -1.2207724353660907, 2),
    (REPEATS, None, {"key": A, "key_b": "7", "context_window": 64}, 0.0, 0.0, 0),
    (TEXT * 60, PROMPT, {"key": "7", "context_window": 7}, 24.252317693581162, -0.3776196107199081, 27),
]  # fmt: skip

TOKENS = st.integers(0, 3) | st.integers(0, 2**32 - 1)
DOCUMENTS = st.lists(
    st.tuples(st.lists(TOKENS, max_size=40), st.lists(TOKENS, max_size=7)), max_size=5
)
KEYS = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize(("text", "prompt", "config", "score", "log_p", "counted"), RECORDED)
def test_recorded_values(text, prompt, config, score, log_p, counted):
    (found,) = SglangGumbelDetector(**config).detect([text], [prompt])
    assert found.score == pytest.approx(score, rel=1e-12)
    assert found.log_p_value == pytest.approx(log_p, rel=1e-10, abs=1e-12)
    assert found.p_value == pytest.approx(np.exp(log_p), rel=1e-9)
    assert found.num_scored_tokens == counted
    assert found.is_watermarked == (log_p <= np.log(0.01))


@pytest.mark.parametrize(
    ("words", "known"),
    [
        ([], 0),
        ([0], 0x2362F9DE),
        ([0xFFFFFFFF], 0x76293B50),
        ([0x87654321], 0xF55B516B),
        ([int.from_bytes(b"test", "little")], 0xBA6BD213),
    ],
)
def test_murmur_known_answers(words, known):
    """MurmurHash3 x86 32-bit with seed 0, as test vectors of other implementations have it."""
    state = np.uint32(0)
    for word in words:
        state = murmur.mix(state, np.uint32(word))
    assert murmur.final(state, len(words)) == known
    assert naive.murmur3(struct.pack(f"<{len(words)}I", *words)) == known


@settings(max_examples=200)
@given(
    DOCUMENTS,
    st.integers(1, 9),
    st.lists(KEYS, min_size=1, max_size=2),
    st.floats(0, 1, exclude_min=True, exclude_max=True),
    st.integers(1, 12) | st.just(4096),
)
def test_scores_equal_the_definition(documents, window, keys, share, most):
    detector = SglangGumbelDetector(
        f"{keys[0]:x}",
        window,
        key_b=f"{keys[1]:x}" if len(keys) == 2 else None,
        mixing_probability=share,
        max_contexts=most,
        threads=2,
    )
    batch, prompts = [text for text, _ in documents], [prompt for _, prompt in documents]
    for (text, prompt), found in zip(documents, detector.detect(batch, prompts), strict=True):
        score, counted = naive.sglang_score(text, prompt[-window:], window, keys, share, most)
        assert found.num_scored_tokens == counted
        assert found.score == pytest.approx(score, rel=1e-12)
        assert found.error is None


def test_p_values_are_uniform_without_the_watermark():
    rng = np.random.default_rng(1)
    texts, prompts = list(rng.integers(0, 1000, (2000, 30))), list(rng.integers(0, 1000, (2000, 4)))
    for config in ({"key": A}, {"key": A, "key_b": B}):
        for before in (None, prompts):
            found = stack(SglangGumbelDetector(**config).detect(texts, before))
            assert set(found["num_scored_tokens"]) == {26 if before is None else 30}
            # Kolmogorov-Smirnov: below 1e-4 once in 10,000 such tests, with fixed seeds.
            assert stats.kstest(found["p_value"], "uniform").pvalue > 1e-4
            assert 0 < found["is_watermarked"].mean() < 0.03


def test_a_text_is_found_without_its_start_and_not_with_another_key_or_window():
    hidden = list(range(50)) + TEXT + list(range(50))
    found = [
        SglangGumbelDetector(**{"key": A, **change}).detect([hidden])[0]
        for change in ({}, {"key": "1"}, {"context_window": 5})
    ]
    assert [one.is_watermarked for one in found] == [True, False, False]


def test_a_key_is_worth_32_bits():
    """Stated in docs/bindings/sglang.md: every key acts as one of eight hexadecimal digits."""
    key = int(A, 16)
    goal = murmur.mix(murmur.mix(np.uint32(0), np.uint32(key & 0xFFFFFFFF)), np.uint32(key >> 32))

    def undone(state):
        state = (int(state) - 0xE6546B64) * pow(5, -1, 2**32) % 2**32
        return (state >> 13 | state << 19) % 2**32

    word = undone(undone(goal)) * pow(0x1B873593, -1, 2**32) % 2**32
    short = (word >> 15 | word << 17) * pow(0xCC9E2D51, -1, 2**32) % 2**32
    for more in ({}, {"key_b": B, "mixing_probability": 0.3}):
        wanted = SglangGumbelDetector(A, **more).detect([TEXT, BOTH])
        assert SglangGumbelDetector(f"{short:08x}", **more).detect([TEXT, BOTH]) == wanted


def test_any_array_and_one_bad_document():
    text = np.array(TEXT)
    batch = [TEXT, text, torch.tensor(TEXT), text.astype(np.uint16), np.repeat(text, 2)[::2]]
    bad = [[-1], [2**32], [0.5], "text", [[1]]]
    found = SglangGumbelDetector(A).detect([*batch, *bad])
    assert len({one.score for one in found[:5]}) == 1
    for one in found[5:]:
        assert "the document is not a sequence of token ids" in one.error
        assert (one.p_value, one.is_watermarked, one.num_scored_tokens) == (1.0, False, 0)
    good, other = SglangGumbelDetector(A).detect([TEXT, TEXT], [torch.tensor(PROMPT), [2**32]])
    assert good.num_scored_tokens == 20
    assert other.error.startswith("the prompt is not a sequence of token ids: a token is outside 0")
    assert SglangGumbelDetector(A).detect([]) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": ""}, "key is not a string of 1 to 16 hexadecimal digits"),
        ({"key": "0x"}, "key is not a string"),
        ({"key": "12345678901234567"}, "key is not a string"),
        ({"key": 42}, "key is not a string"),
        ({"key_b": "1_0"}, "key_b is not a string"),
        ({"context_window": 65}, "context_window is 65"),
        ({"max_contexts": 4097}, "max_contexts is 4097"),
        ({"p_value_threshold": 1.0}, "p_value_threshold 1.0 is outside"),
        ({"mixing_probability": 0}, "mixing_probability 0 is outside"),
        ({"mixing_probability": 1.5}, "mixing_probability is 1.5"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(WatermarkError, match=message):
        SglangGumbelDetector(**{"key": A, **change})


def test_a_prompt_for_each_document():
    with pytest.raises(WatermarkError, match="there are 2 prompts for 1 documents"):
        SglangGumbelDetector(A).detect([TEXT], [None, None])


def drawn(theirs, probabilities, prompt, config):
    """A text of SGLang's own sampling functions, the context of each token new or drawn from without the watermark."""
    core = importlib.import_module(f"{theirs.__name__}.core")
    names = ("key", "key_b")
    keys = [
        torch.tensor([core.parse_watermark_key(config[name])]) for name in names if name in config
    ]
    if len(keys) == 2:
        keys.append(torch.tensor([int(config["mixing_probability"] * 2**32)]))
    tokens, seen = list(prompt), set()
    for row in probabilities:
        context = torch.tensor([tokens[-4:]])
        hashed = core._hash_contexts(context, torch.tensor([context.shape[1]]))
        token = core.select_watermark_tokens_torch(row[None], hashed, *keys)
        if int(hashed) in seen:
            token = torch.multinomial(row, 1, generator=torch.Generator().manual_seed(len(tokens)))
        seen.add(int(hashed))
        tokens.append(int(token))
    return tokens[len(prompt) :]


def test_scores_are_sglangs_own():
    """Against the detector in an unpacked wheel, given by WMCORE_SGLANG, on random texts and those of its sampler."""
    theirs = peers.sglang_watermarking()
    if theirs is None:
        pytest.skip("WMCORE_SGLANG names no unpacked SGLang wheel")
    rng = np.random.default_rng(3)
    rows = torch.softmax(torch.randn(5000, 30, generator=torch.Generator().manual_seed(4)), dim=-1)
    marked = []
    for config in ({"key": A}, DUAL):
        texts = [drawn(theirs, rows[:n], PROMPT, config) for n in (40, 5000)]
        for one in SglangGumbelDetector(**config).detect(texts, [PROMPT] * 2):
            assert one.log_p_value < -20
        marked += texts
    texts = [*marked, REPEATS, [], [2**32 - 1, 0], rng.integers(0, 3, 300).tolist(), *[[7] * 9] * 2]
    prompts = [*[PROMPT] * 4, None, None, [1], [0, 1, 2], [7], [7] * 80]
    for window in (1, 4, 7, 64):
        for config in ({"key": A}, {"key": "0Xf"}, DUAL, {"key": A, "max_contexts": 9}):
            config = {"context_window": window, **config}
            detector = theirs.WatermarkDetector(**config)
            found = SglangGumbelDetector(**config).detect(texts, prompts)
            for text, prompt, one in zip(texts, prompts, found, strict=True):
                wanted = detector.detect_tokens(text, prompt_token_ids=prompt or ()).combined
                assert one.num_scored_tokens == wanted.num_contexts
                assert one.score == pytest.approx(wanted.score, rel=1e-12)
                assert one.log_p_value == pytest.approx(wanted.log_p_value, rel=1e-9, abs=1e-9)
                assert one.p_value == pytest.approx(wanted.p_value, rel=1e-8)
