"""Peers, if they are already on the machine: a checkout named in PEERS=path[:path...], or the PyPI package markllm.

Nothing here fetches or builds one; what is missing is said. Each peer is asked for two things: the statistic of a
key (to see that both sides agree) and the work of one resample of its own null path (to be timed).
"""

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass
class Peer:
    """name; scheme it can test; statistic(tokens, watermark); null(tokens, vocab_size): one resample."""

    name: str
    scheme: str
    statistic: Callable
    null: Callable


def find() -> tuple[list[Peer], list[str]]:
    """(the peers that can be imported, what is missing)."""
    for path in filter(None, os.environ.get("PEERS", "").split(os.pathsep)):
        sys.path.insert(0, path)
        if (Path(path) / "demo" / "detect.py").exists():
            sys.path.insert(0, str(Path(path) / "demo"))
    peers: list[Peer] = []
    missing: list[str] = []
    for load in (_published, _published_demo, _markllm):
        try:
            peers += load()
        except Exception as error:  # whatever a foreign package raises at import
            missing.append(f"{load.__name__.strip('_')}: {type(error).__name__}: {error}")
    return peers, missing


def _cython() -> None:
    import pyximport

    include = {"include_dirs": np.get_include()}
    pyximport.install(reload_support=True, language_level=3, setup_args=include)


def _published() -> list[Peer]:
    """The published library's `phi` with null=True: numbers for the distinct tokens only."""
    _cython()
    detection = importlib.import_module("watermarking.detection")
    gumbel_key = importlib.import_module("watermarking.gumbel.key").gumbel_key_func
    gumbel = importlib.import_module("watermarking.gumbel.score")
    transform_key = importlib.import_module("watermarking.transform.key").transform_key_func
    transform = importlib.import_module("watermarking.transform.score")
    import torch

    def make(name: str, scheme: str, key, score, normalize: bool) -> Peer:
        def phi(tokens, seed: int, vocab_size: int, n: int, null: bool):
            generator = torch.Generator().manual_seed(seed)
            return float(
                detection.phi(
                    torch.from_numpy(tokens),
                    n,
                    len(tokens),
                    generator,
                    key,
                    vocab_size,
                    score,
                    null=null,
                    normalize=normalize,
                )
            )

        def statistic(tokens, watermark):
            return phi(
                tokens, watermark.key.seed, watermark.vocab_size, watermark.key_length, False
            )

        def null(tokens, vocab_size: int, n: int, t: int):
            return phi(tokens, 1000 + t, vocab_size, n, True)

        return Peer(name, scheme, statistic, null)

    return [
        make("published library", "exp", gumbel_key, gumbel.gumbel_score, False),
        make(
            "published library",
            "exp-edit",
            gumbel_key,
            lambda tokens, xi: gumbel.gumbel_edit_score(tokens, xi, 0.0),
            False,
        ),
        make(
            "published library",
            "its-edit",
            transform_key,
            lambda tokens, xi: transform.transform_edit_score(tokens, xi, 0.4),
            True,
        ),
    ]


def _published_demo() -> list[Peer]:
    """The published demo's `detect`: n x V numbers and a copy of k rows for each window."""
    _cython()
    demo = importlib.import_module("detect")

    def statistic(tokens, watermark):
        xi = watermark.key.exp_table(watermark.key_length, watermark.vocab_size)
        return float(demo.detect(tokens, watermark.key_length, len(tokens), xi))

    def null(tokens, vocab_size: int, n: int, t: int):
        xi = np.random.RandomState(t).rand(n, vocab_size).astype(np.float32)  # as the demo does
        return float(demo.detect(tokens, n, len(tokens), xi))

    return [Peer("published demo", "exp-edit", statistic, null)]


def _markllm() -> list[Peer]:
    """MarkLLM's EXPEdit: `one_run` on n x V fresh numbers, as its detect_watermark does."""
    _cython()
    try:
        exp_edit = importlib.import_module("markllm.watermark.exp_edit.exp_edit")
    except ImportError:
        exp_edit = importlib.import_module("watermark.exp_edit.exp_edit")
    holder = getattr(exp_edit, "EXPEditUtils", None) or exp_edit.EXPEdit

    def one_run(tokens, xi):
        return float(holder.one_run(None, tokens, xi)[0])

    def statistic(tokens, watermark):
        xi = watermark.key.exp_table(watermark.key_length, watermark.vocab_size)
        return one_run(tokens, xi)

    def null(tokens, vocab_size: int, n: int, t: int):
        xi = np.random.RandomState(t).rand(n, vocab_size).astype(np.float32)  # as MarkLLM does
        return one_run(tokens, xi)

    return [Peer("MarkLLM EXPEdit", "exp-edit", statistic, null)]
