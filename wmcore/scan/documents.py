"""What a reader yields: one `Document` for each record, in `Batch`es that never cross a shard."""

from dataclasses import dataclass, field

import numpy as np

BATCH_DOCUMENTS = 8192
"""Documents tested at a time, which share their resampled keys; no result depends on it."""

BATCH_BYTES = 16_000_000
"""A batch also ends once its texts have this many characters, so that memory stays flat."""


@dataclass(slots=True)
class Document:
    """One record of an input: its position there, its id, and a text, token ids (int64 [m]) or an error."""

    position: int
    id: str
    text: str | None = None
    tokens: np.ndarray | None = None
    error: str | None = None

    @property
    def size(self) -> int:
        """Roughly how much memory it takes: characters, or tokens times eight."""
        if self.text is not None:
            return len(self.text)
        return 0 if self.tokens is None else 8 * len(self.tokens)


@dataclass(slots=True)
class Batch:
    """Documents of one shard, in order.

    Attributes
    ----------
    source : int
        Number of the input they are from.
    shard : int
        Positions shard * shard_size up to (shard + 1) * shard_size of that input.
    documents : list of Document
    shard_ends : bool
        Whether these are the last of the shard.
    source_ends : bool
        Whether these are the last of the input.
    done : float
        The share of the input that was read so far, 0 to 1.
    """

    source: int
    shard: int
    documents: list[Document] = field(default_factory=list)
    shard_ends: bool = False
    source_ends: bool = False
    done: float = 0.0
