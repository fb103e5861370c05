"""The shim itself: it runs warps and blocks as CUDA does, and notices what a device would hang on."""

import ctypes
import subprocess

import numpy as np
import pytest
from cuda_shim.device import FLAGS, HERE, compiler

PROGRAM = """
alignas(16) int shared_memory[shim::SHARED_INTS];
__global__ void scan(int* out) {
  int lane = threadIdx.x % 32, value = lane;
  for (int step = 1; step < 32; step *= 2) {
    int other = __shfl_up_sync(~0u, value, step);
    if (lane >= step) value += other;
  }
  unsigned even = __ballot_sync(~0u, lane % 2 == 0), same = __match_any_sync(~0u, (unsigned)(lane / 4));
  shared_memory[threadIdx.x] = value + __popc(even) + __popc(same) + (int)(blockIdx.x + 2 * blockIdx.y) * 1000;
  int any = __syncthreads_or(threadIdx.x == 5);
  int at = blockIdx.y * gridDim.x * blockDim.x + blockIdx.x * blockDim.x + threadIdx.x;
  out[at] = shared_memory[blockDim.x - 1 - threadIdx.x] + any;
  atomicAdd(out + gridDim.x * gridDim.y * blockDim.x, 1);
}
__global__ void ended(int* out) {
  if (threadIdx.x == 3) return;
  __shfl_sync(~0u, 1, 0);
}
__global__ void split(int* out) {
  if (threadIdx.x < 16) __syncwarp(); else __shfl_sync(~0u, 1, 0);
}
__global__ void stuck(int* out) {
  if (threadIdx.x < 32) __syncthreads(); else __syncwarp();
  if (threadIdx.x < 40) __syncwarp();
}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shim")
    names = ("scan", "ended", "split", "stuck")
    launchers = "".join(
        f'extern "C" const char* launch_{n}(int x, int y, int size, int reverse, void** a) '
        f"{{ return shim::run({n}, x, y, size, reverse, a); }}\n"
        for n in names
    )
    (folder / "t.cpp").write_text((HERE / "shim.h").read_text() + PROGRAM + launchers)
    subprocess.run([compiler(), *FLAGS, "t.cpp", "-o", "t.so"], cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "t.so"))

    def launch(name, out, grid=(1, 1), size=64, reverse=0):
        function = getattr(library, f"launch_{name}")
        function.restype = ctypes.c_char_p
        address = ctypes.c_void_p(out.ctypes.data)
        found = function(*grid, size, reverse, (ctypes.c_void_p * 1)(ctypes.addressof(address)))
        return found.decode() if found else None

    return launch


@pytest.mark.parametrize("reverse", [0, 1])
def test_warps_blocks_and_grids(run, reverse):
    out = np.zeros(2 * 3 * 64 + 1, np.int32)
    assert run("scan", out, (2, 3), 64, reverse) is None
    lane = np.arange(64) % 32
    expected = (lane * (lane + 1) // 2 + 16 + 4)[::-1] + 1
    blocks = 1000 * np.array([x + 2 * y for y in range(3) for x in range(2)])
    assert (out[:-1].reshape(6, 64) == expected[None] + blocks[:, None]).all()
    assert out[-1] == 6 * 64


def test_what_would_hang_or_be_undefined_is_reported(run):
    out = np.zeros(400, np.int32)
    assert "lane" in (run("ended", out) or "")
    assert run("split", out) == "lanes of one warp meet at different warp operations"
    assert run("stuck", out)
    assert "multiple of 32" in run("scan", out, size=33)
    assert run("scan", out, (2, 3)) is None  # and all goes on after that
