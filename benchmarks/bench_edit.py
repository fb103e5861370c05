"""The edit kernels: int32 windows, int16 bounds, and the same in C++ compiled on the spot (`make bench`)."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from wmcore.kernels.cpu import bound, edit, search
from wmcore.kernels.problem import EDIT, EXP, PLAIN, Problem

N, K, U = 256, 200, 130
PROBLEM = Problem(EXP, EDIT, N, 0, 49152, 49151)


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    costs = np.empty((U, N + 16), np.int32)
    costs[:, :N] = np.rint(4096 * np.log(rng.random((U, N))))
    costs[:, N:] = costs[:, :16]
    return costs, rng.integers(0, U, size=K)


def cells_per_second(benchmark, cells: int) -> None:
    benchmark.extra_info["Gcells_per_s"] = round(cells / benchmark.stats.stats.median / 1e9, 2)


def test_edit_int32(benchmark, problem):
    costs, inverse = problem
    row, out = np.empty(16 * (K + 1), np.int32), np.empty((1, N), np.int32)
    benchmark(edit.edit_all, costs, N, inverse, K, row, out)
    cells_per_second(benchmark, N * K * K)


def test_edit_int32_cpp(benchmark, problem, tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("no g++ on this machine")
    costs, inverse = problem
    source = Path(__file__).with_name("edit_reference.cpp")
    library = tmp_path / "edit_reference.so"
    command = ["g++", "-O3", "-march=native", "-shared", "-fPIC", "-Wno-psabi"]
    subprocess.run([*command, str(source), "-o", str(library)], check=True)
    function = ctypes.CDLL(str(library)).edit_all
    memory = np.empty(16 * (K + 1) + 16, np.int32)
    row = memory[(-memory.ctypes.data % 64) // 4 :]
    out = np.empty(N, np.int32)
    arguments = [
        ctypes.c_void_p(costs.ctypes.data),
        ctypes.c_int64(N + 16),
        ctypes.c_int64(N),
        ctypes.c_void_p(inverse.ctypes.data),
        ctypes.c_int64(K),
        ctypes.c_void_p(row.ctypes.data),
        ctypes.c_void_p(out.ctypes.data),
    ]
    benchmark(function, *arguments)
    ours = np.empty((1, N), np.int32)
    edit.edit_all(costs, N, inverse, K, np.empty(16 * (K + 1), np.int32), ours)
    assert (out == ours[0]).all()
    cells_per_second(benchmark, N * K * K)


def test_align_all_windows(benchmark, problem):
    costs, inverse = problem
    out = np.empty((1, N), np.int32)
    matrix = np.ascontiguousarray(costs[:, :N])
    benchmark(search.align_all, matrix, PROBLEM._replace(alignment=PLAIN), inverse, K, out)
    cells_per_second(benchmark, N * K)


def test_edit_bound_int16(benchmark, problem):
    _, inverse = problem
    from numba import njit

    @njit(nogil=True)
    def run(costs, inverse, row):
        best, lowest = bound.bound_edit(costs, PROBLEM, (inverse, 0, K), 6, 140, (0, N), row)
        return bound.undecided(best, lowest, 0)

    rng = np.random.default_rng(1)
    memory = np.empty(U * N * 32 + 32, np.int16)
    costs = memory[(-memory.ctypes.data % 64) // 2 :][: U * N * 32]
    costs[:] = np.rint(64 * np.log(rng.random(costs.size)))
    row = np.empty(32 * (N + K), np.int16)
    benchmark(run, costs, inverse, row)
    cells_per_second(benchmark, 32 * K * (N + K - 1))
