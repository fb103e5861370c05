"""What the watermark costs in vLLM: one engine on the CPU, the same batch with it and without, in turn.

    make vllm  # once: makes the environment and SmolLM2's folder
    OMP_NUM_THREADS=1 taskset -c 0 .venv-vllm/bin/python benchmarks/vllm_overhead.py

Processor seconds of the whole process. Each figure is the median of the ratios of neighbouring runs, and their range.
Writes results/vllm_overhead.json.
"""

import json
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

from machine import machine

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "servers"))
import smollm2  # noqa: E402
from vllm_reference import PROMPTS  # noqa: E402

from wmcore import Watermark  # noqa: E402
from wmcore.bindings.vllm import ENVIRONMENT  # noqa: E402

BATCH, LENGTH, PAIRS = 16, 32, 5
SETTINGS = {
    "no truncation": {},
    "top-p 0.9": {"top_p": 0.9},
    "top-k 50": {"top_k": 50},
}


def main():
    path = Path(tempfile.mkdtemp()) / "mark.json"
    Watermark.create(vocab_size=49152).save(path)
    os.environ |= {
        ENVIRONMENT: str(path),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    from vllm import LLM, SamplingParams

    engine = LLM(
        str(smollm2.folder()), dtype="float32", enforce_eager=True, max_num_seqs=BATCH,
        max_model_len=512, distributed_executor_backend="uni",
    )  # fmt: skip

    def seconds(on, how):
        one = SamplingParams(
            max_tokens=LENGTH, ignore_eos=True, seed=1, extra_args={"wmcore": on}, **how
        )
        start = time.process_time()
        engine.generate(PROMPTS[:BATCH], one, use_tqdm=False)
        return time.process_time() - start

    rows = []
    for name, how in SETTINGS.items():
        seconds(True, how), seconds(False, how)
        pairs = [(seconds(False, how), seconds(True, how)) for _ in range(PAIRS)]
        ratios = [on / off for off, on in pairs]
        rows.append(
            {
                "setting": name,
                "off_seconds": round(median(off for off, _ in pairs), 3),
                "on_seconds": round(median(on for _, on in pairs), 3),
                "ratio": round(median(ratios), 4),
                "least": round(min(ratios), 4),
                "most": round(max(ratios), 4),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    result = {
        "machine": machine(),
        "vllm": version("vllm-cpu"),
        "batch": BATCH,
        "tokens": LENGTH,
        "pairs": PAIRS,
        "rows": rows,
    }
    (HERE / "results" / "vllm_overhead.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
