"""The CUDA backend: sizes, chunks, launches. Written against a device (see `device.py`), not CuPy.

Resamples are made where they are used and never leave the device; the host sees counts and statistics. What a call
takes on the device depends on the texts and on `memory_bytes`, never on the number of resamples.

Kernels work on E, the alignment cost less 2 gamma k (`cpu/edit.py`); what is given and returned here is the cost.
"""

import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..backend import Backend, ExpNumbers, ItsNumbers, Sampler
from ..constants import NOTHING
from ..problem import CostTable, Fits, Problem, Resamples, ScoredTexts, Texts
from .groups import Bounds, Group, by_alignment, cells_of, groups_of, split
from .launch import (
    Layout,
    Resampled,
    layout,
    members_struct,
    problem_struct,
    texts_struct,
)
from .scored import Leveled
from .structs import Struct, struct

_I32, _I64 = np.int32, np.int64
LEAST_SCRATCH = 1 << 20
"""A call that cannot run with so few bytes fails for want of memory."""


def _in_room(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that takes what scratch the device has now; again with half as much where even that was too much."""

    @functools.wraps(method)
    def run(self: "CudaBackend", *arguments: Any) -> Any:
        device = self.device
        device.measure()
        while True:
            try:
                return method(self, *arguments)
            except MemoryError:
                if device.memory_bytes <= LEAST_SCRATCH:
                    raise
            finally:
                device.give_back()
            device.give_back(0)  # only now, as the error kept alive what the call held
            device.memory_bytes //= 2

    return run


class CudaBackend(Backend):
    """See `Backend`. `threads` is the CPU's and changes nothing here; all resamples of a call are decided.

    device: what to run on (default: CUDA device 0, by CuPy).
    """

    name = "cuda"

    def __init__(self, device: Any = None) -> None:
        self._given = device
        self._sent = threading.local()

    @property
    def device(self) -> Any:
        """The device, opened when first needed."""
        if self._given is not None:
            return self._given
        from .device import device

        return device()

    def why_not(self) -> str | None:
        if self._given is not None:
            return None
        from .device import why_not

        return why_not()

    # Costs of one key

    @_in_room
    def exp_costs(self, secret: np.ndarray, tokens: np.ndarray, n: int, threads: int) -> Any:
        out = self.device.empty((len(tokens), n), _I32)
        if len(tokens):
            key = self.device.array(secret.astype(np.uint32))
            rows = self.device.array(tokens.astype(_I64))
            self._flat("exp_costs", len(tokens) * n, (key, rows, _I64(len(tokens)), _I32(n), out))
        self.device.finish()  # costs are kept, and other threads may use them
        return out

    @_in_room
    def exp_table(self, secret: np.ndarray, vocab_size: int, n: int, threads: int) -> Any:
        tokens = (vocab_size + 255) // 256 * 256
        out = self.device.empty((tokens, n), _I32)
        key = self.device.array(secret.astype(np.uint32))
        self._flat("exp_table", tokens // 16 * n, (key, _I64(tokens), _I32(n), out))
        self.device.finish()
        return out

    def gather(self, costs: CostTable, n: int) -> np.ndarray:
        if _on_host(costs.matrix):
            return super().gather(costs, n)
        used, place = np.unique(costs.source, return_inverse=True)
        rows = [self.device.to_host(costs.matrix[row]) for row in used.tolist()]
        return np.stack(rows)[place, :n] if rows else np.empty((0, n), _I32)

    def _flat(self, name: str, work: int, arguments: tuple[Any, ...]) -> None:
        blocks = max(1, min((work + 255) // 256, 16 * self.device.processors))
        self.device.launch(name, (blocks, 1), 256, arguments)

    def _launch(self, name: str, where: Layout, arguments: tuple[Any, ...]) -> None:
        """A big kernel; its last parameter is the room."""
        self.device.launch(name, where.grid, where.threads, (*arguments, where.room), where.shared)

    def _texts(self, texts: Texts) -> Struct:
        """Texts on the device: sent once for all calls in turn that a thread makes about them."""
        last = getattr(self._sent, "last", None)
        if last is None or last[0] is not texts or last[1] is not self.device:
            last = texts, self.device, texts_struct(self.device, texts)
            self._sent.last = last
        return last[2]

    # Statistics of texts

    @_in_room
    def observe(
        self, problem: Problem, texts: Texts, costs: CostTable, best: np.ndarray, threads: int
    ) -> Fits:
        device = self.device
        everything = np.arange(texts.size)
        packed = self._texts(texts)
        least = device.full(texts.size, NOTHING, _I32)
        place = device.full(texts.size, 2**64 - 1, np.uint64)
        lift = _lift(problem, texts, everything)
        parts = by_alignment(problem, texts, everything, device.shared_bytes)
        sent = [_clipped(best.astype(_I64) - lift), *(members for _, members in parts)]
        table, (best_of, *indices) = self._send(costs, problem.n, sent)
        for (part, members), index in zip(parts, indices, strict=True):
            chosen = members_struct(device, texts, members, index)
            rows, longest = int(chosen.value["rows"]), int(texts.k[members].max())
            where = layout(device, part, rows, longest, (len(members), 1))
            shared = (problem_struct(device, part), packed, chosen, table, best_of, least)
            for output in (np.uintp(0), place):
                self._launch("observe", where, (*shared, output))
        value, position = device.to_host(least), device.to_host(place)
        found = value != NOTHING
        position = np.where(found, position, 0).astype(_I64)
        block = position // problem.n
        return Fits(
            np.where(found, value + lift, NOTHING).astype(_I32),
            np.where(found, block, -1),
            np.where(found, block + texts.k, -1),
            np.where(found, position % problem.n, -1),
        )

    def _send(
        self, costs: CostTable, n: int, several: list[np.ndarray]
    ) -> tuple[Struct, list[Any]]:
        """Costs and other arrays on the device, in one transfer; of a table on the host only what is asked for."""
        matrix, source = costs
        host = [*several]
        if _on_host(matrix):
            used, source = np.unique(source, return_inverse=True)
            host.append(matrix[used, :n])
        *sent, source_of = self.device.arrays([*host, source.astype(_I64)])
        if len(host) > len(several):
            *sent, matrix = sent
        width = matrix.shape[1]
        table = struct(self.device, "CostTable", matrix=matrix, width=width, source=source_of)
        return table, sent

    @_in_room
    def tally(
        self,
        problem: Problem,
        texts: Texts,
        value: np.ndarray,
        limit: np.ndarray,
        resamples: Resamples,
        threads: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        key, first, stop = resamples
        active = np.flatnonzero(limit > 0)
        if not len(active) or first >= stop:
            return np.zeros(texts.size, _I64), np.zeros(texts.size, _I64)
        device = self.device
        packed = self._texts(texts)
        value = value.astype(_I64)
        groups, cells = self._groups(problem, texts, value, active)
        sent = [
            key.astype(np.uint32),
            _clipped(value - _lift(problem, texts, active)),
            limit.astype(_I64),
            active.astype(_I64),
            *(group.members for group in groups),
            *(group.bounds.level for group in groups if group.bounds is not None),
        ]
        seed, value_of, limit_of, active_of, *rest = device.arrays(sent)
        indices, levels = rest[: len(groups)], iter(rest[len(groups) :])
        ready = [
            (
                group,
                members_struct(device, texts, group.members, index),
                None if group.bounds is None else _level(device, group.bounds, next(levels)),
            )
            for group, index in zip(groups, indices, strict=True)
        ]
        largest = max(len(group.members) for group in groups)
        rows = int(texts.rows[active].max())
        whole = Resamples(key, first, first + (stop - first + 31) // 32 * 32)
        made = Resampled(device, problem, whole, seed, rows, texts.size + largest, cells)
        open_flags = device.empty(made.largest * largest, np.uint8)

        def found() -> Iterator[tuple[int, int, Struct]]:
            for a, b in made.chunks:
                matrix = device.full((texts.size, b - a), 0, np.uint8)
                for group, members, limits in ready:
                    shared = (problem_struct(device, group.problem), packed, members)
                    some = made.make(a, b, int(members.value["rows"]))
                    if limits is not None:
                        where = self._shared_out(group, texts, members, (b - a) // 2)
                        self._launch("bound", where, (*shared, some, limits, open_flags))
                    flags = None if limits is None else open_flags
                    out = struct(device, "Found", open=flags, found=matrix, width=b - a)
                    where = self._shared_out(group, texts, members, b - a)
                    self._launch("hits", where, (*shared, some, value_of, out))
                yield a, b, struct(device, "Found", open=None, found=matrix, width=b - a)

        members = members_struct(device, texts, active, active_of)
        return self._tally(texts, members, limit_of, stop, found())

    def _groups(
        self, problem: Problem, texts: Texts, value: np.ndarray, active: np.ndarray
    ) -> tuple[list[Group], float]:
        """Groups of texts, none too large for a launch, and how many cells a resample of the largest takes."""
        device = self.device
        most = device.launch_cells / 32
        groups: list[Group] = []
        cells = 0.0
        for group in groups_of(problem, texts, value, active, device.shared_bytes):
            each = cells_of(group.problem, texts, group.members)
            cells = max(cells, min(each.sum(), most))
            groups += split(group, each, most)
        return groups, cells

    def _tally(
        self,
        texts: Texts,
        members: Struct,
        limit_of: Any,
        stop: int,
        chunks: Iterator[tuple[int, int, Struct]],
    ) -> tuple[np.ndarray, np.ndarray]:
        """(hits, used) of the resamples up to stop, from which of them fit, chunk by chunk."""
        device = self.device
        hits, used = (device.full(texts.size, 0, _I64) for _ in range(2))
        blocks = max(1, min(int(members.value["count"]), 16 * device.processors))
        for a, b, found in chunks:
            columns = _I64(min(b, stop) - a)
            device.launch("tally", (blocks, 1), 32, (found, members, columns, limit_of, hits, used))
        return device.to_host(hits), device.to_host(used)

    def _shared_out(self, group: Group, texts: Texts, members: Struct, resamples: int) -> Layout:
        """A grid of resamples; where they are few, the texts are shared out, too, so that the device is full."""
        parts = 2 * self.device.processors // max(resamples, 1)
        wanted = resamples, max(1, min(len(group.members), parts))
        longest = int(texts.k[group.members].max())
        rows = int(members.value["rows"])
        return layout(self.device, group.problem, rows, longest, wanted)

    @_in_room
    def null_values(
        self, problem: Problem, texts: Texts, a: int, resamples: Resamples, threads: int
    ) -> np.ndarray:
        device = self.device
        part = problem.of_block(int(texts.k[a]))
        packed = self._texts(texts)
        only = np.array([a], _I64)
        seed, index = device.arrays([resamples.seed_key.astype(np.uint32), only])
        members = members_struct(device, texts, only, index)
        rows, k = int(members.value["rows"]), int(texts.k[a])
        made = Resampled(device, problem, resamples, seed, rows, 4, cells_of(part, texts, only)[0])
        values = [np.empty(0, _I32)]
        for b, c in made.chunks:
            least = device.full(c - b, NOTHING, _I32)
            where = layout(device, part, rows, k, (c - b, 1))
            arguments = (problem_struct(device, part), packed, members, made.make(b, c, rows))
            self._launch("null_values", where, (*arguments, least))
            values.append(device.to_host(least) + _I32(2 * part.gamma * k))
        return np.concatenate(values)

    # Scored alignments

    @_in_room
    def tally_scored(
        self,
        problem: Problem,
        scored: ScoredTexts,
        value: np.ndarray,
        limit: np.ndarray,
        resamples: Resamples,
        threads: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        active = np.flatnonzero(limit > 0)
        if not len(active) or resamples.first >= resamples.stop:
            return np.zeros(scored.size, _I64), np.zeros(scored.size, _I64)
        device = self.device
        values = value.clip(-(2**15), 2**15 - 1).astype(_I32)
        also = (values, limit.astype(_I64), active.astype(_I64))
        made = Leveled(device, problem, scored, active, resamples, scored.size, also)
        value_of, limit_of, active_of = made.also

        def found() -> Iterator[tuple[int, int, Struct]]:
            for a, b in made.chunks:
                matrix = device.full((scored.size, b - a), 0, np.uint8)
                out = struct(device, "Found", open=None, found=matrix, width=b - a)
                made.launch("scored_hits", (a, b), value_of, out)
                yield a, b, out

        members = members_struct(device, scored.texts, active, active_of)
        return self._tally(scored.texts, members, limit_of, resamples.stop, found())

    @_in_room
    def null_scored(
        self, problem: Problem, scored: ScoredTexts, a: int, resamples: Resamples, threads: int
    ) -> np.ndarray:
        device = self.device
        made = Leveled(device, problem, scored, np.array([a]), resamples, 4)
        values = [np.empty(0, _I32)]
        for b, c in made.chunks:
            some = device.empty(c - b, _I32)
            made.launch("scored_values", (b, c), some)
            values.append(device.to_host(some))
        before = resamples.first % 32
        return np.concatenate(values)[before : before + resamples.stop - resamples.first]

    # Prefixes

    @_in_room
    def observe_prefixes(self, problem: Problem, texts: Texts, costs: CostTable) -> np.ndarray:
        device = self.device
        m = len(texts.inverse)
        part = problem.of_block(m)
        only = np.array([0], _I64)
        table, (index,) = self._send(costs, problem.n, [only])
        members = members_struct(device, texts, only, index)
        least = device.full(m, NOTHING, _I32)
        windows = max(1, problem.n // (device.block_threads // 32))
        where = layout(device, part, int(members.value["rows"]), m, (windows, 1))
        shared = (problem_struct(device, part), self._texts(texts), members)
        self._launch("observe_prefixes", where, (*shared, table, least))
        return device.to_host(least) + _prefix_lift(part, m)

    @_in_room
    def null_prefixes(
        self, problem: Problem, texts: Texts, resamples: Resamples, threads: int
    ) -> np.ndarray:
        device = self.device
        first = resamples.first
        m = len(texts.inverse)
        part = problem.of_block(m)
        only = np.array([0], _I64)
        seed, index = device.arrays([resamples.seed_key.astype(np.uint32), only])
        members = members_struct(device, texts, only, index)
        rows = int(members.value["rows"])
        shared = (problem_struct(device, part), self._texts(texts), members)
        made = Resampled(device, problem, resamples, seed, rows, 4 * m, float(problem.n) * m * m)
        out = np.empty((resamples.stop - first, m), _I32)
        for b, c in made.chunks:
            least = device.full((c - b, m), NOTHING, _I32)
            where = layout(device, part, rows, m, (c - b, 1))
            self._launch("null_prefixes", where, (*shared, made.make(b, c, rows), least))
            out[b - first : c - first] = device.to_host(least) + _prefix_lift(part, m)
        return out

    # Drawing tokens

    def sampler(self, numbers: ExpNumbers | ItsNumbers, device: int | None = None) -> Sampler:
        """logits: a DLPack exporter [B, V], elements of a row adjacent; 16-bit ones come as int16."""
        from .sample import ExpSampler, ItsSampler

        where = self.device
        if device is not None and self._given is None:
            from .device import device as open_device

            where = open_device(device)
        if isinstance(numbers, ExpNumbers):
            return ExpSampler(where, numbers.secret, numbers.domain)
        return ItsSampler(where, numbers.order, numbers.words)


def _level(device: Any, bounds: Bounds, level: Any) -> Struct:
    """What the int16 bounds of a group are compared with; level: their own on the device."""
    return struct(device, "Level", **{**bounds._asdict(), "level": level})


def _lift(problem: Problem, texts: Texts, members: np.ndarray) -> np.ndarray:
    """What lies between alignment cost and E of each text: int64 [N] (0 for other texts than the members)."""
    lift = np.zeros(texts.size, _I64)
    for part, some in problem.parts(texts, members):
        lift[some] = 2 * part.gamma * texts.k[some]
    return lift


def _prefix_lift(problem: Problem, m: int) -> np.ndarray:
    """The same of every prefix of a text: int32 [m]."""
    return (2 * problem.gamma * np.arange(1, m + 1)).astype(_I32)


def _on_host(matrix: Any) -> bool:
    return type(matrix) is np.ndarray


def _clipped(value: np.ndarray) -> np.ndarray:
    return value.clip(-(2**31), NOTHING).astype(_I32)
