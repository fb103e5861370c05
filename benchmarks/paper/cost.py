"""Item 10: what writing and testing cost, of every method and test, in turn in one process."""

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from wmcore.paper import grids, report
from wmcore.paper.contract import Batch, Writer
from wmcore.paper.methods import METHODS
from wmcore.paper.points import STOP_AFTER, Point, point_under, trial_of
from wmcore.paper.sizes import Size
from wmcore.paper.study import Study, model_of, vocab_size_of
from wmcore.paper.testing import TESTS
from wmcore.paper.texts import TextSet, load, secret_of
from wmcore.paper.writing import all_prompts
from wmcore.stepping import Stepper
from wmcore.truncate import nucleus

BATCH = 16
STEPS = 24
TEXTS = 10


def texts(size: Size) -> Iterator[tuple[TextSet, int]]:
    """What is tested."""
    for method in ("human", *grids.marked()):
        yield grids.news(size, method), TEXTS


def measure(study: Study, size: Size) -> dict[str, Any]:
    """{"writing": a row a method, "testing": a row a test and kind of text}: medians of `size.repeats` runs in turn."""
    made = {"writing": list(writing(study, size)), "testing": list(testing(study, size))}
    return {"of": subject(study, size), **made}


def subject(study: Study, size: Size) -> dict[str, Any]:
    """What the figures are of: they are measured again when it changes."""
    return {
        "model": study.identity,
        "device": study.device,
        "methods": list(METHODS),
        "tests": list(TESTS),
        "size": size.name,
    }


def writing(study: Study, size: Size) -> Iterator[dict[str, Any]]:
    """A row a method: ms a step of the whole and of the draw, of a batch of BATCH; overhead against plain sampling."""
    methods = [name for name, method in METHODS.items() if method.writer is not None]
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    for repeat in range(size.repeats + 1):
        for name in methods:
            took = _write(study, name)
            if repeat:  # the first compiles kernels and fills caches
                seconds[name].append(took)
    plain = [whole for whole, _ in seconds["plain"]]
    for name in methods:
        whole, draw = ([one[k] for one in seconds[name]] for k in (0, 1))
        ratios = [a / b for a, b in zip(whole, plain, strict=True)]
        yield {
            "method": name,
            "step_ms": round(1000 * median(whole), 2),
            "draw_ms": round(1000 * median(draw), 2),
            "against_plain": round(median(ratios), 3),
        }


def _write(study: Study, method: str) -> tuple[float, float]:
    """Seconds a step, and of the draw in it; the prompt, the method's preparation and the first step are left out."""
    import torch

    model, _ = model_of(study.model, study.device)
    found = all_prompts(study.model, "news", study.source("news"), BATCH)
    prompts = [prompt.tokens for prompt in found]
    vocab_size = vocab_size_of(study.model)
    batch = Batch(
        secrets=[study.digest("cost", method, b) for b in range(len(prompts))],
        shifts=np.arange(len(prompts)),
        rows=np.arange(len(prompts)) * STEPS,
        draws=study.number(1 << 62, "cost", method),
        vocab_size=vocab_size,
        key_length=256,
    )
    begin = METHODS[method].writer
    assert begin is not None
    writer: Writer = begin(batch)
    with torch.inference_mode():
        ids = torch.tensor(prompts)
        stepper = Stepper(model, prompts, STEPS)
        start = drawing = 0.0
        for step in range(STEPS):
            if step == 1:
                start, drawing = time.perf_counter(), 0.0
            logits = nucleus(stepper.logits()[:, :vocab_size], 1.0, 1.0)
            _wait(logits)
            before = time.perf_counter()
            drawn = writer(ids.to(logits.device), logits, step)
            _wait(logits)
            drawing += time.perf_counter() - before
            ids = torch.cat([ids, drawn.cpu()[:, None]], 1)
            stepper.append(drawn)
    return (time.perf_counter() - start) / (STEPS - 1), drawing / (STEPS - 1)


def _wait(tensor: Any) -> None:
    """Until the device has done what it was given."""
    import torch

    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def testing(study: Study, size: Size) -> Iterator[dict[str, Any]]:
    """A row a test and kind of text, marked or a person's: ms a text of the largest m of the edits, one thread."""
    m = max(size.cuts)
    for name, test in TESTS.items():
        method = next((one for one in grids.marked() if METHODS[one].family == test.family), None)
        if method is None:
            continue
        for kind in (method, "human"):
            point = Point(grids.news(size, kind), name, m, resamples=size.resamples)
            under = point_under(study, point)
            if under is None:
                continue
            some = load(study, under.texts, TEXTS)
            trial = trial_of(study, under)
            tokens = [text.tokens[:m] for text in some]
            secrets = [secret_of(study, under.texts, text.number) for text in some]
            took = []
            for _ in range(size.repeats + 1):
                start = time.perf_counter()
                test.p_values(tokens, secrets, trial)
                took.append((time.perf_counter() - start) / len(tokens))
            yield {
                "test": name,
                "text": "marked" if kind == method else "human",
                "tokens": m,
                "resamples": size.resamples,
                "ms": round(1000 * median(took[1:]), 3),
            }


def table(found: dict[str, Any]) -> str:
    """Two tables: a row a method, and a row a test."""
    heads = ["method", "ms a step", "of it the draw", "against plain sampling"]
    body = [
        [
            METHODS[one["method"]].title,
            f"{one['step_ms']:.1f}",
            f"{one['draw_ms']:.1f}",
            f"{one['against_plain']:.2f}",
        ]
        for one in found["writing"]
    ]
    wrote = report.markdown(
        heads, body, 1, f"A step of {BATCH} texts, each with a key of its own; medians, in turn."
    )
    kinds = {(one["test"], one["text"]): one for one in found["testing"]}
    tests = dict.fromkeys(one["test"] for one in found["testing"])
    heads = ["test", "marked text, ms", "human text, ms"]
    body = [
        [
            TESTS[test].title,
            *(report.number(kinds[test, kind]["ms"]) for kind in ("marked", "human")),
        ]
        for test in tests
    ]
    first = found["testing"][0]
    caption = (
        f"A text of {first['tokens']} tokens under a key of its own, T = {first['resamples']:,}, stopped after "
        f"{STOP_AFTER} resamples that fit as well; one thread; medians."
    )
    return f"{wrote}\n{report.markdown(heads, body, 1, caption)}"


def draw(found: dict[str, Any], stem: Path) -> None:
    """Bars: what a draw costs, and what a test of a marked text costs."""
    marked = [one for one in found["testing"] if one["text"] == "marked"]
    report.bars(
        [
            (
                f"draw, ms a step of {BATCH} texts",
                {METHODS[one["method"]].title: one["draw_ms"] for one in found["writing"]},
            ),
            (
                f"test, ms a text of {marked[0]['tokens']} tokens",
                {TESTS[one["test"]].title: one["ms"] for one in marked},
            ),
        ],
        stem,
    )
