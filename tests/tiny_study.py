"""A study that takes seconds: a tiny random model with a chat template, prompts of random words, a size below quick.

Run as a program, it makes all experiments in a folder, until somebody kills it.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import tiny

from wmcore.key import Key
from wmcore.paper import command, run
from wmcore.paper.command import Options
from wmcore.paper.points import evaluate
from wmcore.paper.sizes import Size
from wmcore.paper.study import Study
from wmcore.watermark import Watermark

V = 64
END = 63
"""The end-of-text token: in an answer, one token in some dozens. No other word begins as its own."""

SIZE = Size(
    name="tiny",
    count=5,
    batch_size=5,
    new_tokens=30,
    answer_tokens=12,
    resamples=99,
    fine_resamples=199,
    lengths=(5, 16),
    key_lengths=(16, 48),
    rates=(0.5,),
    cuts=(16,),
    paraphrase_cuts=(12, 16),
    buckets=(12, 20),
    temperatures=(1.0, 0.7),
    nulls=60,
    repeats=1,
)

SMALLER = replace(
    SIZE, count=3, new_tokens=10, answer_tokens=10, cuts=(8,), lengths=(6,), buckets=(8,), nulls=6
)

NEWS, SHORT, QUESTIONS = 16, (0, 5, 9), 10
"""Texts that are long enough to be prompts, the places of those that are not, and questions."""

ATTACKS = """
def shorten(texts, seed):
    return [" ".join(text.split()[:-3]) for text in texts]

def lose(texts, seed):
    return texts[1:]

def fail(texts, seed):
    raise KeyError("no such word")
"""
"""Attacks of a user: of these names, in a module of the name "mine"."""
WANTED = ("french", "mine:shorten", "mine:lose", "mine:fail")


def save_model(folder):
    """A model and its tokenizer, to be loaded by path."""
    tiny.llama(V, eos_token_id=END, num_hidden_layers=1).save_pretrained(folder)
    tokenizer = tiny.words(V)
    tokenizer.eos_token = f"w{END}"
    tokenizer.chat_template = (
        "{% for m in messages %}w1 {{ m['content'] }} w2{% endfor %}"
        "{% if add_generation_prompt %} w3{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_sources(folder):
    """{kind: a file of JSON Lines}: texts of random words, the short ones among the others."""
    rng = np.random.default_rng(6)
    lengths = [240] * NEWS
    for place in SHORT:
        lengths.insert(place, 229)
    texts = {
        "news": ("text", lengths),
        "instructions": ("instruction", range(3, 3 + QUESTIONS)),
    }
    paths = {}
    for kind, (field, sizes) in texts.items():
        lines = [json.dumps({field: words(rng.integers(1, V, size))}) for size in sizes]
        paths[kind] = str(folder / f"{kind}.jsonl")
        Path(paths[kind]).write_text("\n".join(lines), encoding="utf-8")
    return paths


def words(tokens):
    """A text of tokens."""
    return " ".join(f"w{token}" for token in tokens)


def spoken(tokens):
    """What is left of tokens that are decoded: the special ones vanish."""
    return words(token for token in tokens if token not in (0, END))


def options(model, sources, folder, **others):
    """What the command line would say."""
    given = Options(
        model=model,
        sources=sources,
        folder=Path(folder),
        size=SIZE,
        watermark=None,
        attacks=(),
        modules=(),
        processes=1,
        device="cpu",
        seed=1,
    )
    return replace(given, **others)


def mark_file(path, scheme, vocab_size=V):
    """A watermark that is kept in a file."""
    mark = Watermark.create(scheme, vocab_size=vocab_size, key_length=40, key=Key(bytes(32)))
    mark.save(path)
    return mark


def study(model, sources, folder, **others):
    """A study of the same settings as those of `options`."""
    return Study(
        **{"folder": Path(folder), "model": model, "sources": sources, "batch_size": 5, **others}
    )


def make(of, points=(), texts=()):
    """Write, attack and test what is missing, in this process."""
    of.folder.mkdir(exist_ok=True)
    for piece in run.missing_pieces(of, run.text_counts(points, texts)):
        run.write(of, piece)
    for point in points:
        evaluate(of, point)


if __name__ == "__main__":
    model, news, instructions, folder = sys.argv[1:]
    sources = {"news": news, "instructions": instructions}
    wanted = options(model, sources, folder, attacks=WANTED)
    command.run("all", wanted, print)
