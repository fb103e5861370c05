"""Detection power with a real model, as in the paper's experiments: prompts from real text, clean and damaged.

    python benchmarks/power.py NEWS.jsonl [--model smollm2] [--texts 40] [--new-tokens 60]

NEWS.jsonl holds one object a line with a field `text`; the first 50 tokens of each are a prompt. Prints a table and
writes benchmarks/results/power.json: the share of texts with p <= 0.01 (T = 999), for each scheme, of clean texts,
of texts with 30 % of their tokens substituted, and of ordinary samples of the same model.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from machine import machine
from rich.console import Console
from rich.table import Table

from wmcore import SCHEMES, Detector, Watermark, attacks, generate
from wmcore.models import load_model

LEVEL = 0.01
RATE = 0.3


def openings(path: str, tokenizer, count: int, length: int) -> list[list[int]]:
    """The first `length` tokens of the first `count` texts that have as many."""
    found = []
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            tokens = tokenizer(json.loads(line)["text"])["input_ids"][:length]
            if len(tokens) == length:
                found.append(tokens)
            if len(found) == count:
                break
    return found


def entropy_per_token(model, tokens: list[int], prompt: list[int]) -> float:
    """Mean entropy, in nats, of the model's distribution over the new tokens."""
    import torch

    with torch.inference_mode():
        logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        log_p = logits.float().log_softmax(-1)
        return float(-(log_p.exp() * log_p).sum(-1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("news")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--texts", type=int, default=40)
    parser.add_argument("--new-tokens", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", default=Path(__file__).parent / "results" / "power.json")
    args = parser.parse_args()
    model, tokenizer = load_model(args.model)
    prompts = openings(args.news, tokenizer, args.texts, 50)
    vocab_size = model.config.get_text_config().vocab_size
    options = {"max_new_tokens": args.new_tokens, "eos": False, "seed": args.seed}
    plain = [g.tokens for g in generate(model, prompts, None, **options)]
    entropy = np.mean([entropy_per_token(model, t, p) for t, p in zip(plain, prompts, strict=True)])

    rows = []
    for scheme in SCHEMES:
        watermark = Watermark.create(scheme, vocab_size=vocab_size)
        clean = [g.tokens for g in generate(model, prompts, watermark, **options)]
        damaged = [
            attacks.substitute(tokens, RATE, vocab_size=vocab_size, seed=args.seed + i)
            for i, tokens in enumerate(clean)
        ]
        detector = Detector(watermark)
        row = {"scheme": scheme}
        for name, texts in (("clean", clean), ("substituted", damaged), ("ordinary", plain)):
            p = np.array(
                [d.p_value for d in detector.detect(texts, resamples=999, stop_after=None)]
            )
            row[name] = {"share": float((p <= LEVEL).mean()), "median_p": float(np.median(p))}
        rows.append(row)
    result = {
        "machine": machine(),
        "model": args.model,
        "texts": len(prompts),
        "prompt_tokens": 50,
        "new_tokens": args.new_tokens,
        "key_length": 256,
        "resamples": 999,
        "level": LEVEL,
        "substituted_rate": RATE,
        "temperature": 1.0,
        "mean_entropy_nats": float(entropy),
        "schemes": rows,
    }
    Path(args.output).parent.mkdir(exist_ok=True)
    Path(args.output).write_text(json.dumps(result, indent=2) + "\n")
    table = Table(title=f"share of {len(prompts)} texts with p <= {LEVEL} (median p)")
    for heading in ("scheme", "clean", f"{RATE:.0%} substituted", "ordinary"):
        table.add_column(heading, justify="right")
    for row in rows:
        cells = [f"{row[c]['share']:.3f} ({row[c]['median_p']:.3f})" for c in list(row)[1:]]
        table.add_row(row["scheme"], *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
