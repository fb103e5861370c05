"""What belongs together in a launch, as structs that are passed by value. This table makes the C++ declarations and the
NumPy records, so that the two cannot differ."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

FIELDS: dict[str, tuple[tuple[str, str], ...]] = {
    # kernels.problem.Problem; stride: of a tile's rows.
    "Problem": (
        ("int", "cost"),
        ("int", "alignment"),
        ("int", "n"),
        ("int", "stride"),
        ("long long", "gamma"),
        ("long long", "vocab_size"),
        ("long long", "denominator"),
    ),
    # kernels.problem.Texts, without the tokens themselves.
    "Texts": (
        ("const int*", "inverse"),
        ("const long long*", "offsets"),
        ("const long long*", "distinct_offsets"),
        ("const long long*", "k"),
    ),
    # Texts that take the same kernels; rows: the most distinct tokens of one.
    "Members": (("const long long*", "index"), ("int", "count"), ("int", "rows")),
    # kernels.problem.Resamples: first .. first + count - 1; etas: int32 [count, rows], for ranked costs.
    "Resamples": (
        ("const u32*", "seed"),
        ("long long", "first"),
        ("int", "count"),
        ("int*", "etas"),
    ),
    # kernels.problem.CostTable: matrix int32 [R, width].
    "CostTable": (
        ("const int*", "matrix"),
        ("long long", "width"),
        ("const long long*", "source"),
    ),
    # Int16 bounds: see groups.Bounds; level: int32 [members].
    "Level": (
        ("int", "shift"),
        ("int", "base"),
        ("int", "guard"),
        ("int", "fall"),
        ("int", "rise"),
        ("const int*", "level"),
    ),
    # Which resamples fit: found uint8 [N, width]; open uint8 [count, members], or null for all.
    "Found": (
        ("const unsigned char*", "open"),
        ("unsigned char*", "found"),
        ("long long", "width"),
    ),
    # What scored alignments take beside texts: costs int16 [bin_count, LEVELS], gamma taken off; the bin of each token
    # of each text; the bonus of each text; levels uint8 [count / 32, rows, n, 32] of resamples.
    "Scores": (
        ("const short*", "costs"),
        ("int", "bin_count"),
        ("const unsigned char*", "bins"),
        ("const int*", "bonus"),
        ("const unsigned char*", "levels"),
        ("int", "rows"),
    ),
    # Where tiles are that do not fit in shared memory, tile_size for each block of the grid (staged: they fit), and
    # strips, strip_size for each warp (0: no block of text needs one).
    "Room": (
        ("int", "staged"),
        ("int*", "tiles"),
        ("long long", "tile_size"),
        ("int*", "strips"),
        ("long long", "strip_size"),
    ),
    # A batch of rows [B, V] of type dtype (0 float32, 1 float16, 2 bfloat16), row b at element b * stride.
    "Logits": (
        ("const void*", "data"),
        ("int", "dtype"),
        ("long long", "stride"),
        ("int", "size"),
        ("float", "scale"),
    ),
    # An its key: the token of each rank, and rank / 256 of each token, zero up to a multiple of 1,024; and the sums of
    # weights of `tiles` runs of 256 ranks of each row.
    "Ranks": (
        ("const int*", "order"),
        ("const unsigned short*", "tile"),
        ("int", "tiles"),
        ("u64*", "sums"),
    ),
}

SCALARS = {
    "int": np.int32,
    "short": np.int16,
    "unsigned short": np.uint16,
    "long long": np.int64,
    "float": np.float32,
    "u32": np.uint32,
    "u64": np.uint64,
    "unsigned char": np.uint8,
}


def declarations() -> str:
    """The structs in C++."""
    made = []
    for name, fields in FIELDS.items():
        members = " ".join(f"{kind} {field};" for kind, field in fields)
        made.append(f"struct {name} {{ {members} }};\n")
    return "".join(made)


@cache
def record(name: str) -> np.dtype:
    """The layout of a struct, as a C++ compiler chooses it."""
    return np.dtype(
        [
            (field, np.uint64 if kind.endswith("*") else SCALARS[kind])
            for kind, field in FIELDS[name]
        ],
        align=True,
    )


@dataclass(frozen=True)
class Struct:
    """A struct to pass: its name, its value (a record of no dimensions), and the arrays it points to, kept alive."""

    name: str
    value: np.ndarray
    arrays: tuple[Any, ...]


def struct(device: Any, name: str, **values: Any) -> Struct:
    """A struct of this name; arrays are of the device, and of the type that the field points to."""
    made = np.zeros((), record(name))
    arrays = []
    for kind, field in FIELDS[name]:
        value = values.pop(field)
        if kind.endswith("*"):
            if value is not None:
                check_pointer(f"{name}.{field}", kind, value)
                arrays.append(value)
                made[field] = device.pointer(value)
        else:
            made[field] = value
    if values:
        raise TypeError(f"{name} has no field {', '.join(values)}")
    return Struct(name, made, tuple(arrays))


def check_pointer(what: str, kind: str, array: Any) -> None:
    """TypeError unless the items of an array are what a pointer of this C++ type points to."""
    pointee = kind.removeprefix("const ").removesuffix("*")
    if pointee != "void" and array.dtype != SCALARS[pointee]:
        raise TypeError(f"{what} is a {kind}, but the array is {array.dtype}")
