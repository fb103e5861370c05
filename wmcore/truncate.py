"""What a server does to logits before it draws: penalties, temperature, min-p, top-k and top-p, for each row apart.

In vLLM's order and with its meaning of the parameters. All take and give torch tensors on any device.
"""

from collections.abc import Sequence
from typing import Any


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


def truncated(logits: Any, temperature: Any, top_k: Any, top_p: Any, min_p: Any) -> Any:
    """logits / temperature, float32 [R, V], with -inf for what min-p, then top-k, then top-p exclude.

    temperature, top_p, min_p: float32 [R]; top_k: int64 [R], 0 or less for all. The likeliest token always stays.
    Time: a sort of each row if any row has top-k or top-p.
    """
    import torch

    x = logits.float() / temperature[:, None]
    if bool((min_p > 0).any()):
        p = x.softmax(dim=-1)
        x = x.masked_fill(p < min_p[:, None] * p.amax(dim=-1, keepdim=True), -torch.inf)
    size = x.shape[-1]
    if not bool(((top_k > 0) | (top_p < 1)).any()):
        return x
    ordered, order = x.sort(dim=-1, descending=True, stable=True)
    kept = torch.where(top_k > 0, top_k.clamp(max=size), size)
    least = ordered.gather(1, kept[:, None] - 1)  # ties with the k-th stay, as there
    ordered = ordered.masked_fill(ordered < least, -torch.inf)
    p = ordered.softmax(dim=-1)
    before = p.cumsum(dim=-1) - p
    beyond = (before >= top_p[:, None]) & (top_p < 1)[:, None]
    beyond[:, 0] = False
    return torch.empty_like(x).scatter_(1, order, ordered.masked_fill(beyond, -torch.inf))
