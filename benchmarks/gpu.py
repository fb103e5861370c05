"""The GPU's figures, each beside what it is compared with; written to results/<card>.json (`make gpu`).

Results are compared with the CPU backend before anything is timed. Times are medians of at least 7 runs after a
warm-up, with the 20th and 80th percentile, from a finished device to a finished device.
"""

import argparse
import json
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine

from wmcore import Detector, Key, Watermark
from wmcore.kernels import Backend, load
from wmcore.kernels.cuda import device as cuda_device
from wmcore.kernels.problem import Resamples, pack

cpu, cuda = load("cpu"), load("cuda")
RESULTS = Path(__file__).parent / "results"
V, N, M, T = 49152, 256, 200, 5000
SEED_KEY = np.arange(8, dtype=np.uint32)
INT32_LANES = 64
"""int32 additions or minima a multiprocessor starts in a cycle (CUDA programming guide, 7.5 and later)."""


def timed(run: Callable[[], Any], wait: Callable[[], Any], repeats: int = 7) -> dict[str, float]:
    """Seconds: median, and the 20th and 80th percentile."""
    run()
    wait()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        wait()
        seconds.append(time.perf_counter() - start)
    low, median, high = np.percentile(seconds, [20, 50, 80])
    return {"seconds": float(median), "p20": float(low), "p80": float(high)}


def rates(
    backend: Backend, wait: Any, peak: float, *, n=N, m=M, texts=64, resamples=2048
) -> list[dict]:
    """Cells a second of the two edit kernels: every window in int32, and bounds of whole keys in int16."""
    problem = Watermark.create("exp-edit", vocab_size=V, key_length=n).problem()
    rng = np.random.default_rng(0)
    batch = [rng.zipf(1.3, size=m) % V for _ in range(texts)]
    one, many = pack(batch[:1], None), pack(batch, None)
    few, all_of_them = Resamples(SEED_KEY, 0, 32), Resamples(SEED_KEY, 0, resamples)
    found = backend.null_prefixes(problem, one, few, 1)
    assert (found == cpu.null_prefixes(problem, one, few, 1)).all()
    none = np.full(texts, -(2**30), np.int32)  # below every bound: nothing is left to refine
    limit = np.full(texts, resamples)
    assert not backend.tally(problem, many, none, limit, few, 1)[0].any()
    found = []
    for name, cells, run in (
        (
            "int32, every window aligned in full",
            resamples * n * m * m,
            lambda: backend.null_prefixes(problem, one, all_of_them, 1),
        ),
        (
            "int16 pairs, bounds of whole keys",
            resamples * texts * m * (n + m - 1),
            lambda: backend.tally(problem, many, none, limit, all_of_them, 1),
        ),
    ):
        time_of = timed(run, wait)
        speed = cells / time_of["seconds"]
        # The fewest instructions a cell: fused add-minimum and minimum; int16 does two cells in each.
        share = speed * (2 if "int32" in name else 1) / peak if peak else None
        row = {"kernel": name, "n": n, "m": m, "Gcells_per_s": speed / 1e9, "share_of_peak": share}
        found.append({**row, **time_of})
    return found


def make_texts(watermark: Watermark, count: int, marked: bool, m: int = M) -> list[np.ndarray]:
    """Texts of m tokens; marked: half of them fit the key, each text at its own shift."""
    rng = np.random.default_rng(1)
    plain = rng.zipf(1.3, size=(count, m)) % watermark.vocab_size
    if not marked:
        return list(plain)
    some = np.arange(0, watermark.vocab_size, 16)
    one = Detector(watermark, backend="cpu")
    fit = some[one.engine.matrix(one.costs, some).argmin(axis=0)]
    shifts = rng.integers(watermark.key_length, size=count)
    best = fit[(shifts[:, None] + np.arange(m)) % watermark.key_length]
    return list(np.where(rng.random((count, m)) < 0.5, best, plain))


def detections(
    wait: Any, *, batch=4096, resamples=T, compared=32, schemes=("exp", "exp-edit")
) -> list:
    """Whole calls of `detect`, and the CPU backend's on some of the same texts."""
    rows = []
    for scheme in schemes:
        watermark = Watermark.create(scheme, vocab_size=V, key_length=N, key=Key(bytes(32)))
        for marked, stop_after in ((True, None), (True, 50), (False, 50)):
            texts = make_texts(watermark, batch, marked)
            ours, theirs = (Detector(watermark, backend=b) for b in ("cuda", "cpu"))
            settings = {"resamples": resamples, "stop_after": stop_after, "seed": 1}
            some = texts[:compared]
            start = time.perf_counter()
            expected = theirs.detect(some, **settings)
            on_cpu = time.perf_counter() - start
            found = ours.detect(some, **settings)
            same = [{**d.to_dict(), "backend": ""} for d in found]
            assert same == [{**d.to_dict(), "backend": ""} for d in expected]
            time_of = timed(lambda d=ours, t=texts, s=settings: d.detect(t, **s), wait)
            row = {
                "scheme": scheme,
                "watermarked": marked,
                "stop_after": stop_after,
                "batch": batch,
            }
            row |= {"resamples": resamples, "texts_per_s": batch / time_of["seconds"], **time_of}
            rows.append({**row, "cpu_texts_per_s": compared / on_cpu})
    return rows


def sampling_rates() -> list[dict]:
    """Microseconds a step of the fused samplers, of softmax with torch.multinomial, of argmax, and of one read."""
    import torch

    from wmcore import sampling
    from wmcore.kernels.constants import DOMAIN_EXP
    from wmcore.kernels.cuda.sample import ExpSampler, ItsSampler

    key, device, rows = Key(bytes(32)), cuda_device.device(), []
    for n_tokens in (49152, 151936):
        exp = ExpSampler(device, key.words, DOMAIN_EXP)
        its = ItsSampler(device, key.its_order(n_tokens), key.its_words(N))
        for count in (1, 16, 256):
            for kind in (torch.float32, torch.bfloat16):
                # Sharpened normal numbers: about as peaked as a language model's logits.
                x = (3 * torch.randn(count, n_tokens, device="cuda")).to(kind)
                places = torch.arange(count, device="cuda")
                out = torch.empty(count, dtype=torch.int64, device="cuda")

                def draw(sampler, x=x, places=places, out=out):
                    stream = torch.cuda.current_stream().cuda_stream
                    sampling.on_device(sampler, x, places, 1.0, stream, out)

                steps = {
                    "exp": lambda d=draw, s=exp: d(s),
                    "its": lambda d=draw, s=its: d(s),
                    "multinomial": lambda x=x: torch.multinomial(x.float().softmax(-1), 1),
                    "argmax": lambda x=x: x.argmax(-1),
                    "read": lambda x=x: torch.amax(x, -1),
                }
                row: dict[str, Any] = {"B": count, "V": n_tokens, "dtype": str(kind)}
                for name, step in steps.items():
                    eager, graph = _per_step(step)
                    row |= {f"{name}_us": eager, f"{name}_graph_us": graph}
                row["tokens_per_s"] = count / row["exp_us"] * 1e6
                row["exp_to_read"] = row["exp_graph_us"] / row["read_graph_us"]
                row["multinomial_to_exp"] = row["multinomial_graph_us"] / row["exp_graph_us"]
                rows.append(row)
    return rows


def generation(
    *, batch: int = 16, new_tokens: int = 64, size: dict[str, int] | None = None
) -> list:
    """Seconds of `generate` with a watermark and without, and of transformers' own sampling, with random weights of a
    model of 1.2 billion parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from wmcore import generate

    shape = size or {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    }
    config = LlamaConfig(**shape, max_position_embeddings=4096, bos_token_id=0, eos_token_id=0)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config).bfloat16().eval()
    prompts = torch.randint(1, shape["vocab_size"], (batch, 32), device="cuda")
    watermark = Watermark.create("exp", vocab_size=shape["vocab_size"], key=Key(bytes(32)))
    given = prompts.tolist()

    def ours(mark: Watermark | None) -> None:
        generate(
            model,
            given,
            mark,
            max_new_tokens=new_tokens,
            batch_size=batch,
            eos=False,
            progress=False,
        )

    def theirs() -> None:
        model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=True,
            top_k=0,
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
        )

    ways = {
        "watermarked": lambda: ours(watermark),
        "not watermarked": lambda: ours(None),
        "transformers": theirs,
    }
    rows = [
        {"way": name, "B": batch, "tokens": new_tokens, **timed(run, torch.cuda.synchronize)}
        for name, run in ways.items()
    ]
    for row in rows:
        row["to_transformers"] = row["seconds"] / rows[-1]["seconds"]
    return rows


def _per_step(step: Callable[[], Any], steps: int = 50) -> tuple[float, float]:
    """Microseconds a step, launched one by one and replayed as a CUDA graph."""
    import torch

    eager = timed(lambda: [step() for _ in range(steps)], torch.cuda.synchronize)["seconds"]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()  # which makes a sampler's scratch on this stream, where the capture is
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(steps):
                step()
    replayed = timed(graph.replay, torch.cuda.synchronize)["seconds"]
    return 1e6 * eager / steps, 1e6 * replayed / steps


def card() -> dict[str, Any]:
    """The device, its driver and the peak of its integer units."""
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(0)
    clock = cupy.cuda.Device(0).attributes.get("ClockRate", 0) * 1e3  # 0: this CUDA does not say
    return {
        "name": properties["name"].decode(),
        "capability": f"{properties['major']}.{properties['minor']}",
        "processors": properties["multiProcessorCount"],
        "clock_GHz": clock / 1e9,
        "int32_peak_per_s": properties["multiProcessorCount"] * INT32_LANES * clock,
        "memory_GiB": properties["totalGlobalMem"] / 2**30,
        "driver_cuda": cupy.cuda.runtime.driverGetVersion(),
        "nvrtc": ".".join(map(str, cupy.cuda.nvrtc.getVersion())),
        "cupy": cupy.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether there is a GPU")
    asked = parser.parse_args()
    reason = cuda.why_not()
    if reason is not None:
        sys.exit(f"no GPU, so nothing was tested and nothing was measured: {reason}")
    if asked.check:
        print("GPU:", card()["name"])
        return
    import cupy

    wait = cupy.cuda.Device(0).synchronize
    about = card()
    path = RESULTS / f"{re.sub('[^a-z0-9]+', '-', about['name'].lower()).strip('-')}.json"
    parts = {
        "edit": lambda: rates(cuda, wait, about["int32_peak_per_s"]),
        "detect a few": lambda: detections(wait, batch=64),
        "sample": sampling_rates,
        "generate": generation,
        "detect": lambda: detections(wait),  # last: it takes longest
    }
    measure(path, {"card": about, "machine": machine(), "commit": commit()}, parts)


def measure(
    path: Path, about: dict[str, Any], parts: dict[str, Callable[[], list[dict[str, Any]]]]
) -> None:
    """Run the parts; the file has what was measured after each. One that fails is named there, and ends with exit 1."""
    result: dict[str, Any] = {**about, "failed": {}}
    for name, part in parts.items():
        try:
            result[name] = part()
        except Exception as error:
            traceback.print_exc()
            result["failed"][name] = f"{type(error).__name__}: {error}"
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps({name: result.get(name)}, indent=1), flush=True)
    print("written:", path)
    if result["failed"]:
        sys.exit(f"failed: {result['failed']}")


def commit() -> str:
    """What was measured: the commit of this checkout."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
