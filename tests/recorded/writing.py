"""Recorded cases of writing: draws of single tokens, and texts of a tiny model."""

import warnings
from functools import lru_cache, partial
from itertools import product

import torch
from tiny import llama, words

from recorded.common import KEYS, V, below, mark_of, unit
from wmcore import generate, sampling

SAMPLERS = ("exp", "its")
SETTINGS = {
    "as is": {},
    "temperature": {"temperature": 0.6},
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.8, "temperature": 1.3},
    "all": {"temperature": 0.9, "top_k": 20, "top_p": 0.9},
}
PROMPTS = [[5, 6, 7], [1], [9] * 11, [3, 1, 4, 1, 5, 9, 2, 6], [60, 0, 33]]


@lru_cache(maxsize=2)
def model(vocab_size: int = V):
    """The tests' tiny model in float64, with weights of our own numbers: no release of torch can change them."""
    made = llama(vocab_size, pad_token_id=None)
    for name, weight in sorted(made.named_parameters()):
        if weight.ndim == 2:
            numbers = unit(name, weight.numel()).reshape(tuple(weight.shape))
            weight.data = torch.from_numpy(numbers - 0.5)
    return made


def logits_of(kind: str, vocab_size: int) -> torch.Tensor:
    """Fixed logits [9, V] with ties, tokens that must not come, and steep and flat rows."""
    x = torch.from_numpy(unit(f"logits {vocab_size}", 9 * vocab_size).reshape(9, vocab_size))
    x = (x * 12 - 6).float()
    x[1] = 0
    x[2, :: 3 if vocab_size > 3 else 7] = x[2].max()
    x[3] *= 30
    x[4, vocab_size // 2 :] = -torch.inf if vocab_size > 1 else 0
    x[5, 1:] = -torch.inf
    x[6] = x[6].round()
    x[7, 0] = torch.nan if vocab_size > 1 else 0
    if kind == "view":
        return torch.stack([x, x], 2)[:, :, 1]
    return x.to(getattr(torch, kind))


def draws(scheme: str | None, key: str, kind: str, vocab_size: int) -> list:
    """Tokens at three temperatures; rows in no order and more than once."""
    n = 13
    if scheme is None:
        draw = sampling.ordinary(int(key))
        rows = below("rows", 9, 2**32)
    else:
        draw = sampling.watermarked(mark_of(scheme, key, key_length=n, vocab_size=vocab_size))
        rows = below("rows", 9, n)
    x = logits_of(kind, vocab_size)
    return [draw(x, rows, scale).tolist() for scale in (1.0, 1 / 0.7, 0.25)]


def draw_cases() -> dict:
    made = {}
    kinds = ("float32", "float16", "bfloat16", "float64", "view")
    for kind, size in [*((kind, V) for kind in kinds), *(("float32", v) for v in (1, 2, 17, 3000))]:
        for scheme, key in product(SAMPLERS, KEYS):
            made[f"draw {scheme} {key} {kind} V={size}"] = partial(draws, scheme, key, kind, size)
        for seed in ("0", "12345678901234567890"):
            made[f"draw ordinary {seed} {kind} V={size}"] = partial(draws, None, seed, kind, size)
    return made


def wrote(made: list) -> list:
    return [[one.shift, " ".join(map(str, one.tokens))] for one in made]


def texts(scheme: str | None, key: str, settings: dict, **more) -> list:
    """What the tiny model writes: from a seed in batches of two, and from given rows all at once."""
    mark = None if scheme is None else mark_of(scheme, key, key_length=24)
    common = {"max_new_tokens": 14, "eos": False, **settings, **more}
    drawn = generate(model(), PROMPTS, mark, seed=8, batch_size=2, **common)
    if mark is None:
        return wrote(drawn)
    given = generate(model(), PROMPTS, mark, shifts=[0, 23, 5, 5, 17], batch_size=16, **common)
    return [wrote(drawn), wrote(given)]


def longer_than_the_key(scheme: str) -> list:
    mark = mark_of(scheme, "chacha", key_length=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # rows are used again: that is the case
        return wrote(generate(model(), PROMPTS[:2], mark, max_new_tokens=12, shifts=3, eos=False))


def of_strings(scheme: str) -> list:
    """Prompts and texts as strings."""
    mark = mark_of(scheme, "chacha", key_length=24)
    prompts = ["w5 w6", "w9", "w3 w3 w3 w4"]
    tokenizer = words(V, begin=2)
    made = generate(
        model(), prompts, mark, max_new_tokens=9, seed=4, eos=False, tokenizer=tokenizer
    )
    return [[one.shift, one.text] for one in made]


def to_the_end(scheme: str | None) -> list:
    """Texts that end at the model's own end-of-text tokens."""
    made = model()
    mark = None if scheme is None else mark_of(scheme, "chacha", key_length=40)
    before, made.generation_config.eos_token_id = made.generation_config.eos_token_id, [2, 5, 40]
    try:
        return wrote(generate(made, PROMPTS, mark, max_new_tokens=30, seed=2, batch_size=3))
    finally:
        made.generation_config.eos_token_id = before


def more_logits_than_tokens(scheme: str) -> list:
    mark = mark_of(scheme, "chacha", key_length=24, vocab_size=40)
    return wrote(generate(model(), PROMPTS, mark, max_new_tokens=9, seed=3, eos=False))


def text_cases() -> dict:
    made = {}
    for (name, settings), scheme, key in product(SETTINGS.items(), SAMPLERS, KEYS):
        made[f"generate {scheme} {key} {name}"] = partial(texts, scheme, key, settings)
    for name, settings in SETTINGS.items():
        made[f"generate without a watermark {name}"] = partial(texts, None, "", settings)
    for scheme in ("exp-edit", "its-edit"):
        made[f"generate {scheme} chacha as is"] = partial(texts, scheme, "chacha", {})
    for scheme in SAMPLERS:
        made[f"generate {scheme} longer than the key"] = partial(longer_than_the_key, scheme)
        made[f"generate {scheme} strings"] = partial(of_strings, scheme)
        made[f"generate {scheme} more logits"] = partial(more_logits_than_tokens, scheme)
    for scheme in (None, *SAMPLERS):
        made[f"generate {scheme} to the end"] = partial(to_the_end, scheme)
    return made


FILES = {"draws": draw_cases(), "texts": text_cases()}
