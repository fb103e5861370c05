"""What a server does to logits before it draws: penalties, temperature, min-p, top-k and top-p, for each row apart.

With vLLM's meaning of the parameters, and for truncation SGLang's, too. All take and give torch tensors on any device.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from wmcore.errors import WatermarkError

SEQUENTIAL = "sequential"
"""min-p, then top-k, then top-p, each of what the one before it left: vLLM, TensorRT-LLM."""

JOINT = "joint"
"""Top-k, top-p and min-p, each of the whole law: SGLang."""

PREFIX = 1024
"""So many of a row's greatest logits nearly always decide top-k and top-p, where no kernel of ours does."""


def penalised(
    row: Any,
    prompt: Sequence[int],
    output: Sequence[int],
    *,
    repetition: float,
    frequency: float,
    presence: float,
) -> Any:
    """A row of logits [V] with penalties for the tokens of a text; ids outside [0, V) are left out of account."""
    import torch

    size = row.shape[-1]
    made = torch.tensor([t for t in output if 0 <= t < size], dtype=torch.int64)
    before = torch.tensor([t for t in prompt if 0 <= t < size], dtype=torch.int64)
    counts = torch.bincount(made, minlength=size).to(row.device)
    seen = torch.cat([made, before]).to(row.device)
    row = row.clone()
    row[seen] = torch.where(row[seen] > 0, row[seen] / repetition, row[seen] * repetition)
    return row - frequency * counts - presence * (counts > 0)


def truncated(
    logits: Any, temperature: Any, top_k: Any, top_p: Any, min_p: Any, *, order: str = SEQUENTIAL
) -> Any:
    """logits / temperature, with -inf for what min-p, top-k and top-p exclude.

    Each rule keeps the first so many tokens in order of logit, equal ones in order of id; the likeliest always stays.

    Parameters
    ----------
    logits
        Float tensor [R, V] on any device. -inf means "never".
    temperature
        Tensor [R] on that device, > 0.
    top_k
        Integer tensor [R] on that device; 0 or less, or V or more, for all.
    top_p, min_p
        Tensors [R] on that device; 1 and 0 for none.
    order
        `SEQUENTIAL` (vLLM, TensorRT-LLM): min-p, then top-k, then top-p, each of what the one before it left. Ties with
        the k-th token stay. A token stays while the mass before it is < top_p.
        `JOINT` (SGLang): a token has to satisfy all three, each of the whole law. No more than k tokens stay, and
        those before which the mass is <= top_p.

    Returns
    -------
    Float32 tensor [R, V]. A row without a law (all -inf, or NaN or +inf in it) is only divided by its temperature: its
    greatest number is not finite.

    Raises
    ------
    WatermarkError
        For another order.

    Notes
    -----
    Time: a few passes of each row. On a CPU that is `wmcore.kernels.cpu.truncate`; elsewhere the greatest 1,024 of each
    row are taken, and a row that these do not decide is sorted. Each path adds float32 in an order of its own: where
    the mass before a token is top_p but for rounding (some 1e-6), the token may stay or go.
    """
    if order not in (SEQUENTIAL, JOINT):
        raise WatermarkError(
            f"order is {order!r}, but must be {SEQUENTIAL!r} or {JOINT!r}: take the server's own"
        )
    limits = _Limits(top_k.long(), top_p.float(), min_p.float())
    path = _by_kernel if logits.device.type == "cpu" else _by_torch
    return path(logits, temperature.float(), limits, order == JOINT)


def nucleus(logits: Any, temperature: float, top_p: float) -> Any:
    """`truncated` with the same temperature and top_p in all rows, and no more."""
    import torch

    one = torch.ones(len(logits), device=logits.device)
    return truncated(logits, one * temperature, one.long() * 0, one * top_p, one * 0)


class _Limits(NamedTuple):
    """The parameters of each row: tensors int64 [R], float32 [R], float32 [R]."""

    top_k: Any
    top_p: Any
    min_p: Any


def _by_kernel(logits: Any, temperature: Any, limits: _Limits, joint: bool) -> Any:
    """`truncated` of CPU tensors, in threads: the result does not depend on them."""
    import torch

    from wmcore.kernels.cpu.threads import available, run, slices
    from wmcore.kernels.cpu.truncate import truncate

    given = [one.detach().contiguous().numpy() for one in (logits.float(), temperature, *limits)]
    out = np.empty(
        logits.shape, np.float32
    )  # faster than torch's, whose pages glibc gives back each time
    cores = available()
    jobs = [
        (*(array[a:b] for array in given), joint, out[a:b]) for a, b in slices(len(logits), cores)
    ]
    run(truncate, jobs, cores)
    return torch.from_numpy(out)


def _by_torch(logits: Any, temperature: Any, limits: _Limits, joint: bool) -> Any:
    """`truncated` of tensors on any device."""
    import torch

    x = logits.float() / temperature[:, None]
    top = x.amax(dim=-1, keepdim=True)
    has_law = top.isfinite()
    floor = limits.min_p.double().clamp(0, 1).log().float()[:, None]
    left = x.masked_fill((x - top < floor) & has_law, -torch.inf)
    if not bool(((limits.top_k > 0) | (limits.top_p < 1)).any()):
        return left
    law = x if joint else left
    least, ties, decided = _cut(law, limits, joint, PREFIX)
    rest = (~decided).nonzero().flatten()
    if len(rest):
        some = _Limits(*(limit[rest] for limit in limits))
        least[rest], ties[rest], _ = _cut(law[rest], some, joint, x.shape[-1])
    equal = x == least
    kept = (x > least) | (equal & (equal.cumsum(dim=-1) <= ties))
    return left.masked_fill(~kept & has_law, -torch.inf)


def _cut(law: Any, limits: _Limits, joint: bool, width: int) -> tuple[Any, Any, Any]:
    """The least logit that top-k and top-p keep, and how many tokens of just this one: float, int64 [R, 1].

    And whether the greatest `width` logits of the row decide that: bool [R].
    """
    import torch

    size = law.shape[-1]
    greatest = law.topk(min(width, size), dim=-1).values
    width = greatest.shape[-1]
    k = torch.where(limits.top_k > 0, limits.top_k.clamp(max=size), size)[:, None]
    every, open_p = k == size, limits.top_p[:, None] >= 1
    kth = greatest.gather(1, k.clamp(max=width) - 1).masked_fill(every, -torch.inf)
    left = law if joint else law.masked_fill(law < kth, -torch.inf)
    top = greatest[:, :1]
    p = (greatest - top).exp() / (left - top).exp().sum(dim=-1, keepdim=True)
    before = p.cumsum(dim=-1) - p
    if joint:
        first = torch.arange(width, device=law.device) < k
        stays = first & ((before <= limits.top_p[:, None]) | open_p)
    else:
        stays = (greatest >= kth) & ((before < limits.top_p[:, None]) | open_p)
    stays[:, 0] = True
    count = stays.sum(dim=-1, keepdim=True)
    least = greatest.gather(1, count - 1)
    ties = count - (greatest > least).sum(dim=-1, keepdim=True)
    all_ties = open_p & every if joint else open_p  # what top-k alone decides, or nothing
    decided = ((k <= width) | every) & (all_ties | ~stays[:, -1:]) | (width == size)
    return torch.where(all_ties, kth, least), torch.where(all_ties, size, ties), decided[:, 0]
