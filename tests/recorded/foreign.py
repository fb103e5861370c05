"""Recorded cases of the bindings: the published functions, MarkLLM's algorithms, vLLM's own watermark."""

from functools import partial
from itertools import product
from types import SimpleNamespace

import numpy as np
import torch
from tiny import words as word_tokenizer

from recorded.common import THREADS, V, below, digest, unit
from recorded.writing import model
from wmcore.bindings import jthickstun, markllm
from wmcore.bindings.vllm import GumbelDetector

N = 24
SCORES = {
    "exp": (jthickstun.gumbel_key_func, jthickstun.gumbel_score, False),
    "exp-edit": (
        jthickstun.gumbel_key_func,
        lambda x, y: jthickstun.gumbel_edit_score(x, y, gamma=0.3),
        False,
    ),
    "its": (jthickstun.transform_key_func, jthickstun.transform_score, True),
    "its-edit": (
        jthickstun.transform_key_func,
        lambda x, y: jthickstun.transform_edit_score(x, y, gamma=0.4),
        True,
    ),
    "exp-edit 1e5": (
        jthickstun.gumbel_key_func,
        lambda x, y: jthickstun.gumbel_edit_score(x, y, 1e5),
        False,
    ),
    "no score of ours": (
        jthickstun.gumbel_key_func,
        lambda x, y: 2 * jthickstun.gumbel_score(x, y),
        False,
    ),
}
"""Name: key function, score, whether tokens are normalised."""


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def statistics(scheme: str, k: int) -> list:
    """phi of a text with two seeds, as itself and with its tokens numbered anew."""
    key, score, normalize = SCORES[scheme]
    tokens = torch.from_numpy(below("published", 29, V))
    return [
        float(
            jthickstun.phi(
                tokens, N, k, seeded(seed), key, V, score, null=null, normalize=normalize
            )
        )
        for seed, null in product((7, 8), (False, True))
    ]


def table(scheme: str, k: int) -> list:
    """adjacency: some of its numbers, and all of them as a digest."""
    key, score, normalize = SCORES[scheme]
    xi, pi = key(seeded(5), N, V, V)
    tokens = torch.argsort(pi)[torch.from_numpy(below("adjacency", 23, V))]
    if normalize:
        tokens = tokens.float() / V
    made = jthickstun.adjacency(tokens, xi, score, k).numpy()
    return [list(made.shape), made[0, :4].tolist(), made[-1, -2:].tolist(), digest(made)]


def p_values(scheme: str) -> list:
    """permutation_test (from torch's global generator) and fast_permutation_test."""
    key, score, normalize = SCORES[scheme]

    def statistic(tokens, n, k, generator, vocab_size, null=False):
        return jthickstun.phi(
            tokens, n, k, generator, key, vocab_size, score, null=null, normalize=normalize
        )

    tokens = torch.from_numpy(below("permutation", 17, V))
    stored = torch.linspace(-20, 20, 401)
    answer = []
    runs = 3 if scheme == "no score of ours" else 40
    with torch.random.fork_rng(devices=[]):
        for k, seed in ((17, 3), (6, 4)):
            torch.manual_seed(77)
            slow = jthickstun.permutation_test(tokens, V, N, k, seed, statistic, n_runs=runs)
            fast = jthickstun.fast_permutation_test(tokens, V, N, k, seed, statistic, stored)
            answer.append([float(slow), float(fast)])
    return answer


def continued(scheme: str, random_offset: bool) -> list:
    """The published generate with the tiny model: three keys at once, longer than the key."""
    sampler = jthickstun.gumbel_sampling if scheme == "exp" else jthickstun.transform_sampling
    prompts = torch.from_numpy(below("prompts", 12, V)).reshape(3, 4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        made = jthickstun.generate(
            model(), prompts, V, 10, 14, [1, 2, 3], SCORES[scheme][0], sampler, random_offset
        )
    return made.tolist()


def pairs() -> list:
    """The alignment of one pair, with the published rounding."""
    rows = unit("rows", 13 * V).astype(np.float32).reshape(13, V)
    tokens, places = below("pair", 9, V), unit("places", 9).astype(np.float32)
    return [
        [
            jthickstun.levenshtein(tokens, rows, gamma),
            jthickstun.gumbel_levenshtein(tokens, rows, gamma),
            jthickstun.transform_levenshtein(places, rows[:, 0], gamma),
        ]
        for gamma in (0.0, 0.3, 2.0)
    ]


def sampled() -> list:
    """The samplers on fixed probabilities."""
    probs = torch.from_numpy(unit("probabilities", 6 * V).astype(np.float32).reshape(6, V)) ** 4
    probs /= probs.sum(-1, keepdim=True)
    answer = []
    for scheme, sampler in (
        ("exp", jthickstun.gumbel_sampling),
        ("its", jthickstun.transform_sampling),
    ):
        xi, pi = SCORES[scheme][0](seeded(4), 6, V)
        answer.append(sampler(probs, pi.repeat(6, 1), xi).flatten().tolist())
    return answer


def demo_numbers() -> list:
    source = jthickstun.mersenne_rng(4357)
    return [source.randint(), source.rand(), source.randperm(12), source.rand()]


def markllm_setting() -> SimpleNamespace:
    return SimpleNamespace(
        device="cpu",
        model=model(),
        tokenizer=word_tokenizer(V, begin=1),
        vocab_size=V,
        gen_kwargs={},
    )


def markllm_case(name: str, more: dict) -> list:
    """The text that an algorithm writes, what it says of it and of another one, and its picture."""
    settings = {"pseudo_length": 32, "sequence_length": 24, "n_runs": 30, "key": 42, **more}
    mark = getattr(markllm, name)(None, markllm_setting(), **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        text = mark.generate_watermarked_text("w5 w6 w7")
    before = np.random.get_state()  # noqa: NPY002 - MarkLLM draws nulls from this generator
    try:
        np.random.seed(6)  # noqa: NPY002
        found = [mark.detect_watermark(t, return_dict=False) for t in (text, "w9 w8 w7 w6 w1 w1")]
    finally:
        np.random.set_state(before)  # noqa: NPY002
    return [text, found, mark.get_data_for_visualization(text).highlight_values]


def gumbel(settings: dict) -> list:
    """Documents of 1 to 129 tokens, repetitive ones, an empty one and three that are none."""
    batch = [below(f"document {m}", m, 50_000).tolist() for m in (1, 2, 7, 40, 129)]
    batch += [[], below("three", 100, 3).tolist(), [0] * 20, [2**32 - 2, 0, 7]]
    batch += [[2**32 - 1], [0.5], [[1]]]
    # 20 tokens by vLLM 0.33.0 with key 42
    batch.append([85, 56, 28, 65, 40, 35, 92, 76, 57, 27, 19, 18, 27, 69, 52, 8, 80, 14, 81, 55])
    return [
        "error"
        if f.error is not None
        else [f.score, f.p_value, f.num_scored_tokens, bool(f.is_watermarked)]
        for f in GumbelDetector(threads=THREADS[0], **settings).detect(batch)
    ]


def published_cases() -> dict:
    made = {"demo numbers": demo_numbers, "pairs": pairs, "samplers": sampled}
    for scheme, k in product(SCORES, (29, 17, 5, 1)):
        made[f"phi {scheme} k={k}"] = partial(statistics, scheme, k)
    for scheme, k in product(SCORES, (23, 6)):
        made[f"adjacency {scheme} k={k}"] = partial(table, scheme, k)
    for scheme in SCORES:
        made[f"permutation test {scheme}"] = partial(p_values, scheme)
    for scheme, random_offset in product(("exp", "its"), (True, False)):
        made[f"generate {scheme} random_offset={random_offset}"] = partial(
            continued, scheme, random_offset
        )
    return made


FILES = {
    "published": published_cases(),
    "markllm": {
        "EXPEdit": partial(markllm_case, "EXPEdit", {}),
        "EXPEdit top_k": partial(markllm_case, "EXPEdit", {"top_k": 7}),
        "ITSEdit": partial(markllm_case, "ITSEdit", {}),
        "ITSEdit offset": partial(markllm_case, "ITSEdit", {"random_offset": True}),
    },
    "gumbel": {
        str(settings): partial(gumbel, settings)
        for settings in (
            {"key": 42},
            {"key": 43, "p_value_threshold": 0.9},
            {"key": 2**63 + 5, "context_width": 7, "deduplicate_contexts": False},
            {"key": 42, "context_width": 2, "alpha": 0.1},
        )
    },
}
