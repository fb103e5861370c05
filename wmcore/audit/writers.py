"""Who writes the texts of an audit: a model here, or what was written already; `endpoint` has a server's."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from wmcore.errors import WatermarkError
from wmcore.watermark import Watermark


@dataclass(frozen=True)
class Written:
    """A text, or why there is none.

    Attributes
    ----------
    prompt : int or None
        The place of its prompt; texts of one place are answers to the same prompt.
    text : str or None
        None with an error.
    tokens : list of int or None
        As they were drawn, where the writer says so, without special tokens at the end.
    drawn : int or None
        How many tokens were drawn, where the writer says so.
    error : str or None
    """

    prompt: int | None
    text: str | None
    tokens: list[int] | None = field(default=None, repr=False)
    drawn: int | None = None
    error: str | None = None


class Writer(Protocol):
    """What an audit needs of a set-up."""

    @property
    def unmarks(self) -> bool:
        """Whether it can also write with the watermark off."""

    def describe(self) -> dict[str, Any]:
        """Its kind and settings, JSON-ready, without credentials."""

    def write(
        self, prompts: Sequence[str], places: Sequence[int], *, marked: bool
    ) -> list[Written]:
        """An answer for each place, which is that of a prompt and may be given again."""


@dataclass(frozen=True)
class Sampling:
    """How a writer draws: the settings that `wmcore generate` has, too. None leaves a server's default."""

    max_new_tokens: int = 200
    temperature: float | None = 1.0
    top_k: int | None = None
    top_p: float | None = None
    chat: bool = False


@dataclass(frozen=True)
class ModelWriter:
    """`wmcore.generate` with a model in this process.

    Attributes
    ----------
    name : str
        Of the model, for the report.
    model, tokenizer
        As `wmcore.models.load_model` gives them.
    watermark : Watermark
    sampling : Sampling
    seed : int or None
        As for `wmcore.generate`: of the shifts, and of the draws without a watermark.
    batch_size : int
    encode : callable or None
        A question's token ids in the model's chat format; None gives the model the prompts as they are.
    """

    name: str
    model: Any
    tokenizer: Any
    watermark: Watermark
    sampling: Sampling
    seed: int | None = None
    batch_size: int = 16
    encode: Any = None

    unmarks = True

    @property
    def logits(self) -> int:
        """The model's number of logits."""
        return int(self.model.config.get_text_config().vocab_size)

    def describe(self) -> dict[str, Any]:
        """Kind, name, settings."""
        return {"kind": "model", "name": self.name, **vars(self.sampling)}

    def write(
        self, prompts: Sequence[str], places: Sequence[int], *, marked: bool
    ) -> list[Written]:
        """See `Writer`."""
        from wmcore.generation import generate

        encode = self.encode or (lambda text: text)
        made = generate(
            self.model,
            [encode(prompts[place]) for place in places],
            self.watermark if marked else None,
            max_new_tokens=self.sampling.max_new_tokens,
            temperature=1.0 if self.sampling.temperature is None else self.sampling.temperature,
            top_k=self.sampling.top_k,
            top_p=self.sampling.top_p,
            batch_size=self.batch_size,
            seed=self.seed,
            tokenizer=self.tokenizer,
        )
        special = set(getattr(self.tokenizer, "all_special_ids", ()))
        return [
            Written(place, None, error=one.error)
            if one.error is not None
            else Written(place, one.text, _bare(one.tokens, special), len(one.tokens))
            for place, one in zip(places, made, strict=True)
        ]


@dataclass(frozen=True)
class GivenTexts:
    """Texts that were written before, for a set-up that cannot be reached from here.

    Attributes
    ----------
    name : str
        Where they come from.
    marked, unmarked : sequence of Written
    """

    name: str
    marked: Sequence[Written]
    unmarked: Sequence[Written] = ()

    @property
    def unmarks(self) -> bool:
        """Whether there are unmarked ones."""
        return bool(self.unmarked)

    def describe(self) -> dict[str, Any]:
        """Kind and file."""
        return {"kind": "texts", "name": self.name}

    def write(
        self, prompts: Sequence[str], places: Sequence[int], *, marked: bool
    ) -> list[Written]:
        """All of them, whatever is asked."""
        return list(self.marked if marked else self.unmarked)


def check_written(written: Sequence[Written]) -> None:
    """WatermarkError, with the first error, where there is no text at all."""
    if all(one.text is None for one in written):
        why = written[0].error if written else "there are no marked texts"
        raise WatermarkError(f"no text was written: {why}")


def _bare(tokens: Sequence[int], special: set[int]) -> list[int]:
    """Without the special tokens at the end, which no text shows."""
    end = len(tokens)
    while end and tokens[end - 1] in special:
        end -= 1
    return list(tokens[:end])
