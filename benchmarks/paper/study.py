"""`Study`: what one run of experiments is about, the same in every process that works for it."""

import hashlib
import importlib
import sys
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from wmcore.errors import WatermarkError, reason
from wmcore.key import Key
from wmcore.watermark import Watermark

_READ_WHOLE = 1 << 26
"""Bytes. Larger files of a model are told apart by size and time of change."""


@dataclass(frozen=True, eq=False)
class Study:
    """A model, its prompts and a folder.

    Attributes
    ----------
    folder : Path
        Where texts, tests and results are kept.
    model : str
        As for `wmcore.models.load_model`.
    sources : dict
        {"news": where real text is, "instructions": where questions are}: see `prompts.py`. One may be missing.
    seed : int
        Of all keys, shifts, draws, edits and resamples.
    batch_size : int
        Texts that are written together, and kept in one file.
    device : str
        Where the model runs, as torch names it.
    watermark : Path or None
        The watermark that texts carry. None: each text has a key of its own.
    modules : tuple of str
        Modules imported first, which add entries to the tables.
    """

    folder: Path
    model: str
    sources: dict[str, str]
    seed: int = 1
    batch_size: int = 50
    device: str = "cpu"
    watermark: Path | None = None
    modules: tuple[str, ...] = ()

    def begin(self) -> None:
        """Import the user's modules, and say where attacks run; each process does it once."""
        global _attacks_run_on
        _attacks_run_on = self.device
        for name in self.modules:
            try:
                importlib.import_module(name)
            except Exception as error:  # whatever a user's module raises
                raise WatermarkError(
                    f"--with {name}: cannot be imported ({reason(error)}); run where python finds it, or set PYTHONPATH"
                ) from None

    @cached_property
    def mark(self) -> Watermark | None:
        """The watermark of the file."""
        if self.watermark is None:
            return None
        mark = Watermark.load(self.watermark)
        if not isinstance(mark.key, Key):
            raise WatermarkError(
                f"--watermark {self.watermark}: it has a published key, but experiments need one with a secret; make "
                "one with wmcore keygen"
            )
        return mark

    @cached_property
    def identity(self) -> str:
        """What tells the model from another: its name; of a folder or file here its name and what is in it (of files
        beyond 64 MiB, their sizes and times of change)."""
        path = Path(self.model)
        if not path.exists():
            return self.model
        files = sorted(
            one for one in ([path] if path.is_file() else path.iterdir()) if one.is_file()
        )
        seen = [(file.name, _content(file)) for file in files]
        return f"{path.resolve().name} {hashlib.sha256(repr(seen).encode()).hexdigest()[:12]}"

    @cached_property
    def additions(self) -> str | None:
        """A hash of the sources of the user's modules, which entries of theirs follow from; None without any."""
        if not self.modules:
            return None
        found = [Path(str(sys.modules[name].__file__)).read_bytes() for name in self.modules]
        return hashlib.sha256(b"".join(found)).hexdigest()[:12]

    def digest(self, *parts: object) -> bytes:
        """32 bytes that follow from the seed and a name."""
        name = "/".join(map(str, ("wmcore bench", self.seed, *parts)))
        return hashlib.sha256(name.encode()).digest()

    def number(self, below: int, *parts: object) -> int:
        """A number in [0, below) that follows from the seed and a name."""
        return int.from_bytes(self.digest(*parts), "little") % below

    def source(self, kind: str) -> str:
        """Where prompts of a kind come from."""
        if kind not in self.sources:
            raise WatermarkError(f"this experiment needs {kind}: give --{kind} FILE")
        return self.sources[kind]


@cache
def model_of(name: str, device: str) -> tuple[Any, Any]:
    """A model on a device and its tokenizer, once a process."""
    from wmcore.models import load_model

    model, tokenizer = load_model(name)
    try:
        return model.to(device), tokenizer
    except (RuntimeError, AssertionError) as error:  # torch's, for a device that is not there
        raise WatermarkError(f"--device {device}: {reason(error)}; use cpu") from None


@cache
def tokenizer_of(name: str) -> Any:
    """A model's tokenizer, once a process."""
    from wmcore.models import load_tokenizer

    return load_tokenizer(name)


def chats(name: str) -> bool:
    """Whether a model can be asked questions."""
    return bool(getattr(tokenizer_of(name), "chat_template", None))


@cache
def vocab_size_of(name: str) -> int:
    """The number of logits of a model, read once a process."""
    from wmcore import models

    return models.vocab_size_of(name)


_attacks_run_on = "cpu"


def default_device() -> str:
    """Where an attack's model runs: where that of the study does."""
    return _attacks_run_on


def _content(file: Path) -> str:
    about = file.stat()
    if about.st_size > _READ_WHOLE:
        return f"{about.st_size} {about.st_mtime_ns}"
    return hashlib.sha256(file.read_bytes()).hexdigest()
