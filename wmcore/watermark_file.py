"""The JSON file of a watermark: read, checked, and written so that only its owner can read it."""

import contextlib
import json
import os
import stat
import tempfile
import warnings
from pathlib import Path
from typing import Any

from wmcore.errors import WatermarkError
from wmcore.key import GENERATORS, Key, PublishedKey

try:
    import fcntl
except ImportError:  # Windows: leftovers stay
    fcntl = None  # type: ignore[assignment]

FORMAT = "wmcore.watermark"
VERSION = 1
_LARGEST_FILE = 1 << 20
_TEMPORARY = ".wmcore-new"


def write(path: str | os.PathLike, fields: dict[str, Any]) -> None:
    """Write the fields of a watermark, key included as `Key.to_dict` gives it; whole or not at all."""
    document = {"format": FORMAT, "version": VERSION, **fields}
    _write_private(Path(path), json.dumps(document, indent=2) + "\n")


def read(path: str | os.PathLike) -> dict[str, Any]:
    """The arguments of `Watermark` in a file.

    Warns if the file holds a secret that other users can read. Raises WatermarkError if it cannot be read, is not a
    watermark file, or was written by another version.
    """
    path = Path(path)
    document = _document(path)
    try:
        key = _key(path, document["key"])
        names = ("scheme", "vocab_size", "key_length", "block_length", "gap", "tokenizer")
        return {**{name: document[name] for name in names}, "key": key}
    except KeyError as error:
        what = f"field {error}"
    except (TypeError, AttributeError, OverflowError):
        what = "a field"
    raise WatermarkError(
        f"watermark file {path} is corrupt: {what} is missing or of the wrong type; "
        "restore it from a copy"
    )


def _key(path: Path, spec: dict[str, Any]) -> Key | PublishedKey:
    kind = spec["kind"]
    if kind == "env":
        return _key_from_environment(path, spec)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        warnings.warn(
            f"watermark file {path} holds a secret and can be read by other users: "
            f"run chmod 600 {path}",
            stacklevel=4,
        )
    if kind == "chacha8":
        return Key.from_hex(spec["secret"])
    if kind == "published" and spec["generator"] in GENERATORS:
        return PublishedKey(spec["seed"], spec["generator"])
    raise WatermarkError(
        f"watermark file {path} holds a key of kind {kind!r}, which this version does not know: "
        "upgrade wmcore, or restore the file"
    )


def _key_from_environment(path: Path, spec: dict[str, Any]) -> Key:
    name = spec["name"]
    if not os.environ.get(name):
        raise WatermarkError(
            f"watermark file {path} takes its secret from the environment variable {name}, which is not "
            "set: set it to the 64 hexadecimal digits of the secret"
        )
    key = Key.from_hex(os.environ[name])
    if key.fingerprint != spec["fingerprint"]:
        raise WatermarkError(
            f"environment variable {name} holds key {key.fingerprint}, but watermark file {path} was saved "
            f"with key {spec['fingerprint']}: set the right secret"
        )
    return key


def _document(path: Path) -> dict[str, Any]:
    """The JSON object of a watermark file, of the right format and version."""
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise WatermarkError(
            f"watermark file {path} cannot be read ({error.strerror}): check the path, or make one with "
            "'wmcore keygen'"
        ) from None
    document = None
    if len(raw) <= _LARGEST_FILE:
        with contextlib.suppress(ValueError, RecursionError):  # not UTF-8, not JSON, absurd numbers
            document = json.loads(raw)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise WatermarkError(
            f"watermark file {path} is not a watermark file or is corrupt: restore it from a copy, or "
            "make one with 'wmcore keygen'"
        )
    version = document.get("version")
    if version != VERSION:
        raise WatermarkError(
            f"watermark file {path} has version {version!r}, but this wmcore reads version {VERSION}: "
            "use the wmcore that wrote it"
        )
    return document


def _write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600 beside its place, then move it there. Takes what dead writers left with it."""
    temporary = None
    try:
        _remove_leftovers(path)
        handle, temporary = _own_temporary(path)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            if fcntl:
                os.replace(temporary, path)  # still locked, so that nobody takes it for a leftover
        if not fcntl:
            os.replace(temporary, path)
    except OSError as error:
        raise WatermarkError(
            f"watermark file {path} cannot be written ({error.strerror}): check its folder, that it is no folder "
            "itself and that there is room"
        ) from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _own_temporary(path: Path) -> tuple[int, str]:
    """A new file of mode 0600, locked for as long as it is open: (handle, name)."""
    while True:
        handle, name = tempfile.mkstemp(_TEMPORARY, f".{path.name}.", path.parent)
        _lock(handle)
        if os.fstat(handle).st_nlink:
            return handle, name
        os.close(handle)  # another writer took it for a leftover before it was locked


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files that killed writers of `path` left: they hold a secret, and nobody has them open."""
    for name in os.listdir(path.parent) if fcntl else ():
        if not (name.startswith(f".{path.name}.") and name.endswith(_TEMPORARY)):
            continue
        with contextlib.suppress(OSError):
            handle = os.open(path.parent / name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                found = os.fstat(handle)
                if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and _lock(handle):
                    os.unlink(path.parent / name)
            finally:
                os.close(handle)


def _lock(handle: int) -> bool:
    """Whether an open file could be locked: nobody else has it locked, and the file system knows locks."""
    if not fcntl:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
