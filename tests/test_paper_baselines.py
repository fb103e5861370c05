"""The published baselines of the paper's experiments against transformers' own classes and exact laws."""

from collections import defaultdict
from itertools import combinations, pairwise
from math import comb, log, sqrt

import numpy as np
import pytest
import tiny
import torch
from scipy.stats import binom
from transformers import (
    LlamaConfig,
    SynthIDTextWatermarkingConfig,
    TopPLogitsWarper,
    WatermarkDetector,
    WatermarkingConfig,
    WatermarkLogitsProcessor,
)

from wmcore.errors import WatermarkError
from wmcore.paper.contract import Batch, Trial
from wmcore.paper.kirchenbauer import hashing_key, kgw_p_values, kgw_writer
from wmcore.paper.synthid import synthid_keys, synthid_p_values, synthid_writer
from wmcore.sampling import ordinary

SECRETS = [bytes([i]) * 32 for i in range(3)]
SURE = 1e-4
"""How likely a right program would fail one comparison, were its seeds not fixed."""


def batch_of(secrets, vocab_size):
    rows = np.arange(len(secrets)) * 1000
    return Batch(secrets, np.zeros(len(secrets), np.int64), rows, 11, vocab_size, 256)


def trial_of(vocab_size, resamples=999, seed=5):
    return Trial(vocab_size, 256, resamples, None, seed)


def random_secrets(rng, count):
    return [rng.bytes(32) for _ in range(count)]


def band(count):
    """Farthest that an empirical law of `count` is from its own (Dvoretzky, Kiefer, Wolfowitz; Massart)."""
    return sqrt(log(2 / SURE) / (2 * count))


def written(writer, batch, length, scale=1.0):
    """Texts of a model whose logits are normal numbers, int64 [B, length]."""
    torch.manual_seed(2)
    ids = torch.randint(batch.vocab_size, (len(batch.secrets), 3))
    for step in range(length):
        logits = torch.randn(len(ids), batch.vocab_size) * scale
        ids = torch.cat([ids, writer(ids, logits, step)[:, None]], 1)
    return ids[:, 3:].numpy()


def kgw_configuration(secret, gamma=0.25, delta=2.0):
    return WatermarkingConfig(greenlist_ratio=gamma, bias=delta, hashing_key=hashing_key(secret))


def synthid_configuration(secret):
    return SynthIDTextWatermarkingConfig(ngram_len=5, keys=synthid_keys(secret))


WRITERS = {
    "kgw": (kgw_writer(0.25, 2.0), kgw_configuration),
    "synthid": (synthid_writer, synthid_configuration),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("top_p", [None, 0.7])
def test_writers_change_logits_as_generate_does(name, top_p):
    make, configuration = WRITERS[name]
    model = tiny.llama(61)
    inputs = tiny.padded([[5, 9, 3], [7, 8, 20, 14, 2]])
    made = model.generate(
        **inputs,
        watermarking_config=configuration(SECRETS[0]),
        do_sample=True,
        top_k=0,
        top_p=top_p,
        max_new_tokens=24,
        output_scores=True,
        output_logits=True,
        return_dict_in_generate=True,
    )
    width = inputs["input_ids"].shape[1]
    writer = make(batch_of([SECRETS[0]] * 2, 61))
    changed = 0
    for step, (logits, theirs) in enumerate(zip(made.logits, made.scores, strict=True)):
        ids = made.sequences[:, : width + step]
        ours = logits.float().clone()
        if top_p is not None:
            ours = TopPLogitsWarper(top_p)(ids, ours)
        plain = ours.clone()
        never = ours == -torch.inf
        writer(ids, ours, step)
        assert bool((ours[never] == -torch.inf).all())
        # Where the chance is all but 0, log(1 - mass) in float32 depends on the order of a sum.
        law = ours.softmax(1)
        assert torch.allclose(law, theirs.softmax(1).float(), rtol=1e-5, atol=1e-6)
        changed += not torch.allclose(law, plain.softmax(1), atol=1e-3)
    assert changed > 12


@pytest.mark.parametrize("name", WRITERS)
def test_each_text_has_its_own_key_and_its_own_draws(name):
    """A processor for each text by itself; then the ordinary draw of `rows + step`."""
    make, configuration = WRITERS[name]
    batch = batch_of(SECRETS, 500)
    writer = make(batch)
    processors = [configuration(secret).construct_processor(500, "cpu") for secret in SECRETS]
    draw = ordinary(batch.draws)
    torch.manual_seed(1)
    ids = torch.randint(500, (3, 4))
    for step in range(7):
        logits = torch.randn(3, 500)
        expected = torch.cat(
            [p(ids[b : b + 1], logits[b : b + 1]) for b, p in enumerate(processors)]
        )
        tokens = writer(ids, logits, step)
        assert torch.equal(logits, expected)
        assert tokens.tolist() == draw(expected, batch.rows + step, 1.0).tolist()
        ids = torch.cat([ids, tokens[:, None]], 1)


def test_a_writer_of_synthid_starts_with_its_texts():
    writer = synthid_writer(batch_of(SECRETS, 20))
    with pytest.raises(WatermarkError, match="step is 3, but must be 0"):
        writer(torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3, 20), 3)


def p_of(p_values, text, secret, trial):
    return p_values([np.array(text)], [secret], trial)[0]


def kgw_law(text, vocab_size, size, once):
    """{count of green tokens: chance} by all green lists of each context."""
    pairs = defaultdict(lambda: defaultdict(int))
    for context, token in pairwise(text):
        pairs[context][token] = 1 if once else pairs[context][token] + 1
    law = {0: 1.0}
    for tokens in pairs.values():
        step = defaultdict(float)
        for green in combinations(range(vocab_size), size):
            gained = sum(tokens.get(token, 0) for token in green)
            for value, chance in law.items():
                step[value + gained] += chance / comb(vocab_size, size)
        law = step
    return law


def tail(law, value):
    return sum(chance for one, chance in law.items() if one >= value)


REPEATING = [1, 2, 1, 3, 1, 4, 1, 2, 1, 2, 1, 5, 6, 7, 6, 7, 6, 7, 3, 4, 3, 4, 5, 5, 5, 5, 1, 6]


def kgw_count(text, secret, vocab_size, once, gamma=0.25):
    config = LlamaConfig(vocab_size=vocab_size, bos_token_id=-1)
    detector = WatermarkDetector(
        config, "cpu", kgw_configuration(secret, gamma), ignore_repeated_ngrams=once
    )
    return detector(torch.tensor([text]), return_dict=True)


@pytest.mark.parametrize("once", [False, True])
def test_kgw_p_is_the_exact_tail_of_the_detectors_count(once):
    """Both the statistic and its simulated law; the law by all green lists, the count by `WatermarkDetector`."""
    law = kgw_law(REPEATING, 8, 2, once)
    assert sum(law.values()) == pytest.approx(1)
    p_values = kgw_p_values(0.25, once)
    seen = set()
    for secret in random_secrets(np.random.default_rng(3), 12):
        count = int(kgw_count(REPEATING, secret, 8, once).num_green_tokens[0])
        seen.add(count)
        p = p_of(p_values, REPEATING, secret, trial_of(8, 20_000))
        assert abs(p - tail(law, count)) < band(20_000) + 1e-4
    assert len(seen) > 3


@pytest.mark.parametrize("once", [False, True])
def test_kgw_counts_of_real_keys_follow_the_simulated_law(once):
    """Counts under random keys by transformers' lists, against the law of ideal green lists."""
    processor = WatermarkLogitsProcessor(8, "cpu", greenlist_ratio=0.25)
    pairs = list(pairwise(REPEATING))
    pairs = sorted(set(pairs)) if once else pairs
    counts = []
    for secret in random_secrets(np.random.default_rng(4), 1500):
        processor.hash_key = hashing_key(secret)
        lists = {a: set(processor._get_greenlist_ids(torch.tensor([a])).tolist()) for a, _ in pairs}
        counts.append(sum(b in lists[a] for a, b in pairs))
    law = kgw_law(REPEATING, 8, 2, once)
    for value in law:
        assert abs(np.mean(np.array(counts) >= value) - tail(law, value)) < band(1500)


def test_the_list_after_token_0_has_no_say():
    """It is the same under every key, as the generator's seed is key * token."""
    p_values = kgw_p_values(0.25)
    texts = [[3, 5, 0], [3, 5, 0, 4], [3, 5, 0, 6]]
    lists = [
        kgw_count([0, token], secret, 8, False).num_green_tokens[0]
        for token in (4, 6)
        for secret in SECRETS
    ]
    assert lists[:3] == [lists[0]] * 3
    assert lists[3:] == [lists[3]] * 3
    for secret in SECRETS:
        law = kgw_law([3, 5, 0], 8, 2, False)
        count = kgw_count([3, 5, 0], secret, 8, False).num_green_tokens[0]
        for text in texts:
            p = p_of(p_values, text, secret, trial_of(8, 20_000))
            assert abs(p - tail(law, count)) < band(20_000) + 1e-4
    assert np.isnan(p_of(p_values, [0, 4], SECRETS[0], trial_of(8)))


SYNTHID_TEXT = [9, 4, 9, 4, 9, 4, 9, 4, 2, 7, 1, 8, 2, 8, 1, 9, 4, 9, 4, 6, 3, 5, 2, 7, 1, 8, 3]


def synthid_sum(text, secret):
    """Sum of the scored bits by transformers' processor, and how many there are."""
    processor = synthid_configuration(secret).construct_processor(10, "cpu")
    ids = torch.tensor([text])
    g = processor.compute_g_values(ids)
    mask = processor.compute_context_repetition_mask(ids)
    return int((g * mask[:, :, None]).sum()), 30 * int(mask.sum())


def table_share():
    """Ones in the table of bits."""
    table = synthid_configuration(SECRETS[0]).construct_processor(10, "cpu").sampling_table
    return float(table.double().mean())


def sum_tail(bits, value):
    """Chance that so many bits have a sum of `value` or more."""
    return binom.sf(value - 1, bits, table_share())


def test_synthid_p_is_the_exact_tail_of_the_processors_mean():
    for secret in random_secrets(np.random.default_rng(6), 8):
        total, bits = synthid_sum(SYNTHID_TEXT, secret)
        assert bits < 30 * (len(SYNTHID_TEXT) - 4)  # some contexts are repeated
        p = p_of(synthid_p_values, SYNTHID_TEXT, secret, trial_of(10, 20_000))
        assert abs(p - sum_tail(bits, total)) < band(20_000) + 1e-4


def test_synthid_sums_of_real_keys_follow_the_simulated_law():
    secrets = random_secrets(np.random.default_rng(7), 600)
    sums, bits = zip(*(synthid_sum(SYNTHID_TEXT, secret) for secret in secrets), strict=True)
    assert len(set(bits)) == 1
    for value in set(sums):
        share = np.mean(np.array(sums) >= value)
        assert abs(share - sum_tail(bits[0], value)) < band(600)


def test_a_5_gram_that_comes_again_after_1024_contexts_counts_twice():
    """transformers forgets contexts after 1,024, so that the same bits are counted again: no new evidence."""
    rng = np.random.default_rng(8)
    opening = rng.integers(1, 5000, 40)
    text = np.concatenate([opening, rng.integers(1, 5000, 1100), opening])
    secret = SECRETS[1]
    total, bits = synthid_sum(text.tolist(), secret)
    assert bits == 30 * (len(text) - 4)
    # 36 of the 5-grams are there twice: their variance counts four times.
    single, double = 30 * (len(text) - 4 - 2 * 36), 30 * 36
    share = table_share()
    law = np.convolve(
        binom.pmf(np.arange(single + 1), single, share),
        np.kron(binom.pmf(np.arange(double + 1), double, share), [1, 0]),
    )
    p = p_of(synthid_p_values, text, secret, trial_of(5000, 20_000))
    assert abs(p - law[total:].sum()) < band(20_000) + 1e-4


TESTS = {
    "kgw": kgw_p_values(0.25),
    "kgw-once": kgw_p_values(0.25, True),
    "synthid": synthid_p_values,
}


@pytest.mark.parametrize("name", TESTS)
def test_p_of_unmarked_texts_is_valid_and_nearly_uniform(name):
    rng = np.random.default_rng(9)
    count, resamples = 400, 99
    texts = [rng.integers(1, 300, 40) for _ in range(count)]
    p = TESTS[name](texts, random_secrets(rng, count), trial_of(300, resamples))
    # A tie with the statistic's own value counts against it: p is too large by at most the likeliest value's chance.
    atom = binom.pmf(9, 39, 0.25) if name != "synthid" else binom.pmf(540, 1080, 0.5)
    for level in np.arange(1, resamples + 2) / (resamples + 1):
        share = np.mean(p <= level + 1e-12)
        assert share <= level + band(count)
        assert share >= level - 1.3 * atom - band(count)


@pytest.mark.parametrize("name", WRITERS)
def test_marked_texts_are_found_with_their_own_key_alone(name):
    make, _ = WRITERS[name]
    rng = np.random.default_rng(10)
    secrets = random_secrets(rng, 6)
    texts = list(written(make(batch_of(secrets, 400)), batch_of(secrets, 400), 80, scale=0.5))
    trial = trial_of(400)
    # At delta 2 a token is green with chance e^2 / (e^2 + 3) or so, 0.71: 39 of 79 or fewer have chance 2e-5.
    assert TESTS[name](texts, secrets, trial).max() <= 0.005
    others = TESTS[name](texts, random_secrets(rng, 6), trial)
    assert others.min() > 0.005


@pytest.mark.parametrize(("name", "shortest"), [("kgw", 2), ("kgw-once", 2), ("synthid", 5)])
def test_texts_too_short_to_score_have_no_p(name, shortest):
    texts = [np.arange(1, length + 1) for length in range(shortest + 2)]
    p = TESTS[name](texts, [SECRETS[0]] * len(texts), trial_of(20))
    assert np.isnan(p).tolist() == [True] * shortest + [False] * 2


@pytest.mark.parametrize("name", TESTS)
def test_p_depends_on_seed_secret_and_text_alone(name):
    rng = np.random.default_rng(12)
    texts = [rng.integers(1, 300, 60) for _ in range(5)]
    secrets = random_secrets(rng, 5)
    whole = TESTS[name](texts, secrets, trial_of(300))
    assert whole[2] == p_of(TESTS[name], texts[2], secrets[2], trial_of(300))
    assert whole.tolist() != TESTS[name](texts, secrets, trial_of(300, seed=6)).tolist()
    ranks = whole * 1000
    assert np.allclose(ranks, ranks.round())


def test_expected_keys():
    """What a text's secret gives must not change: texts made before would be lost."""
    assert hashing_key(SECRETS[1]) % 2 == 1
    keys = synthid_keys(SECRETS[1])
    assert len(keys) == len(set(keys)) == 30
    assert 0 <= min(keys) <= max(keys) < 2**63
    assert hashing_key(SECRETS[1]) == 4855371187426381513
    assert (keys[0], keys[29]) == (2727072297321955759, 8791379403578072891)
