"""Texts, made once for each (model, prompts, method, setting) and kept in a folder named after a hash of these.

FOLDER/texts/<address>/<part>.parquet has the texts of one batch, `about.json` beside it says what they are. A part is
written whole or not at all, and never changed: a run that is killed loses only the batches that it was in.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from wmcore import whole_file
from wmcore.errors import WatermarkError, reason
from wmcore.key import Key
from wmcore.paper import prompts
from wmcore.paper.attacks import BUILT_IN as ATTACKS_BUILT_IN
from wmcore.paper.attacks import attack_identity
from wmcore.paper.contract import Method
from wmcore.paper.methods import BUILT_IN, METHODS
from wmcore.paper.study import Study

FORMAT = 1
"""Changes when texts are made in another way, so that old ones are not taken for new ones."""


@dataclass(frozen=True)
class TextSet:
    """What is written, and how.

    Attributes
    ----------
    kind : str
        "news" or "instructions".
    method : str
        A name in METHODS.
    temperature, top_p : float
    new_tokens : int
        Tokens written; of instructions the most, since an end-of-text token ends them.
    key_length : int
    attack : str
        A name in ATTACKS that changes texts as a whole ("none": as written). Edits of tokens are made at each test.
    """

    kind: str = "news"
    method: str = "exp"
    temperature: float = 1.0
    top_p: float = 1.0
    new_tokens: int = prompts.STRETCH
    key_length: int = 256
    attack: str = "none"

    @property
    def written(self) -> "TextSet":
        """The texts before the attack."""
        return replace(self, attack="none")

    @property
    def how(self) -> Method:
        return METHODS[self.method]


@dataclass(frozen=True, eq=False)
class Text:
    """One text.

    number : which prompt. tokens : int64 [m], as drawn, without the end-of-text token. text : them as a string, or what
    an attack made of it. log_probability, entropy : float32 [m], of each token under the law that it was drawn from
    (before a baseline's bias), and of that law, nats; empty for a person's text.
    """

    number: int
    tokens: np.ndarray
    text: str
    log_probability: np.ndarray
    entropy: np.ndarray


def address(study: Study, texts: TextSet) -> str:
    """The name of the folder of a set of texts: it changes with whatever changes a text."""
    about = description(study, texts)
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:20]


def description(study: Study, texts: TextSet) -> dict[str, Any]:
    """What a set of texts follows from."""
    fields = asdict(texts)
    if texts.how.writer is None:
        fields |= {"temperature": None, "top_p": None}
    if not texts.how.key_sequence:
        fields["key_length"] = None
    fields["attack"] = attack_identity(texts.attack)
    added = texts.method not in BUILT_IN
    return {
        "format": FORMAT,
        "model": study.identity,
        "source": prompts.digest(texts.kind, study.source(texts.kind)),
        "seed": study.seed,
        "batch_size": study.batch_size,
        "watermark": study.mark and f"{study.mark.fingerprint}, vocab_size {study.mark.vocab_size}",
        **fields,
        **({"additions": study.additions} if added or texts.attack not in ATTACKS_BUILT_IN else {}),
    }


def texts_under(study: Study, texts: TextSet) -> TextSet | None:
    """A set as it is under the study's watermark: with its key length; None for a method with other key sequences."""
    mark = study.mark
    if mark is None:
        return texts
    if texts.how.key_sequence and texts.how.family != mark.sampler:
        return None
    return replace(texts, key_length=mark.key_length)


def secret_of(study: Study, texts: TextSet, number: int) -> bytes:
    """32 bytes of the key of one text; of a text without a watermark the key that it is tested for."""
    if study.mark is not None and isinstance(study.mark.key, Key):  # no other is let in
        return bytes.fromhex(study.mark.key.secret_hex)
    return study.digest("key", address(study, texts.written), number)


def shift_of(study: Study, texts: TextSet, number: int) -> int:
    """The key row of the first token."""
    return study.number(texts.key_length, "shift", address(study, texts.written), number)


def part_path(study: Study, texts: TextSet, part: int) -> Path:
    return study.folder / "texts" / address(study, texts) / f"{part:04d}.parquet"


def parts(study: Study, count: int) -> range:
    """The parts that hold the first `count` texts."""
    return range(-(-count // study.batch_size))


def is_written(study: Study, texts: TextSet, count: int) -> bool:
    """Whether the first `count` texts are there."""
    return all(part_path(study, texts, part).exists() for part in parts(study, count))


def numbers(study: Study, part: int) -> range:
    """The texts of a part, if there are prompts for all."""
    return range(part * study.batch_size, (part + 1) * study.batch_size)


def save_part(study: Study, texts: TextSet, part: int, made: Iterable[Text]) -> None:
    """Write a part, and what it is a part of."""
    import pyarrow
    from pyarrow import parquet

    path = part_path(study, texts, part)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = json.dumps(description(study, texts), indent=1) + "\n"
    whole_file.write(path.parent / "about.json", about.encode())
    columns: dict[str, list[Any]] = {name: [] for name in Text.__dataclass_fields__}
    for text in made:
        for name, values in columns.items():
            values.append(getattr(text, name))
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(columns, schema=_schema()), sink, write_page_checksum=True)
    whole_file.write(path, sink.getvalue().to_pybytes())


def _schema() -> Any:
    """The fields of a Text as columns."""
    import pyarrow

    kinds = [
        pyarrow.int64(),
        pyarrow.list_(pyarrow.int64()),
        pyarrow.string(),
        pyarrow.list_(pyarrow.float32()),
        pyarrow.list_(pyarrow.float32()),
    ]
    return pyarrow.schema(list(zip(Text.__dataclass_fields__, kinds, strict=True)))


@lru_cache(maxsize=32)
def _read_part(path: Path) -> tuple[Text, ...]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path, partitioning=None, page_checksum_verification=True)
        if not table.schema.equals(_schema()):
            raise pyarrow.ArrowInvalid(f"its columns are {', '.join(table.column_names)}")
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise WatermarkError(
            f"texts {path}: they cannot be read ({reason(error)}): delete the file and run again, which makes the same "
            "texts"
        ) from None
    return tuple(
        Text(
            number.as_py(),
            np.array(tokens.as_py(), np.int64),
            text.as_py(),
            np.array(log_probability.as_py(), np.float32),
            np.array(entropy.as_py(), np.float32),
        )
        for number, tokens, text, log_probability, entropy in zip(*table.columns, strict=True)
    )


def load(study: Study, texts: TextSet, count: int) -> list[Text]:
    """The first `count` texts, of parts that are all there (a source may have fewer prompts).

    Raises
    ------
    WatermarkError
        For a part that cannot be read.
    """
    return [
        text
        for part in parts(study, count)
        for text in _read_part(part_path(study, texts, part))
        if text.number < count
    ]
