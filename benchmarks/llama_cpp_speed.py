"""What a watermark costs llama.cpp, and whether it writes the tokens that `wmcore.generate` writes.

    python benchmarks/llama_cpp_speed.py [repeats]

In an environment with llama-cpp-python; for the second part, torch and transformers, too. SmolLM2-135M-Instruct (Q4_1),
one thread. Cost: 100 tokens of a text, watermark on and off in turn, with llama_cpp's defaults and without truncation,
processor seconds, medians. Tokens: llama.cpp writes texts; transformers reads them (float32, the same weights),
and each token is drawn again from its logits with the row that llama.cpp used. Writes results/llama_cpp_speed.json.
"""

import json
import sys
import time
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from statistics import median

import llama_cpp
import numpy as np
from machine import machine

from wmcore import Watermark, sampling
from wmcore.bindings.llama_cpp import Llama
from wmcore.key import Key
from wmcore.models import load_model, packaged_file

RESULT = Path(__file__).parent / "results" / "llama_cpp_speed.json"
COUNT, TEXTS, VOCAB = 100, 10, 49152
MARK = Watermark.create("exp", vocab_size=VOCAB, key=Key(bytes(range(32))))
PROMPT = "The harbour was quiet that morning, and the boats had not"
WHOLE = {"temp": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def load(**options) -> Llama:
    return Llama(
        str(packaged_file()),
        watermark=MARK,
        n_ctx=256,
        n_threads=1,
        n_threads_batch=1,
        verbose=False,
        **options,
    )


def written(llm: Llama, prompt: list[int], **settings) -> list[int]:
    return list(islice(llm.generate(prompt, **settings), COUNT))


def cost(repeats: int, **settings) -> dict:
    """Processor seconds of COUNT tokens, on and off, and their ratio."""
    llm = load()
    prompt = llm.tokenize(PROMPT.encode(), add_bos=False)
    times = {True: [], False: []}
    for i in range(2 * repeats + 2):
        on = i % 2 == 0
        with llm.marking(wmcore=on):
            start = time.process_time()
            written(llm, prompt, **settings)
            if i > 1:  # the first of each kind loads what the others have
                times[on].append(time.process_time() - start)
    on, off = median(times[True]), median(times[False])
    return {"on_s": on, "off_s": off, "ratio": on / off}


def tokens_alike() -> dict:
    """How many of llama.cpp's tokens transformers' logits give with the same key rows, and how far logits differ."""
    import torch

    llm = load(logits_all=True)
    model, _ = load_model("smollm2")
    draw = sampling.watermarked(MARK)
    prompt = llm.tokenize(PROMPT.encode(), add_bos=False)
    alike, first, noise = 0, [], []
    for shift in range(TEXTS):
        with llm.marking(wmcore_shift=shift):
            tokens = written(llm, prompt, **WHOLE)
        with torch.no_grad():
            logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        drawn = draw(logits, np.arange(COUNT) + shift, 1.0).tolist()
        same = [a == b for a, b in zip(tokens, drawn, strict=True)]
        alike += sum(same)
        first.append((*same, False).index(False))
        theirs = llm.scores[len(prompt) - 1 : len(prompt) + COUNT - 2]
        ours = logits[:-1].numpy()
        away = theirs - ours
        noise.append(float((away - away.mean(1, keepdims=True)).std()))
    return {
        "tokens": COUNT * TEXTS,
        "alike": alike,
        "first_difference": first,
        "logit_noise": median(noise),
    }


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    result = {
        "machine": machine(),
        "llama_cpp": llama_cpp.__version__,
        "defaults": cost(repeats),
        "no truncation": cost(repeats, **WHOLE),
    }
    if find_spec("torch"):
        result["against transformers"] = tokens_alike()
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
