"""`Watermark`: a scheme, its sizes and its key; the one object a user keeps, and its file."""

import contextlib
import json
import math
import os
import stat
import tempfile
import warnings
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wmcore.errors import WatermarkError
from wmcore.key import GENERATORS, Key, PublishedKey

if TYPE_CHECKING:
    from wmcore.kernels.packing import Problem

SCHEMES = ("exp", "exp-edit", "its", "its-edit")
"""Exponential minimum (exp) or inverse transform (its) sampling, aligned without or with edits."""

DEFAULT_GAP = {"exp-edit": 0.0, "its-edit": 0.4}
FORMAT = "wmcore.watermark"
VERSION = 1
_LARGEST_FILE = 1 << 20
_LARGEST_KEY_LENGTH = 1 << 20


@dataclass(frozen=True)
class Watermark:
    """A watermark: what a generator and a detector must share.

    Make one with `create` or `published`, keep it with `save`.

    Attributes
    ----------
    scheme : str
        One of `SCHEMES`.
    vocab_size : int
        V, the number of logits of the model (which can exceed the number of tokens of its tokenizer).
    key_length : int
        n, the rows of the key sequence. Texts longer than that reuse rows and are no longer distortion-free.
    block_length : int or None
        k, the tokens aligned at a time; None aligns the whole text.
    gap : float
        gamma, the cost of an insertion or deletion (nats for exp-edit); 0.0 for schemes without edits.
    key : Key or PublishedKey
    tokenizer : str or None
        The name of the tokenizer that the text is made of.
    """

    scheme: str
    vocab_size: int
    key_length: int
    block_length: int | None
    gap: float
    key: Key | PublishedKey
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise WatermarkError(
                f"scheme {self.scheme!r} is not known: use one of {', '.join(SCHEMES)}"
            )
        _check_count("vocab_size", self.vocab_size, 1, 2**31 - 1)
        _check_count("key_length", self.key_length, 1, _LARGEST_KEY_LENGTH)
        if self.block_length is not None:
            from wmcore.kernels.constants import MAX_BLOCK

            _check_count("block_length", self.block_length, 1, MAX_BLOCK)
        if (
            isinstance(self.gap, bool)
            or not isinstance(self.gap, Real)
            or not 0 <= self.gap < math.inf
        ):
            raise WatermarkError(f"gap is {self.gap!r}, but must be a number of at least 0")
        if not self.edits and self.gap != 0:
            raise WatermarkError(
                f"gap is {self.gap!r}, but scheme {self.scheme!r} has no edits: leave gap out, "
                f"or use scheme '{self.scheme}-edit'"
            )
        if not isinstance(self.key, (Key, PublishedKey)):
            raise WatermarkError(
                f"key is a {type(self.key).__name__}, but must be a Key or PublishedKey: "
                "use Key.generate()"
            )
        if self.tokenizer is not None and not isinstance(self.tokenizer, str):
            raise WatermarkError(
                f"tokenizer is a {type(self.tokenizer).__name__}, but must be a name: "
                "give the name or path that loads it"
            )

    @classmethod
    def create(
        cls,
        scheme: str,
        *,
        vocab_size: int,
        key_length: int = 256,
        block_length: int | None = None,
        gap: float | None = None,
        key: Key | None = None,
        tokenizer: str | None = None,
    ) -> "Watermark":
        """A watermark with its own secret key (a new one unless given).

        Raises
        ------
        WatermarkError
            For a parameter that cannot be used; the message names it, its value, the limit and the remedy.
        """
        return cls._make(
            scheme, vocab_size, key_length, block_length, gap, key or Key.generate(), tokenizer
        )

    @classmethod
    def published(
        cls,
        scheme: str,
        *,
        seed: int,
        generator: str,
        vocab_size: int,
        key_length: int = 256,
        block_length: int | None = None,
        gap: float | None = None,
        tokenizer: str | None = None,
    ) -> "Watermark":
        """A watermark with the key that the published code makes from a seed (see `PublishedKey`)."""
        key = PublishedKey(seed, generator)
        return cls._make(scheme, vocab_size, key_length, block_length, gap, key, tokenizer)

    @classmethod
    def _make(
        cls,
        scheme: str,
        vocab_size: int,
        key_length: int,
        block_length: int | None,
        gap: float | None,
        key: Key | PublishedKey,
        tokenizer: str | None,
    ) -> "Watermark":
        if gap is None:
            gap = DEFAULT_GAP.get(scheme, 0.0)
        return cls(scheme, vocab_size, key_length, block_length, gap, key, tokenizer)

    @property
    def its(self) -> bool:
        """Whether the scheme samples by inverse transform."""
        return self.scheme.startswith("its")

    @property
    def edits(self) -> bool:
        """Whether the scheme aligns with insertions and deletions."""
        return self.scheme.endswith("-edit")

    @property
    def fingerprint(self) -> str:
        """The key's fingerprint."""
        return self.key.fingerprint

    def __repr__(self) -> str:
        block = "the text" if self.block_length is None else self.block_length
        return (
            f"Watermark({self.scheme}, vocab_size={self.vocab_size}, key_length={self.key_length}, "
            f"block_length={block}, gap={self.gap:g}, key={self.fingerprint})"
        )

    @cached_property
    def problem(self) -> "Problem":
        """The scheme in the integers that the kernels take."""
        from wmcore.kernels.constants import EXP_COST_MIN, EXP_SCALE, ITS_SCALE, MAX_BLOCK
        from wmcore.kernels.packing import Problem

        scale = ITS_SCALE if self.its else EXP_SCALE
        cost = ITS_SCALE if self.its else -EXP_COST_MIN
        # The published code takes eta(r) = r / V, the paper r / (V - 1).
        published = isinstance(self.key, PublishedKey)
        return Problem(
            its=self.its,
            edits=self.edits,
            n=self.key_length,
            gamma=round(min(self.gap * scale, MAX_BLOCK * cost)),  # no alignment uses a larger one
            vocab_size=self.vocab_size,
            denominator=self.vocab_size if published else self.vocab_size - 1,
        )

    def save(self, path: str | os.PathLike, *, key_from_env: str | None = None) -> None:
        """Write the watermark to a JSON file that only its owner can read (mode 0600), whole or not at all.

        Parameters
        ----------
        path : str or path
        key_from_env : str, optional
            Leave the secret out; `load` takes it from the environment variable of this name (the 64 hexadecimal
            digits of `Key.secret_hex`).
        """
        key: dict[str, Any]
        if isinstance(self.key, PublishedKey):
            if key_from_env:
                raise WatermarkError(
                    f"key_from_env={key_from_env!r} needs a secret key, but this is a published key: "
                    "leave key_from_env out"
                )
            key = {
                "kind": "published",
                "generator": self.key.generator,
                "seed": self.key.seed,
            }
        elif key_from_env:
            key = {"kind": "env", "name": key_from_env, "fingerprint": self.fingerprint}
        else:
            key = {"kind": "chacha8", "secret": self.key.secret_hex}
        document = {
            "format": FORMAT,
            "version": VERSION,
            "scheme": self.scheme,
            "vocab_size": self.vocab_size,
            "key_length": self.key_length,
            "block_length": self.block_length,
            "gap": self.gap,
            "tokenizer": self.tokenizer,
            "key": key,
        }
        _write_private(Path(path), json.dumps(document, indent=2) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Watermark":
        """Read a watermark file.

        Warns if the file holds a secret that other users can read. Raises WatermarkError if it cannot be read, is
        not a watermark file, or was written by another version.
        """
        path = Path(path)
        document = _read(path)
        try:
            return cls._from_document(path, document)
        except KeyError as error:
            what = f"field {error}"
        except (TypeError, AttributeError, OverflowError):
            what = "a field"
        raise WatermarkError(
            f"watermark file {path} is corrupt: {what} is missing or of the wrong type; "
            "restore it from a copy"
        )

    @classmethod
    def _from_document(cls, path: Path, document: dict[str, Any]) -> "Watermark":
        spec = document["key"]
        kind = spec["kind"]
        key: Key | PublishedKey
        if kind == "env":
            key = _key_from_environment(path, spec)
        elif kind == "chacha8":
            key = Key.from_hex(spec["secret"])
        elif kind == "published" and spec["generator"] in GENERATORS:
            key = PublishedKey(spec["seed"], spec["generator"])
        else:
            raise WatermarkError(
                f"watermark file {path} holds a key of kind {kind!r}, which this version does not know: "
                "upgrade wmcore, or restore the file"
            )
        if kind != "env" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            warnings.warn(
                f"watermark file {path} holds a secret and can be read by other users: "
                f"run chmod 600 {path}",
                stacklevel=3,
            )
        return cls(
            scheme=document["scheme"],
            vocab_size=document["vocab_size"],
            key_length=document["key_length"],
            block_length=document["block_length"],
            gap=document["gap"],
            key=key,
            tokenizer=document["tokenizer"],
        )


def _check_count(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise WatermarkError(
            f"{name} is {value!r}, but must be a whole number from {least} to {most}"
        )
    if not least <= int(value) <= most:
        raise WatermarkError(f"{name} is {value}, but must lie between {least} and {most}")


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


def _read(path: Path) -> dict[str, Any]:
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
    """Write a file of mode 0600 beside its place, then move it there."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    except OSError as error:
        raise WatermarkError(
            f"watermark file {path} cannot be written ({error.strerror}): check its folder"
        ) from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise WatermarkError(
            f"watermark file {path} cannot be written ({error.strerror}): check that it is no folder and that "
            "there is room"
        ) from None
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
