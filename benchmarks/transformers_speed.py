"""Our generation loop against `model.generate`, and our draw against softmax + torch.multinomial, in one run.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/transformers_speed.py [repeats]

SmolLM2-135M-Instruct, batch 16, 200 new tokens; the sides alternate. On a machine that others use, give both sides
one core as above: torch's threads spin, and lose a factor of ten when they cannot all run. Times are CPU seconds.
Writes results/transformers_speed.json.
"""

import json
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from machine import machine

from wmcore import Watermark, generate, sampling
from wmcore.bindings.transformers import WatermarkConfig
from wmcore.models import load_model

RESULT = Path(__file__).parent / "results" / "transformers_speed.json"
BATCH, COUNT, VOCAB = 16, 200, 49152
PROMPT = "The harbour was quiet that morning, and the boats had not"


def seconds(work) -> float:
    """CPU seconds of the process: with one thread on each side, what an idle machine's clock would show."""
    start = time.process_time()
    work()
    return time.process_time() - start


def loops(repeats: int) -> dict:
    """Seconds of each way to make the same number of tokens, and tokens per second from the medians."""
    model, tokenizer = load_model("smollm2")
    model.generation_config.eos_token_id = None  # every side makes COUNT tokens
    inputs = tokenizer([PROMPT] * BATCH, return_tensors="pt")
    prompts = inputs.input_ids.tolist()
    marks = {s: Watermark.create(s, vocab_size=VOCAB, key_length=256) for s in ("exp", "its")}
    plain = {"do_sample": True, "top_k": 0, "max_new_tokens": COUNT, "pad_token_id": 0}

    def theirs(**settings):
        made = model.generate(**inputs, **plain, **settings)
        assert made.shape[1] == inputs.input_ids.shape[1] + COUNT

    def ours(mark):
        made = generate(model, prompts, mark, max_new_tokens=COUNT, eos=False, progress=False)
        assert {len(one.tokens) for one in made} == {COUNT}

    sides = {
        "model.generate, no watermark": lambda: theirs(),
        "wmcore.generate, exp": lambda: ours(marks["exp"]),
        "wmcore.generate, its": lambda: ours(marks["its"]),
        "model.generate, WatermarkConfig exp": lambda: theirs(
            watermarking_config=WatermarkConfig(marks["exp"])
        ),
    }
    model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=3, pad_token_id=0)
    for mark in marks.values():
        generate(model, prompts, mark, max_new_tokens=3, progress=False)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, work in sides.items():
            times[name].append(seconds(work))
            print(f"{name}: {times[name][-1]:.1f} s", flush=True)
    rates = {name: BATCH * COUNT / median(t) for name, t in times.items()}
    base = rates["model.generate, no watermark"]
    return {
        name: {
            "seconds": [round(t, 2) for t in times[name]],
            "tokens_per_second": round(rates[name], 1),
            "ratio": round(rates[name] / base, 3),
        }
        for name in sides
    }


def draws(repeats: int = 15) -> dict:
    """Milliseconds of one draw for the whole batch, all threads that each side takes."""
    rng = np.random.default_rng(1)
    logits = torch.from_numpy(rng.normal(0, 3, (BATCH, VOCAB)).astype(np.float32))
    rows = np.arange(BATCH)
    exp = sampling.watermarked(Watermark.create("exp", vocab_size=VOCAB))
    its = sampling.watermarked(Watermark.create("its", vocab_size=VOCAB))
    sides = {
        "softmax + torch.multinomial": lambda: torch.multinomial(logits.softmax(-1), 1),
        "wmcore exp": lambda: exp(logits, rows, 1.0),
        "wmcore its": lambda: its(logits, rows, 1.0),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for work in sides.values():
        work()
    for _ in range(repeats):
        for name, work in sides.items():
            times[name].append(1000 * seconds(work))
    base = median(times["softmax + torch.multinomial"])
    return {
        name: {"milliseconds": round(median(t), 3), "times_faster": round(base / median(t), 1)}
        for name, t in times.items()
    }


if __name__ == "__main__":
    result = {
        "machine": machine(),
        "clock": "CPU seconds of the process",
        "torch_threads": torch.get_num_threads(),
        "setting": f"SmolLM2-135M-Instruct, batch {BATCH}, {COUNT} new tokens, vocabulary {VOCAB}",
        "draw": draws(),
        "loop": loops(int(sys.argv[1]) if len(sys.argv) > 1 else 3),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
