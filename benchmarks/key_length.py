"""What a longer key costs: the share of texts found at several key lengths, each text under keys drawn for it.

    python benchmarks/key_length.py FOLDER [--texts 100]

FOLDER is that of `entropy.py`: its unmarked answers at temperature 0.7, and the probability of each token. A token of
probability p that exponential minimum sampling chose has the number u = U^p, U uniform. So a key that wrote the text is
random numbers with such ones where the text meets it, whatever the key length. Writes results/key_length.json.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from machine import machine

from wmcore import Watermark
from wmcore.binning import binning
from wmcore.costs import CostSource
from wmcore.engine import Engine
from wmcore.kernels.problem import CostTable
from wmcore.significance import permutation_test

LENGTHS = (64, 256, 1024, 4096)
SCHEMES = ("exp", "exp-free")
RESAMPLES = 1999


class Drawn(CostSource):
    """A key that wrote one text: u float64 [U, n] of its distinct tokens."""

    def __init__(self, u: np.ndarray) -> None:
        self.u = u

    def table(self, tokens, backend, threads):
        costs = np.rint(4096 * np.log1p(-self.u)).astype(np.int32)
        return CostTable(costs, np.arange(len(tokens)))

    def numbers(self, tokens, backend):
        return CostTable((self.u * 65536).astype(np.uint16), np.arange(len(tokens)))


def key_of(tokens: np.ndarray, probability: np.ndarray, n: int, rng: np.random.Generator) -> Drawn:
    """A key of n rows that could have written the tokens from a random row on."""
    distinct, inverse = np.unique(tokens, return_inverse=True)
    order = np.argsort(np.unique(tokens, return_index=True)[1])  # in order of first occurrence
    place = np.empty(len(distinct), np.int64)
    place[order] = np.arange(len(distinct))
    u = rng.random((len(distinct), n))
    rows = (rng.integers(n) + np.arange(len(tokens))) % n
    u[place[inverse], rows] = rng.random(len(tokens)) ** probability
    return Drawn(np.minimum(u, 1 - 2.0**-33))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--texts", type=int, default=100)
    args = parser.parse_args()
    lines = (args.folder / "texts" / "t0.7-unmarked.jsonl").read_text().splitlines()
    texts = [text for text in map(json.loads, lines) if len(text["tokens"]) >= 30][: args.texts]
    rng = np.random.default_rng(1)
    rows = []
    for n in LENGTHS:
        keys = [key_of(np.array(t["tokens"]), np.array(t["probability"]), n, rng) for t in texts]
        for scheme in SCHEMES:
            watermark = Watermark.create(scheme, vocab_size=49152, key_length=n)
            statistic = watermark.statistic
            p = []
            for text, key in zip(texts, keys, strict=True):
                bins = binning(statistic, key)
                engine = Engine("cpu", watermark.problem(), None, 2, bins)
                packed = engine.pack([np.array(text["tokens"])])
                value = engine.fit(packed, key).value
                found = permutation_test(
                    engine, packed, value, resamples=RESAMPLES, stop_after=50, seed=1
                )
                p.append(found.p_value[0])
            share = float(np.mean(np.array(p) <= 0.01))
            error = float(np.sqrt(share * (1 - share) / len(p)))
            rows.append({"scheme": scheme, "n": n, "texts": len(p), "share": share, "se": error})
            print(rows[-1], flush=True)
    path = Path(__file__).parent / "results" / "key_length.json"
    path.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
