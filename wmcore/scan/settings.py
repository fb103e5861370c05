"""`ScanSettings`: everything but the watermark and the inputs on which a result of a scan depends."""

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from wmcore.errors import WatermarkError, shown
from wmcore.reading import MAX_BYTES, Reading
from wmcore.types import SchemeName

if TYPE_CHECKING:
    from wmcore.plan import Plan
    from wmcore.scores import Scores
    from wmcore.statistic import Statistic
    from wmcore.watermark import Watermark

FIRST_PASSES = ("resamples", "calibrated")
FDR_METHODS = ("bh", "by", "ebh")

_MOST = 2**31 - 1
_MOST_CONTROLS = 9_999
"""Each takes a scan of its own, and their p-values are kept for every document."""
_LEAST = {
    "resamples": 1,
    "stop_after": 1,
    "first_resamples": 1,
    "first_stop": 1,
    "controls": 0,
    "shard_size": 1,
    "max_bytes": 1,
}
"""The whole numbers among the settings, and their least values."""
_NAMES = ("id_field", "tokens_field", "tokenizer", "scheme", "score", "score_name")
"""The settings that are a name or None."""


@dataclass(frozen=True)
class ScanSettings:
    """The settings of a scan, kept in its manifest; another run into the same output must have the same ones.

    Parameters
    ----------
    text_field, id_field, tokens_field : str or None
        Where a record has its text, its id (default: file and line) and, instead of a text, its token ids.
    tokenizer : str or None
        Name of the tokenizer; not needed with a tokens_field.
    scheme, gap, block_length : optional
        How to test, where not as the watermark says: see `Watermark.tested_as`.
    score : str, optional
        What a free or local scheme adds up: a name, or the path of a file of scores by token id (see `Detector`). Every
        worker reads it.
    score_name : str, optional
        The name of these scores, which tells the contents of two files apart; the scan fills it in.
    window, stride : int, optional
        Documents of more tokens than window are tested in windows of that many, which start every stride tokens;
        the last one ends with the document. Default: 256 tokens, for a local alignment 4,096; and half of the window.
    resamples, stop_after : int
        Of the full test: T and h of `Detector.detect`. A small h is enough: p-values below h / T do not suffer from
        it, and no others can be called in a large corpus.
    first : {"resamples", "calibrated"}
        The fast first pass: a few resamples of the exact test, or a calibrated null (approximate where it decides).
    first_resamples, first_stop : int
        Of the first pass: T and h. A document with h hits in it is done.
    controls : int
        How many control keys are run over the same documents, at most 9,999; not with a calibrated first pass.
    fdr : {"bh", "by", "ebh"}
        q-values: Benjamini-Hochberg's, Benjamini-Yekutieli's, or those of e-BH, valid under any dependence, from
        e-values over edit paths (not for its and its-edit, nor with controls).
    shard_size : int
        Records in a shard.
    max_bytes : int
        The longest line, file or text that is read.
    excerpts : bool
        Whether shards keep the passage around the best window where p <= 0.001.
    seed : int or None
        Of all resampled and control keys; None takes one that follows from the key. The manifest keeps it.
    """

    text_field: str = "text"
    id_field: str | None = None
    tokens_field: str | None = None
    tokenizer: str | None = None
    scheme: SchemeName | None = None
    gap: float | None = None
    block_length: int | None = None
    window: int | None = None
    stride: int | None = None
    score: str | None = None
    score_name: str | None = None
    resamples: int = 19_999
    stop_after: int = 3
    first: str = "resamples"
    first_resamples: int = 31
    first_stop: int = 1
    controls: int = 0
    fdr: str = "bh"
    shard_size: int = 8192
    max_bytes: int = MAX_BYTES
    excerpts: bool = True
    seed: int | None = None

    def __post_init__(self) -> None:
        from wmcore import checks  # here: the command reads the defaults without NumPy

        plain: dict[str, Any] = {
            name: checks.whole_number(name, getattr(self, name), least, _MOST)
            for name, least in _LEAST.items()
        }
        checks.whole_number("controls", self.controls, 0, _MOST_CONTROLS)
        plain["excerpts"] = checks.truth("excerpts", self.excerpts)
        for name in ("text_field", "first", "fdr"):
            plain[name] = checks.string(name, getattr(self, name))
        for name in _NAMES:
            if getattr(self, name) is not None:
                plain[name] = checks.string(name, getattr(self, name))
        if self.gap is not None:
            plain["gap"] = checks.real_number("gap", self.gap, 0)
        if self.block_length is not None:
            plain["block_length"] = checks.whole_number("block_length", self.block_length, 0, _MOST)
        if self.seed is not None:
            plain["seed"] = checks.whole_number("seed", self.seed, -(2**128), 2**128)
        for name in ("window", "stride"):
            if getattr(self, name) is not None:
                plain[name] = checks.whole_number(name, getattr(self, name), 1, _MOST)
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        if self.window is not None and self.stride is not None and self.stride > self.window:
            raise WatermarkError(
                f"stride is {self.stride}, more than the window of {self.window} tokens, so that text would be "
                "passed over: use a stride of at most the window"
            )
        if self.first not in FIRST_PASSES:
            raise WatermarkError(
                f"first is {shown(self.first)}: use one of {', '.join(FIRST_PASSES)}"
            )
        if self.fdr not in FDR_METHODS:
            raise WatermarkError(f"fdr is {shown(self.fdr)}: use one of {', '.join(FDR_METHODS)}")
        if self.controls and self.first == "calibrated":
            raise WatermarkError(
                "controls needs the watermark's key and the control keys to be tested alike, which a calibrated first "
                "pass rules out: use first='resamples'"
            )
        if self.controls and self.fdr == "ebh":
            raise WatermarkError(
                "controls compares p-values, but fdr is 'ebh', which calls documents by e-values, whatever these have "
                "in common: leave one of them out"
            )
        if self.first_stop > self.first_resamples:
            raise WatermarkError(
                f"first_stop is {self.first_stop}, more than first_resamples, {self.first_resamples}: "
                "every document would get the full test; lower it"
            )

    @property
    def plan(self) -> "Plan":
        """How p is found."""
        from wmcore.plan import Plan

        return Plan(
            resamples=self.resamples,
            stop_after=self.stop_after,
            first_resamples=self.first_resamples,
            first_stop=self.first_stop,
        )

    def scores(self, watermark: "Watermark") -> "Scores | str | None":
        """What is meant by the score; WatermarkError if it cannot be used."""
        from wmcore.learned_scores import chosen_scores

        return chosen_scores(watermark.sampler, watermark.vocab_size, self.score)

    def statistic(self, watermark: "Watermark") -> "Statistic":
        """How documents are tested; WatermarkError if they cannot be."""
        return watermark.tested_as(self.scheme, self.gap, self.block_length, self.scores(watermark))

    @property
    def reading(self) -> Reading:
        """How records are read."""
        return Reading(self.text_field, self.id_field, self.tokens_field, self.max_bytes)

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return asdict(self)

    def difference(self, other: dict[str, Any]) -> str | None:
        """The first setting of `other` (as `to_dict` gives it) that is not the same here, in words, or None."""
        for f in fields(self):
            mine, theirs = getattr(self, f.name), other.get(f.name)
            if mine != theirs:
                return f"{f.name} was {theirs!r} and is now {mine!r}"
        return None
