"""The texts that `identify` and `calibrate` read."""

from collections.abc import Sequence
from dataclasses import dataclass

from wmcore.cli.inputs import Inputs
from wmcore.errors import WatermarkError
from wmcore.reading import Reading


@dataclass(frozen=True)
class Documents:
    """How files are read: the options --text-field, --tokens-field and --max-bytes."""

    text_field: str | None
    tokens_field: str | None
    max_bytes: int

    def __post_init__(self) -> None:
        if self.text_field is not None and self.tokens_field is not None:
            raise WatermarkError("give either --text-field or --tokens-field, and not both")

    def read(self, files: Sequence[str]) -> Inputs:
        """The documents of all files."""
        if "" in files:
            raise WatermarkError("a file's name is empty: give one, or - for standard input")
        named = self.text_field is not None or self.tokens_field is not None
        reading = Reading(
            self.text_field or "text", tokens_field=self.tokens_field, max_bytes=self.max_bytes
        )
        return Inputs(list(files), named, reading)

    def coder(self, tokenizer: str | None) -> str | None:
        """The tokenizer that is needed: none for token ids."""
        if self.tokens_field is not None:
            return None
        if tokenizer is None:
            raise WatermarkError(
                "no --tokenizer given and the watermark names none: give its model's"
            )
        return tokenizer
