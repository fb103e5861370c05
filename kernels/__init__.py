"""Kernels: arrays in, arrays out. No torch, no files, no configuration objects; imports nothing of wmcore.

`Backend` says what a backend does; `resolve` is the one place where one is chosen.
"""

import importlib
import os
from functools import cache

from .backend import Backend

__all__ = ["BACKENDS", "Backend", "load", "resolve"]

BACKENDS = {"cpu": (".cpu.backend", "CpuBackend"), "cuda": (".cuda.backend", "CudaBackend")}
"""Modules and classes by name. For "auto", the last that works is taken."""


@cache
def load(name: str) -> Backend:
    """The backend of this name, made once, whether or not it can run here."""
    module, made = BACKENDS[name]
    backend: Backend = getattr(importlib.import_module(module, __name__), made)()
    return backend


def resolve(name: str = "auto") -> Backend:
    """The backend called `name`, or what WMCORE_BACKEND says where `name` is "auto".

    Raises ValueError for an unknown name. A named backend works or raises ValueError with the real cause; "auto"
    takes "cuda" where CuPy and a device work, else "cpu".
    """
    said_by = "backend"
    if name == "auto" and "WMCORE_BACKEND" in os.environ:
        said_by, name = "WMCORE_BACKEND", os.environ["WMCORE_BACKEND"]
    if name == "auto":
        name = next((one for one in reversed(BACKENDS) if load(one).why_not() is None), "cpu")
    if name not in BACKENDS:
        known = ", ".join(["auto", *BACKENDS])
        raise ValueError(f"{said_by} {name!r} is not known: use one of {known}")
    chosen = load(name)
    why_not = chosen.why_not()
    if why_not is not None:
        raise ValueError(f'backend "{name}" cannot run here: {why_not}')
    return chosen
