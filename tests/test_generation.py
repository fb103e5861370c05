"""The generation loop on tiny random models: its logic, and the law of its texts."""

import math

import naive
import numpy as np
import pytest
import tiny
import torch
from scipy import stats
from transformers import GPT2Config, GPT2LMHeadModel

from wmcore.detect import Detector
from wmcore.errors import WatermarkError
from wmcore.generation import Generation, _Loop, generate
from wmcore.kernels.constants import DOMAIN_EXP
from wmcore.key import Key
from wmcore.watermark import Watermark

VOCAB = 300
PROMPTS = [[5, 6, 7], [9], [1, 2, 3, 4, 5, 6, 7, 8], [20, 21], [30, 31, 32, 33], [7, 7, 7], [250]]


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def watermark_of(scheme, vocab_size=VOCAB, key_length=64, seed=1, generator=None):
    """A watermark with a fixed key: our own, or the published code's when a generator is named."""
    sizes = {"vocab_size": vocab_size, "key_length": key_length}
    if generator is not None:
        return Watermark.published(scheme, seed=seed, generator=generator, **sizes)
    return Watermark.create(scheme, key=Key(bytes([seed] * 32)), **sizes)


def llama(vocab_size=VOCAB, **settings):
    return tiny.llama(
        vocab_size, **{"max_position_embeddings": 128, "pad_token_id": None, **settings}
    )


def gpt2(**settings):
    torch.manual_seed(4)
    config = GPT2Config(
        vocab_size=VOCAB,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=128,
        initializer_range=0.3,
        **{"eos_token_id": None, "bos_token_id": None, **settings},
    )
    return GPT2LMHeadModel(config).double().eval()


MODELS = {"llama": llama, "gpt2": gpt2}


def next_logits(model, ids):
    """Without cache, batch or padding."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1].double().numpy()


def naive_text(model, prompt, watermark, shift, length, temperature=1.0):
    """Algorithm 1 of the paper in plain steps."""
    ids = list(prompt)
    for i in range(length):
        row = (shift + i) % watermark.key_length
        logits = next_logits(model, ids)[: watermark.vocab_size] / temperature
        if watermark.scheme.startswith("its"):
            weights = naive.its_weights(logits.tolist(), 1.0)
            order = watermark.key.its_order(watermark.vocab_size)
            word = watermark.key.its_words(watermark.key_length)[row]
            ids.append(naive.its_token(weights, order, word))
        else:
            words = [
                naive.exp_key_word(watermark.key.words, DOMAIN_EXP, row, v)
                for v in range(watermark.vocab_size)
            ]
            ids.append(int(np.argmax(naive.exp_scores(logits.tolist(), 1.0, words))))
    return ids[len(prompt) :]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scheme", ["exp", "its"])
def test_equals_the_paper_step_by_step(name, scheme):
    """Prompts of unequal length in one padded batch, with cache; shifts wrap around the key."""
    model, mark = MODELS[name](), watermark_of(scheme, key_length=9)
    shifts = [0, 8, 3, 5, 1, 2, 7]
    made = generate(model, PROMPTS, mark, max_new_tokens=6, shifts=shifts, temperature=0.7)
    for prompt, shift, one in zip(PROMPTS, shifts, made, strict=True):
        assert one.tokens == naive_text(model, prompt, mark, shift, 6, 0.7)
        assert (one.prompt, one.shift, one.text) == (prompt, shift, None)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scheme", ["exp", "its-edit", None])
@pytest.mark.parametrize("batch_size", [2, 16])
def test_batch_size_changes_nothing(name, scheme, batch_size):
    model = MODELS[name](eos_token_id=list(range(20)))
    mark = scheme and watermark_of(scheme)
    settings = {"max_new_tokens": 20, "seed": 11}
    alone = generate(model, PROMPTS, mark, batch_size=1, **settings)
    assert generate(model, PROMPTS, mark, batch_size=batch_size, **settings) == alone
    assert len({len(one.tokens) for one in alone}) > 1  # some met the end early
    assert generate(model, PROMPTS[:2], mark, **settings) == alone[:2]


def test_each_text_is_handed_out_once_as_soon_as_it_is_finished():
    model, mark = llama(eos_token_id=list(range(20))), watermark_of("exp")
    seen = []
    made = generate(
        model,
        PROMPTS,
        mark,
        max_new_tokens=20,
        batch_size=4,
        seed=11,
        on_done=lambda *pair: seen.append(pair),
    )
    assert sorted(i for i, _ in seen) == list(range(len(PROMPTS)))
    assert all(one is made[i] for i, one in seen)
    batches = [[2, 4, 0, 5], [3, 1, 6]]  # the longest first
    assert [sorted(i for i, _ in part) for part in (seen[:4], seen[4:])] == [*map(sorted, batches)]
    lengths = [len(one.tokens) for _, one in seen]
    assert lengths[:4] == sorted(lengths[:4])
    assert lengths[4:] == sorted(lengths[4:])
    assert [len(made[i].tokens) for batch in batches for i in batch] != lengths


def test_eos_ends_a_text_and_is_kept():
    endings = set(range(0, VOCAB, 10))
    model, mark = llama(eos_token_id=sorted(endings)), watermark_of("exp")
    full = generate(model, PROMPTS, mark, max_new_tokens=30, seed=2, eos=False)
    made = generate(model, PROMPTS, mark, max_new_tokens=30, seed=2)
    for whole, one in zip(full, made, strict=True):
        assert len(whole.tokens) == 30
        stop = next((i for i, t in enumerate(whole.tokens) if t in endings), 29)
        assert one.tokens == whole.tokens[: stop + 1]
    assert min(len(one.tokens) for one in made) < 30


@pytest.mark.parametrize("steps", [2, 7, 100])
def test_reading_tokens_later_changes_nothing(monkeypatch, steps):
    """On a CUDA device tokens are looked at every few steps; what follows a text's end is dropped."""
    model, mark = llama(eos_token_id=list(range(20))), watermark_of("exp")
    settings = {"max_new_tokens": 20, "seed": 11}
    expected = generate(model, PROMPTS, mark, **settings)
    assert len({len(one.tokens) for one in expected}) > 1
    monkeypatch.setattr(_Loop, "read_every", staticmethod(lambda device: steps))
    assert generate(model, PROMPTS, mark, **settings) == expected


def test_only_tokens_before_the_end_must_have_a_distribution():
    loop = _Loop(None, None, 64, 5, frozenset([7]))
    texts = [[], []]
    left = loop._read(torch.tensor([[3, 7, -1], [4, 5, 6]]), np.arange(2), texts)
    assert (left.tolist(), texts) == ([1], [[3, 7], [4, 5, 6]])
    with pytest.raises(WatermarkError, match="no token to draw"):
        loop._read(torch.tensor([[3, -1, 7]]), np.arange(1), texts)


def test_seeds_shifts_and_fresh_draws():
    model, mark = llama(), watermark_of("exp", key_length=50)
    settings = {"max_new_tokens": 12}
    same = [generate(model, [[1]] * 40, mark, seed=s, **settings) for s in (1, 1, 2, None)]
    assert same[0] == same[1] != same[2]
    shifts = [one.shift for one in same[0]]
    assert set(shifts) <= set(range(50))
    assert len(set(shifts)) > 10
    assert len({tuple(one.tokens) for one in same[0]}) == len(set(shifts))
    plain = [generate(model, [[1]] * 4, None, seed=s, **settings) for s in (1, 1, 2, None, None)]
    assert plain[0] == plain[1]
    assert len({tuple(one.tokens) for made in plain[1:] for one in made}) == 16
    assert plain[0][0].shift is None
    fixed = generate(model, [[1]] * 2, mark, shifts=7, **settings)
    assert fixed[0].tokens == fixed[1].tokens
    assert fixed[0].shift == 7


def test_logits_beyond_the_vocabulary_are_cut():
    model = llama()
    made = generate(model, PROMPTS, watermark_of("exp", 11), max_new_tokens=20, seed=1)
    assert max(t for one in made for t in one.tokens) < 11
    with pytest.raises(WatermarkError, match=r"vocab_size 301 exceeds the model's 300 logits"):
        generate(model, PROMPTS, watermark_of("exp", 301), max_new_tokens=2)


def test_warns_beyond_the_generation_budget():
    with pytest.warns(UserWarning, match="max_new_tokens 9 exceeds the key length 8"):
        made = generate(llama(), [[1]], watermark_of("exp", key_length=8), max_new_tokens=9)
    assert len(made[0].tokens) == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0, but must be"),
        ({"batch_size": 0}, "batch_size is 0, but must be"),
        ({"temperature": 0.0}, "temperature is 0, but must be above it"),
        ({"temperature": -1.0}, "temperature is -1.0, but must be"),
        ({"temperature": math.nan}, "temperature is nan, but must be"),
        ({"temperature": math.inf}, "temperature is inf, but must be"),
        ({"temperature": "hot"}, "temperature is 'hot', but must be"),
        ({"top_k": 0}, "top_k is 0, but must be"),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5, but must be"),
        ({"seed": -1}, "seed is -1, but must be"),
        ({"seed": 1.0}, "seed is 1.0, but must be"),
        ({"top_k": True}, "top_k is True, but must be"),
        ({"top_p": 0.0}, "top_p is 0, but must be above it"),
        ({"top_p": 1.5}, "top_p is 1.5, but must be"),
        ({"shifts": [1]}, "1 given for 2 prompts"),
        ({"shifts": [0, 64]}, "shifts is 64, but must be a whole number from 0 to 63"),
        ({"shifts": -1}, "shifts is -1, but must be"),
        ({"shifts": [0, 1.5]}, "shifts is 1.5, but must be"),
        ({"shifts": np.array([True, False])}, "shifts is True, but must be"),
        ({"prompts": ["text", [1]]}, "prompt 0 is a string"),
        ({"watermark": None, "shifts": 0}, "no key to shift"),
    ],
)
def test_bad_settings_are_named_before_any_work(change, message):
    settings = {"prompts": [[1], [2]], "watermark": watermark_of("exp"), "max_new_tokens": 2}
    settings |= change
    prompts, mark = settings.pop("prompts"), settings.pop("watermark")
    with pytest.raises(WatermarkError, match=message):
        generate(llama(), prompts, mark, on_done=lambda *_: pytest.fail("begun"), **settings)


def test_a_bad_prompt_does_not_end_the_others():
    bad = {
        0: (
            [1] * 120,
            "has 120 tokens: with max_new_tokens 9 they exceed the model's 128 positions",
        ),
        2: ([], "has no tokens"),
        3: ([300], "has a token outside the model's 0 to 299"),
        5: ([1.5, 2.0], "cannot be read"),
        6: (7, "cannot be read"),
        7: (None, "cannot be read"),
        8: ([2**63], "cannot be read"),
        9: (["a"], "cannot be read"),
    }
    good = iter(PROMPTS)
    prompts = [bad[i][0] if i in bad else next(good) for i in range(12)]
    seen, mark, settings = [], watermark_of("exp"), {"max_new_tokens": 9}
    shifts = list(range(12))
    made = generate(
        llama(), prompts, mark, shifts=shifts, on_done=lambda i, _: seen.append(i), **settings
    )
    assert sorted(seen) == shifts
    for i, (prompt, message) in bad.items():
        assert made[i] == Generation(prompt, None, [], None, made[i].error)
        assert made[i].error.startswith(f"prompt {i} {message}")
    rest = [i for i in shifts if i not in bad]
    assert [made[i] for i in rest] == generate(
        llama(), [prompts[i] for i in rest], mark, shifts=rest, **settings
    )
    assert all(made[i].error is None for i in rest)
    alone = generate(llama(), [[300], []], mark, **settings)
    assert [len(one.tokens) for one in alone] == [0, 0]
    assert None not in [one.error for one in alone]


def test_a_text_that_is_no_text_is_one_prompts_error():
    prompts = ["w5 w6", "\ud800", "w7"]
    made = generate(
        llama(), prompts, watermark_of("exp"), max_new_tokens=3, tokenizer=tiny.words(VOCAB)
    )
    assert [one.error is None for one in made] == [True, False, True]
    assert [len(one.tokens) for one in made] == [3, 0, 3]
    assert made[1].text is None
    assert made[2].text.startswith("w")


def test_numpy_numbers_do_not_wrap():
    """uint8 counts would wrap at 256, in rows, draws and columns."""
    model, mark = llama(max_position_embeddings=512), watermark_of("exp", key_length=700)
    count = 250
    plain = {
        "max_new_tokens": count,
        "batch_size": 200,
        "top_k": 50,
        "seed": 3,
        "temperature": float(np.float32(0.7)),
        "top_p": float(np.float32(0.9)),
    }
    kinds = {"temperature": np.float32, "top_p": np.float32, "seed": np.uint16}
    small = {name: kinds.get(name, np.uint8)(value) for name, value in plain.items()}
    shifts = [255, 3]
    expected = generate(model, PROMPTS[:2], mark, shifts=shifts, **plain)
    for given in (np.array(shifts, np.uint8), [np.uint8(255), np.int8(3)], torch.tensor(shifts)):
        made = generate(model, PROMPTS[:2], mark, shifts=given, **small)
        assert made == expected
        assert {type(one.shift) for one in made} == {int}
    one = generate(model, [[5]], mark, shifts=np.array(255), **small)
    assert one == generate(model, [[5]], mark, shifts=255, **plain)
    free = generate(model, PROMPTS, None, **{**small, "max_new_tokens": np.uint8(200)})
    assert free == generate(model, PROMPTS, None, **{**plain, "max_new_tokens": 200})


@pytest.mark.parametrize("generator", [None, "torch"])
@pytest.mark.parametrize("scheme", ["exp", "its"])
def test_logits_without_a_distribution_are_an_error(scheme, generator):
    model = llama()
    model.lm_head.weight.data[:] = math.nan
    with pytest.raises(WatermarkError, match="no token to draw"):
        generate(model, PROMPTS, watermark_of(scheme, generator=generator), max_new_tokens=2)


def test_no_prompts_give_no_texts():
    assert generate(llama(), [], watermark_of("exp"), max_new_tokens=2) == []


@pytest.mark.parametrize("generator", [None, "torch", "mersenne"])
@pytest.mark.parametrize("scheme", ["exp", "exp-edit", "its", "its-edit"])
def test_the_detector_finds_what_was_generated(scheme, generator):
    """Eight texts per key: the sampler and the costs of the detector must mean the same numbers."""
    model, mark = llama(), watermark_of(scheme, key_length=100, generator=generator)
    made = generate(model, [[1]] * 8, mark, max_new_tokens=60, seed=1, temperature=2.0)
    plain = generate(model, [[1]] * 8, None, max_new_tokens=60, seed=1, temperature=2.0)
    found = Detector(mark).detect([one.tokens for one in made + plain], resamples=99, seed=1)
    assert [one.p_value for one in found[:8]] == [0.01] * 8
    assert np.mean([one.p_value for one in found[8:]]) > 0.2
    assert [one.shift for one in found[:8]] == [one.shift for one in made]


def warped(logits, temperature=1.0, top_k=None, top_p=None):
    """Probabilities after temperature, top-k and top-p, in float64 and plain steps."""
    scores = np.array(logits) / temperature
    if top_k is not None:
        scores[scores < np.sort(scores)[-top_k]] = -np.inf
    p = np.exp(scores - scores.max())
    p /= p.sum()
    if top_p is not None:
        order = np.argsort(-p)
        before = np.cumsum(p[order]) - p[order]
        p[order[before >= top_p]] = 0
        p /= p.sum()
    return p


@pytest.mark.parametrize(
    "warp",
    [{}, {"temperature": 0.6}, {"temperature": 1.7, "top_p": 0.8}, {"top_k": 3}],
    ids=["plain", "temperature", "top-p", "top-k"],
)
@pytest.mark.parametrize(
    ("scheme", "generator"),
    [("exp", None), ("its", None), ("exp", "torch"), ("its", "mersenne"), (None, None)],
)
def test_pairs_of_tokens_follow_the_model(scheme, generator, warp):
    """Four keys, 3,000 texts each that share no key row: 12,000 independent pairs of tokens.

    Their counts are then multinomial with the model's exact probabilities p(a) p(b | a), and the
    chi-square statistic has (cells - 1) degrees of freedom; the rarest cells are pooled up to 5
    expected pairs, as the approximation requires. Under the right law a p-value is below 1e-5 once
    in 100,000 runs, and the seeds are fixed.
    """
    n_tokens, texts = 8, 3000
    model, prompt = llama(n_tokens), [1, 2]
    counts = np.zeros((n_tokens, n_tokens))
    for seed in range(4):
        mark = scheme and watermark_of(scheme, n_tokens, 2 * texts, seed, generator)
        made = generate(
            model,
            [prompt] * texts,
            mark,
            max_new_tokens=2,
            shifts=None if mark is None else np.arange(texts) * 2,
            seed=seed,
            batch_size=1000,
            **warp,
        )
        np.add.at(counts, tuple(np.array([one.tokens for one in made]).T), 1)
    first = warped(next_logits(model, prompt), **warp)
    second = [warped(next_logits(model, [*prompt, a]), **warp) for a in range(n_tokens)]
    expected = (first[:, None] * np.array(second)).ravel() * counts.sum()
    counts = counts.ravel()
    assert counts[expected == 0].sum() == 0
    order = np.argsort(expected)
    pooled = max(np.sum(expected < 5), 1 + np.sum(np.cumsum(expected[order]) < 5))
    cells = np.concatenate([np.zeros(pooled, int), np.arange(1, expected.size - pooled + 1)])
    seen, law = (np.bincount(cells, x[order]) for x in (counts, expected))
    assert len(law) > 5
    assert law.min() >= 5
    assert stats.chisquare(seen, law).pvalue > 1e-5


@pytest.mark.model
@pytest.mark.parametrize("scheme", ["exp", "its"])
def test_smollm2(smollm2, scheme):
    """The real model in float32: each token of a short text against the definition."""
    model, tokenizer = smollm2
    n_tokens = model.config.vocab_size
    mark = watermark_of(scheme, n_tokens, 16)
    prompts = ["The harbour was quiet, and", "Name three rivers of Europe and the cities on them."]
    made = generate(model, prompts, mark, max_new_tokens=2, shifts=15, tokenizer=tokenizer)
    for prompt, one in zip(prompts, made, strict=True):
        assert one.prompt == prompt
        assert one.text == tokenizer.decode(one.tokens, skip_special_tokens=True)
        ids = tokenizer(prompt).input_ids
        for i, token in enumerate(one.tokens):
            logits, row = next_logits(model, ids + one.tokens[:i]), (15 + i) % 16
            if scheme == "exp":
                words = key_row(mark.key.words, DOMAIN_EXP, row, n_tokens)
                scores = naive.exp_scores(logits.tolist(), 1.0, words)
                assert scores[token] > max(scores) - 1e-3
            else:
                order, word = mark.key.its_order(n_tokens), mark.key.its_words(16)[row]
                p = warped(logits)[order]
                rank = int(np.flatnonzero(order == token)[0])
                assert p[:rank].sum() - 1e-4 < word / 2**32 < p[: rank + 1].sum() + 1e-4


def key_row(secret, domain, row, n_tokens):
    blocks = [naive.chacha_block(secret, c, domain, row, 8) for c in range(-(-n_tokens // 16))]
    return [blocks[16 * (v // 256) + v % 16][v // 16 % 16] for v in range(n_tokens)]


@pytest.fixture(scope="module")
def smollm2():
    from wmcore.models import load_model

    return load_model("smollm2")
