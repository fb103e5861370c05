"""What the host code needs of a device: arrays there and back, and launches. This one is CuPy's; tests have another.

A device offers `processors`, `shared_bytes` (the most that a block can have), `block_threads` (how many threads a
block of the big kernels gets), `memory_bytes` (what one call may use for scratch), and the methods below.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..cpu.jit import private_folder
from .source import OPTIONS, entry_points, source
from .structs import Struct

LEAST_CAPABILITY = 75
INSTALL = "pip install 'wmcore[cuda13]' (or 'wmcore[cuda12]' for a CUDA 12 driver)"


class _Foreign:
    """A stream of another library, by the CUDA stream protocol."""

    def __init__(self, pointer: int) -> None:
        self._pointer = pointer

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._pointer


class CupyDevice:
    """One CUDA device, on the current stream of CuPy."""

    def __init__(self, index: int) -> None:
        import cupy

        self._cupy = cupy
        self.index = index
        attributes = cupy.cuda.Device(index).attributes
        self.processors = int(attributes["MultiProcessorCount"])
        self.shared_bytes = int(attributes["MaxSharedMemoryPerBlockOptin"])
        self.block_threads = 1024
        self.memory_bytes = 1 << 30
        self._module: Any = None
        self._functions: dict[str, Any] = {}
        self._streams: dict[int, Any] = {}
        self._last = "none"

    def array(self, values: np.ndarray) -> Any:
        """A copy on the device, C-contiguous; it is there on return, whatever stream it is used on later."""
        with self._cupy.cuda.Device(self.index):
            return self._cupy.asarray(np.ascontiguousarray(values), blocking=True)

    def full(self, shape: Any, value: int, dtype: Any) -> Any:
        # By a memset or a copy: a kernel of CuPy's own would need CUDA's headers to be compiled.
        with self._cupy.cuda.Device(self.index):
            if value == 0:
                return self._cupy.zeros(shape, dtype)
            return self._cupy.asarray(np.full(shape, value, dtype))

    def empty(self, shape: Any, dtype: Any) -> Any:
        with self._cupy.cuda.Device(self.index):
            return self._cupy.empty(shape, dtype)

    def pointer(self, array: Any) -> int:
        """The address of an array on the device."""
        return int(array.data.ptr)

    def adopt(self, exporter: Any) -> Any:
        """The array of another library's tensor on this device, not copied (DLPack)."""
        with self._cupy.cuda.Device(self.index):
            return self._cupy.from_dlpack(exporter)

    @contextlib.contextmanager
    def on_stream(self, pointer: int) -> Iterator[None]:
        """Launches go to the stream of this cudaStream_t."""
        if pointer not in self._streams:
            self._streams[pointer] = self._cupy.cuda.Stream.from_external(_Foreign(pointer))
        with self._cupy.cuda.Device(self.index), self._streams[pointer]:
            yield

    def to_host(self, array: Any) -> np.ndarray:
        """A copy on the host; here asynchronous errors of earlier launches show."""
        with self._cupy.cuda.Device(self.index):
            try:
                return self._cupy.asnumpy(array)
            except Exception as error:
                raise RuntimeError(
                    f"CUDA failed at or before kernel {self._last!r}, the last one launched: {error}"
                ) from error

    def launch(
        self, name: str, grid: tuple[int, int], threads: int, arguments: Any, shared: int = 0
    ) -> None:
        """Launch a kernel; arguments are arrays of this device, structs, and NumPy scalars of the exact types."""
        # CuPy passes NumPy arrays of one item by value, a record like a scalar.
        values = tuple(a.value if isinstance(a, Struct) else a for a in arguments)
        with self._cupy.cuda.Device(self.index):
            try:
                function = self._function(name)
                if shared > function.max_dynamic_shared_size_bytes:
                    function.max_dynamic_shared_size_bytes = shared
                function(grid, (threads,), values, shared_mem=shared)
            except Exception as error:
                raise RuntimeError(
                    f"CUDA kernel {name!r} (grid {grid}, {threads} threads, {shared} bytes of shared memory) "
                    f"could not be launched: {error}"
                ) from error
        self._last = name

    def _function(self, name: str) -> Any:
        if name not in self._functions:
            if self._module is None:
                self._module = self._cupy.RawModule(path=self._machine_code())
            self._functions[name] = self._module.get_function(name)
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
