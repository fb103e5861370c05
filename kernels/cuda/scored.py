"""Scored alignments on a device: levels of resampled keys, chunk by chunk, and launches of a warp for each text and 32
resamples. Written against a device (see `device.py`)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..constants import LEVELS
from ..problem import COSTS, LOCAL, Problem, Resamples, ScoredTexts
from .launch import Layout, members_struct, problem_struct, texts_struct
from .structs import Struct, struct

LEAST_WARPS = 4
"""Fewer warps than this are not worth shared memory: they would wait for each other's sums (reckoned, not measured)."""


class Leveled:
    """Some texts and resamples on a device, whose levels are made chunk by chunk: memory does not depend on how many
    there are. A chunk is a number of whole groups of 32; a group takes 32 n bytes for each row of numbers.

    members: int64, which of the texts; bytes_each: what the caller keeps for each resample; also: what else the caller
    needs on the device: there they are `also`, in the same order.
    """

    def __init__(
        self,
        device: Any,
        problem: Problem,
        scored: ScoredTexts,
        members: np.ndarray,
        resamples: Resamples,
        bytes_each: int,
        also: Sequence[np.ndarray] = (),
    ) -> None:
        ranked = COSTS[problem.cost].ranked  # a row's number is shared by all tokens
        rows = 1 if ranked else int(scored.texts.rows[members].max(initial=1))
        cells = np.diff(scored.texts.offsets)[members].sum() * problem.n
        most = min(
            device.memory_bytes // 4 // (bytes_each + rows * problem.n),
            int(device.launch_cells / max(cells, 1)),
        )
        size = max(32, most // 32 * 32)
        first, stop = resamples.first // 32 * 32, (resamples.stop + 31) // 32 * 32
        self.chunks = [(a, min(a + size, stop)) for a in range(first, stop, size)]
        largest = max((b - a for a, b in self.chunks), default=0)
        self._device = device
        self._problem = problem
        self._rows = rows
        self._count = len(members)
        self._bins = len(scored.scoring.costs)
        costs = np.maximum(scored.scoring.costs.astype(np.int32) - problem.gamma, -(2**15))
        host = (
            resamples.seed_key.astype(np.uint32),
            scored.scoring.levels,
            costs.astype(np.int16),
            scored.bins,
            scored.bonus,
            members.astype(np.int64),
        )
        sent = device.arrays([*host, *also])
        self._seed, self._level_of, costs_of, bins, bonus, index = sent[: len(host)]
        self.also = sent[len(host) :]
        self._levels = device.empty(largest * rows * problem.n, np.uint8)
        self._what = (
            problem_struct(device, problem),
            texts_struct(device, scored.texts),
            members_struct(device, scored.texts, members, index),
        )
        self._scores = struct(
            device,
            "Scores",
            costs=costs_of,
            bin_count=self._bins,
            bins=bins,
            bonus=bonus,
            levels=self._levels,
            rows=rows,
        )

    def launch(self, name: str, chunk: tuple[int, int], *outputs: Any) -> None:
        """Launch a kernel for the members and the resamples a .. b - 1 of a chunk."""
        a, b = chunk
        some = self._make(a, b)
        where = warps_of(self._device, self._problem, self._bins, (b - a) // 32 * self._count)
        arguments = (*self._what, some, self._scores, *outputs, where.room)
        self._device.launch(name, where.grid, where.threads, arguments, where.shared)

    def _make(self, a: int, b: int) -> Struct:
        """Resamples a .. b - 1, their levels made: those made before are overwritten."""
        device = self._device
        some = struct(device, "Resamples", seed=self._seed, first=a, count=b - a, etas=None)
        work = (b - a) // 2 * self._rows * ((self._problem.n + 15) // 16)
        blocks = max(1, min((work + 255) // 256, 16 * device.processors))
        arguments = (self._what[0], some, np.int32(self._rows), self._level_of, self._levels)
        device.launch("scored_levels", (blocks, 1), 256, arguments)
        return some


def warps_of(device: Any, problem: Problem, bins: int, tasks: int) -> Layout:
    """A grid of warps for so many tasks, each a text with 32 resamples. A warp's state and the costs of all bins lie in
    shared memory where that holds a few warps, else beside it."""
    table = 2 * LEVELS * bins
    each = 64 * problem.n * (1 if problem.alignment == LOCAL else 2)
    most = device.block_threads // 32
    fitting = max(0, device.shared_bytes - table) // each
    staged = fitting >= min(most, LEAST_WARPS)
    share = (tasks + device.processors - 1) // device.processors
    warps = max(1, min(most, share, fitting if staged else most))
    blocks = min((tasks + warps - 1) // warps, 2 * device.processors)
    if not staged:
        blocks = max(1, min(blocks, device.memory_bytes // 4 // (each * warps)))
    room = struct(
        device,
        "Room",
        staged=staged,
        tiles=device.empty(1 if staged else blocks * warps * each // 4, np.int32),
        tile_size=warps * each // 4,
        strips=None,
        strip_size=0,
    )
    return Layout((blocks, 1), 32 * warps, table + warps * each if staged else 0, room)
