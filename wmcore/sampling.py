"""The draw of one token per row of logits: with which key, on which backend.

A drawer is a callable ``draw(logits, rows, inverse_temperature, check=True) -> tokens``:

    logits: torch float tensor [B, V], any device; -inf means "never".
    rows: NumPy int64 [B], the key row of each draw; or a tensor on the logits' device.
    inverse_temperature: float > 0, multiplies the logits.
    tokens: torch int64 [B] on the logits' device.

It raises `WatermarkError` for logits that have no distribution (a row that is all -inf or NaN, or
that contains +inf). On a CUDA device that means waiting for the result: with check=False the row's
token is -1 instead, and `check_tokens` raises when the tokens are looked at.

`backend` is chosen by `kernels.resolve`, WMCORE_BACKEND included. "auto" reads CUDA logits (float32,
bfloat16 or float16) where they are, by a fused kernel on torch's current stream, if the CUDA backend
works there; if not, it says so in a warning and copies them to the CPU, as "cpu" does. CPU logits are
read on the CPU; a named "cuda" refuses them. All give the same tokens. (An exp key of the published
code is a table that draws on the CPU alone; a named "cuda" refuses it, too.)
`on_arrays` is the same draw of NumPy arrays on the CPU, for those who have no torch.
Time O(B * V); memory: one float32 copy of logits that are copied.
"""

import os
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wmcore.errors import WatermarkError
from wmcore.kernels import load, resolve
from wmcore.kernels.backend import Backend, ExpNumbers, ItsNumbers, Sampler
from wmcore.kernels.constants import DOMAIN_FRESH
from wmcore.key import UniformTable
from wmcore.types import BackendName

if TYPE_CHECKING:
    from wmcore.watermark import Watermark


class Draw(Protocol):
    """See the module's docstring."""

    def __call__(
        self, logits: Any, rows: Any, inverse_temperature: float, check: bool = True
    ) -> Any: ...


class ArrayDraw(Protocol):
    """The draw of NumPy arrays: logits float32 [B, V], C-contiguous; rows int64 [B]; tokens int64 [B]."""

    def __call__(
        self, logits: NDArray[np.float32], rows: NDArray[np.int64], inverse_temperature: float
    ) -> NDArray[np.int64]: ...


def watermarked(watermark: "Watermark", backend: BackendName = "auto") -> Draw:
    """The draw from a watermark's key: row j gives the token that xi_j and the logits determine.

    exp is exponential minimum sampling, its is inverse transform sampling: the two decoders of
    arXiv 2307.15593, section 2.
    """
    numbers = _numbers(watermark)
    if isinstance(numbers, UniformTable):
        named = backend != "auto" or "WMCORE_BACKEND" in os.environ
        if named and _resolved(backend).name != "cpu":
            raise WatermarkError(
                f'backend "{_resolved(backend).name}" was asked for, but a published exp key is a table that draws '
                'on the CPU alone: use backend="cpu"'
            )
        return partial(_on_host, partial(_from_table, numbers.xi))
    return _Fused(numbers, backend)


def on_arrays(watermark: "Watermark") -> ArrayDraw:
    """`watermarked` for NumPy arrays on the CPU, without torch. A WMCORE_BACKEND that names another is refused."""
    numbers = _numbers(watermark)
    if isinstance(numbers, UniformTable):
        return partial(_from_table, numbers.xi)
    backend = _resolved("auto" if "WMCORE_BACKEND" in os.environ else "cpu")
    if backend.name != "cpu":
        raise WatermarkError(
            f'backend "{backend.name}" was asked for by WMCORE_BACKEND, but these logits are on the CPU: unset it'
        )
    return partial(_drawn, backend.sampler(numbers, None), numbers)


def ordinary(seed: int | None, backend: BackendName = "auto") -> Draw:
    """The draw without a watermark: a secret that is used once, and rows that never repeat.

    seed: None for fresh entropy; else the same seed gives the same draws.
    """
    words = np.random.SeedSequence(seed).generate_state(8) if seed is not None else _fresh_words()
    return _Fused(ExpNumbers(words.astype(np.uint32), DOMAIN_FRESH), backend)


def _numbers(watermark: "Watermark") -> ExpNumbers | ItsNumbers | UniformTable:
    return watermark.key.numbers(watermark.sampler, watermark.key_length, watermark.vocab_size)


def _fresh_words() -> NDArray[np.uint32]:
    return np.frombuffer(os.urandom(32), np.uint32)


class _Fused:
    """Draws with a sampler of a backend, one for each device that logits come from."""

    def __init__(self, numbers: ExpNumbers | ItsNumbers, backend: str) -> None:
        self._numbers = numbers
        self._named = backend
        self._samplers: dict[tuple[bool, int | None], tuple[Backend, Sampler]] = {}
        self._chosen = None if backend == "auto" else _resolved(backend)

    def __call__(
        self, logits: Any, rows: Any, inverse_temperature: float, check: bool = True
    ) -> Any:
        place = logits.is_cuda, logits.device.index
        if place not in self._samplers:
            backend = self._backend(logits)
            self._samplers[place] = backend, backend.sampler(self._numbers, place[1])
        backend, sampler = self._samplers[place]
        if backend.name == "cpu":
            draw = partial(_drawn, sampler, self._numbers)
            return _on_host(draw, logits, rows, inverse_temperature)
        if isinstance(rows, np.ndarray):
            _check_rows(rows, _limit(self._numbers))
        import torch

        stream = torch.cuda.current_stream(logits.device).cuda_stream
        tokens = on_device(sampler, logits, rows, inverse_temperature, stream)
        if check:
            check_tokens(tokens)
        return tokens

    def _backend(self, logits: Any) -> Backend:
        """The backend for logits on this device."""
        chosen = self._chosen
        if chosen is None and not logits.is_cuda and "WMCORE_BACKEND" not in os.environ:
            return _resolved("cpu")
        if chosen is None:
            chosen = _resolved("auto")
            if chosen.name == "cpu" and "WMCORE_BACKEND" not in os.environ:
                warnings.warn(
                    "logits are on a CUDA device, but its backend does not work, so each step copies them to the CPU: "
                    f"{load('cuda').why_not()}",
                    stacklevel=4,
                )
        if chosen.name != "cpu" and not logits.is_cuda:
            raise WatermarkError(
                f'backend "{chosen.name}" was asked for, but the logits are on the {logits.device.type}: '
                'move the model there, or use backend="auto"'
            )
        return chosen


def _resolved(name: str) -> Backend:
    try:
        return resolve(name)
    except ValueError as error:
        raise WatermarkError(str(error)) from None


def on_device(
    sampler: Sampler,
    logits: Any,
    rows: Any,
    inverse_temperature: float,
    stream: int,
    out: Any = None,
) -> Any:
    """Launch a CUDA backend's sampler on a stream; nothing waits. Returns the tokens.

    For a CUDA graph, give rows and out (int64 [B]) as tensors on the device, and call the sampler's
    `reserve` before the capture. A row of an its key that does not exist gives token -1.
    """
    import torch

    from wmcore.kernels.cuda.sample import TYPES

    x = logits.detach()
    kind = str(x.dtype).removeprefix("torch.")
    if kind not in TYPES:
        x, kind = x.float(), "float32"
    if x.stride(1) != 1:
        x = x.contiguous()
    if kind != "float32":
        x = x.view(torch.int16)
    if not torch.is_tensor(rows):
        rows = torch.from_numpy(np.ascontiguousarray(rows, np.int64))
        if x.is_cuda:  # pinned memory: the copy does not wait
            rows = rows.pin_memory().to(x.device, non_blocking=True)
    rows = rows.to(x.device, torch.int64).contiguous()  # nothing to do where they are so already
    if len(rows) != len(x):
        raise ValueError(f"rows has {len(rows)} numbers, but logits has {len(x)} rows")
    if out is not None and (
        out.dtype != torch.int64 or out.shape != (len(x),) or not out.is_contiguous()
    ):
        raise ValueError(f"out must be a contiguous int64 tensor of {len(x)} numbers")
    if out is None:
        out = torch.empty(len(x), dtype=torch.int64, device=x.device)
    sampler(x, kind, rows, inverse_temperature, out, stream)
    return out


def _on_host(
    draw: ArrayDraw, logits: Any, rows: Any, inverse_temperature: float, check: bool = True
) -> Any:
    """The draw of torch tensors on the CPU, checked at once."""
    import torch

    if torch.is_tensor(rows):
        rows = rows.cpu().numpy()
    x = np.ascontiguousarray(logits.detach().to("cpu", torch.float32).numpy())
    return torch.from_numpy(draw(x, rows, inverse_temperature)).to(logits.device)


def _limit(numbers: ExpNumbers | ItsNumbers) -> int:
    """How many rows a key has: what its words are for, or all that a nonce can say."""
    return len(numbers.words) if isinstance(numbers, ItsNumbers) else 1 << 32


def _check_rows(rows: NDArray[np.int64], limit: int) -> None:
    if rows.size and not 0 <= rows.min() <= rows.max() < limit:
        raise ValueError(
            f"rows holds {rows.min()} to {rows.max()}, but the key has rows 0 to {limit - 1}"
        )


def _drawn(
    sampler: Sampler,
    numbers: ExpNumbers | ItsNumbers,
    logits: NDArray[np.float32],
    rows: NDArray[np.int64],
    inverse_temperature: float,
) -> NDArray[np.int64]:
    """An `ArrayDraw` with a sampler of the CPU, of a key's numbers. An its key has an order of just its V tokens."""
    _check_rows(rows, _limit(numbers))
    if isinstance(numbers, ItsNumbers) and logits.shape[1] != len(numbers.order):
        raise ValueError(
            f"logits have {logits.shape[1]} columns, but the its key has {len(numbers.order)} tokens"
        )
    out = np.empty(len(rows), np.int64)
    sampler(logits, "float32", rows, inverse_temperature, out, 0)
    _check(out.min(initial=0))
    return out


def _from_table(
    xi: NDArray[np.float32],
    logits: NDArray[np.float32],
    rows: NDArray[np.int64],
    inverse_temperature: float,
) -> NDArray[np.int64]:
    """exp with the numbers of a published key, a table [n, V]: these cannot be made one by one."""
    _check_rows(rows, len(xi))
    x = np.where(np.isnan(logits), np.float32(-np.inf), logits)
    with np.errstate(divide="ignore"):
        values = x * np.float32(inverse_temperature) - np.log(-np.log(xi[rows]))
    tokens = values.argmax(axis=1)
    best = np.take_along_axis(values, tokens[:, None], axis=1)
    _check(0 if np.isfinite(best).all() else -1)
    return tokens


def check_tokens(tokens: Any) -> None:
    """Raise WatermarkError if a token is -1: its row had no distribution. tokens: torch int64 [B], or a list."""
    _check(int(min(tokens) if isinstance(tokens, list) else tokens.min()))


def _check(least_token: int) -> None:
    if least_token < 0:
        raise WatermarkError(
            "logits: a row is all -inf or NaN, or contains +inf, so there is no token to draw;"
            " check the model's dtype, or raise temperature, top_k or top_p"
        )
