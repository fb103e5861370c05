"""`njit` of every kernel: Numba's, with a cache on disk that neither damage nor other processes can break.

Numba keeps an index for each function, which two processes may write at once: then an entry can name the code of other
types or another processor, for ever (docs/kernels.md). Here each compiled variant is its own file with a checksum. And
where Numba finds no folder to write to, it raises; here there is a folder of this user alone, or no cache.
"""

import contextlib
import functools
import hashlib
import logging
import os
import pickle
import stat
import tempfile
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy.ma  # noqa: F401 - Numba imports it at the first call: a child forked meanwhile would wait for the import
from numba.core.caching import (
    CompileResultCacheImpl,
    FunctionCache,
    InTreeCacheLocator,
    UserProvidedCacheLocator,
)
from numba.core.compiler_lock import global_compiler_lock
from numba.core.serialize import dumps
from numba.misc.appdirs import AppDirs

WHY_NOT = (
    "Numba compiles nothing here (NUMBA_DISABLE_JIT), and without that the kernels cannot run: unset it"
    if numba.config.DISABLE_JIT
    else None
)
"""Why no kernel can run, or None."""

COMPILING = "compiling kernels, once for each scheme, 10 to 20 s"
"""The warning of the logger "wmcore" before a process compiles its first kernel: the call would seem to hang."""

_DIGEST = 32  # bytes of SHA-256

# Numba lets one thread compile at a time. A child forked meanwhile would wait for a thread that it does not have.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )


def njit(*, cache: bool = False, **options: Any) -> Callable[[Callable], Any]:
    """numba.njit(cache=cache, **options), with the cache of this module."""

    def wrap(function: Callable) -> Any:
        if WHY_NOT is not None:
            return _refuse
        compiled = numba.njit(**options)(function)
        if cache:
            try:
                compiled._cache = _Cache(function)
            except RuntimeError:  # there is no folder for it
                _warn_once(
                    "no folder can be written for compiled code, so each process compiles the kernels anew (up to a "
                    "minute): set NUMBA_CACHE_DIR to a folder"
                )
        return compiled

    return wrap


def _refuse(*arguments: Any) -> None:
    raise RuntimeError(WHY_NOT)


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=3)


@functools.cache
def _say_once(message: str) -> None:
    logging.getLogger("wmcore").warning(message)


@functools.cache
def _stamp() -> str:
    """What compiled code depends on besides its own function: the sources of all kernels, which call each other."""
    folder = Path(__file__).parent
    found = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for path in sorted([*folder.glob("*.py"), *folder.parent.glob("*.py")]):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


@functools.cache
def private_folder() -> str | None:
    """A folder that this user alone can write to, made where it is missing: None if there is no place for one."""
    user = os.geteuid() if hasattr(os, "geteuid") else ""
    places = [lambda: AppDirs("wmcore", False).user_cache_dir]
    places.append(lambda: os.path.join(tempfile.gettempdir(), f"wmcore-cache-{user}"))
    for place in places:
        try:
            folder = place()
            if not os.path.isabs(folder):  # of a user without a home
                continue
            os.makedirs(folder, mode=0o700, exist_ok=True)
            found = os.lstat(folder)
            if not stat.S_ISDIR(found.st_mode) or (user != "" and found.st_uid != user):
                continue  # someone else's, who could put code of theirs there
            os.chmod(folder, 0o700)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        return folder
    return None


class _PrivateLocator(InTreeCacheLocator):
    """Numba's interface to `private_folder`."""

    def __init__(self, py_func: Callable, py_file: str) -> None:
        super().__init__(py_func, py_file)
        folder = private_folder()
        if folder is None:
            raise OSError("no folder")
        self._cache_path = os.path.join(folder, self.get_suitable_cache_subpath(py_file))

    @classmethod
    def from_function(cls, py_func: Callable, py_file: str) -> Any:
        try:
            return super().from_function(py_func, py_file)
        except OSError:
            return None


class _Results(CompileResultCacheImpl):
    _locator_classes = (UserProvidedCacheLocator, InTreeCacheLocator, _PrivateLocator)


class _Cache(FunctionCache):
    """Numba's cache of one function, on `_Files`. What cannot be read is made anew; what cannot be kept is not."""

    _impl_class = _Results

    def __init__(self, py_func: Callable) -> None:
        super().__init__(py_func)
        self._cache_file = _Files(self.cache_path, self._impl.filename_base)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        found = None
        # Numba and LLVM raise all kinds of errors at code that they cannot take.
        with contextlib.suppress(Exception):
            found = super().load_overload(sig, target_context)
        if found is None:
            _say_once(COMPILING)
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _warn_once(
                f"compiled code cannot be kept ({error.strerror}), so the next process compiles it again: make room in "
                f"{self.cache_path}, or set NUMBA_CACHE_DIR to another folder"
            )


class _Files:
    """A file for each variant of a function: SHA-256 of the rest, then the pickled key and code."""

    def __init__(self, folder: str, base: str) -> None:
        self._folder = Path(folder)
        self._base = base

    def _path(self, key: Any) -> Path:
        variant = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
        return self._folder / f"{self._base}.{_stamp()}.{variant}.nbc"

    def load(self, key: Any) -> Any:
        """The code of this key, or None."""
        try:
            raw = self._path(key).read_bytes()
        except OSError:
            return None
        digest, rest = raw[:_DIGEST], raw[_DIGEST:]
        if digest != hashlib.sha256(rest).digest():
            return None  # damaged: it is compiled and written again
        kept, data = pickle.loads(rest)
        return data if kept == key else None

    def save(self, key: Any, data: Any) -> None:
        """Keep code, and remove that of other sources, as nothing will ask for it."""
        path = self._path(key)
        rest = dumps((key, data))
        scratch = path.with_name(f"{path.name}.{uuid.uuid4().hex[:16]}")
        try:
            scratch.write_bytes(hashlib.sha256(rest).digest() + rest)
            os.replace(scratch, path)
        except OSError:
            scratch.unlink(missing_ok=True)
            raise
        self._remove(lambda name: name.split(".")[-3] != _stamp())

    def flush(self) -> None:
        """Remove the code of this function."""
        self._remove(lambda name: True)

    def _remove(self, chosen: Callable[[str], bool]) -> None:
        for path in self._folder.glob(f"{self._base}.*.nbc"):
            if chosen(path.name):
                path.unlink(missing_ok=True)
