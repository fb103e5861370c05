"""The few names of llama_cpp that its binding uses, in Python: samplers in a chain, and a model of random logits."""

import ctypes
import importlib
import sys
from contextlib import contextmanager
from itertools import islice
from types import ModuleType
from unittest.mock import patch

import numpy as np

VOCAB, EOS = 64, 2
FAULTS = {}
"""What a changed llama_cpp might do: "last" names the last sampler, "deaf" skips ours, "ignores" takes another token;
and "nan", a model that fails."""


class llama_token_data(ctypes.Structure):
    _fields_ = [("id", ctypes.c_int32), ("logit", ctypes.c_float), ("p", ctypes.c_float)]


class llama_token_data_array(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.POINTER(llama_token_data)),
        ("size", ctypes.c_size_t),
        ("selected", ctypes.c_int64),
        ("sorted", ctypes.c_bool),
    ]


def candidates(pairs):
    """An array of (id, logit) and the memory that it points into."""
    items = (llama_token_data * len(pairs))(*((i, x, 0.0) for i, x in pairs))
    return llama_token_data_array(items, len(pairs), -1, False), items


class LlamaSampler:
    """A chain: (name, function of a pointer to the candidates)."""

    def __init__(self):
        self.sampler = []

    def add_custom(self, apply):
        def swallowing(pointer):
            if not FAULTS.get("deaf"):
                try:
                    apply(pointer)
                except BaseException as error:
                    print(f"swallowed {error}")

        self.sampler.append((b"custom", swallowing))


def llama_sampler_chain_n(chain):
    return len(chain)


def llama_sampler_chain_get(chain, i):
    return chain[i]


def llama_sampler_chain_remove(chain, i):
    return chain.pop(i)


def llama_sampler_chain_add(chain, one):
    chain.append(one)


def llama_sampler_name(one):
    return one[0]


def llama_sampler_apply(chain, pointer):
    pointer = ctypes.pointer(pointer._obj)
    for _, apply in chain:
        apply(pointer)


class Llama:
    """Logits follow from the position; top_k and temp are all the truncation there is, at best first."""

    def __init__(self, model_path, *, seed=0xFFFFFFFF, draft_model=None):
        self.model_path, self._sampler, self.n_tokens = model_path, None, 0
        self.closed = False

    def __getstate__(self):
        return {"model_path": self.model_path}

    def n_vocab(self):
        return VOCAB

    def token_eos(self):
        return EOS

    def pairs(self, temp=0.8, top_k=5):
        """The candidates of the next token after truncation."""
        x = np.random.default_rng(self.n_tokens).normal(0, 2, VOCAB).astype(np.float32)
        x = np.full_like(x, np.nan) if FAULTS.get("nan") else x
        order = np.argsort(-x, kind="stable")[: top_k or VOCAB]
        return [(int(i), float(x[i] / np.float32(abs(temp) or 1))) for i in order]

    def _init_sampler(self, top_k=5, temp=0.8, mirostat_mode=0):
        sampler = LlamaSampler()

        def select(pointer):
            pointer.contents.selected = 1 if FAULTS.get("ignores") else 0

        last = b"greedy" if temp == 0 else b"mirostat" if mirostat_mode and temp > 0 else b"dist"
        sampler.sampler.append((FAULTS.get("last", last), select))
        return sampler

    def sample(self, top_k=5, temp=0.8, mirostat_mode=0, idx=None):
        sampler = self._sampler or self._init_sampler(top_k, temp, mirostat_mode)
        array, _memory = candidates(self.pairs(temp, top_k))
        llama_sampler_apply(sampler.sampler, ctypes.byref(array))
        return array.data[array.selected].id

    def generate(self, tokens, **settings):
        self._sampler = self._init_sampler(**settings)
        self.n_tokens = len(tokens)
        while True:
            token = self.sample(**settings)
            self.n_tokens += 1
            yield token

    def create_completion(self, prompt, max_tokens=5, stream=False, seed=None, **settings):
        chunks = (token for token in islice(self.generate(prompt, **settings), max_tokens))
        return chunks if stream else list(chunks)


LLAMA_DEFAULT_SEED = 0xFFFFFFFF
STUBS = {name: one for name, one in list(globals().items()) if name.lower().startswith("llama")}


@contextmanager
def installed(version="0.3.36"):
    """The binding, imported on this stub; no other module is touched."""
    module = ModuleType("llama_cpp")
    vars(module).update(STUBS)
    ours = ("llama_cpp", "wmcore.bindings.llama_cpp")
    kept = {name: sys.modules.pop(name) for name in ours if name in sys.modules}
    sys.modules["llama_cpp"] = module
    try:
        with patch("wmcore.checks.version", lambda package: version):
            yield importlib.import_module("wmcore.bindings.llama_cpp")
    finally:
        FAULTS.clear()
        for name in ours:
            sys.modules.pop(name, None)
        sys.modules.update(kept)
