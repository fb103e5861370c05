"""The CUDA backend as a backend: its functions are the CPU's, it is chosen where it works, and it says why not."""

import contextlib
import ctypes
import importlib.util
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from cuda_shim.device import ShimDevice, compiler
from matrices import WHOLE_OR_BLOCKS
from test_backends import make_problem

from wmcore import SCHEMES, Detector, Key, PublishedKey, Watermark, WatermarkError, sampling
from wmcore.kernels import load, resolve
from wmcore.kernels.backend import ExpNumbers
from wmcore.kernels.cuda import backend as backend_module
from wmcore.kernels.cuda import device as cuda_device
from wmcore.kernels.problem import pack
from wmcore.prefix import prefix_curve

cpu, cuda = load("cpu"), load("cuda")


@pytest.fixture
def shim(monkeypatch):
    """The CUDA backend on the host."""
    device = ShimDevice(shared_bytes=1 << 15)
    monkeypatch.setattr(cuda, "_given", device)
    return device


@pytest.fixture
def no_cache():
    cuda_device.why_not.cache_clear()
    yield
    cuda_device.why_not.cache_clear()


@pytest.mark.parametrize(("scheme", "blocks"), WHOLE_OR_BLOCKS)
def test_detection_is_the_cpus(shim, scheme, blocks):
    block_length = 9 if blocks else None
    watermark = Watermark.create(
        scheme, vocab_size=90, key_length=33, key=Key(bytes(32)), block_length=block_length
    )
    rng = np.random.default_rng(5)
    texts = [rng.integers(0, 90, size=m) for m in (9, 24, 31, 3)]
    one = Detector(watermark, backend="cpu")
    costs = one.engine.matrix(one.costs, np.arange(90))
    texts[1] = costs[:, (4 + np.arange(24)) % 33].argmin(axis=0)  # fits at shift 4
    found = Detector(watermark, backend="cuda").detect(texts, resamples=70, seed=3, alignment=True)
    expected = Detector(watermark, backend="cpu").detect(
        texts, resamples=70, seed=3, alignment=True
    )
    for a, b in zip(found, expected, strict=True):
        assert (a.backend, b.backend) == ("cuda", "cpu")
        assert {**a.to_dict(), "backend": ""} == {**b.to_dict(), "backend": ""}
    assert found[1].p_value == 1 / 71
    assert found[1].shift == (4 + found[1].block) % 33
    kind = SCHEMES[scheme].alignment
    kernels = {"scored_levels", "scored_hits"} if kind.scored else {"observe", "hits"}
    assert kernels <= set(shim.launched)
    assert ("bound" in shim.launched) == (kind.gaps and not kind.scored)


def test_prefix_curve_and_stopping_are_the_cpus(shim):
    watermark = Watermark.create("exp-edit", vocab_size=50, key_length=20)
    text = np.random.default_rng(1).integers(0, 50, size=17)
    one, two = (Detector(watermark, backend=name) for name in ("cuda", "cpu"))
    a, b = (prefix_curve(d, text, resamples=21, seed=2) for d in (one, two))
    assert (a.p_value == b.p_value).all()
    assert (a.statistic == b.statistic).all()
    assert a.any_prefix_p_value == b.any_prefix_p_value
    a, b = (d.detect([text, text[:5]], resamples=500, seed=2, stop_after=7) for d in (one, two))
    assert [(x.p_value, x.resamples, x.hits) for x in a] == [
        (x.p_value, x.resamples, x.hits) for x in b
    ]


def test_a_table_stays_on_the_device(shim):
    """What the device made is used where it is; of a table on the host only the rows that are asked for are sent."""
    watermark = Watermark.create("exp", vocab_size=300, key_length=16)
    detector = Detector(watermark, backend="cuda")
    sent = []
    array = shim.array

    def watched(values):
        sent.append(np.shape(values))
        return array(values)

    shim.array = watched
    detector.detect([np.arange(300)], resamples=1)
    tables = [shape for shape in sent if len(shape) == 2]
    assert "exp_table" in shim.launched
    assert tables == []


def test_texts_are_packed_and_sent_once_a_detection(shim, monkeypatch):
    """Whatever the number of rounds; texts whose p-value is proven are left out of these."""
    sent, packed = [], []
    send = backend_module.texts_struct

    def watched(device, texts):
        sent.append(texts)
        return send(device, texts)

    def pack_once(arrays, block_length):
        packed.append(len(arrays))
        return pack(arrays, block_length)

    monkeypatch.setattr(backend_module, "texts_struct", watched)
    monkeypatch.setattr("wmcore.engine.pack", pack_once)
    watermark = Watermark.create("exp-edit", vocab_size=50, key_length=8, key=Key(bytes(32)))
    texts = [np.arange(9), np.arange(20)]
    for _ in range(2):
        found = Detector(watermark, backend="cuda").detect(texts, resamples=99, stop_after=40)
        assert shim.launched.count("tally") > 1
        shim.launched.clear()
    assert packed == [2, 2]
    assert len(sent) == 2
    assert all(detection.resamples > 0 for detection in found)


def test_auto_takes_cuda_where_it_works(shim, monkeypatch):
    monkeypatch.delenv("WMCORE_BACKEND", raising=False)
    assert resolve("auto") is cuda
    assert resolve("cpu") is cpu
    monkeypatch.setenv("WMCORE_BACKEND", "cpu")
    assert resolve("auto") is cpu


@pytest.fixture
def cuda_logits(monkeypatch):
    """A function that makes a tensor of the CPU say that it is on a CUDA device."""
    torch = pytest.importorskip("torch")

    class OnDevice(torch.Tensor):
        is_cuda = True
        # What is made of it is ordinary.
        __torch_function__ = torch._C._disabled_torch_function_impl

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=0))
    return lambda values: torch.tensor(values).as_subclass(OnDevice)


@pytest.mark.parametrize("scheme", ["exp", "its"])
def test_cuda_logits_go_to_the_fused_sampler(shim, cuda_logits, scheme):
    watermark = Watermark.create(scheme, vocab_size=400, key=Key(bytes(32)))
    values = np.random.default_rng(0).normal(0, 3, (5, 400)).astype(np.float32)
    logits, rows = cuda_logits(values), np.arange(5) + 9
    draw = sampling.watermarked(watermark)
    expected = draw(logits.as_subclass(type(logits).__base__), rows, 0.8)
    assert not shim.launched
    assert draw(logits, rows, 0.8).tolist() == expected.tolist()
    assert shim.launched[-1] == {"exp": "exp_sample", "its": "its_sample"}[scheme]
    values[2] = -np.inf
    assert draw(cuda_logits(values), rows, 0.8, check=False)[2] == -1
    with pytest.raises(WatermarkError, match="no token to draw"):
        draw(cuda_logits(values), rows, 0.8)


def test_cuda_logits_go_to_the_cpu_where_cupy_does_not_work(shim, cuda_logits, monkeypatch):
    monkeypatch.delenv("WMCORE_BACKEND", raising=False)
    monkeypatch.setattr(type(cuda), "why_not", lambda self: "no CuPy")
    draw = sampling.ordinary(3)
    values = np.zeros((4, 50), np.float32)
    logits = cuda_logits(values)
    expected = draw(logits.as_subclass(type(logits).__base__), np.arange(4), 1.0)
    with pytest.warns(UserWarning, match="its backend does not work, .* to the CPU: no CuPy"):
        assert draw(logits, np.arange(4), 1.0).tolist() == expected.tolist()
    assert not shim.launched


def test_samplers_are_chosen_by_the_same_rule(shim, cuda_logits, monkeypatch, recwarn):
    """WMCORE_BACKEND and a name are heeded; a named backend works or raises."""
    values = np.zeros((4, 50), np.float32)
    on_device, rows = cuda_logits(values), np.arange(4)
    on_host = on_device.as_subclass(type(on_device).__base__)
    expected = sampling.ordinary(3)(on_host, rows, 1.0).tolist()
    assert sampling.ordinary(3, "cpu")(on_device, rows, 1.0).tolist() == expected
    monkeypatch.setenv("WMCORE_BACKEND", "cpu")
    assert sampling.ordinary(3)(on_device, rows, 1.0).tolist() == expected
    assert not shim.launched
    monkeypatch.delenv("WMCORE_BACKEND")
    assert sampling.ordinary(3)(on_device, rows, 1.0).tolist() == expected
    assert shim.launched == ["exp_sample"]
    monkeypatch.setenv("WMCORE_BACKEND", "cuda")
    with pytest.raises(WatermarkError, match='"cuda" was asked for by WMCORE_BACKEND'):
        sampling.on_arrays(Watermark.create("exp", vocab_size=50))
    monkeypatch.delenv("WMCORE_BACKEND")
    with pytest.raises(
        WatermarkError, match='backend "cuda" was asked for, but the logits are on the cpu'
    ):
        sampling.ordinary(3, "cuda")(on_host, rows, 1.0)
    published = Watermark.create(
        "exp", vocab_size=50, key_length=4, key=PublishedKey(1, "mersenne")
    )
    with pytest.raises(WatermarkError, match="a published exp key is a table"):
        sampling.watermarked(published, "cuda")
    with pytest.raises(WatermarkError, match="'metal' is not known"):
        sampling.watermarked(published, "metal")
    drawn = sampling.watermarked(published, "cpu")(on_host, rows, 1.0).tolist()
    assert sampling.watermarked(published)(on_device, rows, 1.0).tolist() == drawn
    assert not recwarn.list
    monkeypatch.setattr(type(cuda), "why_not", lambda self: "no CuPy")
    with pytest.raises(WatermarkError, match='backend "cuda" cannot run here: no CuPy'):
        sampling.ordinary(3, "cuda")


def refused(match):
    watermark = Watermark.create("exp", vocab_size=50)
    with pytest.raises(WatermarkError, match=match):
        Detector(watermark, backend="cuda")
    assert Detector(watermark).engine.backend is cpu
    assert Detector(watermark).detect([[1, 2, 3]], resamples=9)[0].backend == "cpu"


class Driver:
    """What `_no_driver` asks of libcuda."""

    def __init__(self, status=0, count=1, capability=(9, 0)):
        self.status, self.count, self.capability = status, count, capability

    def cuInit(self, flags):
        return self.status

    def cuDeviceGetCount(self, count):
        count._obj.value = self.count
        return 0

    def cuDeviceGet(self, device, index):
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = self.capability[attribute - 75]
        return 0


@pytest.fixture
def found_cupy(no_cache, monkeypatch):
    monkeypatch.delenv("WMCORE_BACKEND", raising=False)
    monkeypatch.setattr(cuda_device, "_no_cupy", lambda: None)


def test_without_cupy(no_cache, monkeypatch):
    monkeypatch.delenv("WMCORE_BACKEND", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refused("CuPy is not installed: pip install 'wmcore-lm\\[cuda13\\]'")


def test_without_a_driver(found_cupy, monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    refused("there is no NVIDIA driver on this machine")


@pytest.mark.parametrize("driver", [Driver(status=100), Driver(count=0)])
def test_without_a_device(found_cupy, monkeypatch, driver):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    refused("shows no CUDA device 0 .*CUDA_VISIBLE_DEVICES")


def test_a_device_that_is_too_old(found_cupy, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(capability=(7, 0)))
    refused("CUDA device 0 has compute capability 7.0, but at least 7.5 is needed")


def test_cupy_that_does_not_work(found_cupy, monkeypatch):
    def broken(index=0):
        raise ImportError("libnvrtc.so.13: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    monkeypatch.setattr(cuda_device, "device", broken)
    refused("CuPy cannot use the device .ImportError: libnvrtc.so.13: cannot open")


class FakeCupy:
    """Enough of CuPy for `CupyDevice`: what it is told, and errors as CuPy raises them."""

    class cuda:
        class Device:
            compute_capability = "90"

            def __init__(self, index=0):
                self.attributes = {
                    "MultiProcessorCount": 132,
                    "MaxSharedMemoryPerBlockOptin": 232448,
                }

            def __enter__(self):
                return self

            def __exit__(self, *error):
                return None

        class Stream(contextlib.nullcontext):
            def __init__(self, non_blocking):
                super().__init__()
                FakeCupy.own.append(non_blocking)

            def synchronize(self):
                FakeCupy.waits += 1

            @staticmethod
            def from_external(stream):
                version, pointer = stream.__cuda_stream__()
                FakeCupy.streams.append(pointer)
                assert version == 0
                return contextlib.nullcontext()

        class memory:
            class OutOfMemoryError(Exception):
                """CuPy's."""

        class runtime:
            @staticmethod
            def memGetInfo():
                return FakeCupy.free, 1 << 40

        class nvrtc:
            @staticmethod
            def getVersion():
                return 13, 5

        class compiler:
            @staticmethod
            def compile_using_nvrtc(code, options):
                assert "exp_sample" in code
                assert options == ("-std=c++17", "-fmad=false", "-ftz=false")
                FakeCupy.compiled += 1
                return b"machine code", {}

    class RawModule:
        def __init__(self, path):
            assert Path(path).read_bytes() == b"machine code"
            self.calls = []

        def get_function(self, name):
            def function(grid, block, arguments, shared_mem):
                self.calls.append((name, grid, block, shared_mem))
                if shared_mem > function.max_dynamic_shared_size_bytes:
                    raise RuntimeError("CUDA_ERROR_INVALID_VALUE: invalid argument")
                if name == "hits":
                    raise RuntimeError("CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES")

            function.max_dynamic_shared_size_bytes, function.num_regs = 49152, 40
            function.shared_size_bytes = 16
            return function

    __version__ = "14.0"
    streams: ClassVar[list] = []
    own: ClassVar[list] = []
    compiled, waits = 0, 0
    free, held, used = 1 << 40, 0, 0
    asarray = staticmethod(lambda values, blocking=False: np.asarray(values))
    from_dlpack = staticmethod(np.from_dlpack)
    zeros = staticmethod(np.zeros)
    empty = staticmethod(np.empty)

    @staticmethod
    def asnumpy(array):
        raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS")

    @staticmethod
    def get_default_memory_pool():
        return FakeCupy

    @staticmethod
    def free_bytes():
        return FakeCupy.held

    @staticmethod
    def total_bytes():
        return FakeCupy.held + FakeCupy.used

    @staticmethod
    def free_all_blocks():
        FakeCupy.held = 0


def test_kernels_are_compiled_once_a_machine(monkeypatch, tmp_path):
    """By NVRTC with our options alone: what CuPy adds to them would flush subnormal numbers."""
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy)
    (tmp_path / "file").write_text("no folder can be made below it")
    below = tmp_path / "file" / "b"
    for folder, private, times in (
        (tmp_path / "a" / "b", None, 1),
        (below, None, 2),
        (below, tmp_path / "c", 1),
    ):
        monkeypatch.setattr(cuda_device, "private_folder", lambda private=private: private)
        monkeypatch.setenv("CUPY_CACHE_DIR", str(folder))
        FakeCupy.compiled = 0
        for _ in range(2):
            cuda_device.CupyDevice(0).compile()
        assert FakeCupy.compiled == times
    for folder in (tmp_path / "a" / "b", tmp_path / "c"):
        assert {p.suffix for p in folder.iterdir()} == {".cubin", ".sha256"}


def test_errors_of_launches_name_the_kernel(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy)
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    device = cuda_device.CupyDevice(0)
    assert (device.processors, device.shared_bytes) == (132, 232448)
    device.launch("bound", (3, 2), 1024, (), 200_000)
    assert device._module.calls == [("bound", (3, 2), (1024,), 200_000)]
    assert device._functions["bound"].max_dynamic_shared_size_bytes == 232448 - 16
    with pytest.raises(RuntimeError, match=r"kernel 'hits' \(grid \(3, 2\), .*OUT_OF_RESOURCES"):
        device.launch("hits", (3, 2), 1024, (), 0)
    with pytest.raises(RuntimeError, match=r"at or before kernel 'bound', .*ILLEGAL_ADDRESS"):
        device.to_host(np.zeros(1))


def test_a_device_with_less_shared_memory_does_not_lower_the_limit_of_kernels(
    monkeypatch, tmp_path
):
    """CuPy keeps one module for each file, so both instances set the attribute of the same function."""
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy)
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    beside = cuda_device.CupyDevice(0)
    beside.shared_bytes = 64
    beside.launch("bound", (1, 1), 256, (), 0)
    assert beside._functions["bound"].max_dynamic_shared_size_bytes == 232448 - 16


def test_samplers_are_made_where_the_logits_are(monkeypatch):
    """Also after the backend opened device 0 for detection."""
    devices = [ShimDevice(), ShimDevice()]
    monkeypatch.setattr(cuda_device, "device", lambda index=0: devices[index])
    backend = backend_module.CudaBackend()
    assert backend.device is devices[0]
    numbers = ExpNumbers(np.zeros(8, np.uint32), 1)
    assert [backend.sampler(numbers, index).device for index in (0, 1, None)] == [
        devices[0],
        devices[1],
        devices[0],
    ]


def test_streams_and_arrays_of_others(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy)
    device = cuda_device.CupyDevice(0)
    for pointer in (7, 0, 7):
        with device.on_stream(pointer):
            pass
    assert FakeCupy.streams == [7, 0]  # each is wrapped once
    array = np.arange(3)
    assert np.shares_memory(device.adopt(array), array)
    assert device.full(3, 0, np.int32).tolist() == [0, 0, 0]
    assert device.full(2, 2**64 - 1, np.uint64).tolist() == [2**64 - 1] * 2


def test_importing_the_backend_does_not_import_cupy():
    import subprocess

    code = "import sys, wmcore.kernels.cuda.sample, wmcore.kernels.cuda.device; print('cupy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_without_a_compiler_ci_fails_and_a_user_skips(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no C\\+\\+ compiler"):
        compiler()
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="no C\\+\\+ compiler"):
        compiler()


def test_a_text_too_large_for_32_bit_addresses():
    from wmcore.kernels.cuda.launch import layout

    with pytest.raises(ValueError, match=r"a text of 100000 distinct tokens .*split the text"):
        layout(ShimDevice(), make_problem("exp", 30_000), 100_000, 10, (1, 1))


def test_each_thread_has_a_stream_that_waits_for_no_other(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy)
    monkeypatch.setattr(FakeCupy, "own", [])
    device = cuda_device.CupyDevice(0)
    for _ in range(2):
        device.empty(3, np.int32)
    thread = threading.Thread(target=device.empty, args=(3, np.int32))
    thread.start()
    thread.join()
    assert FakeCupy.own == [True, True]


def test_only_what_outlives_a_call_waits_for_its_copy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy)
    monkeypatch.setattr(FakeCupy, "waits", 0)
    device = cuda_device.CupyDevice(0)
    values = [np.arange(3), np.zeros(0, np.uint8), np.ones((2, 2), np.int16)]
    for made, given in zip(device.arrays(values), values, strict=True):
        assert np.array_equal(made, given)
        assert made.dtype == given.dtype
    assert FakeCupy.waits == 0
    assert np.array_equal(device.kept(values[0]), values[0])
    assert FakeCupy.waits == 1


def test_scratch_is_half_of_what_is_free_and_goes_back(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy)
    device = cuda_device.CupyDevice(0)
    for free, held, scratch in [(1 << 40, 0, 1 << 30), (1 << 28, 1 << 28, 1 << 28), (0, 0, 4096)]:
        monkeypatch.setattr(FakeCupy, "free", free)
        monkeypatch.setattr(FakeCupy, "held", held)
        device.measure()
        assert device.memory_bytes == scratch
    for held, used, kept in [(1 << 20, 0, 1 << 20), (1 << 29, 0, 0), (1 << 20, 1 << 29, 1 << 20)]:
        monkeypatch.setattr(FakeCupy, "held", held)
        monkeypatch.setattr(FakeCupy, "used", used)
        device.give_back()
        assert FakeCupy.held == kept  # a table that is in use is no reason to free the rest


def test_a_full_device_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy)

    def full(*_):
        raise FakeCupy.cuda.memory.OutOfMemoryError("out of memory")

    monkeypatch.setattr(FakeCupy, "empty", staticmethod(full))
    with pytest.raises(
        MemoryError, match=r"CUDA device 0 has no memory left .out of memory.: free"
    ):
        cuda_device.CupyDevice(0).empty(3, np.int32)


def test_an_old_cupy_is_refused(found_cupy, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy)
    monkeypatch.setattr(FakeCupy, "__version__", "13.6.0")
    cuda_device.device.cache_clear()
    refused("CuPy cannot use the device .ImportError: release 13.6.0 is too old, 14 is needed")


@pytest.mark.parametrize("scheme", ["its", "published"])
def test_key_rows_that_do_not_exist_are_refused(scheme):
    """A negative one would have been read from the end of the key."""
    torch = pytest.importorskip("torch")
    size = {"vocab_size": 30, "key_length": 8}
    if scheme == "its":
        watermark = Watermark.create("its", **size, key=Key(bytes(32)))
    else:
        watermark = Watermark.published("exp", seed=1, generator="mersenne", **size)
    for rows in ([-1], [8]):
        message = rf"rows holds {rows[0]} to {rows[0]}, but the key has rows 0 to 7"
        with pytest.raises(ValueError, match=message):
            sampling.watermarked(watermark)(torch.zeros(1, 30), np.array(rows), 1.0)
        with pytest.raises(ValueError, match=message):
            sampling.on_arrays(watermark)(np.zeros((1, 30), np.float32), np.array(rows), 1.0)
