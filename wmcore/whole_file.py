"""Files that are written whole or not at all: what is there stays until its successor is complete."""

import contextlib
import os
import stat
import uuid
from pathlib import Path


def write(path: str | os.PathLike[str], content: bytes, *, private: bool = False) -> None:
    """Write a file beside its place, then move it there, with the permissions of the one that it replaces, or
    if it is `private` its owner's alone.

    A device or a pipe is written to as it is. Raises OSError, with `path` as its file name, and then leaves what was
    there.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as file:
            file.write(content)
        return
    place = Path(os.path.realpath(path))  # a link stays one
    scratch = place.with_name(f".wmcore-{uuid.uuid4().hex}.tmp")
    try:
        with scratch.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            scratch.chmod(0o600 if private else stat.S_IMODE(place.stat().st_mode))
        os.replace(scratch, place)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    finally:
        scratch.unlink(missing_ok=True)
