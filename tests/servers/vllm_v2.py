"""Model Runner V2 on the CPU, a process of its own: Triton's interpreter runs its kernels, at half a token a second.

    python vllm_v2.py FOLDER ours|native  ->  a line of JSON: the tokens of each request

`ours` writes under WMCORE_VLLM_WATERMARK, `native` under vLLM's own watermark, and then also gives the score and p of
vLLM's own detector. What is changed of vLLM: it is told that Triton has a CPU driver, and top-k and top-p are its torch
code, because the interpreter cannot run their kernel.
"""

import json
import os
import sys
from types import SimpleNamespace

PROMPT = "Tell me about the sea."
OURS = [
    {"extra_args": {"wmcore_shift": 3}},
    {"seed": 5, "top_p": 0.9, "top_k": 40, "temperature": 0.8},
    {"seed": 6, "repetition_penalty": 1.2, "frequency_penalty": 0.3, "min_p": 0.02},
    {"seed": 1, "extra_args": {"wmcore": False}},
]
NATIVE = [{"seed": 1}]
KEY = 42


def main(folder, kind):
    os.environ |= {
        "TRITON_INTERPRET": "1",
        "VLLM_USE_V2_MODEL_RUNNER": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
    }
    from triton.backends import backends

    backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True))
    from vllm import LLM, SamplingParams
    from vllm.v1.sample.ops import topk_topp_sampler
    from vllm.v1.worker.gpu.sample import sampler, states

    def truncated(logits, k, p):
        return topk_topp_sampler.apply_top_k_top_p_pytorch(logits, k, p, allow_cpu_sync=True)

    for module in (topk_topp_sampler, sampler, states):
        assert hasattr(module, "apply_top_k_top_p")
        module.apply_top_k_top_p = truncated
    native = kind == "native"
    own = {"watermark_config": {"algorithm": "gumbel", "key": KEY}} if native else {}
    engine = LLM(
        folder, dtype="float32", enforce_eager=True, distributed_executor_backend="uni",
        max_model_len=256, max_num_seqs=4, **own,
    )  # fmt: skip
    assert engine.llm_engine.vllm_config.use_v2_model_runner
    asked, length = (NATIVE, 40) if native else (OURS, 8)
    made = engine.generate(
        [PROMPT] * len(asked),
        [SamplingParams(max_tokens=length, ignore_eos=True, **how) for how in asked],
        use_tqdm=False,
    )
    result = {
        "prompt": list(made[0].prompt_token_ids),
        "tokens": [list(one.outputs[0].token_ids) for one in made],
    }
    if native:
        from vllm.v1.watermarking import GumbelWatermarkDetector

        theirs = GumbelWatermarkDetector(key=KEY).detect(result["tokens"][0])
        result |= {"score": theirs.score, "p_value": theirs.p_value}
    print("\n" + json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
