"""The draw of one token per row of logits: which kernel, on which device, with which key.

A drawer is a callable ``draw(logits, rows, inverse_temperature, check=True) -> tokens``:

    logits: torch float tensor [B, V], any device; -inf means "never".
    rows: NumPy int64 [B], the key row of each draw; or a tensor on the logits' device.
    inverse_temperature: float > 0, multiplies the logits.
    tokens: torch int64 [B] on the logits' device.

It raises `WatermarkError` for logits that have no distribution (a row that is all -inf or NaN, or
that contains +inf). On a CUDA device that means waiting for the result: with check=False the row's
token is -1 instead, and `check_tokens` raises when the tokens are looked at.

CUDA logits (float32, bfloat16 or float16) are read where they are, by a fused kernel on torch's
current stream, if the CUDA backend works; else they are copied to the CPU. Both give the same tokens.
Time O(B * V); memory: one float32 copy of logits that are copied.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wmcore.errors import WatermarkError
from wmcore.kernels.constants import DOMAIN_EXP, DOMAIN_FRESH

if TYPE_CHECKING:
    from wmcore.watermark import Watermark

Rows = NDArray[np.int64]


class Draw(Protocol):
    """See the module's docstring."""

    def __call__(
        self, logits: Any, rows: Any, inverse_temperature: float, check: bool = True
    ) -> Any: ...


def watermarked(watermark: "Watermark") -> Draw:
    """The draw from a watermark's key: row j gives the token that xi_j and the logits determine.

    exp is exponential minimum sampling, its is inverse transform sampling: the two decoders of
    arXiv 2307.15593, section 2.
    """
    key, n, n_tokens = watermark.key, watermark.key_length, watermark.vocab_size
    if watermark.scheme.startswith("its"):
        return _its(key.its_order(n_tokens), key.its_words(n, n_tokens))
    if hasattr(key, "exp_table"):
        return _exp_table(key.exp_table(n, n_tokens))
    return _exp(key.words, DOMAIN_EXP)


def ordinary(seed: int | None) -> Draw:
    """The draw without a watermark: a secret that is used once, and rows that never repeat.

    seed: None for fresh entropy; else the same seed gives the same draws.
    """
    words = np.random.SeedSequence(seed).generate_state(8) if seed is not None else _fresh_words()
    return _exp(words.astype(np.uint32), DOMAIN_FRESH)


def _fresh_words() -> NDArray[np.uint32]:
    return np.frombuffer(os.urandom(32), np.uint32)


def _exp(words: NDArray[np.uint32], domain: int) -> Draw:
    from wmcore.kernels.cpu.sample import exp_sample

    def kernel(logits: Any, scale: np.float32, rows: Rows, out: Rows) -> None:
        exp_sample(logits, scale, words, domain, rows, out)

    def sampler(device: Any) -> Any:
        from wmcore.kernels.cuda.sample import ExpSampler

        return ExpSampler(device, words, domain)

    return _fused(_on_cpu(kernel), sampler)


def _its(order: NDArray[np.int32], row_words: NDArray[np.uint32]) -> Draw:
    from wmcore.kernels.cpu.sample import its_sample

    def kernel(logits: Any, scale: np.float32, rows: Rows, out: Rows) -> None:
        its_sample(logits, scale, order, row_words[rows], out)

    def sampler(device: Any) -> Any:
        from wmcore.kernels.cuda.sample import ItsSampler

        return ItsSampler(device, order, row_words)

    return _fused(_on_cpu(kernel), sampler)


def _fused(on_cpu: Draw, make: Callable[[Any], Any]) -> Draw:
    """Draw on CUDA tensors with make(device), a sampler of `wmcore.kernels.cuda`, where that works."""
    samplers: dict[int, Any] = {}  # by device number; None: does not work there

    def draw(logits: Any, rows: Any, inverse_temperature: float, check: bool = True) -> Any:
        if not logits.is_cuda:
            return on_cpu(logits, rows, inverse_temperature)
        index = logits.device.index
        if index not in samplers:
            from wmcore.kernels.cuda.device import device, why_not

            samplers[index] = make(device(index)) if why_not(index) is None else None
        if samplers[index] is None:
            return on_cpu(logits, rows, inverse_temperature)
        import torch

        stream = torch.cuda.current_stream(logits.device).cuda_stream
        tokens = on_device(samplers[index], logits, rows, inverse_temperature, stream)
        if check:
            check_tokens(tokens)
        return tokens

    return draw


def on_device(
    sampler: Any,
    logits: Any,
    rows: Any,
    inverse_temperature: float,
    stream: int,
    out: Any = None,
) -> Any:
    """Launch a sampler of `wmcore.kernels.cuda` on a stream; nothing waits. Returns the tokens.

    For a CUDA graph, give rows and out (int64 [B]) as tensors on the device, and call it once before
    the capture.
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


def _on_cpu(kernel: Callable[[Any, np.float32, Rows, Rows], None]) -> Draw:
    """Run a CPU kernel on slices of the batch in threads; the result does not depend on them."""
    from wmcore.kernels.cpu import threads

    cores = threads.available()

    def draw(logits: Any, rows: Any, inverse_temperature: float, check: bool = True) -> Any:
        import torch

        if torch.is_tensor(rows):
            rows = rows.cpu().numpy()
        x = np.ascontiguousarray(logits.detach().to("cpu", torch.float32).numpy())
        scale = np.float32(inverse_temperature)
        out = np.empty(len(rows), np.int64)
        jobs = [(x[a:b], scale, rows[a:b], out[a:b]) for a, b in threads.slices(len(rows), cores)]
        threads.run(kernel, jobs, cores)
        _check(out.min())
        return torch.from_numpy(out).to(logits.device)

    return draw


def _exp_table(xi: NDArray[np.float32]) -> Draw:
    """exp with the numbers of a published key, a table [n, V]: these cannot be made one by one."""
    import torch

    table = torch.from_numpy(xi)

    def draw(logits: Any, rows: Any, inverse_temperature: float, check: bool = True) -> Any:
        x = logits.detach().to("cpu", torch.float32).nan_to_num(-torch.inf, torch.inf, -torch.inf)
        gumbel = -(-table[torch.as_tensor(rows, device="cpu")].log()).log()
        best, tokens = (x * inverse_temperature + gumbel).max(dim=1)
        _check(0 if bool(best.isfinite().all()) else -1)
        return tokens.to(logits.device)

    return draw


def check_tokens(tokens: Any) -> None:
    """Raise WatermarkError if a token is -1: its row had no distribution. tokens: torch int64 [B], or a list."""
    _check(int(min(tokens) if isinstance(tokens, list) else tokens.min()))


def _check(least_token: int) -> None:
    if least_token < 0:
        raise WatermarkError(
            "logits: a row is all -inf or NaN, or contains +inf, so there is no token to draw;"
            " check the model's dtype, or raise temperature, top_k or top_p"
        )
