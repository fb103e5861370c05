"""The draw of one token per row of logits: which kernel, on which device, with which key.

A drawer is a callable ``draw(logits, rows, inverse_temperature) -> tokens``:

    logits: torch float tensor [B, V], any device; -inf means "never".
    rows: NumPy int64 [B], the key row of each draw.
    inverse_temperature: float > 0, multiplies the logits.
    tokens: torch int64 [B] on the logits' device.

It raises `WatermarkError` for logits that have no distribution (a row that is all -inf or NaN, or
that contains +inf). Time O(B * V); memory: one float32 copy of logits that are not on the CPU.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wmcore.errors import WatermarkError
from wmcore.kernels.constants import DOMAIN_EXP, DOMAIN_FRESH

if TYPE_CHECKING:
    from wmcore.watermark import Watermark

Rows = NDArray[np.int64]
Draw = Callable[[Any, Rows, float], Any]


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

    return _on_cpu(kernel)


def _its(order: NDArray[np.int32], row_words: NDArray[np.uint32]) -> Draw:
    from wmcore.kernels.cpu.sample import its_sample

    def kernel(logits: Any, scale: np.float32, rows: Rows, out: Rows) -> None:
        its_sample(logits, scale, order, row_words[rows], out)

    return _on_cpu(kernel)


def _on_cpu(kernel: Callable[[Any, np.float32, Rows, Rows], None]) -> Draw:
    """Run a CPU kernel on slices of the batch in threads; the result does not depend on them."""
    from wmcore.kernels.cpu import threads

    cores = threads.available()

    def draw(logits: Any, rows: Rows, inverse_temperature: float) -> Any:
        import torch

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

    def draw(logits: Any, rows: Rows, inverse_temperature: float) -> Any:
        x = logits.detach().to("cpu", torch.float32).nan_to_num(-torch.inf, torch.inf, -torch.inf)
        gumbel = -(-table[torch.from_numpy(rows)].log()).log()
        best, tokens = (x * inverse_temperature + gumbel).max(dim=1)
        _check(0 if bool(best.isfinite().all()) else -1)
        return tokens.to(logits.device)

    return draw


def _check(least_token: int) -> None:
    if least_token < 0:
        raise WatermarkError(
            "logits: a row is all -inf or NaN, or contains +inf, so there is no token to draw;"
            " check the model's dtype, or raise temperature, top_k or top_p"
        )
