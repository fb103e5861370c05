"""Scratch arrays that start on a cache line: of the vectors in them, none crosses one."""

import numpy as np

from .jit import njit


@njit(nogil=True)
def aligned_i16(size):
    """int16 [size]."""
    memory = np.empty(size + 32, np.int16)
    skip = (-memory.ctypes.data % 64) // 2
    return memory[skip : skip + size]


@njit(nogil=True)
def aligned_i32(size):
    """int32 [size]."""
    memory = np.empty(size + 16, np.int32)
    skip = (-memory.ctypes.data % 64) // 4
    return memory[skip : skip + size]
