"""The JSON file of a watermark: read and checked here; `private_file` writes it so that only its owner can read it."""

import contextlib
import json
import os
import stat
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wmcore import private_file
from wmcore.errors import WatermarkError, shown
from wmcore.key import GENERATORS, Key, PublishedKey

FORMAT = "wmcore.watermark"
VERSION = 1
_LARGEST_FILE = 1 << 20


def write(path: str | os.PathLike, fields: dict[str, Any], replace: bool = True) -> None:
    """Write the fields of a watermark, key included as `Key.to_dict` gives it; whole or not at all."""
    document = {"format": FORMAT, "version": VERSION, **fields}
    private_file.write(Path(path), json.dumps(document, indent=2) + "\n", replace)


def files(given: Sequence[str]) -> list[Path]:
    """The watermark files that names of files and folders mean: of a folder all that end in .json, in order."""
    found: list[Path] = []
    for name in given:
        path = Path(name)
        inside = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not inside:
            raise WatermarkError(
                f"--watermark {name}: no file in this folder ends in .json; give watermark files"
            )
        found += inside
    return found


def read(path: str | os.PathLike) -> dict[str, Any]:
    """The arguments of `Watermark` in a file.

    Warns if the file holds a secret that other users can read, unless it says that its key is public. Raises
    WatermarkError if it cannot be read, is not a watermark file, or was written by another version.
    """
    path = Path(path)
    document, mode = _document(path)
    try:
        key = _key(path, document["key"], mode)
        names = ("scheme", "vocab_size", "key_length", "block_length", "gap", "tokenizer")
        return {**{name: document[name] for name in names}, "key": key}
    except WatermarkError:
        raise
    except KeyError as error:
        what = f"field {error}"
    except (TypeError, AttributeError, ValueError, OverflowError):
        what = "a field"
    raise WatermarkError(
        f"watermark file {path} is corrupt: {what} is missing or of the wrong type; "
        "restore it from a copy"
    )


def _key(path: Path, spec: dict[str, Any], mode: int) -> Key | PublishedKey:
    kind = spec["kind"]
    if kind == "env":
        return _key_from_environment(path, spec)
    if mode & 0o077 and spec.get("public") is not True:
        warnings.warn(
            f"watermark file {path} holds a secret and can be read by other users: "
            f"run chmod 600 {path}",
            stacklevel=4,
        )
    if kind == "chacha8":
        return Key.from_hex(spec["secret"])
    if kind == "published" and spec["generator"] in GENERATORS:
        return PublishedKey(spec["seed"], spec["generator"])
    # Nothing long is shown: in a damaged file it can be the secret.
    named = f"kind {kind!r}" if isinstance(kind, str) and len(kind) <= 16 else "a kind"
    raise WatermarkError(
        f"watermark file {path} holds a key of {named}, which this version does not know: "
        "upgrade wmcore, or restore the file"
    )


def _key_from_environment(path: Path, spec: dict[str, Any]) -> Key:
    name, fingerprint = spec["name"], spec["fingerprint"]
    secret = os.environ.get(name)
    if not secret:
        raise WatermarkError(
            f"watermark file {path} takes its secret from the environment variable {shown(name)}, which is not "
            "set: set it to the 64 hexadecimal digits of the secret"
        )
    key = Key.from_hex(secret)
    if key.fingerprint != fingerprint:
        raise WatermarkError(
            f"environment variable {shown(name)} holds key {key.fingerprint}, but watermark file {path} was saved "
            f"with key {shown(fingerprint)}: set the right secret"
        )
    return key


def _document(path: Path) -> tuple[dict[str, Any], int]:
    """(the JSON object of a watermark file, of the right format and version; the file's permission bits)."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            raw = file.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: no path at all, as with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise WatermarkError(
            f"watermark file {path} cannot be read ({reason}): check the path, or make one with "
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
    if type(version) is not int or version != VERSION:
        raise WatermarkError(
            f"watermark file {path} has version {shown(version)}, but this wmcore reads version {VERSION}: "
            "use the wmcore that wrote it"
        )
    return document, mode
