"""What the host code needs of a device: arrays there and back, and launches. This one is CuPy's; tests have another.

A device offers `processors`, `shared_bytes` (the most that a block can have), `block_threads` (how many threads a
block of the big kernels gets), `memory_bytes` (what the call that is running may use for scratch), `launch_cells` (how
many cells of alignments take it about a second at worst), and the methods below. What runs out of memory raises
MemoryError.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..cpu.jit import private_folder
from .source import OPTIONS, entry_points, source
from .structs import Struct

LEAST_CAPABILITY = 75
LEAST_CUPY = 14
"""The first release that takes streams of other libraries (`Stream.from_external`)."""
MOST_SCRATCH = 1 << 30
"""Bytes; more makes nothing faster."""
CELLS_PER_SECOND = 2e9
"""Of a multiprocessor, at least (reckoned, not measured). A display's watchdog ends launches of two seconds and more,
and nothing can be interrupted within one."""
KEPT = 1 << 28
"""Bytes that CuPy's pool may keep between calls: what it holds beyond that goes back to other users of the device."""
INSTALL = "pip install 'wmcore-lm[cuda13]' (or 'wmcore-lm[cuda12]' for a CUDA 12 driver)"


class _Foreign:
    """A stream of another library, by the CUDA stream protocol."""

    def __init__(self, pointer: int) -> None:
        self._pointer = pointer

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._pointer


class CupyDevice:
    """One CUDA device. Each thread has a stream of its own there, that waits for no other, unless `on_stream` names
    one."""

    def __init__(self, index: int) -> None:
        import cupy

        if int(cupy.__version__.split(".")[0]) < LEAST_CUPY:
            raise ImportError(f"release {cupy.__version__} is too old, {LEAST_CUPY} is needed")
        self._cupy = cupy
        self.index = index
        attributes = cupy.cuda.Device(index).attributes
        self.processors = int(attributes["MultiProcessorCount"])
        self.shared_bytes = int(attributes["MaxSharedMemoryPerBlockOptin"])
        self._shared_limit = self.shared_bytes
        self.block_threads = 1024
        self.memory_bytes = MOST_SCRATCH
        self.launch_cells = CELLS_PER_SECOND * self.processors
        self._module: Any = None
        self._functions: dict[str, Any] = {}
        self._streams: dict[int, Any] = {}
        self._own = threading.local()

    @contextlib.contextmanager
    def _here(self) -> Iterator[None]:
        """This device and this thread's stream are CuPy's current ones; what fails for want of memory says so."""
        own = self._own
        if not hasattr(own, "stream"):
            with self._cupy.cuda.Device(self.index):
                own.stream, own.last = self._cupy.cuda.Stream(non_blocking=True), "none"
        try:
            with self._cupy.cuda.Device(self.index), own.stream:
                yield
        except self._cupy.cuda.memory.OutOfMemoryError as error:
            raise MemoryError(
                f"CUDA device {self.index} has no memory left ({error}): free some there, test fewer texts at once,"
                ' or use backend="cpu"'
            ) from error

    def measure(self) -> None:
        """Say in `memory_bytes` what the next call may use: half of what is free, a page at least."""
        pool = self._cupy.get_default_memory_pool()
        with self._cupy.cuda.Device(self.index):
            free, _ = self._cupy.cuda.runtime.memGetInfo()
            self.memory_bytes = max(1 << 12, min(MOST_SCRATCH, (free + pool.free_bytes()) // 2))

    def give_back(self, most: int = KEPT) -> None:
        """Free what the pool holds beyond `most` bytes and no array uses."""
        pool = self._cupy.get_default_memory_pool()
        with self._cupy.cuda.Device(self.index):
            if pool.free_bytes() > most:
                pool.free_all_blocks()

    def array(self, values: np.ndarray) -> Any:
        """A copy on the device, C-contiguous, for this thread's stream: the copy is queued there, nothing waits."""
        (made,) = self.arrays([values])
        return made

    def arrays(self, several: Sequence[np.ndarray]) -> list[Any]:
        """`array` of several, in one transfer."""
        packed, places = pack(several)
        with self._here():
            there = self._cupy.asarray(
                packed
            )  # from pinned memory, which CuPy keeps until it is read
            return [
                there[at : at + values.nbytes].view(values.dtype).reshape(values.shape)
                for at, values in zip(places, several, strict=True)
            ]

    def kept(self, values: np.ndarray) -> Any:
        """A copy on the device that outlives the call: it is there on return, whatever stream it is used on later."""
        made = self.array(values)
        self.finish()
        return made

    def full(self, shape: Any, value: int, dtype: Any) -> Any:
        # By a memset or a copy: a kernel of CuPy's own would need CUDA's headers to be compiled.
        with self._here():
            if value == 0:
                return self._cupy.zeros(shape, dtype)
            return self._cupy.asarray(np.full(shape, value, dtype))

    def empty(self, shape: Any, dtype: Any) -> Any:
        with self._here():
            return self._cupy.empty(shape, dtype)

    def pointer(self, array: Any) -> int:
        """The address of an array on the device."""
        return int(array.data.ptr)

    def adopt(self, exporter: Any) -> Any:
        """The array of another library's tensor on this device, not copied (DLPack)."""
        with self._here():
            return self._cupy.from_dlpack(exporter)

    @contextlib.contextmanager
    def on_stream(self, pointer: int) -> Iterator[None]:
        """What this thread does is on the stream of this cudaStream_t."""
        with self._here():
            if pointer not in self._streams:
                external = self._cupy.cuda.Stream.from_external(_Foreign(pointer))
                self._streams[pointer] = external
        before, self._own.stream = self._own.stream, self._streams[pointer]
        try:
            yield
        finally:
            self._own.stream = before

    def to_host(self, array: Any) -> np.ndarray:
        """A copy on the host; here asynchronous errors of earlier launches show."""
        with self._here():
            try:
                return self._cupy.asnumpy(array)
            except Exception as error:
                raise RuntimeError(
                    f"CUDA failed at or before kernel {self._own.last!r}, the last one launched: {error}"
                ) from error

    def wait(self) -> None:
        """Wait for everything that was launched on the device, on whatever stream."""
        with self._cupy.cuda.Device(self.index) as device:
            device.synchronize()

    def finish(self) -> None:
        """Wait for this thread's stream, so that others may use what was made on it."""
        with self._here():
            self._own.stream.synchronize()

    def launch(
        self, name: str, grid: tuple[int, int], threads: int, arguments: Any, shared: int = 0
    ) -> None:
        """Launch a kernel; arguments are arrays of this device, structs, and NumPy scalars of the exact types."""
        # CuPy passes NumPy arrays of one item by value, a record like a scalar.
        values = tuple(a.value if isinstance(a, Struct) else a for a in arguments)
        with self._here():
            try:
                self._function(name)(grid, (threads,), values, shared_mem=shared)
            except Exception as error:
                raise RuntimeError(
                    f"CUDA kernel {name!r} (grid {grid}, {threads} threads, {shared} bytes of shared memory) "
                    f"could not be launched: {error}"
                ) from error
            self._own.last = name

    def _function(self, name: str) -> Any:
        if name not in self._functions:
            if self._module is None:
                self._module = self._cupy.RawModule(path=self._machine_code())
            function = self._module.get_function(name)
            # As large as can be, whatever `shared_bytes` says now: CuPy has one such kernel for all threads
            # and instances.
            most = self._shared_limit - function.shared_size_bytes
            function.max_dynamic_shared_size_bytes = most
            self._functions[name] = function
        return self._functions[name]

    def compile(self) -> None:
        """Compile and load now; raises what NVRTC or the driver says."""
        with self._cupy.cuda.Device(self.index):
            for name in entry_points():
                _ = self._function(name).num_regs  # CuPy loads at the first question

    def _machine_code(self) -> str:
        """The compiled kernels: a file beside those that CuPy keeps, or a temporary one.

        Not by RawModule(code=...), which adds -ftz=true: bits would differ where numbers are subnormal.
        """
        cupy = self._cupy
        capability = cupy.cuda.Device(self.index).compute_capability
        what = (source(), OPTIONS, capability, cupy.cuda.nvrtc.getVersion(), cupy.__version__)
        name = f"wmcore-{hashlib.sha256(repr(what).encode()).hexdigest()}.cubin"
        named = os.environ.get("CUPY_CACHE_DIR") or os.path.expanduser("~/.cupy/kernel_cache")
        folders = [named, private_folder()]
        for folder in folders:
            if folder is not None and _intact(Path(folder, name)):
                return str(Path(folder, name))
        code, _ = cupy.cuda.compiler.compile_using_nvrtc(source(), OPTIONS)
        for folder in folders:
            with contextlib.suppress(OSError):
                if folder is not None and os.path.isabs(folder):
                    return _keep(Path(folder, name), code)
        return _keep(Path(tempfile.mkdtemp(), name), code)


def pack(several: Sequence[np.ndarray]) -> tuple[np.ndarray, list[int]]:
    """(bytes uint8, where each array begins): arrays one after another, each at a multiple of 256 bytes."""
    places, end = [], 0
    for values in several:
        places.append(end)
        end += (values.nbytes + 255) // 256 * 256
    packed = np.zeros(end, np.uint8)
    for at, values in zip(places, several, strict=True):
        flat = np.ascontiguousarray(values).reshape(-1)
        packed[at : at + values.nbytes] = flat.view(np.uint8)
    return packed, places


def _intact(path: Path) -> bool:
    """Whether there is such a file of `_keep`, and not damaged."""
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return path.with_suffix(".sha256").read_text() == digest
    except (OSError, ValueError):
        return False


def _keep(path: Path, code: bytes) -> str:
    """Write a file and, beside it, its SHA-256; each is moved to its place whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for place, content in (
        (path, code),
        (path.with_suffix(".sha256"), hashlib.sha256(code).hexdigest().encode()),
    ):
        handle, scratch = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(scratch, place)
        except OSError:
            os.unlink(scratch)
            raise
    return str(path)


@functools.cache
def device(index: int = 0) -> CupyDevice:
    """The device of that number. Detection runs on number 0; CUDA_VISIBLE_DEVICES says which that is."""
    return CupyDevice(index)


@functools.cache
def why_not(index: int = 0) -> str | None:
    """Why this backend cannot run here, with the remedy; None where it can. Asked once a process."""
    missing = _no_cupy() or _no_driver(index)
    if missing:
        return missing
    try:
        device(index).compile()
    except (
        Exception
    ) as error:  # whatever CuPy, NVRTC or the driver raises: the cause is what counts
        first_line = "".join(str(error).strip().splitlines()[:1])
        return f"CuPy cannot use the device ({type(error).__name__}: {first_line}): {INSTALL}"
    return None


def _no_cupy() -> str | None:
    from importlib.util import find_spec

    if find_spec("cupy") is None:
        return f"CuPy is not installed: {INSTALL}"
    return None


def _no_driver(index: int) -> str | None:
    """Asks the driver itself, so that a machine without one does not pay for importing CuPy."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 'there is no NVIDIA driver on this machine: install one, or use backend="cpu"'
    status = driver.cuInit(0)
    count = ctypes.c_int()
    if status == 0:
        status = driver.cuDeviceGetCount(ctypes.byref(count))
    if status != 0 or count.value <= index:
        return (
            f"the NVIDIA driver shows no CUDA device {index} (status {status}): check nvidia-smi and "
            'CUDA_VISIBLE_DEVICES, or use backend="cpu"'
        )
    capability = capability_of(driver, index)
    if capability < LEAST_CAPABILITY:
        return (
            f"CUDA device {index} has compute capability {capability / 10}, but at least "
            f'{LEAST_CAPABILITY / 10} is needed: use a newer device, or backend="cpu"'
        )
    return None


def capability_of(driver: Any, index: int) -> int:
    """10 * major + minor of a device, from the driver (attributes 75 and 76)."""
    device = ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), index)
    parts = []
    for attribute in (75, 76):
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        parts.append(value.value)
    return 10 * parts[0] + parts[1]
