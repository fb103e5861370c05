"""METHODS: how text is written. A new scheme or baseline is an entry here (and its test in `testing.py`)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from wmcore.generation import MAX_ROWS
from wmcore.key import Key
from wmcore.paper.contract import Batch, Method, Writer
from wmcore.paper.kirchenbauer import kgw_writer
from wmcore.paper.synthid import synthid_writer
from wmcore.sampling import Draw, ordinary, watermarked
from wmcore.watermark import Watermark


@dataclass
class Keyed:
    """Draws each text's tokens from its key sequence; neighbours of one key are drawn at once."""

    batch: Batch
    draws: list[tuple[slice, Draw]] = field(default_factory=list)

    def __call__(self, ids: Any, logits: Any, step: int) -> Any:
        import torch

        rows = (self.batch.shifts + step) % self.batch.key_length
        drawn = [draw(logits[part], rows[part], 1.0) for part, draw in self.draws]
        return torch.cat(drawn)


def keyed(sampler: Literal["exp", "its"]) -> Callable[[Batch], Writer]:
    """The writer of a sampler of wmcore."""

    def begin(batch: Batch) -> Writer:
        writer = Keyed(batch)
        secrets = list(batch.secrets)
        first = 0
        while first < len(secrets):
            stop = first + 1
            while stop < len(secrets) and secrets[stop] == secrets[first]:
                stop += 1
            mark = Watermark.create(
                sampler,
                vocab_size=batch.vocab_size,
                key_length=batch.key_length,
                key=Key(secrets[first]),
            )
            writer.draws.append((slice(first, stop), watermarked(mark)))
            first = stop
        return writer

    return begin


def plain(batch: Batch) -> Writer:
    """Ordinary sampling."""
    draw = ordinary(batch.draws)

    def write(ids: Any, logits: Any, step: int) -> Any:
        return draw(logits, np.asarray(batch.rows + step) % MAX_ROWS, 1.0)

    return write


GREEN = 0.25
"""gamma, the share of green tokens."""

METHODS: dict[str, Method] = {
    "exp": Method("exponential minimum", "exp", keyed("exp"), key_sequence=True),
    "its": Method("inverse transform", "its", keyed("its"), key_sequence=True),
    **{
        f"kgw-{delta:g}": Method(f"KGW δ = {delta:g}", "kgw", kgw_writer(GREEN, delta))
        for delta in (1.0, 1.5, 2.0)
    },
    "synthid": Method("SynthID", "synthid", synthid_writer),
    "plain": Method("no watermark", None, plain),
    "human": Method("people", None, None),
}
"""By name. `Method.writer` None: the human continuation of the prompt."""

BUILT_IN = frozenset(METHODS)
"""Those that are known by their names; others by the module that added them, too."""
