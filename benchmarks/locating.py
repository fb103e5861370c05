"""Marked passages of 100 tokens inside 2,000 tokens of news: what windows and one local pass find (set NEWS; texts.py).

    NEWS=news.jsonl python benchmarks/locating.py [documents]

The news is that of people, articles joined, SmolLM2's tokens. Each token of a passage is drawn by exponential minimum
sampling from a law of 200 candidates, tokens of the same news, with probabilities k^-a, a one of `SLOPES`: its entropy
is 0.1 to 4.2 nats, 1.6 on average. Each document has a key of its own, and is tested as `wmcore scan` does. Times are
those of the same documents without a passage, one thread.
"""

import json
import sys
import time

import numpy as np
from machine import machine
from texts import VOCAB, news_path, secret

from wmcore import Detector, Watermark
from wmcore.attacks import damage
from wmcore.models import load_tokenizer
from wmcore.records import Document
from wmcore.scan.batch import Batch
from wmcore.scan.settings import ScanSettings
from wmcore.scan.worker import Scanner

LENGTH, PASSAGE = 2000, 100
SLOPES = (6.0, 4.0, 3.0, 2.0, 1.5, 1.0)
TESTS = {"windows": {"scheme": "exp"}, "local": {"scheme": "exp-local", "resamples": 4999}}
"""4,999 resamples tell p <= 1e-3 from more, and only a proven bound is <= 1e-6; windows need them all."""


def news_tokens() -> np.ndarray:
    """All of the news, as tokens: int64."""
    tokenizer = load_tokenizer("smollm2")
    lines = news_path().read_text("utf-8").splitlines()
    texts = [tokenizer(json.loads(line)["text"])["input_ids"] for line in lines]
    return np.concatenate([np.array(t, np.int64) for t in texts])


def passage(watermark: Watermark, news: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Tokens written with the watermark: int64 [PASSAGE]."""
    detector = Detector(watermark, scheme="exp", backend="cpu", threads=1)
    candidates = rng.choice(news, (PASSAGE, 200))
    distinct, inverse = np.unique(candidates, return_inverse=True)
    cost = detector.engine.units(detector.engine.matrix(detector.costs, distinct))
    rows = (int(rng.integers(256)) + np.arange(PASSAGE)) % 256
    u = -np.expm1(cost[inverse.reshape(candidates.shape), rows[:, None]])
    p = np.arange(1, 201.0) ** -rng.choice(SLOPES, PASSAGE)[:, None]
    best = (np.log(np.maximum(u, 1e-12)) / p).argmax(axis=1)
    return candidates[np.arange(PASSAGE), best]


def rows(test: dict, watermark: Watermark, texts: list[np.ndarray]) -> list[dict]:
    """What a scan says of texts."""
    settings = ScanSettings(tokens_field="tokens", seed=1, **test)
    scanner = Scanner(watermark, settings, backend="cpu", threads=1)
    documents = [Document(i, str(i), tokens=text) for i, text in enumerate(texts)]
    return scanner.rows(Batch(0, 0, documents))


def found(count: int, news: np.ndarray) -> dict:
    """Shares and boundary errors over documents, a key and a passage each."""
    rng = np.random.default_rng(7)
    out = {f"{name}, {kind}": [] for name in TESTS for kind in ("intact", "edited")}
    for i in range(count):
        watermark = secret("exp", i)
        first = int(rng.integers(len(news) - LENGTH))
        start = int(rng.integers(LENGTH - PASSAGE))
        marked = passage(watermark, news, rng)
        edited = damage(marked, 0.15, vocab_size=VOCAB, seed=i)
        for kind, inside in (("intact", marked), ("edited", edited)):
            text = np.insert(news[first : first + LENGTH - len(inside)], start, inside)
            for name, test in TESTS.items():
                (row,) = rows(test, watermark, [text])
                span = row["window"]
                error = abs(span["start"] - start) + abs(span["end"] - start - len(inside))
                out[f"{name}, {kind}"].append((row["p_value"], error))
    summary = {}
    for name, values in out.items():
        p, error = np.array(values).T
        good = p <= 1e-3
        summary[name] = {
            "p <= 1e-6": float((p <= 1e-6).mean()),
            "p <= 1e-3": float(good.mean()),
            "boundary error, median": float(np.median(error[good])) if good.any() else None,
        }
    return summary


def seconds(count: int, news: np.ndarray) -> dict:
    """Processor time of a document without a passage, of `count` overlapping ones that share resamples; four keys."""
    texts = [news[s : s + LENGTH] for s in np.linspace(0, len(news) - LENGTH, count).astype(int)]
    out = {}
    for name, test in TESTS.items():
        rows(test, secret("exp", 1), texts)
        out[name] = []
        for key in range(10, 14):
            began = time.process_time()
            rows(test, secret("exp", key), texts)
            out[name].append((time.process_time() - began) / count)
    return out


if __name__ == "__main__":
    documents = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    tokens = news_tokens()
    result = {"machine": machine(), "documents": documents, "found": found(documents, tokens)}
    print(json.dumps({**result, "seconds": seconds(500, tokens)}, indent=2))
