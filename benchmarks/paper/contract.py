"""What the parts of an experiment hand each other: writers, tests and attacks, and the tables' entry types."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Batch:
    """Texts that are written together.

    secrets : 32 bytes of each text's key.
    shifts : int64 [B], the key row of the first token of each text, of methods with a key sequence.
    rows : int64 [B], numbers of the ordinary draws of the first tokens; text b's token i may use rows[b] + i.
    draws : seed of the ordinary draws of this batch.
    """

    secrets: Sequence[bytes]
    shifts: np.ndarray
    rows: np.ndarray
    draws: int
    vocab_size: int
    key_length: int


class Writer(Protocol):
    """Draws the next token of each text of a batch."""

    def __call__(self, ids: Any, logits: Any, step: int) -> Any:
        """Tokens, int64 tensor [B].

        ids: int64 tensor [B, w], the prompt (padded on the left) and the tokens so far. logits: float32 tensor [B, V]
        after temperature and truncation (-inf: never), which may be changed in place. step: 0 for the first new token.
        """
        ...


@dataclass(frozen=True)
class Method:
    """How text is written: an entry of METHODS.

    family: which tests find it, those of the same `Test.family`; None for text without a watermark. writer: None for
    the human continuation of the prompt. key_sequence: whether there is a key sequence, so that its length matters.
    """

    title: str
    family: str | None
    writer: Callable[[Batch], Writer] | None
    key_sequence: bool = False


@dataclass(frozen=True)
class Trial:
    """How texts are tested.

    options: of the test itself (gap, block_length ...). stop_after: see `Detector.detect`.
    """

    vocab_size: int
    key_length: int
    resamples: int
    stop_after: int | None
    seed: int
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Test:
    """How text is tested: an entry of TESTS.

    p_values: (texts: int64 [m] each; secrets: 32 bytes each; trial) -> float64 [N]; NaN for a text that cannot be
    tested (too short, or with a token beyond the watermark's). Exact: by chance, over keys, P(p <= a) <= a.
    """

    __test__ = False  # pytest takes it for a test

    title: str
    family: str
    p_values: Callable[[Sequence[np.ndarray], Sequence[bytes], Trial], np.ndarray]


TokenAttack = Callable[[np.ndarray, float, int, np.random.Generator], np.ndarray]
"""(tokens int64 [m], rate, vocab_size, rng) -> tokens."""

TextAttack = Callable[[list[str], int], list[str]]
"""(texts, seed) -> texts, one for each."""


@dataclass(frozen=True)
class Attack:
    """What is done to texts before they are tested: an entry of ATTACKS. One of `tokens` and `texts` is given."""

    title: str
    tokens: TokenAttack | None = None
    texts: TextAttack | None = None
