"""What a command writes: nothing is lost without being asked for, nor before there is something to put in its place."""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from wmcore.cli.console import standard_output, write_record
from wmcore.errors import WatermarkError

Force = Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")]


def check_output(path: str, replace: bool, option: str = "--output") -> None:
    """WatermarkError unless a file can be written here: to be asked before the work.

    Devices and pipes hold nothing that could be lost.
    """
    if os.path.isfile(path):
        if not replace:
            raise _taken(path, option)
    elif os.path.isdir(path):
        raise WatermarkError(f"{option} {path}: a folder; give the name of a file")
    elif not os.path.exists(path) and not os.path.isdir(os.path.dirname(path) or "."):
        raise WatermarkError(f"{option} {path}: there is no such folder; make it, or name another")


@contextlib.contextmanager
def reserved(path: str) -> Iterator[None]:
    """Make an empty file of this name, which fails if there is one: two commands at once cannot both win."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        raise _taken(path) from None
    try:
        yield
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def open_lines(path: str, replace: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """What writes JSON objects into a file, or to standard output for ``-``, one a line.

    A file that is there is emptied by the first line. Without any line nothing has changed.
    """
    if path == "-":
        yield partial(write_record, standard_output())
        return
    check_output(path, replace)
    new = not os.path.exists(path)
    begun = False
    with _opened(path, new) as stream:

        def write(record: dict[str, Any]) -> None:
            nonlocal begun
            if not begun and stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                stream.truncate(0)
            begun = True
            write_record(stream, record)

        try:
            yield write
        finally:
            if new and not begun:
                Path(path).unlink(missing_ok=True)


def _opened(path: str, new: bool) -> BinaryIO:
    """A file open for writing, with what it holds still in it."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | (os.O_EXCL if new else 0), 0o666)
    except FileExistsError:
        raise _taken(path) from None
    return os.fdopen(handle, "wb")


def _taken(path: str, option: str = "--output") -> WatermarkError:
    return WatermarkError(f"{option} {path}: the file exists; choose another or add --force")
