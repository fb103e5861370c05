"""Parts of an unpacked vLLM wheel, with stubs for what they import and these tests do not need. vLLM is not run."""

import contextlib
import importlib
import sys
import types


def _module(name, path=(), **names):
    module = types.ModuleType(name)
    module.__path__ = [str(p) for p in path]
    vars(module).update(names)
    sys.modules[name] = module
    return module


def forget():
    for name in [n for n in sys.modules if n == "vllm" or n.startswith("vllm.")]:
        del sys.modules[name]


def load(root):
    """Make `import vllm.v1...` find the interface and watermarking files under root."""
    forget()
    logger = types.SimpleNamespace(
        warning_once=lambda *a, **k: None, warning=print, debug=lambda *a, **k: None, error=print
    )
    package = root / "vllm"
    _module("vllm", SamplingParams=object)
    settings = type("VllmConfig", (), {"__post_init__": lambda self: None})
    _module("vllm.config", [package / "config"], VllmConfig=settings)
    _module("vllm.config.utils", config=lambda c: c)
    _module("vllm.logger", init_logger=lambda name: logger)
    _module("vllm.exceptions", VLLMValidationError=type("VLLMValidationError", (ValueError,), {}))
    _module("vllm.sampling_params", SamplingParams=object)
    _module("vllm.logits_process", LogitsProcessor=object)
    _module("vllm.v1", [package / "v1"])
    _module("vllm.v1.sample", [package / "v1/sample"])
    _module("vllm.v1.sample.logits_processor", [package / "v1/sample/logits_processor"])
    _module("vllm.v1.worker")
    _module("vllm.v1.worker.gpu")
    _module("vllm.v1.worker.gpu.sample", [package / "v1/worker/gpu/sample"])
    _module("vllm.v1.worker.gpu.sample.gumbel", gumbel_sample=None)
    _module("vllm.utils")
    _module("vllm.utils.torch_utils", guard_cuda_initialization=contextlib.nullcontext)
    _module("vllm.platforms", current_platform=types.SimpleNamespace(is_tpu=lambda: False))
    importlib.invalidate_caches()
