"""The bindings against the packages they stand in for, on the same inputs: equal results, and the ratio of times.

    OMP_NUM_THREADS=1 taskset -c 0 env PEERS=path/to/watermark:path/to/MarkLLM WMCORE_VLLM=path/to/unpacked/wheels \\
        WMCORE_SGLANG=path/to/unpacked/wheel python benchmarks/bindings.py

One core on each side, alternating; CPU seconds, so that other users of the machine do not matter. Peers are taken
only from where the environment says; what is missing is skipped, and its figures in results/bindings.json stay.
"""

import contextlib
import importlib
import io
import itertools
import json
import sys
import time
import types
from pathlib import Path
from statistics import median

import numpy as np
import torch
from machine import machine
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
import peers  # noqa: E402
import vllm_stubs  # noqa: E402
from tiny import llama, words  # noqa: E402

from wmcore import SCHEMES  # noqa: E402
from wmcore.bindings import jthickstun, markllm  # noqa: E402
from wmcore.bindings.sglang_gumbel import SglangGumbelDetector  # noqa: E402
from wmcore.bindings.vllm_gumbel import GumbelDetector  # noqa: E402

VOCAB, N, M = 50272, 256, 80
REPEATS = 3


def seconds(work):
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):  # MarkLLM prints in its loop
        result = work()
    return time.process_time() - start, result


def row(what, setting, theirs, ours, same):
    """One line: medians of alternating runs after one of ours to compile. same(a, b) says how results agree."""
    ours()
    times = ([], [])
    for _ in range(REPEATS):
        for side, work in zip(times, (theirs, ours), strict=True):
            took, result = seconds(work)
            side.append(took)
            if side is times[0]:
                wanted = result
    there, here = (median(side) for side in times)
    line = {
        "what": what,
        "setting": setting,
        "equal": same(wanted, result),
        "theirs_seconds": round(there, 5),
        "ours_seconds": round(here, 5),
        "times_faster": round(there / here, 1),
    }
    print(json.dumps(line), flush=True)
    return line


def close(tolerance):
    def same(a, b):
        a, b = float(a), float(b)
        if abs(a - b) > tolerance:
            raise SystemExit(f"results differ: {a} and {b}")
        return f"{a:.6g} and {b:.6g}"

    return same


def exact(a, b):
    if torch.is_tensor(a):
        a, b = a.tolist(), b.tolist()
    if a != b:
        raise SystemExit(f"results differ: {a} and {b}")
    return "identical"


def same_detections(a, b):
    worst = max(abs(x.score - y.score) for x, y in zip(a, b, strict=True))
    p = max(abs(x.p_value - y.p_value) for x, y in zip(a, b, strict=True))
    if max(worst, p) > 1e-8:
        raise SystemExit(f"scores differ by {worst}, p-values by {p}")
    return f"scores within {worst:.0e}, p-values within {p:.0e}"


def published():
    """phi, a permutation test and generation of the published library."""
    cython()
    sys.path.insert(0, str(peers.PUBLISHED))
    there = {
        name: importlib.import_module(f"watermarking.{name}")
        for name in ("detection", "generation", "gumbel.key", "gumbel.sampler", "gumbel.score",
                     "transform.key", "transform.sampler", "transform.score")
    }  # fmt: skip
    here = dict.fromkeys(there, jthickstun)
    tokens = torch.from_numpy(np.random.default_rng(1).integers(0, VOCAB, M))
    schemes = {
        "exp": ("gumbel", lambda d: d["gumbel.score"].gumbel_score, 0.02),
        "exp-edit": ("gumbel", lambda d: lambda x, y: d["gumbel.score"].gumbel_edit_score(x, y, 0.0), 0.02),
        "its": ("transform", lambda d: d["transform.score"].transform_score, 0.002),
        "its-edit": (
            "transform",
            lambda d: lambda x, y: d["transform.score"].transform_edit_score(x, y, 0.4),
            0.002,
        ),
    }  # fmt: skip

    def phi(side, scheme, **more):
        package, dist, _ = schemes[scheme]
        key = getattr(side[f"{package}.key"], f"{package}_key_func")
        settings = {"key_func": key, "dist": dist(side), "normalize": package == "transform"}

        def stat(tokens, n, k, generator, vocab_size, null=False):
            return side["detection"].phi(
                tokens, n, k, generator, vocab_size=vocab_size, null=null, **settings
            )

        return stat

    def generator():
        return torch.Generator().manual_seed(7)

    def statistic(side, scheme, null):
        stat = phi(side, scheme)
        return lambda: stat(tokens, N, M, generator(), VOCAB, null)

    shape = f"n {N}, m = k = {M}, vocabulary {VOCAB}"
    lines = []
    for scheme, (_, _, tolerance) in schemes.items():
        for null in (False, True):
            if null and SCHEMES[scheme].sampler == "its":
                continue  # the published scripts ask its for null=False always
            sides = [statistic(side, scheme, null) for side in (there, here)]
            what = f"published phi, {scheme}{', null' if null else ''}"
            lines.append(row(what, shape, *sides, close(tolerance)))
    for scheme, runs in (("exp-edit", 50), ("its-edit", 50)):

        def test(side, scheme=scheme, runs=runs):
            torch.manual_seed(3)
            return side["detection"].permutation_test(
                tokens, VOCAB, N, M, 7, phi(side, scheme), n_runs=runs
            )

        lines.append(
            row(f"published permutation_test, {scheme}", f"{shape}, {runs} runs",
                lambda t=test: t(there), lambda t=test: t(here), exact)
        )  # fmt: skip
    model = llama(VOCAB).float()
    prompts, seeds = tokens[:8].reshape(4, 2), torch.arange(4)
    for package in ("gumbel", "transform"):

        def make(side, package=package):
            torch.manual_seed(3)
            key = getattr(side[f"{package}.key"], f"{package}_key_func")
            sampler = getattr(side[f"{package}.sampler"], f"{package}_sampling")
            return side["generation"].generate(model, prompts, VOCAB, N, 60, seeds, key, sampler)

        lines.append(
            row(f"published generate, {package}", f"batch 4, 60 tokens, n {N}, tiny model, vocabulary {VOCAB}",
                lambda m=make: m(there), lambda m=make: m(here), exact)
        )  # fmt: skip
    return lines


def of_markllm(folder):
    """Detection by MarkLLM's two classes, with its files and fewer runs than their defaults."""
    cython()
    sys.path.insert(0, str(peers.MARKLLM))
    size = 50272
    model, tokenizer = llama(size).float(), words(size)
    setting = types.SimpleNamespace(
        model=model, tokenizer=tokenizer, vocab_size=size, device="cpu", gen_kwargs={}
    )
    lines = []
    for name, module, full in (("EXPEdit", "exp_edit", 100), ("ITSEdit", "its_edit", 500)):
        runs = 5 if name == "EXPEdit" else 20
        file = folder / f"{name}.json"
        entries = json.loads((peers.MARKLLM / "config" / f"{name}.json").read_text())
        file.write_text(json.dumps({**entries, "n_runs": runs, "sequence_length": M}))
        theirs = getattr(importlib.import_module(f"watermark.{module}.{module}"), name)
        there, here = theirs(str(file), setting), getattr(markllm, name)(str(file), setting)
        text = there.generate_watermarked_text("w5 w6")
        text = " ".join(text.split()[-M:])
        same = exact if name == "ITSEdit" else close(1e-9)
        lines.append(
            row(f"MarkLLM {name}.detect_watermark", f"n {N}, {M} tokens, vocabulary {size}, {runs} of {full} runs",
                lambda t=there, s=text: t.detect_watermark(s)["score"],
                lambda h=here, s=text: h.detect_watermark(s)["score"], same)
        )  # fmt: skip
    return lines


def of_vllm():
    """vLLM's own per-document detector against the batch detector, one thread."""
    root = peers.wheels()[-1]
    vllm_stubs.load(root)
    theirs = importlib.import_module("vllm.v1.watermarking")
    texts = np.random.default_rng(1).integers(0, VOCAB, (200, 300)).tolist()
    lines = []
    for name, alpha in (("gumbel", None), ("dual_key_gumbel", 0.1)):
        if alpha is None:
            there = theirs.GumbelWatermarkDetector(42)
        else:
            there = theirs.DualKeyGumbelWatermarkDetector(42, alpha=alpha)
        here = GumbelDetector(42, alpha=alpha, threads=1)

        lines.append(
            row(f"vLLM detector, {name}", f"200 documents of 300 tokens, context 4, {root.name}",
                lambda t=there: [t.detect(text) for text in texts],
                lambda h=here: h.detect(texts), same_detections)
        )  # fmt: skip
    vllm_stubs.forget()
    return lines


def of_sglang(theirs):
    """SGLang's own per-document detector against the batch detector, one thread."""
    texts = np.random.default_rng(1).integers(0, VOCAB, (200, 300)).tolist()
    lines = []
    for name, keys in (("one key", {}), ("two keys", {"key_b": "fedcba9876543210"})):
        there = theirs.WatermarkDetector("0123456789abcdef", **keys)
        here = SglangGumbelDetector("0123456789abcdef", threads=1, **keys)
        lines.append(
            row(f"SGLang detector, {name}", "200 documents of 300 tokens, context 4, 0.5.23",
                lambda t=there: [t.detect_tokens(text).combined for text in texts],
                lambda h=here: h.detect(texts), same_detections)
        )  # fmt: skip
    return lines


def cython():
    import pyximport

    pyximport.install(setup_args={"include_dirs": np.get_include()}, language_level=3)


def main():
    import tempfile

    torch.set_num_threads(1)
    found = {}
    if peers.wheels():
        found["vLLM"] = of_vllm()
    if theirs := peers.sglang_watermarking():
        found["SGLang"] = of_sglang(theirs)
    if peers.PUBLISHED:
        found["published"] = published()
    if peers.MARKLLM:
        with tempfile.TemporaryDirectory() as folder:
            found["MarkLLM"] = of_markllm(Path(folder))
    path = HERE / "results" / "bindings.json"
    result = json.loads(path.read_text())
    result["clock"] = "CPU seconds, one thread a side, medians"
    for peer, lines in found.items():
        result["peers"][peer] = {"machine": machine(), "rows": lines}
    path.write_text(json.dumps(result, indent=2) + "\n")
    table = Table("what", "setting", "results", "theirs s", "ours s", "times faster")
    for line in itertools.chain.from_iterable(found.values()):
        table.add_row(*(str(value) for value in line.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
