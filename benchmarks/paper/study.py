"""`Study`: what one run of experiments is about, the same in every process that works for it."""

import hashlib
import importlib
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from wmcore.errors import WatermarkError, reason
from wmcore.key import Key
from wmcore.watermark import Watermark


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
        """Import the user's modules; each process does it once."""
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
    return model.to(device), tokenizer


@cache
def tokenizer_of(name: str) -> Any:
    """A model's tokenizer, once a process."""
    from wmcore.models import load_tokenizer

    return load_tokenizer(name)


@cache
def vocab_size_of(name: str) -> int:
    """The number of logits of a model, read once a process."""
    from wmcore import models

    return models.vocab_size_of(name)


def default_device() -> str:
    """Where an attack's model runs: a CUDA device if there is one, else the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
