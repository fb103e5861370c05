"""How far one key shifts a whole corpus: many keys over the same human text (set NEWS), to results/dependence.json.

For each key: the share of documents with p <= 0.05 and p <= 0.01. Independent documents would give it the standard
deviation of a binomial share; the ratio of variances is the inflation. Then, how often the bound of 19 control keys
(`wmcore.scan.fdr`) held, over random choices of key and controls.
"""

import json
import sys
from pathlib import Path

import numpy as np
from machine import machine
from texts import VOCAB, news_path, secret

from wmcore import Detector
from wmcore.models import load_tokenizer
from wmcore.scan.fdr import PValues, false_bound

LENGTH, TRIALS, CONTROLS = 200, 2000, 19


def documents() -> list[np.ndarray]:
    """All stretches of LENGTH tokens of the texts."""
    tokenizer = load_tokenizer("smollm2")
    texts = [json.loads(line)["text"] for line in news_path().read_text("utf-8").splitlines()]
    tokens = [
        np.array(t, np.int64) for t in tokenizer(texts, add_special_tokens=False)["input_ids"]
    ]
    return [t[i : i + LENGTH] for t in tokens for i in range(0, len(t) - LENGTH + 1, LENGTH)]


def statistics(scheme: str, texts: list[np.ndarray], keys: int) -> np.ndarray:
    """phi of every text under every key, in cost units: int32 [keys, texts]."""
    found = np.empty((keys, len(texts)), np.int32)
    for i in range(keys):
        detector = Detector(secret(scheme, key=10_000 + i), threads=1)
        found[i] = detector.engine.fit(detector.engine.pack(texts), detector.costs).value
    return found


def p_values(phi: np.ndarray) -> np.ndarray:
    """p of each text under each key, by its rank among all keys: float64 [keys, texts]."""
    ordered = np.sort(phi, axis=0)
    return np.stack(
        [np.searchsorted(ordered[:, d], phi[:, d], side="right") for d in range(phi.shape[1])],
        axis=1,
    ) / len(phi)


def tested(scheme: str, texts: list[np.ndarray], keys: int) -> np.ndarray:
    """p of each text under each key by its own resamples, which keep something of the key: float64 [keys, texts]."""
    found = np.empty((keys, len(texts)))
    for i in range(keys):
        detector = Detector(secret(scheme, key=10_000 + i))
        tests = detector.detect(texts, resamples=199, stop_after=None, seed=i)
        found[i] = [test.p_value for test in tests]
    return found


def summary(p: np.ndarray, rng: np.random.Generator) -> dict:
    """Spread over keys, and coverage of the bound of control keys."""
    keys, count = p.shape
    result: dict = {"keys": keys, "documents": count}
    for level in (0.05, 0.01):
        share = (p <= level).mean(axis=1)
        result[f"p<={level}"] = {
            "mean": float(share.mean()),
            "sd": float(share.std()),
            "binomial_sd": float(np.sqrt(level * (1 - level) / count)),
            "variance_inflation": float(share.var() / (level * (1 - level) / count)),
            "quantiles_5_50_95_max": [float(q) for q in np.quantile(share, (0.05, 0.5, 0.95, 1.0))],
        }
    counted = [PValues.count([row]) for row in p]
    held, factors = 0, []
    for _ in range(TRIALS):
        chosen = rng.choice(keys, CONTROLS + 1, replace=False)
        controls = [counted[i] for i in chosen[1:]]
        factor = false_bound(controls, count, 0.0)
        factors.append(factor)
        held += counted[chosen[0]].excess() <= factor
    result["controls"] = {
        "count": CONTROLS,
        "promised": 1 - 1 / (CONTROLS + 1),
        "held": held / TRIALS,
        "median_factor": float(np.median(factors)),
    }
    return result


def main() -> None:
    """Measure and write."""
    keys = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    texts = documents()
    rng = np.random.default_rng(0)
    out: dict = {"machine": machine(), "length": LENGTH, "key_length": 256, "vocab_size": VOCAB}
    kinds = {
        "exp": lambda: p_values(statistics("exp", texts, keys)),
        "its": lambda: p_values(statistics("its", texts, keys)),
        "exp-edit": lambda: p_values(statistics("exp-edit", texts, keys // 4)),
        "exp-free": lambda: p_values(statistics("exp-free", texts, keys // 4)),
        "its-free": lambda: tested("its-free", texts, keys // 10),
    }
    for scheme in sys.argv[2:] or kinds:
        out[scheme] = summary(kinds[scheme](), rng)
        print(scheme, json.dumps(out[scheme]), flush=True)
    path = Path(__file__).parent / "results" / "dependence.json"
    if path.exists() and sys.argv[2:]:  # some of them: the others stay
        out = {**json.loads(path.read_text()), **{name: out[name] for name in sys.argv[2:]}}
    path.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
