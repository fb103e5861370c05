"""The fused samplers on a device: from another library's logits to tokens, without a copy or a wait.

A sampler is made once for a key. Its calls only launch kernels: results are on the stream, and nothing is allocated
after `reserve`, or after a first call with so many rows on that stream, so that calls can be part of a CUDA graph. A
row without a distribution (all -inf or NaN, or with +inf in it) gives token -1, as on the CPU; so does a row of an its
key that does not exist. Threads may share a sampler, also on one stream: the launches of two calls never mix.
"""

import threading
import weakref
from typing import Any

import numpy as np

from .structs import Struct, struct

TYPES = {"float32": 0, "float16": 1, "bfloat16": 2}
"""The logits that the kernels read; 16-bit ones come as int16, which every DLPack consumer knows."""

_I32, _I64 = np.int32, np.int64
_CAPACITY = 256
# Of sample.cu: ranks a tile, tokens that a block of the its kernels takes at once, bytes beside its sums.
_TILE, _AT_ONCE, _DRAWING = 256, 1024, 80


class _Sampler:
    def __init__(self, device: Any) -> None:
        self.device = device
        self._one_call = threading.Lock()
        self._scratch: dict[int, tuple[int, tuple[Any, ...]]] = {}
        # CUDA graphs that were captured may still use it.
        self._outgrown: list[tuple[Any, ...]] = []
        self._kept: list[Any] = []
        weakref.finalize(self, _let_go, device, self._kept).atexit = False

    def __call__(
        self, logits: Any, kind: str, rows: Any, inverse_temperature: float, out: Any, stream: int
    ) -> None:
        """Write the tokens.

        logits: DLPack exporter [B, V], elements of a row adjacent; kind: a key of TYPES; rows: int64 [B], key rows;
        out: int64 [B]; stream: the cudaStream_t on which they are valid, as an integer.
        """
        with self.device.on_stream(stream):
            x, rows, out = (self.device.adopt(a) for a in (logits, rows, out))
            if x.shape[0] == 0:
                return
            batch = struct(
                self.device,
                "Logits",
                data=x,
                dtype=TYPES[kind],
                stride=x.strides[0] // x.itemsize,
                size=x.shape[1],
                scale=inverse_temperature,
            )
            with self._one_call:
                self._launch(x.shape, batch, rows, out, self._room(stream, x.shape[0]))

    def reserve(self, rows: int, stream: int) -> None:
        """Make the scratch of calls with up to `rows` rows on a stream, before a CUDA graph is captured on it.

        rows: int; stream: the cudaStream_t as an integer. Inside `torch.cuda.graph(graph, stream=s)` that is s.
        """
        with self.device.on_stream(stream), self._one_call:
            self._room(stream, rows)

    def _keep(self, values: np.ndarray) -> Any:
        """A part of the key on the device. It may be read there when the sampler is gone: see `_let_go`."""
        self._kept.append(self.device.kept(values))
        return self._kept[-1]

    def _room(self, stream: int, count: int) -> tuple[Any, ...]:
        """Scratch for `count` rows, one set for each stream: zeros, which every call leaves as zeros."""
        held, arrays = self._scratch.get(stream, (0, ()))
        if held < count:
            self._outgrown.append(arrays)
            held = max(_CAPACITY, 1 << (count - 1).bit_length())
            arrays = self._make_room(held)
            self._scratch[stream] = held, arrays
        return arrays

    def _make_room(self, count: int) -> tuple[Any, ...]:
        raise NotImplementedError

    def _launch(self, shape: Any, batch: Struct, rows: Any, out: Any, room: Any) -> None:
        raise NotImplementedError


def _let_go(device: Any, kept: list[Any]) -> None:
    """Free what a sampler kept, after all that was launched: its memory could else be written while it is read."""
    device.wait()
    kept.clear()


class ExpSampler(_Sampler):
    """Exponential minimum sampling: `cpu.sample.exp_sample`. words: uint32 [8], the secret."""

    def __init__(self, device: Any, words: np.ndarray, domain: int) -> None:
        super().__init__(device)
        self._key = self._keep(words.astype(np.uint32))
        self._domain = np.uint32(domain)

    def _make_room(self, count: int) -> tuple[Any, ...]:
        return self.device.full(count, 0, np.uint64), self.device.full(count, 0, np.uint32)

    def _launch(self, shape: Any, batch: Struct, rows: Any, out: Any, room: Any) -> None:
        chunks = -(-shape[1] // 256)
        # 16 chunks a block at a time; rows are cut only as far as the device needs to be full.
        wanted = max(1, 8 * self.device.processors // shape[0])
        grid = min(-(-chunks // 16), wanted), shape[0]
        arguments = (batch, self._key, self._domain, rows, *room, out)
        _by_rows(self.device, "exp_sample", grid, 256, arguments, 32)


class ItsSampler(_Sampler):
    """Inverse transform sampling: `cpu.sample.its_sample`. order: int32 [V]; words: uint32 [n], one for each row."""

    def __init__(self, device: Any, order: np.ndarray, words: np.ndarray) -> None:
        super().__init__(device)
        self._tiles = -(-len(order) // _TILE)
        self._shared = _DRAWING + 8 * self._tiles
        if self._shared > device.shared_bytes:
            raise ValueError(
                f"a vocabulary of {len(order)} tokens needs {self._shared} bytes of shared memory, but the device has "
                f'{device.shared_bytes}: use backend="cpu"'
            )
        tile = np.zeros(-(-len(order) // _AT_ONCE) * _AT_ONCE, np.uint16)
        tile[order] = np.arange(len(order)) // _TILE
        self._order = self._keep(order.astype(_I32))
        self._tile = self._keep(tile)
        self._words = self._keep(words.astype(np.uint32))

    def _make_room(self, count: int) -> tuple[Any, ...]:
        tops, tickets = (self.device.full(count, 0, np.uint32) for _ in range(2))
        return tops, tickets, self.device.full((count, self._tiles), 0, np.uint64)

    def _launch(self, shape: Any, batch: Struct, rows: Any, out: Any, room: Any) -> None:
        if shape[1] != len(self._order):
            raise ValueError(
                f"logits has {shape[1]} columns, but the key's order has {len(self._order)} tokens: cut the logits"
            )
        tops, tickets, sums = room
        device, count = self.device, shape[0]
        ranks = struct(
            device, "Ranks", order=self._order, tile=self._tile, tiles=self._tiles, sums=sums
        )
        wanted = max(1, 6 * device.processors // count)  # 40 registers: six blocks at once
        grid = min(-(-shape[1] // _AT_ONCE), wanted), count
        _by_rows(device, "its_top", grid, 256, (batch, tops))
        n = _I32(len(self._words))
        arguments = (batch, ranks, self._words, n, rows, tops, tickets, out)
        _by_rows(device, "its_sample", grid, 256, arguments, self._shared)


def _by_rows(
    device: Any, name: str, grid: tuple[int, int], threads: int, arguments: Any, shared: int = 0
) -> None:
    if grid[1] > 65535:
        raise ValueError(
            f"logits has {grid[1]} rows, but one CUDA launch takes at most 65535: sample in smaller batches"
        )
    device.launch(name, grid, threads, arguments, shared)
