"""The JSON file of learnt scores: what it holds is checked before it is believed, and its size before it is read."""

import base64
import binascii
import contextlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from wmcore.errors import WatermarkError, shown

FORMAT, VERSION = "wmcore.scores", 1
_LARGEST_FILE = 1 << 22
_MOST_TOKENS = 1 << 24
"""Of a vocabulary."""

_FIELDS = ("kind", "sampler", "model", "temperature", "top_p", "texts", "tokens", "probabilities")


def to_text(fields: dict[str, Any]) -> str:
    """What a file of these fields holds: arrays as lists, bins of tokens packed."""
    document = {"format": FORMAT, "version": VERSION, **fields}
    if "token_bins" in document:
        packed = zlib.compress(document["token_bins"].tobytes(), 9)
        document["vocab_size"] = len(document["token_bins"])
        document["token_bins"] = base64.b64encode(packed).decode()
    lines = [
        f"{json.dumps(k)}: {json.dumps(v, default=np.ndarray.tolist)}" for k, v in document.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields in a file, token_bins as uint8 [vocab_size]; WatermarkError if it is none, or of another version."""
    try:
        with open(path, "rb") as file:
            raw = file.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: no path at all, as with a zero byte
        why = getattr(error, "strerror", None) or error
        raise WatermarkError(
            f"scores file {Path(path)} cannot be read ({why}): check the path, or make one with 'wmcore learn-scores'"
        ) from None
    document = None
    if len(raw) <= _LARGEST_FILE:
        with contextlib.suppress(ValueError, RecursionError):  # not UTF-8, not JSON, absurd numbers
            document = json.loads(raw)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise damaged(path, "it is no such file")
    version = document.get("version")
    if type(version) is not int or version != VERSION:
        raise WatermarkError(
            f"scores file {Path(path)} has version {shown(version)}, but this wmcore reads version {VERSION}: make it "
            "again with 'wmcore learn-scores'"
        )
    other = {"tokens": "token_bins", "proxy": "edges"}.get(str(document.get("kind")))
    missing = [name for name in (*_FIELDS, other) if name not in document]
    if other is None or missing:
        raise damaged(path, "a field is missing")
    fields = {name: document[name] for name in (*_FIELDS, other)}
    if other == "token_bins":
        fields[other] = _unpacked(path, document.get("vocab_size"), fields[other])
    return fields


def damaged(path: str | os.PathLike[str], why: str) -> WatermarkError:
    """The error for a file that cannot be used."""
    return WatermarkError(
        f"scores file {Path(path)} is damaged or not of learnt scores ({why}): make it again with 'wmcore learn-scores'"
    )


def _unpacked(path: str | os.PathLike[str], vocab_size: Any, packed: Any) -> np.ndarray:
    """The bins of `vocab_size` tokens; no more is unpacked, whatever there is."""
    if type(vocab_size) is not int or not 1 <= vocab_size <= _MOST_TOKENS:
        raise damaged(path, f"vocab_size is {shown(vocab_size)}")
    raw = b""
    with contextlib.suppress(TypeError, ValueError, binascii.Error, zlib.error):
        raw = zlib.decompressobj().decompress(base64.b64decode(packed), vocab_size + 1)
    if len(raw) != vocab_size:
        raise damaged(path, f"token_bins are not those of {vocab_size} tokens")
    return np.frombuffer(raw, np.uint8)
