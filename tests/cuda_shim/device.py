"""A device for `wmcore.kernels.cuda.host`: the very .cu sources, compiled by the host's C++ compiler."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import numpy as np
from peers import unavailable

from wmcore.kernels.cuda.source import entry_points, parameters, source
from wmcore.kernels.cuda.structs import FIELDS, SCALARS, Struct, check_pointer, record

HERE = Path(__file__).parent
FLAGS = ["-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-shared", "-w", "-U_FORTIFY_SOURCE"]
CANARY = np.uint8(0xA5)
GUARD = 64
WIDTH = ctypes.c_uint
STEPS = """
extern "C" void each_word(const u32* words, long long count, int* costs, float* gumbels) {
  for (long long i = 0; i < count; ++i) costs[i] = exp_cost(words[i]), gumbels[i] = gumbel(words[i]);
}
extern "C" void each_weight(const float* x, long long count, int* weights) {
  for (long long i = 0; i < count; ++i) weights[i] = its_weight(x[i]);
}
extern "C" int greatest_gap() {  // how far the cost of a word with its low bits set is above the least of its high half
  int gap = 0;
  for (u32 high = 0; high < 65536; ++high) {
    int least = NOTHING;
    for (u32 low = 0; low < 65536; ++low) {
      int cost = exp_cost(high << 16 | low);
      least = cost < least ? cost : least;
    }
    int set = exp_cost(high << 16 | 65535u);
    gap = set - least > gap ? set - least : gap;
  }
  return gap;
}
"""


def compiler() -> str:
    """The C++ compiler, or the end of the test: a failure on CI, a skip for a user."""
    found = (
        os.environ.get("CXX")
        or shutil.which("c++")
        or shutil.which("g++")
        or shutil.which("clang++")
    )
    if found:
        return found
    unavailable("no C++ compiler (c++, g++, clang++ or CXX) to build the CUDA sources for the host")


def program() -> str:
    """Shim, kernels, and a launcher for each kernel with C linkage."""
    launchers = [
        f'extern "C" const char* launch_{name}(unsigned x, unsigned y, int size, int reverse, void** a) '
        f"{{ return shim::run({name}, x, y, size, reverse, a); }}\n"
        for name in entry_points()
    ]
    memory = "alignas(16) int shared_memory[shim::SHARED_INTS];\n"
    layouts = []
    for name, fields in FIELDS.items():
        each = [f"offsetof({name}, {f}), sizeof((({name}*)0)->{f})" for _, f in fields]
        body = f"long long found[] = {{{', '.join([*each, f'sizeof({name})'])}}};"
        layouts.append(
            f'extern "C" void layout_{name}(long long* out) {{ {body}'
            " std::memcpy(out, found, sizeof(found)); }\n"
        )
    parts = [(HERE / "shim.h").read_text(), "#include <cstddef>\n", source()]
    return "".join([*parts, memory, *launchers, *layouts, STEPS])


@cache
def library(arch: int | None = None) -> ctypes.CDLL:
    """The compiled program; arch: what __CUDA_ARCH__ says (None: not defined). Kept in the temporary folder."""
    chosen = compiler()
    flags = [*FLAGS, *os.environ.get("CUDA_SHIM_FLAGS", "").split()]
    flags += [f"-D__CUDA_ARCH__={arch}"] if arch else []
    text = program()
    digest = hashlib.sha256(repr((chosen, flags, text)).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"wmcore-cuda-shim-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{digest}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            cpp, built = Path(scratch) / "kernels.cpp", Path(scratch) / "kernels.so"
            cpp.write_text(text)
            done = subprocess.run(
                [chosen, *flags, str(cpp), "-o", str(built)],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr[-3000:]
            built.rename(path)
    loaded = ctypes.CDLL(str(path))
    for name in entry_points():
        function = getattr(loaded, f"launch_{name}")
        function.argtypes = [WIDTH, WIDTH, ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
        function.restype = ctypes.c_char_p
    return loaded


class OnDevice(np.ndarray):
    """An array of the shim. As on a device, nothing but `to_host` brings its numbers to the host: arithmetic and
    comparisons with NumPy's functions fail, as they do with CuPy's arrays."""

    def __array_ufunc__(self, *_, **__):
        raise TypeError("an array of the device was given to a function of NumPy: use to_host")

    def __array_function__(self, *_):
        raise TypeError("an array of the device was given to a function of NumPy: use to_host")


def by_value(what, kind, argument):
    """An argument as the kernel's parameter of this C++ type takes it; an error where the types differ."""
    if isinstance(argument, Struct):
        assert argument.name == kind, f"{what} is a {kind}, not a {argument.name}"
        assert argument.value.dtype == record(kind)
        return argument.value
    if isinstance(argument, np.ndarray):
        check_pointer(what, kind, argument)
        return np.array(np.uintp(argument.ctypes.data))
    if kind.endswith("*"):
        assert isinstance(argument, np.uintp), f"{what} is a {kind}"
        assert argument == 0, f"{what}: a pointer that is no array"
    else:
        assert type(argument) is SCALARS[kind], f"{what} is a {kind}, not a {type(argument)}"
    return np.array(argument)


def layout_of(name):
    """{field: (offset, size)} and the size of a struct, as the C++ compiler has them."""
    found = np.zeros(2 * len(FIELDS[name]) + 1, np.int64)
    getattr(library(), f"layout_{name}")(found.ctypes.data_as(ctypes.c_void_p))
    fields = [field for _, field in FIELDS[name]]
    pairs = found[:-1].reshape(-1, 2).tolist()
    return dict(zip(fields, map(tuple, pairs), strict=True)), int(found[-1])


class ShimDevice:
    """NumPy arrays between canaries, and launches that run every block and thread of a kernel in turn."""

    def __init__(
        self,
        *,
        shared_bytes=16384,
        processors=3,
        threads=64,
        memory=1 << 22,
        launch_cells=1e12,
        arch=None,
        reverse=False,
    ):
        self.library = library(arch)
        self.shared_bytes = shared_bytes
        self.processors = processors
        self.block_threads = threads
        self.memory_bytes = memory
        self.launch_cells = launch_cells
        self.reverse = reverse
        self.launched: list[str] = []
        self.sent = 0
        self._guarded: list[np.ndarray] = []

    def empty(self, shape, dtype):
        dtype = np.dtype(dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        memory = np.full(size + 2 * GUARD, CANARY)
        self._guarded.append(memory)
        return memory[GUARD : GUARD + size].view(dtype).reshape(shape).view(OnDevice)

    def array(self, values):
        (made,) = self.arrays([values])
        return made

    kept = array

    def arrays(self, several):
        self.sent += 1
        made = []
        for values in several:
            out = self.empty(np.shape(values), values.dtype)
            out[...] = values
            made.append(out)
        return made

    def measure(self):
        """Memory stays what the test said."""

    def give_back(self, most=0):
        """There is no pool."""

    def finish(self):
        """A launch is done when it returns."""

    wait = finish

    def full(self, shape, value, dtype):
        out = self.empty(shape, dtype)
        out[...] = value
        return out

    def to_host(self, array):
        return array.view(np.ndarray).copy()

    def pointer(self, array):
        return array.ctypes.data

    def adopt(self, exporter):
        return np.from_dlpack(exporter).view(OnDevice)

    def on_stream(self, pointer):
        return nullcontext()

    def launch(self, name, grid, threads, arguments, shared=0):
        assert shared <= self.shared_bytes
        assert all(g >= 1 for g in grid)
        wanted = parameters()[name]
        assert len(wanted) == len(arguments), f"{name} takes {len(wanted)} arguments"
        kept, pointers = [], (ctypes.c_void_p * len(arguments))()
        for i, (argument, (kind, parameter)) in enumerate(zip(arguments, wanted, strict=True)):
            kept.append(by_value(f"{name}: {parameter}", kind, argument))
            pointers[i] = kept[-1].ctypes.data
        message = getattr(self.library, f"launch_{name}")(
            *grid, threads, int(self.reverse), pointers
        )
        assert message is None, f"{name}: {message.decode()}"
        for memory in self._guarded:
            edges = np.concatenate([memory[:GUARD], memory[-GUARD:]])
            assert (edges == CANARY).all(), f"{name}: wrote outside an array"
        self._guarded = self._guarded[-200:]
        self.launched.append(name)
