"""What the tests of SGLang share: prompts and settings, the engine's options, and what the tokens must be."""

import os

import numpy as np
import pytest
import smollm2
import torch

from wmcore import Detector, Watermark, sampling
from wmcore.bindings import sglang as binding
from wmcore.truncate import JOINT, truncated

LENGTH, N = 60, 256
NOISE = 0.01
LONG = "Here is a list of words: " + ", ".join(f"word{i}" for i in range(40)) + ". And so"
PROMPTS = ["The capital of France is", "Once upon a time", "My favourite dish is", LONG]
SETTINGS = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.3, "top_p": 0.9},
    {"top_k": 50},
    {"min_p": 0.05},
    {"temperature": 0.8, "top_k": 30, "top_p": 0.9, "min_p": 0.02},
]
ENGINE = {
    "device": "cpu", "dtype": "float32", "attention_backend": "torch_native",
    "mem_fraction_static": 0.2, "max_total_tokens": 4096, "max_running_requests": 16,
    "context_length": 1024, "disable_cuda_graph": True, "chunked_prefill_size": 64,
    "enable_mixed_chunk": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def mark(tmp_path_factory):
    made = Watermark.create("exp", vocab_size=49152, key_length=N)
    path = tmp_path_factory.mktemp("sglang") / "mark.json"
    made.save(path)
    os.environ[binding.ENVIRONMENT] = str(path)
    os.environ["SGLANG_TEST_RETRACT"] = "1"
    os.environ["SGLANG_TEST_RETRACT_INTERVAL"] = "7"
    return made


@pytest.fixture(scope="module")
def reference(mark):
    return Reference(mark)


class Reference:
    """The model in transformers, which reads each text once: what the key draws at each of its places."""

    def __init__(self, mark):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.mark = mark
        self.model = AutoModelForCausalLM.from_pretrained(smollm2.folder(), dtype=torch.float32)
        self.tokenizer = AutoTokenizer.from_pretrained(smollm2.folder())

    def differing(self, prompt, tokens, shift, mark=None, **settings):
        """How many of a text's tokens are not those that the key draws."""
        mark = mark or self.mark
        before = self.tokenizer(prompt).input_ids
        with torch.no_grad():
            logits = self.model(torch.tensor([before + tokens])).logits[0, len(before) - 1 : -1]
        one = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | settings
        limits = [torch.full((len(tokens),), value) for value in one.values()]
        rows = (shift + np.arange(len(tokens))) % N
        drawn = sampling.watermarked(mark)(truncated(logits, *limits, order=JOINT), rows, 1.0)
        return int((drawn != torch.tensor(tokens)).sum())


def ask(engine, prompts, *many, **more):
    """The answers to prompts, each with its own sampling parameters."""
    params = [{"temperature": 1.0, "max_new_tokens": LENGTH, "ignore_eos": True} | o for o in many]
    return engine.generate(prompts, params if len(params) > 1 else params[0], **more)


def found(mark, answers):
    return Detector(mark).detect([one["output_ids"] for one in answers], resamples=199)
