"""The structs of a launch, and its grid, shared memory and scratch. Written against a device (see `device.py`)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..problem import COSTS, Problem, Resamples, Texts
from .groups import stride_of
from .structs import Struct, struct


@dataclass(frozen=True)
class Layout:
    """The grid of a big launch, the threads of a block, its shared memory, and where tiles and strips go (a `Room`)."""

    grid: tuple[int, int]
    threads: int
    shared: int
    room: Struct


def layout(
    device: Any, problem: Problem, rows: int, longest: int, wanted: tuple[int, int]
) -> Layout:
    """rows: the most distinct tokens of a text; longest: the longest block; wanted: the grid without limits."""
    n = problem.n
    tile = (rows + 1) * stride_of(problem)
    if tile >= 2**30:
        raise ValueError(
            f"a text of {rows} distinct tokens with a key of {n} rows needs {tile} costs, but the CUDA kernels "
            'address 1073741823: split the text, or use backend="cpu"'
        )
    staged = 4 * tile <= device.shared_bytes
    strip = n + longest + 1 if longest > 256 else 0  # edit.cuh: strips of 256 tokens
    warps = device.block_threads // 32
    per_block = (0 if staged else 4 * tile) + 4 * strip * warps
    most = max(1, device.memory_bytes // max(per_block, 1))
    x = max(1, min(wanted[0], 2 * device.processors, most))
    y = max(1, min(wanted[1], 2 * device.processors // x, most // x))
    room = struct(
        device,
        "Room",
        staged=staged,
        tiles=device.empty(1 if staged else x * y * tile, np.int32),
        tile_size=tile,
        strips=device.empty(max(1, x * y * warps * strip), np.int32),
        strip_size=strip,
    )
    return Layout((x, y), device.block_threads, 4 * tile if staged else 0, room)


def problem_struct(device: Any, problem: Problem) -> Struct:
    """A problem on a device."""
    return struct(device, "Problem", stride=stride_of(problem), **problem._asdict())


def texts_struct(device: Any, texts: Texts) -> Struct:
    """Texts on a device."""
    names = ("inverse", "offsets", "distinct_offsets", "k")
    host = (texts.inverse.astype(np.int32), texts.offsets, texts.distinct_offsets, texts.k)
    return struct(device, "Texts", **dict(zip(names, device.arrays(host), strict=True)))


def members_struct(device: Any, texts: Texts, members: np.ndarray, index: Any) -> Struct:
    """Some of the texts, int64, and the same on a device."""
    rows = int(texts.rows[members].max(initial=1))
    return struct(device, "Members", index=index, count=len(members), rows=rows)


class Resampled:
    """Resamples on a device, chunk by chunk: memory does not depend on how many there are.

    seed: uint32 [8] on the device; bytes_each: what the caller keeps for each resample; rows: the most distinct tokens
    of a text; cells_each: what a resample takes of the device, so that no launch is longer than about a second.
    """

    def __init__(
        self,
        device: Any,
        problem: Problem,
        resamples: Resamples,
        seed: Any,
        rows: int,
        bytes_each: int,
        cells_each: float,
    ) -> None:
        self._device = device
        self._problem = problem
        self._rows = rows
        self._ranked = COSTS[problem.cost].ranked
        first, stop = resamples.first, resamples.stop
        most = min(
            device.memory_bytes // 4 // (bytes_each + 4 * rows),
            int(device.launch_cells / max(cells_each, 1.0)),
        )
        size = max(32, most // 32 * 32)
        self.chunks = [(a, min(a + size, stop)) for a in range(first, stop, size)]
        self.largest = max((b - a for a, b in self.chunks), default=0)
        # `memory_bytes` may be another when chunks are made: other calls measure it, too.
        per_block = 4 * 4 * ((problem.vocab_size + 31) // 32)
        most = max(1, device.memory_bytes // 4 // per_block)
        self._most_blocks = max(1, min((self.largest + 3) // 4, 4 * device.processors, most))
        self._seed = seed
        shape = (self.largest, rows) if self._ranked else (1,)
        self._etas = device.empty(shape, np.int32)
        words = self._most_blocks * per_block // 4
        self._seen = device.empty(words if self._ranked else 1, np.uint32)

    def make(self, a: int, b: int, rows: int) -> Struct:
        """Resamples a .. b - 1 for texts of at most `rows` distinct tokens; those made before are overwritten."""
        found = struct(
            self._device, "Resamples", seed=self._seed, first=a, count=b - a, etas=self._etas
        )
        if self._ranked:
            problem = problem_struct(self._device, self._problem)
            arguments = (problem, found, np.int32(rows), self._seen)
            blocks = min((b - a + 3) // 4, self._most_blocks)
            self._device.launch("its_etas", (blocks, 1), 128, arguments)
        return found
