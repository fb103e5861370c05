"""The CUDA sources as one text: what NVRTC compiles, and what the tests compile for the host."""

import re
from functools import cache
from pathlib import Path

from .. import constants, problem
from .groups import UNROLL
from .structs import declarations

_HERE = Path(__file__).parent
FILES = ("costs.cu", "resample.cu", "bound.cu", "null.cu", "prefix.cu", "scored.cu", "sample.cu")
OPTIONS = ("-std=c++17", "-fmad=false", "-ftz=false")
"""Compiler options: float operations are not contracted, subnormal numbers not flushed: equal bits depend on both."""


def source() -> str:
    """All kernels and, once each, the headers they include, after the constants and records that the host has, too.

    One text, because a compiled kernel is cached under a hash of it: an edited header must not find an old one.
    """
    names = ["ROUNDS", "LEVELS", *sorted(n for n in vars(constants) if n.startswith("DOMAIN_"))]
    parts = [f"#define {name} {getattr(constants, name)}\n" for name in names]
    parts.append(f"#define UNROLL {UNROLL}\n")
    parts += [f"#define COST_{name} {getattr(problem, name)}\n" for name in ("EXP", "ITS")]
    alignments = ("PLAIN", "EDIT", "FREE", "LOCAL")
    parts += [f"#define ALIGN_{name} {getattr(problem, name)}\n" for name in alignments]
    parts.append("typedef unsigned int u32;\ntypedef unsigned long long u64;\n" + declarations())
    seen: set[str] = set()
    parts += [_inline(name, seen) for name in FILES]
    return "".join(parts)


def _inline(name: str, seen: set[str]) -> str:
    if name in seen:
        return ""
    seen.add(name)
    lines = [f'#line 1 "{name}"\n']
    text = (_HERE / name).read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        include = re.fullmatch(r'#include "(\w+\.cuh)"\s*', line)
        if include:
            lines += [_inline(include[1], seen), f'#line {number + 1} "{name}"\n']
        else:
            lines.append(line)
    return "".join(lines)


_ENTRY = r'extern "C" __global__ void(?:\s+__launch_bounds__\(\d+\))?\s+(\w+)\(([^)]*)\)'


def entry_points() -> list[str]:
    """The names of all kernels, in the order of the sources."""
    return list(parameters())


@cache
def parameters() -> dict[str, list[tuple[str, str]]]:
    """The parameters of each kernel: (C++ type, name), read from the sources."""
    found = {}
    for name, inside in re.findall(_ENTRY, source()):
        each = [" ".join(p.split()).rpartition(" ") for p in inside.split(",")]
        found[name] = [(kind, parameter) for kind, _, parameter in each]
    return found
