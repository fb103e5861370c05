"""Files that only their owner can read: written whole or not at all, and nothing stays behind of a writer that died.

The text is written to a file with a name of this module's own, then moved to its place. A writer holds a lock on that
file, so the next writer in the folder knows which such files nobody will finish, and removes them.
"""

import contextlib
import errno
import os
import re
import stat
import uuid
from collections.abc import Callable
from pathlib import Path

from wmcore.errors import WatermarkError

try:
    import fcntl
except ImportError:  # Windows: there is no lock, and leftovers stay
    fcntl = None  # type: ignore[assignment]

_SCRATCH = re.compile(r"\.wmcore-secret-[0-9a-f]{32}\.tmp")
_LACKING = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK, errno.EPERM}


def write(path: Path, text: str, replace: bool) -> None:
    """Write a file of mode 0600.

    Raises WatermarkError if that fails, or if there is something at `path` already and `replace` is false.
    """
    try:
        _remove_leftovers(path.parent)
        handle, scratch = _scratch(path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                _where_it_exists(lambda: os.fsync(file.fileno()))
                _move(scratch, path, replace)  # while the lock is held
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise
    except FileExistsError:
        raise WatermarkError(
            f"watermark file {path} exists: choose another name, or say replace=True, which loses the key in it"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: no path at all, as with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise WatermarkError(
            f"watermark file {path} cannot be written ({reason}): check its folder, that it is no folder itself, and "
            "that there is room"
        ) from None


def _scratch(folder: Path) -> tuple[int, Path]:
    """A new, empty file of mode 0600 that this process has locked, open for writing."""
    while True:
        path = folder / f".wmcore-secret-{uuid.uuid4().hex}.tmp"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            _lock(handle, wait=True)
            if os.fstat(handle).st_nlink:
                return handle, path
        except BaseException:
            os.close(handle)
            path.unlink(missing_ok=True)
            raise
        os.close(handle)  # another writer took it for a leftover before it was locked


def _move(scratch: Path, path: Path, replace: bool) -> None:
    """Give the file its name. Without replace FileExistsError if the name is taken, decided by the system itself."""
    if not replace:
        try:
            os.link(scratch, path)
        except OSError as error:
            if error.errno not in _LACKING:
                raise
            if os.path.lexists(path):  # a file system without links: as good as it gets
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        else:
            scratch.unlink()
            return
    os.replace(scratch, path)


def _remove_leftovers(folder: Path) -> None:
    """Remove what writers that died left in the folder: files of our names, of this user, that nobody has locked."""
    if fcntl is None:
        return
    with contextlib.suppress(OSError):
        names = [name for name in os.listdir(folder) if _SCRATCH.fullmatch(name)]
        for name in names:
            with contextlib.suppress(OSError):
                _remove_leftover(folder / name)


def _remove_leftover(path: Path) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(handle)
        ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
        if ours and _lock(handle, wait=False):
            path.unlink()
    finally:
        os.close(handle)


def _lock(handle: int, wait: bool) -> bool:
    """Lock a file; false where that is not possible, or not without waiting."""
    if fcntl is None:
        return False
    how = fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)
    return _where_it_exists(lambda: fcntl.flock(handle, how), errno.EWOULDBLOCK)


def _where_it_exists(call: Callable[[], object], *also: int) -> bool:
    """Make a system call that some file systems lack; false if this one does, or for one of the errors `also`."""
    try:
        call()
    except OSError as error:
        if error.errno not in _LACKING.union(also):
            raise
        return False
    return True
