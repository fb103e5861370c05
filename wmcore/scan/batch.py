"""What a source yields: documents in `Batch`es that never cross a shard."""

from dataclasses import dataclass, field

from wmcore.records import Document

BATCH_DOCUMENTS = 8192
"""Documents tested at a time, which share their resampled keys; no result depends on it."""

FIRST_DOCUMENTS = 512
"""The first batch of an input is smaller, so that the count moves, and the time left is known, within seconds."""

BATCH_BYTES = 16_000_000
"""A batch also ends once its texts have this many characters, so that memory stays flat."""


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
