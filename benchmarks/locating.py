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
TESTS = {"windows": {"scheme": "exp"}, "local": {"scheme": "exp-local"}}


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
