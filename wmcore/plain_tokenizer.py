"""Tokenizers that need the package tokenizers alone: neither transformers nor torch.

Read from a ``tokenizer.json``, or made from the metadata of a GGUF file.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wmcore.checks import require
from wmcore.errors import WatermarkError, reason
from wmcore.gguf_file import read_metadata

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer

_REMEDY = "run pip install 'wmcore-lm[tokenizer]'"
_CONTROL, _USER_DEFINED = 3, 4  # types of tokens in a GGUF file


class Coded(dict[str, list[int]]):
    """What a `PlainTokenizer` makes of a text: "input_ids", and `encodings` with the characters of each token."""

    def __init__(self, encoding: "Encoding") -> None:
        super().__init__(input_ids=encoding.ids)
        self.encodings = [encoding]

    @property
    def input_ids(self) -> list[int]:
        """The token ids, as transformers' own are also read."""
        return self["input_ids"]


class PlainTokenizer:
    """A `tokenizers.Tokenizer` behind the part of transformers' interface that wmcore uses.

    Parameters
    ----------
    backend_tokenizer : tokenizers.Tokenizer
    name_or_path : str
        Where it comes from.
    """

    def __init__(self, backend_tokenizer: "Tokenizer", name_or_path: str) -> None:
        self.backend_tokenizer = backend_tokenizer
        self.name_or_path = name_or_path
        backend_tokenizer.no_padding()
        backend_tokenizer.no_truncation()

    @property
    def vocab_size(self) -> int:
        """Tokens, but for those added to the model's own."""
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size()

    def __call__(self, text: str, add_special_tokens: bool = True) -> Coded:
        return Coded(self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens))

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of token ids."""
        return self.backend_tokenizer.decode(list(tokens), skip_special_tokens=skip_special_tokens)


def read_json(path: Path) -> PlainTokenizer:
    """The tokenizer of a ``tokenizer.json``; WatermarkError if it cannot be read."""
    require("tokenizers", _REMEDY, "0.22", "1")
    from tokenizers import Tokenizer

    try:
        return PlainTokenizer(Tokenizer.from_file(str(path)), str(path))
    except Exception as error:  # the package raises no narrower one
        raise WatermarkError(f"tokenizer {path}: it cannot be read ({reason(error)})") from error


def read_gguf(path: Path) -> PlainTokenizer | None:
    """The tokenizer that a GGUF file describes; None if it is of a kind that is not known here.

    Known is SmolLM2's: byte-level pairs, every digit on its own. It reads as llama.cpp does.

    Raises
    ------
    WatermarkError
        For a damaged file, or without the package tokenizers.
    """
    metadata = read_metadata(path)
    split = pre_tokenizer(metadata)
    if split is None:
        return None
    require("tokenizers", _REMEDY, "0.22", "1")
    from tokenizers import AddedToken, Tokenizer, decoders, models

    try:
        tokens = metadata["tokenizer.ggml.tokens"]
        kinds = metadata["tokenizer.ggml.token_type"]
        merges = [tuple(pair.split(" ", 1)) for pair in metadata["tokenizer.ggml.merges"]]
        vocabulary = {token: i for i, token in enumerate(tokens)}
        core = Tokenizer(models.BPE(vocabulary, merges))
    except Exception as error:  # KeyError, and tokenizers' own
        raise WatermarkError(f"{path}: its tokenizer cannot be read ({reason(error)})") from error
    core.pre_tokenizer = split
    core.decoder = decoders.ByteLevel()
    for kind, special in ((_CONTROL, True), (_USER_DEFINED, False)):
        added = [token for token, its in zip(tokens, kinds, strict=False) if its == kind]
        core.add_tokens([AddedToken(token, normalized=False, special=special) for token in added])
    return PlainTokenizer(core, str(path))


def pre_tokenizer(metadata: dict[str, Any]) -> "PreTokenizer | None":
    """How a GGUF file's tokenizer cuts a text before its merges; None if that is not known here."""
    kind = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind != ("gpt2", "smollm"):
        return None
    require("tokenizers", _REMEDY, "0.22", "1")
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
