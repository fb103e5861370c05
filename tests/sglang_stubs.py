"""SGLang's parts that our binding meets: stubs of them, or an unpacked wheel's own files where one is given.

The stubs do what the wheel's files say (0.5.23): a request, a batch's sampling info with filter and merge, the two
steps of the sampler, the hooks. With a wheel, `custom_logit_processor`, `sampling_batch_info`, `sampler`,
`hook_registry` and the plugin loader are its own, and only what they import is stubbed. SGLang is not run.
"""

import contextlib
import dataclasses
import functools
import importlib
import json
import sys
import types
from array import array
from enum import Enum

import torch

ALL_TOKENS = 1 << 30


@dataclasses.dataclass
class Params:
    """The fields of SamplingParams that matter here, and what it does to temperature 0."""

    temperature: float = 1.0
    top_k: int = ALL_TOKENS
    top_p: float = 1.0
    min_p: float = 0.0
    sampling_seed: int | None = None
    custom_params: dict | None = None
    n: int = 1
    beam_width: int | None = None
    max_new_tokens: int = 99
    logit_bias: dict | None = None

    def __post_init__(self):
        if self.temperature == 0:
            self.temperature, self.top_k = 1.0, 1

    def verify(self, vocab_size):
        if self.top_k < 1:
            raise ValueError("top_k")


class Req:
    """A request. Its count of cached tokens is ahead of its list of tokens while batches overlap."""

    def __init__(self, rid, prompt, params, processor=None):
        self.rid, self.sampling_params = rid, params
        self.origin_input_ids, self.output_ids = array("q", prompt), array("q")
        self.kv = types.SimpleNamespace(kv_committed_len=0)
        self.custom_logit_processor, self.to_finish = processor, None
        self.return_sampling_mask, self.sampling_logprobs_mode = False, "selected"


class Exec:
    """What SGLang's context answers."""

    def __init__(self, backend):
        kernel = types.SimpleNamespace(sampling_backend=backend)

        @contextlib.contextmanager
        def override(sampling_backend):
            before, kernel.sampling_backend = kernel.sampling_backend, sampling_backend
            yield
            kernel.sampling_backend = before

        kernel.override = override
        self.kernel = kernel
        self.deterministic = types.SimpleNamespace(
            enable_deterministic_inference=False, rl_on_policy_target=None
        )
        self.features = types.SimpleNamespace(
            enable_custom_logit_processor=True, enable_watermark=False, sampling_mask_max_tokens=64
        )


@dataclasses.dataclass
class SamplingBatchInfo:
    """As much of theirs as these tests need, for runs without a wheel."""

    temperatures: object
    top_ps: object
    top_ks: object
    min_ps: object
    is_all_greedy: bool
    custom_params: list
    processors: list
    sampling_mask_batch_indices: object = None

    @classmethod
    def from_schedule_batch(cls, batch, vocab_size):
        params = [one.sampling_params for one in batch.reqs]
        made = cls(
            torch.tensor([p.temperature for p in params]).view(-1, 1),
            torch.tensor([p.top_p for p in params]), torch.tensor([p.top_k for p in params]),
            torch.tensor([p.min_p for p in params]), all(p.top_k <= 1 for p in params),
            [p.custom_params for p in params], [r.custom_logit_processor for r in batch.reqs],
        )  # fmt: skip
        made.adjusted_from_schedule_batch(batch, vocab_size)
        return made

    def adjusted_from_schedule_batch(self, batch, vocab_size):
        pass

    def adjusted_merge_batch(self, other):
        pass

    def adjusted_filter_batch(self, keep_indices, keep_indices_device):
        pass

    def filter_batch(self, keep, keep_device):
        for name in ("temperatures", "top_ps", "top_ks", "min_ps"):
            setattr(self, name, getattr(self, name)[keep_device])
        self.custom_params = [self.custom_params[i] for i in keep]
        self.processors = [self.processors[i] for i in keep]
        self.adjusted_filter_batch(keep, keep_device)

    def merge_batch(self, other):
        for name in ("temperatures", "top_ps", "top_ks", "min_ps"):
            setattr(self, name, torch.cat([getattr(self, name), getattr(other, name)]))
        self.custom_params = self.custom_params + other.custom_params
        self.processors = self.processors + other.processors
        self.is_all_greedy &= other.is_all_greedy
        self.adjusted_merge_batch(other)

    def copy_for_forward(self):
        return dataclasses.replace(self)


class Sampler(torch.nn.Module):
    """Processors, temperature, softmax, a draw: theirs without all that is not asked for here."""

    def forward(self, logits_output, info, *rest):
        logits = logits_output.next_token_logits
        for name in {p for p in info.processors if p}:
            rows = [i for i, p in enumerate(info.processors) if p == name]
            made = CustomLogitProcessor.from_str(name)
            logits[rows] = made(logits[rows], [info.custom_params[i] for i in rows])
        if info.is_all_greedy:
            return logits.argmax(-1)
        probs = (logits / info.temperatures).softmax(-1)
        logits_output.next_token_logprobs = probs.log()
        return self._sample_from_probs(probs, info, None, True)[0]

    def _sample_from_probs(self, probs, info, positions, simple):
        assert sys.modules[f"{ROOT}.runtime_context"].get_exec().kernel.sampling_backend != "wmcore"
        probs = probs * (torch.arange(probs.shape[1]) == probs.argmax(-1, keepdim=True))
        return probs.argmax(-1).int(), None  # the tests let unmarked rows be greedy


class CustomLogitProcessor:
    @classmethod
    def to_str(cls):
        return f"{cls.__module__}:{cls.__qualname__}"

    @classmethod
    def from_str(cls, text):
        module, name = text.split(":")
        return getattr(sys.modules[module], name)()


class HookType(Enum):
    AFTER = "after"
    REPLACE = "replace"


class HookRegistry:
    hooks: dict = {}  # noqa: RUF012

    @classmethod
    def register(cls, target, hook, hook_type=HookType.AFTER):
        cls.hooks[target] = (hook, hook_type)

    @classmethod
    def apply_hooks(cls):
        for target, (hook, hook_type) in cls.hooks.items():
            place, _, name = target.rpartition(".")
            if place not in sys.modules:
                module, _, outer = place.rpartition(".")
                owner = getattr(sys.modules[module], outer)
            else:
                owner = sys.modules[place]
            made = hook if hook_type is HookType.REPLACE else after(getattr(owner, name), hook)
            setattr(owner, name, made)


def after(original, hook):
    @functools.wraps(original)
    def both(*args, **kwargs):
        result = original(*args, **kwargs)
        changed = hook(result, *args, **kwargs)
        return result if changed is None else changed

    return both


@dataclasses.dataclass
class FinishAbort:
    message: str
    status_code: int
    err_type: str


@dataclasses.dataclass
class ServerArgs:
    sampling_backend: str | None = None
    enable_custom_logit_processor: bool = False
    speculative_algorithm: str | None = None
    dllm_algorithm: str | None = None

    def check_server_args(self):
        pass


ROOT = "sglang.srt"


def module(name, path=(), **names):
    made = types.ModuleType(name)
    made.__path__ = [str(p) for p in path]
    vars(made).update(names)
    sys.modules[name] = made
    if "." in name:
        parent, _, last = name.rpartition(".")
        setattr(sys.modules[parent], last, made)
    return made


def forget():
    for name in [n for n in sys.modules if n == "sglang" or n.startswith("sglang.")]:
        del sys.modules[name]
    HookRegistry.hooks.clear()


def load(backend, resolved=None, wheel=None):
    """Make `sglang.srt` importable, as in a server started with a sampling backend; it may take another, `resolved`."""
    forget()
    args = ServerArgs(sampling_backend=backend)
    answers = Exec(resolved or backend or "pytorch")
    package = [] if wheel is None else [wheel / "sglang"]
    srt = [] if wheel is None else [wheel / "sglang/srt"]
    module("sglang", package)
    module(ROOT, srt)
    parallel = types.SimpleNamespace(
        tp_group=types.SimpleNamespace(device_group=None), tp_rank=0, attn_cp_size=1
    )
    module(
        f"{ROOT}.runtime_context",
        get_exec=lambda: answers, get_server_args=lambda: args, get_parallel=lambda: parallel,
        get_platform=lambda: types.SimpleNamespace(has_flashinfer=False),
    )  # fmt: skip
    module(f"{ROOT}.server_args", ServerArgs=ServerArgs, SAMPLING_BACKEND_CHOICES={"pytorch"})
    module(f"{ROOT}.managers")
    module(f"{ROOT}.managers.schedule_batch", FINISH_ABORT=FinishAbort, ScheduleBatch=type(None))
    module(f"{ROOT}.hardware_backend")
    module(f"{ROOT}.hardware_backend.mlx")
    module(f"{ROOT}.hardware_backend.mlx.runtime", use_mlx=lambda: False)
    module(f"{ROOT}.sampling", [one / "sampling" for one in srt])
    module(f"{ROOT}.sampling.sampling_params", SamplingParams=Params, TOP_K_ALL=ALL_TOKENS)
    if wheel is not None:
        return _wheel(srt[0])
    module(f"{ROOT}.sampling.custom_logit_processor", CustomLogitProcessor=CustomLogitProcessor)
    module(f"{ROOT}.sampling.sampling_batch_info", SamplingBatchInfo=SamplingBatchInfo)
    factories = {}
    layers = module(f"{ROOT}.layers")
    layers.sampler = module(
        f"{ROOT}.layers.sampler", Sampler=Sampler, _CUSTOM_SAMPLER_FACTORIES=factories,
        register_sampler_backend=factories.__setitem__,
        create_sampler=lambda: factories.get(answers.kernel.sampling_backend, Sampler)(),
    )  # fmt: skip
    module(f"{ROOT}.plugins")
    module(f"{ROOT}.plugins.hook_registry", HookRegistry=HookRegistry, HookType=HookType)
    return None


def _wheel(srt):
    """What the wheel's own files import, stubbed; then those files."""
    sys.modules.setdefault("orjson", json)
    none = lambda *a, **k: None  # noqa: E731
    module("sglang.kernels")
    module("sglang.kernels.ops")
    module("sglang.kernels.ops.sampling", softmax=lambda x: x.softmax(-1))
    module("sglang.kernels.ops.sampling.murmur_hash", murmur_hash32=none)
    module("sglang.utils", LazyImport=none)
    module(f"{ROOT}.arg_groups", [srt / "arg_groups"])
    setting = types.SimpleNamespace(get=lambda: None)
    module(
        f"{ROOT}.environ",
        envs=types.SimpleNamespace(
            SGLANG_TRACE_SAMPLER_E2E=setting, SGLANG_OPT_USE_GUMBEL_SAMPLE=setting,
            SGLANG_PLUGINS=setting, SGLANG_PLATFORM=setting,
        ),
    )  # fmt: skip
    module(f"{ROOT}.layers", [srt / "layers"])
    module(f"{ROOT}.layers.dp_attention", is_dp_attention_enabled=lambda: False)
    module(
        f"{ROOT}.layers.logits_processor", LogitsProcessorOutput=object,
        SamplingMaskOutput=types.SimpleNamespace,
        SamplingMaskStatus=types.SimpleNamespace(OK=0, INVALID=1, OVERFLOW=2),
    )  # fmt: skip
    module(f"{ROOT}.layers.logprob_processor", OutputLogprobProcessor=Logprobs)
    module(f"{ROOT}.utils")
    module(f"{ROOT}.utils.async_probe", maybe_detect_nan=none, sanitize_nan_logits=none)
    module(
        f"{ROOT}.utils.common", get_bool_env_var=lambda name: False, is_cuda=lambda: False,
        is_gfx1250_supported=lambda: False, is_hip=lambda: False, is_musa=lambda: False,
        is_npu=lambda: False, is_xpu=lambda: False, is_pin_memory_available=lambda device: False,
    )  # fmt: skip
    module(f"{ROOT}.constrained")
    module(
        f"{ROOT}.constrained.base_grammar_backend",
        BaseGrammarObject=object, GrammarMask=object, GrammarRow=object,
    )  # fmt: skip
    nothing = types.SimpleNamespace(is_required=False, filter=none, merge=none)
    orchestra = {"BatchedPenalizerOrchestrator": lambda **k: nothing}
    for name in ("Frequency", "MinNewTokens", "Presence", "Repetition"):
        orchestra[f"Batched{name}Penalizer"] = name
    module(f"{ROOT}.sampling.penaltylib", **orchestra)
    module(f"{ROOT}.sampling.penaltylib.repetition_penalty", apply_scaling_penalties=none)
    module(f"{ROOT}.sampling.watermarking")
    module(f"{ROOT}.sampling.watermarking.core", build_watermark_batch_config=none)
    importlib.invalidate_caches()
    for name in ("sampling.custom_logit_processor", "sampling.sampling_batch_info"):
        importlib.import_module(f"{ROOT}.{name}")
    importlib.import_module(f"{ROOT}.layers.sampler")
    return importlib.import_module(f"{ROOT}.plugins")


class Logprobs:
    """In place of SGLang's: keeps the whole table that the sampler gives it."""

    def compute_logprobs(self, logprobs, *rest):
        return types.SimpleNamespace(
            write_output_to=lambda out: setattr(out, "next_token_logprobs", logprobs)
        )
