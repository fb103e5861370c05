"""Which texts of a batch take the same kernels, and the numbers that those kernels are told."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ..problem import COSTS, EDIT, Problem, Texts

UNROLL = 8
"""Columns of a tile that a walk of an edit alignment takes without a look at the end of the key (see `edit.cuh`)."""


class Group(NamedTuple):
    """Texts that take the same kernels: the problem they pose, members int64 [A], and their int16 bounds, if any."""

    problem: Problem
    members: np.ndarray
    bounds: "Bounds | None" = None


class Bounds(NamedTuple):
    """The range of int16 bounds (see `bound.cu`), in units of 2**shift; level int32 [A]: what they are compared with.

    fall, rise: a gap in units of 2**-16, rounded up and down (`Pair` of edit.cuh).
    """

    shift: int
    base: int
    guard: int
    fall: int
    rise: int
    level: np.ndarray


def groups_of(
    problem: Problem, texts: Texts, value: np.ndarray, active: np.ndarray, shared_bytes: int
) -> list[Group]:
    """The groups of `tally`: bounded where the texts are aligned with edits and int16 has room for them.

    value: int64 [N], alignment costs.
    """
    groups: list[Group] = []
    for part, members in by_alignment(problem, texts, active, shared_bytes):
        if part.alignment != EDIT:  # sliding sums are as fast as any bound of them
            groups.append(Group(part, members))
            continue
        sizes, place = np.unique(texts.k[members], return_inverse=True)
        ranges = [bound_range(part, size) for size in sizes.tolist()]
        for found in sorted(set(ranges), key=str):
            chosen = members[np.array([one == found for one in ranges])[place]]
            if found is None:
                groups.append(Group(part, chosen))
                continue
            level = (value[chosen] - part.gamma * texts.k[chosen]) >> found[0]
            level = level.clip(-(2**31), 2**31 - 1).astype(np.int32)
            groups.append(Group(part, chosen, Bounds(*found, level)))
    return groups


def cells_of(problem: Problem, texts: Texts, members: np.ndarray) -> np.ndarray:
    """About how many cells of an alignment a resample takes: float64 [A]. With edits, those of the super-windows."""
    k = texts.k[members].astype(float)
    blocks = np.diff(texts.offsets)[members] - k + 1
    if problem.alignment != EDIT:
        return (blocks + k - 1) * problem.n
    return blocks * (problem.n + 15) // 16 * (k + 15) * k


def split(group: Group, cells: np.ndarray, most: float) -> list[Group]:
    """A group in parts of at most `most` cells each, or of one text. cells: float64 [A]."""
    if cells.sum() <= most:
        return [group]
    edges, total = [0], 0.0
    for i, each in enumerate(cells.tolist()):
        if total + each > most and i > edges[-1]:
            edges.append(i)
            total = 0.0
        total += each
    edges.append(len(cells))
    parts = []
    for a, b in pairwise(edges):
        bounds = group.bounds
        if bounds is not None:
            bounds = bounds._replace(level=bounds.level[a:b])
        parts.append(Group(group.problem, group.members[a:b], bounds))
    return parts


def bound_range(problem: Problem, k: int) -> tuple[int, int, int, int, int] | None:
    """(shift, base, guard, fall, rise) of the int16 bounds of a block of k tokens, or None where none fits.

    The least shift with which what resamples reach stays above guard: seldom below -4 nats a token, and gamma for each
    token twice and each row. (A shift of 6 costs 0.008 nats a token on average; a bound below guard decides nothing.)
    The way back from the last row, gamma for each row and token, is an int16, too.
    """
    cost = COSTS[problem.cost]
    offset = -2 * problem.gamma
    lowest = offset + (cost.least - 1 if cost.least < 0 else 0)  # less 1 for the rounding of logs
    highest = max(0, offset + cost.most)
    per_token = 4 * cost.scale if cost.least < 0 else 0
    room = problem.gamma * (problem.n + 2 * k) + per_token * k
    columns = problem.n + k
    for shift in range(32):
        least, most = lowest >> shift, highest >> shift
        fall, rise = -(-problem.gamma << 16 >> shift), problem.gamma << 16 >> shift
        if least < -(2**15) or most >= 2**15 or fall * columns >= 2**31:
            continue
        base, guard = 2**15 - 1 - most, -(2**15) - min(least, 0)
        if base - guard >= (room >> shift) + (columns >> 16) + 3:
            return shift, base, guard, fall, rise
    return None


def by_alignment(
    problem: Problem, texts: Texts, active: np.ndarray, shared_bytes: int
) -> list[tuple[Problem, np.ndarray]]:
    """(problem, members int64); texts whose tile fits in shared memory apart from the rest."""
    found = []
    for part, members in problem.parts(texts, active):
        small = (texts.rows[members] + 1) * 4 * stride_of(part) <= shared_bytes
        found += [(part, members[small]), (part, members[~small])]
    return [(part, members.astype(np.int64)) for part, members in found if len(members)]


def stride_of(problem: Problem) -> int:
    """Columns of a tile: a multiple of 32, so that a wavefront meets 32 banks; with edits a few behind the last."""
    return (problem.n + (UNROLL - 1 if problem.alignment == EDIT else 0) + 31) // 32 * 32
