"""Which texts of a batch take the same kernels, and the numbers that those kernels are told."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..packing import Problem, Texts

_I32, _I64 = np.int32, np.int64


@dataclass(frozen=True)
class Group:
    """Texts that take the same kernels: members int64; level int32, what the bounds are compared with."""

    members: np.ndarray
    edits: bool
    bounded: bool = False
    shift: int = 0
    base: int = 0
    guard: int = 0
    level: Any = None
    on_device: Any = None

    def on(self, device: Any) -> "Group":
        """The same with level, and members as `on_device`, on a device."""
        level = None if self.level is None else device.array(self.level)
        return replace(self, level=level, on_device=device.array(self.members))

    def rows(self, texts: Texts) -> int:
        """The most distinct tokens of a text."""
        return int(texts.rows[self.members].max())

    def sizes(self, problem: Problem) -> tuple[Any, ...]:
        """its, n, stride, gamma, offset, shift, base, guard: what `bound` is told first."""
        scheme = (_I32(problem.its), _I32(problem.n), _I32(stride_of(problem.n)))
        limits = (_I32(self.shift), _I32(self.base), _I32(self.guard))
        return (*scheme, _I64(problem.gamma), _I32(problem.offset), *limits)


def groups_of(
    problem: Problem, texts: Texts, value: np.ndarray, active: np.ndarray, shared_bytes: int
) -> list[Group]:
    """The groups of `hits`: bounded where the texts are aligned with edits and int16 has room for them."""
    groups: list[Group] = []
    for edits, members in by_alignment(problem, texts, active, shared_bytes):
        if not edits:  # sliding sums are as fast as any bound of them
            groups.append(Group(members, edits))
            continue
        ranges = np.array([bound_range(problem, int(k)) or (-1, 0, 0) for k in texts.k[members]])
        for shift, base, guard in np.unique(ranges, axis=0).tolist():
            chosen = members[(ranges[:, 0] == shift)]
            if shift < 0:
                groups.append(Group(chosen, edits))
                continue
            level = (value[chosen].astype(_I64) + problem.gamma * texts.k[chosen]) >> shift
            level = level.clip(-(2**31), 2**31 - 1).astype(_I32)
            groups.append(Group(chosen, edits, True, shift, base, guard, level))
    return groups


def bound_range(problem: Problem, k: int) -> tuple[int, int, int] | None:
    """(shift, base, guard) of the int16 bounds of a block of k tokens, or None where none fits (see `bound.cu`).

    The least shift with which what resamples reach stays above guard: seldom below -4 nats a token, and gamma for each
    token twice and each row. (A shift of 6 costs 0.008 nats a token on average; a bound below guard decides nothing.)
    """
    lowest = problem.offset - (0 if problem.its else problem.largest_cost + 1)
    highest = max(0, problem.offset + (problem.largest_cost if problem.its else 0))
    per_token = 0 if problem.its else 4 * problem.scale
    room = problem.gamma * (problem.n + 2 * k) + per_token * k
    for shift in range(32):
        least, most = lowest >> shift, highest >> shift
        if least < -(2**15) or most >= 2**15:
            continue
        base, guard = 2**15 - 1 - most, -(2**15) - min(least, 0)
        if base - guard >= (room >> shift) + 2:
            return shift, base, guard
    return None


def by_alignment(
    problem: Problem, texts: Texts, active: np.ndarray, shared_bytes: int
) -> list[tuple[bool, np.ndarray]]:
    """(with edits, members int64); texts whose tile fits in shared memory apart from the rest."""
    edits = problem.needs_edits(texts.k[active])
    small = (texts.rows[active] + 1) * 4 * stride_of(problem.n) <= shared_bytes
    parts = [(e, active[(edits == e) & (small == s)]) for e in (True, False) for s in (True, False)]
    return [(flag, members.astype(_I64)) for flag, members in parts if len(members)]


def alignment(problem: Problem, edits: bool) -> tuple[Any, ...]:
    """edits, n, stride, gamma, offset, wide: how many neighbouring windows one bound covers at first (1, 4 or 16).

    No more than ceil(n / 16): int32 has room for the gaps of that many (`Problem.largest_gamma`).
    """
    wide = 16
    while wide > max(1, (problem.n + 15) // 16):
        wide //= 4
    return (
        _I32(edits),
        _I32(problem.n),
        _I32(stride_of(problem.n)),
        _I64(problem.gamma),
        _I32(problem.offset if edits else 0),
        _I32(wide),
    )


def stride_of(n: int) -> int:
    return (n + 31) // 32 * 32
