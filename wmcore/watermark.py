"""`Watermark`: a scheme, its sizes and its key; the one object a user keeps."""

import os
from dataclasses import dataclass
from typing import Any, NoReturn

from wmcore import watermark_file
from wmcore.checks import whole_number
from wmcore.errors import WatermarkError
from wmcore.kernels.problem import Problem
from wmcore.key import Key, PublishedKey
from wmcore.schemes import DEFAULT_SCHEME, FREE, SCHEMES, named, scheme_of
from wmcore.scores import Scores, named_scores
from wmcore.statistic import WHOLE_TEXT, Statistic
from wmcore.types import SchemeName

_LARGEST_KEY_LENGTH = 1 << 20


@dataclass(frozen=True)
class Watermark:
    """A watermark: what a generator and a detector must share.

    How a text is written (the scheme's sampler, vocab_size, key_length, key) is fixed for ever. How it is tested
    (scheme, gap, block_length) is a default: `Detector` can be given another. Make one with `create` or `published`,
    keep it with `save`.

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
        gamma, the cost of an insertion or deletion (nats, for its-edit a distance); 0.0 for schemes without edits.
    key : Key or PublishedKey
    tokenizer : str or None
        The name of the tokenizer that the text is made of.

    Notes
    -----
    Whole numbers of any kind are taken and stored as int, gaps as float.
    """

    scheme: SchemeName
    vocab_size: int
    key_length: int
    block_length: int | None
    gap: float
    key: Key | PublishedKey
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        statistic = Statistic(scheme_of(self.scheme), self.gap, self.block_length)
        plain = {
            "scheme": str(self.scheme),
            "vocab_size": whole_number("vocab_size", self.vocab_size, 1, 2**31 - 1),
            "key_length": whole_number("key_length", self.key_length, 1, _LARGEST_KEY_LENGTH),
            "block_length": statistic.block_length,
            "gap": statistic.gap,
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)
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
        scheme: SchemeName = DEFAULT_SCHEME,
        *,
        vocab_size: int,
        key_length: int = 256,
        block_length: int | None = None,
        gap: float | None = None,
        key: Key | None = None,
        tokenizer: str | None = None,
    ) -> "Watermark":
        """A watermark with its own secret key (a new one unless given) and the scheme's gap cost.

        The default scheme is what docs/guide.md recommends: it finds low-entropy text, edited or not.

        Raises
        ------
        WatermarkError
            For a parameter that cannot be used; the message names it, its value, the limit and the remedy.
        """
        gap = scheme_of(scheme).gap if gap is None else gap
        key = Key.generate() if key is None else key
        return cls(scheme, vocab_size, key_length, block_length, gap, key, tokenizer)

    @classmethod
    def published(
        cls,
        scheme: SchemeName,
        *,
        seed: int,
        generator: str,
        vocab_size: int,
        key_length: int = 256,
        block_length: int | None = None,
        gap: float | None = None,
        tokenizer: str | None = None,
    ) -> "Watermark":
        """A watermark with the key that the published code makes from a seed (see `PublishedKey`), and its gap cost."""
        gap = scheme_of(scheme).published_gap if gap is None else gap
        key = PublishedKey(seed, generator)
        return cls(scheme, vocab_size, key_length, block_length, gap, key, tokenizer)

    @property
    def sampler(self) -> str:
        """How text is written: "exp", exponential minimum sampling, or "its", inverse transform sampling."""
        return SCHEMES[self.scheme].sampler

    @property
    def statistic(self) -> Statistic:
        """How text is tested unless something else is asked for."""
        return Statistic(SCHEMES[self.scheme], self.gap, self.block_length)

    def tested_as(
        self,
        scheme: SchemeName | None = None,
        gap: float | None = None,
        block_length: int | None = None,
        scores: Scores | str | None = None,
    ) -> Statistic:
        """Another statistic for texts of this watermark.

        Parameters
        ----------
        scheme : str, optional
            Of the same sampler. Default: the watermark's; with scores that it does not take, the free one.
        gap : float, optional
            Default: that of the scores, if they have one (`ProxyScores`); else the watermark's if scheme is the
            watermark's; else the scheme's own.
        block_length : int, optional
            0 for the whole text. Default: the watermark's, or the whole text for a scheme that aligns no blocks.
        scores : Scores or str, optional
            Of a free or local alignment. Default: the scheme's own.

        Raises
        ------
        WatermarkError
            For a scheme of another sampler, which cannot find what this one wrote; for a gap or block length that
            cannot be used.
        """
        chosen = scheme_of(self.scheme if scheme is None else scheme)
        if scheme is None and scores is not None and not chosen.alignment.scored:
            chosen = named(chosen.cost, FREE) or chosen
        if chosen.sampler != self.sampler:
            alike = ", ".join(s.name for s in SCHEMES.values() if s.sampler == self.sampler)
            raise WatermarkError(
                f"scheme {chosen.name!r} tests text of the sampler {chosen.sampler!r}, but this watermark writes with "
                f"{self.sampler!r}: use one of {alike}"
            )
        if gap is None and isinstance(scores, Scores) and chosen.alignment.scored:
            gap = scores.gap
        if gap is None:
            published = isinstance(self.key, PublishedKey)
            default = chosen.published_gap if published else chosen.gap
            gap = self.gap if chosen.name == self.scheme else default
        if block_length is None:
            block_length = None if chosen.alignment.scored else self.block_length
        elif whole_number("block_length", block_length) == WHOLE_TEXT:
            block_length = None
        if isinstance(scores, str):
            scores = named_scores(chosen.sampler, scores)
        return Statistic(chosen, gap, block_length, scores)

    def problem(self, statistic: Statistic | None = None) -> Problem:
        """A statistic (default: the watermark's own) in the integers that the kernels take."""
        denominator = self.key.eta_denominator(self.vocab_size)
        chosen = self.statistic if statistic is None else statistic
        return chosen.problem(self.key_length, self.vocab_size, denominator)

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

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        key_from_env: str | None = None,
        replace: bool = False,
    ) -> None:
        """Write the watermark to a JSON file that only its owner can read (mode 0600), whole or not at all.

        A process that is killed meanwhile can leave a hidden file with the secret (`.wmcore-secret-*.tmp`) in the
        folder; the next `save` there removes it.

        Parameters
        ----------
        path : str or path
        key_from_env : str, optional
            Leave the secret out; `load` takes it from the environment variable of this name (the 64 hexadecimal
            digits of `Key.secret_hex`).
        replace : bool
            Whether to replace a file that is there, whose key is then lost. If not, WatermarkError.
        """
        watermark_file.write(
            path,
            {
                "scheme": self.scheme,
                "vocab_size": self.vocab_size,
                "key_length": self.key_length,
                "block_length": self.block_length,
                "gap": self.gap,
                "tokenizer": self.tokenizer,
                "key": self.key.to_dict(key_from_env),
            },
            replace,
        )

    def validate(self) -> NoReturn:
        """Always a TypeError: what transformers calls of a `watermarking_config`, which is not a watermark itself."""
        raise TypeError(
            "watermarking_config is a Watermark, but must be a WatermarkConfig: give "
            "wmcore.bindings.transformers.WatermarkConfig(watermark)"
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Watermark":
        """Read a watermark file.

        Warns if the file holds a secret that other users can read. Raises WatermarkError if it cannot be read, is
        not a watermark file, or was written by another version.
        """
        return cls(**watermark_file.read(path))


def checked_watermark(name: str, watermark: Any) -> Watermark:
    """The watermark itself; TypeError for anything else, such as the path of its file."""
    if not isinstance(watermark, Watermark):
        raise TypeError(
            f"{name} is a {type(watermark).__name__}, but must be a Watermark: use Watermark.load(path)"
        )
    return watermark
