"""The host side of the CUDA kernels: sizes, chunks, launches. Written against a device (see `device.py`), not CuPy.

Resamples are made where they are used and never leave the device; the host sees hits, statistics or counts. What a
call takes on the device depends on the texts and on `memory_bytes`, never on the number of resamples.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..packing import Problem, Texts
from .groups import alignment, by_alignment, groups_of, stride_of

_I32, _I64 = np.int32, np.int64
_NULL = np.uintp(0)
NOTHING = 2**31 - 1


@dataclass(frozen=True)
class Layout:
    """Where tiles and strips go: arguments that end every big launch, its grid and its shared memory."""

    grid: tuple[int, int]
    shared: int
    tail: tuple[Any, ...]


class Host:
    """The backend's functions on one device; names and arguments are those of `kernels.Backend`."""

    def __init__(self, device: Any) -> None:
        self.device = device

    # Costs of one key

    def exp_costs(self, secret: np.ndarray, tokens: np.ndarray, n: int) -> np.ndarray:
        out = self.device.empty((len(tokens), n), _I32)
        if len(tokens):
            key = self.device.array(secret.astype(np.uint32))
            rows = self.device.array(tokens.astype(_I64))
            arguments = (key, rows, _I64(len(tokens)), _I32(n), out)
            self._flat("exp_costs", len(tokens) * n, arguments)
        return self.device.to_host(out)

    def exp_table(self, secret: np.ndarray, vocab_size: int, n: int) -> tuple[np.ndarray, Any]:
        """The table on the host, and the same on the device."""
        tokens = (vocab_size + 255) // 256 * 256
        out = self.device.empty((tokens, n), _I32)
        key = self.device.array(secret.astype(np.uint32))
        self._flat("exp_table", tokens // 16 * n, (key, _I64(tokens), _I32(n), out))
        return self.device.to_host(out), out

    def _flat(self, name: str, work: int, arguments: tuple[Any, ...]) -> None:
        blocks = max(1, min((work + 255) // 256, 16 * self.device.processors))
        self.device.launch(name, (blocks, 1), 256, arguments)

    # Where blocks, tiles and strips go

    def _layout(self, n: int, rows: int, longest: int, wanted: tuple[int, int]) -> Layout:
        """rows: the most distinct tokens of a text; longest: the longest block; wanted: grid without limits."""
        device = self.device
        stride = stride_of(n)
        tile = (rows + 1) * stride
        if tile >= 2**30:
            raise ValueError(
                f"a text of {rows} distinct tokens with a key of {n} rows needs {tile} costs, but the CUDA kernels "
                'address 1073741823: split the text, or use backend="cpu"'
            )
        staged = 4 * tile <= device.shared_bytes
        strip = n + longest + 1 if longest > 256 else 0  # align.cuh: strips of 256 tokens
        per_block = (0 if staged else 4 * tile) + 4 * strip * (device.block_threads // 32)
        most = max(1, device.memory_bytes // max(per_block, 1))
        x = max(1, min(wanted[0], 2 * device.processors, most))
        y = max(1, min(wanted[1], 2 * device.processors // x, most // x))
        tiles = device.empty(1 if staged else x * y * tile, _I32)
        strips = device.empty(max(1, x * y * (device.block_threads // 32) * strip), _I32)
        tail = (_I32(staged), tiles, _I64(tile), strips, _I64(strip))
        return Layout((x, y), 4 * tile if staged else 0, tail)

    def _launch(self, name: str, layout: Layout, arguments: tuple[Any, ...]) -> None:
        self.device.launch(
            name,
            layout.grid,
            self.device.block_threads,
            (*arguments, *layout.tail),
            layout.shared,
        )

    def _etas(
        self, problem: Problem, seed: Any, first: int, count: int, rows: int, out: Any, seen: Any
    ) -> None:
        """Fill out, int32 [count, rows], for its (else nothing is needed)."""
        if problem.its:
            arguments = (
                seed,
                _I64(first),
                _I32(count),
                _I32(rows),
                _I64(problem.vocab_size),
                _I64(problem.denominator),
                seen,
                out,
            )
            self.device.launch("its_etas", (self._eta_blocks(problem, count), 1), 128, arguments)

    def _eta_blocks(self, problem: Problem, count: int) -> int:
        per_block = 4 * 4 * ((problem.vocab_size + 31) // 32)
        most = max(1, self.device.memory_bytes // 4 // per_block)
        return max(1, min((count + 3) // 4, 4 * self.device.processors, most))

    def _eta_scratch(self, problem: Problem, count: int, rows: int) -> tuple[Any, Any]:
        if not problem.its:
            return self.device.empty(1, _I32), None
        words = 4 * self._eta_blocks(problem, count) * ((problem.vocab_size + 31) // 32)
        return self.device.empty((count, rows), _I32), self.device.empty(words, np.uint32)

    def _chunks(self, first: int, last: int, bytes_each: int) -> list[tuple[int, int]]:
        """Ranges of resamples, of an even size, whose arrays fit in a quarter of the memory."""
        size = max(32, self.device.memory_bytes // 4 // max(bytes_each, 1) // 32 * 32)
        return [(a, min(a + size, last)) for a in range(first, last, size)]

    # Statistics of texts

    def observe(
        self, problem: Problem, texts: Texts, costs: Any, source: np.ndarray, best: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """costs: int32 [R, >= n] on the host or on the device."""
        device = self.device
        count = len(texts)
        if isinstance(costs, np.ndarray):
            used, source = np.unique(source, return_inverse=True)
            costs = device.array(costs[used, : problem.n])
        packed = _Packed(device, texts)
        least = device.full(count, NOTHING, _I32)
        place = device.full(count, 2**64 - 1, np.uint64)
        rows_of = device.array(source.astype(_I64))
        best_of = device.array(best.astype(_I32))
        for edits, members in by_alignment(problem, texts, np.arange(count), device.shared_bytes):
            longest = int(texts.k[members].max())
            layout = self._layout(
                problem.n, int(texts.rows[members].max()), longest, (len(members), 1)
            )
            chosen = device.array(members)
            for step in (0, 1):
                arguments = (
                    _I32(step),
                    *alignment(problem, edits),
                    costs,
                    _I64(costs.shape[1]),
                    rows_of,
                    packed.inverse,
                    packed.offsets,
                    packed.distinct_offsets,
                    packed.k,
                    chosen,
                    _I32(len(members)),
                    best_of,
                    least,
                    place,
                )
                self._launch("observe", layout, arguments)
        value = device.to_host(least)
        where = device.to_host(place)
        found = value != NOTHING
        where = np.where(found, where, 0).astype(_I64)
        block = np.where(found, where // problem.n, -1)
        tau = np.where(found, where % problem.n, -1)
        return value, block, tau

    def hits(
        self,
        problem: Problem,
        texts: Texts,
        value: np.ndarray,
        active: np.ndarray,
        seed_key: np.ndarray,
        first: int,
        last: int,
    ) -> np.ndarray:
        out = np.zeros((len(texts), last - first), np.uint8)
        for a, b, found in self._found(problem, texts, value, active, seed_key, first, last):
            out[:, a - first : b - first] = self.device.to_host(found)
        return out

    def tally(
        self,
        problem: Problem,
        texts: Texts,
        value: np.ndarray,
        active: np.ndarray,
        limit: np.ndarray,
        seed_key: np.ndarray,
        first: int,
        stop: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        device = self.device
        last = first + (stop - first + 31) // 32 * 32
        members = device.array(active.astype(_I64))
        limit_of = device.array(limit.astype(_I64))
        hits, used = (device.full(len(texts), 0, _I64) for _ in range(2))
        for a, b, found in self._found(problem, texts, value, active, seed_key, first, last):
            sizes = (_I32(len(active)), _I64(b - a), _I64(min(b, stop) - a))
            blocks = max(1, min(len(active), 16 * device.processors))
            arguments = (found, members, *sizes, limit_of, hits, used)
            device.launch("tally", (blocks, 1), 32, arguments)
        return device.to_host(hits), device.to_host(used)

    def _found(
        self,
        problem: Problem,
        texts: Texts,
        value: np.ndarray,
        active: np.ndarray,
        seed_key: np.ndarray,
        first: int,
        last: int,
    ) -> Iterator[tuple[int, int, Any]]:
        """(a, b, found): hits of the resamples a .. b - 1, uint8 [N, b - a] on the device, chunk by chunk."""
        if not len(active) or first >= last:
            return
        device = self.device
        count = len(texts)
        packed = _Packed(device, texts)
        seed = device.array(seed_key.astype(np.uint32))
        value_of = device.array(value.astype(_I32))
        most_rows = int(texts.rows[active].max())
        groups = groups_of(problem, texts, value, active, device.shared_bytes)
        largest = max(len(group.members) for group in groups)
        chunks = self._chunks(first, last, count + largest + 4 * most_rows)
        size = chunks[0][1] - chunks[0][0]
        etas, seen = self._eta_scratch(problem, size, most_rows)
        open_flags = device.empty(size * largest, np.uint8)
        ready = [group.on(device) for group in groups]
        for a, b in chunks:
            found = device.full((count, b - a), 0, np.uint8)
            for group in ready:
                rows, longest = group.rows(texts), int(texts.k[group.members].max())
                self._etas(problem, seed, a, b - a, rows, etas, seen)
                resamples = (seed, _I64(a), _I32(b - a))
                batch = (packed.inverse, packed.offsets, packed.k)
                ends = (group.on_device, _I32(len(group.members)), _I32(rows), etas)
                if group.bounded:
                    wanted = (b - a) // 2, self._split((b - a) // 2, len(group.members))
                    layout = self._layout(problem.n, rows, longest, wanted)
                    sizes = group.sizes(problem)
                    arguments = (*sizes, *resamples, *batch, group.level, *ends, open_flags)
                    self._launch("bound", layout, arguments)
                wanted = b - a, self._split(b - a, len(group.members))
                layout = self._layout(problem.n, rows, longest, wanted)
                sizes = (_I32(problem.its), *alignment(problem, group.edits))
                results = (open_flags if group.bounded else _NULL, found, _I64(b - a))
                arguments = (*sizes, *resamples, *batch, value_of, *ends, *results)
                self._launch("hits", layout, arguments)
            yield a, b, found

    def _split(self, resamples: int, members: int) -> int:
        """Into how many parts the texts go, so that few resamples still fill the device."""
        return max(1, min(members, 2 * self.device.processors // max(resamples, 1)))

    def null_values(
        self, problem: Problem, texts: Texts, a: int, seed_key: np.ndarray, first: int, last: int
    ) -> np.ndarray:
        device = self.device
        inverse = texts.inverse[texts.offsets[a] : texts.offsets[a + 1]]
        edits = bool(problem.needs_edits(texts.k[a : a + 1])[0])
        rows, k = int(texts.rows[a]), int(texts.k[a])
        seed = device.array(seed_key.astype(np.uint32))
        tokens = device.array(inverse.astype(_I32))
        values = []
        chunks = self._chunks(first, last, 4 + 4 * rows)
        etas, seen = self._eta_scratch(problem, chunks[0][1] - chunks[0][0] if chunks else 1, rows)
        for b, c in chunks:
            least = device.full(c - b, NOTHING, _I32)
            self._etas(problem, seed, b, c - b, rows, etas, seen)
            layout = self._layout(problem.n, rows, k, (c - b, 1))
            arguments = (
                _I32(problem.its),
                *alignment(problem, edits),
                seed,
                _I64(b),
                _I32(c - b),
                tokens,
                _I32(len(inverse)),
                _I32(k),
                _I32(rows),
                etas,
                least,
            )
            self._launch("null_values", layout, arguments)
            values.append(device.to_host(least))
        return np.concatenate(values) if values else np.empty(0, _I32)

    # Prefixes

    def observe_prefixes(self, problem: Problem, texts: Texts, costs: np.ndarray) -> np.ndarray:
        device = self.device
        m, rows = len(texts.inverse), costs.shape[0]
        edits = bool(problem.needs_edits(texts.k)[0])
        least = device.full(m, NOTHING, _I32)
        windows = max(1, problem.n // (device.block_threads // 32))
        layout = self._layout(problem.n, rows, m, (windows, 1))
        arguments = (
            _I32(edits),
            _I32(problem.n),
            _I32(stride_of(problem.n)),
            _I32(problem.offset if edits else 0),
            device.array(costs[:, : problem.n].astype(_I32)),
            _I64(problem.n),
            device.array(np.arange(rows)),
            device.array(texts.inverse.astype(_I32)),
            _I32(m),
            _I32(rows),
            least,
        )
        self._launch("observe_prefixes", layout, arguments)
        return device.to_host(least)

    def prefix_hits(
        self,
        problem: Problem,
        texts: Texts,
        value: np.ndarray,
        seed_key: np.ndarray,
        first: int,
        last: int,
    ) -> np.ndarray:
        device = self.device
        m, rows = len(texts.inverse), int(texts.rows[0])
        edits = bool(problem.needs_edits(texts.k)[0])
        counts = device.full(m, 0, np.uint64)
        seed = device.array(seed_key.astype(np.uint32))
        tokens = device.array(texts.inverse.astype(_I32))
        value_of = device.array(value.astype(_I32))
        chunks = self._chunks(first, last, 4 * rows)
        etas, seen = self._eta_scratch(problem, chunks[0][1] - chunks[0][0] if chunks else 1, rows)
        for b, c in chunks:
            self._etas(problem, seed, b, c - b, rows, etas, seen)
            layout = self._layout(problem.n, rows, m, (c - b, 1))
            arguments = (
                _I32(problem.its),
                _I32(edits),
                _I32(problem.n),
                _I32(stride_of(problem.n)),
                _I32(problem.offset if edits else 0),
                seed,
                _I64(b),
                _I32(c - b),
                tokens,
                _I32(m),
                _I32(rows),
                etas,
                value_of,
                counts,
                device.empty(layout.grid[0] * m, _I32),
            )
            self._launch("prefix_hits", layout, arguments)
        return device.to_host(counts).astype(_I64)


class _Packed:
    """Texts on the device."""

    def __init__(self, device: Any, texts: Texts) -> None:
        self.inverse = device.array(texts.inverse.astype(_I32))
        self.offsets = device.array(texts.offsets)
        self.distinct_offsets = device.array(texts.distinct_offsets)
        self.k = device.array(texts.k)
