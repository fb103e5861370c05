"""Types of what the public functions take, for type checkers; at run time the functions check by themselves."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol, TypeAlias

SchemeName: TypeAlias = Literal[
    "exp", "exp-edit", "exp-free", "exp-local", "its", "its-edit", "its-free", "its-local"
]
"""A key of `wmcore.schemes.SCHEMES`."""

ScoreName: TypeAlias = Literal["log", "clipped", "mixture", "delta"]
"""A key of `wmcore.scores.SCORES`."""

BackendName: TypeAlias = Literal["auto", "cpu", "cuda"]


class Array(Protocol):
    """An array of integers: NumPy's, a tensor of torch on any device, CuPy's."""

    @property
    def ndim(self) -> int: ...

    @property
    def shape(self) -> Any: ...

    @property
    def dtype(self) -> Any: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


TokenIds: TypeAlias = Sequence[int] | Array
"""The token ids of one text: a list, or an array of one dimension."""

Texts: TypeAlias = Sequence[str | TokenIds] | Array
"""Several texts: strings or token ids, or an array with a row for each."""
