"""Scores learnt from samples of a model: a table for each bin of tokens, the bin of a token known from the text alone.

Most tokens of a text written at a low temperature were nearly certain, and say nothing of the key. Which ones cannot be
seen from a key's number u; it can be guessed from the token, or better from a model that reads the text. In a bin of
tokens whose probabilities p are known from unmarked samples, u of watermarked text has the density

    f(u) = 0.01 + 0.99 mean over the bin of p^-1 u^(1/p - 1).

A test with these scores stays exact however wrong they are: they are a function of the text, whatever the key.
"""

import hashlib
import os
from copy import copy
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import as_file, files
from typing import Any, ClassVar

import numpy as np

from wmcore import scores_file, whole_file
from wmcore.checks import real_number, string, whole_number
from wmcore.errors import WatermarkError, reason, shown
from wmcore.proxy import Proxy, as_proxy, read_with
from wmcore.scores import Scores, ScoreTable, by_level, of_probabilities

FLOOR = 0.01
"""The weight of chance in a bin's density: what a replaced token may cost is bounded by it."""

MOST_QUANTILES = 1000
_REMEMBERED = 1 << 25  # tokens, a byte each


@dataclass(frozen=True)
class Origin:
    """What scores were learnt from.

    model : str or None, its name; temperature, top_p : float, of the samples; texts, tokens : int, how many.
    """

    model: str | None
    temperature: float
    top_p: float
    texts: int
    tokens: int

    def __post_init__(self) -> None:
        plain = {
            "model": None if self.model is None else string("model", self.model),
            "temperature": real_number("temperature", self.temperature, 0),
            "top_p": real_number("top_p", self.top_p, 0, 1),
            "texts": whole_number("texts", self.texts),
            "tokens": whole_number("tokens", self.tokens),
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)


class LearnedScores(Scores):
    """Scores by bins, for exp: `TokenScores` by a token's id, `ProxyScores` by what a proxy says of it.

    Parameters
    ----------
    probabilities : float64 [B, Q]
        Quantiles of the probabilities that the tokens of each bin had when they were drawn, in (0, 1]; equally likely.
    origin : Origin

    Raises
    ------
    WatermarkError
        For numbers that cannot be such.
    """

    kind: ClassVar[str]
    extra: ClassVar[str]
    """The field that says what bin a token is in."""

    def __init__(self, probabilities: Any, origin: Origin) -> None:
        p = _numbers("probabilities", probabilities, 2)
        if not (1 <= len(p) <= 256 and 1 <= p.shape[1] <= MOST_QUANTILES):
            raise WatermarkError(
                f"probabilities has the shape {p.shape}, but must be [1 to 256 bins, 1 to {MOST_QUANTILES} quantiles]"
            )
        if not ((p > 0) & (p <= 1)).all():
            raise WatermarkError("probabilities holds a number outside (0, 1]")
        self.probabilities = p
        self.origin = origin
        density = np.stack([FLOOR + (1 - FLOOR) * of_probabilities(row) for row in p])
        self.table = ScoreTable("exp", by_level(density))

    def _finish(self) -> None:
        """Take a name once all fields are there: the kind, and a digest of the file."""
        digest = hashlib.sha256(scores_file.to_text(self.to_dict()).encode()).hexdigest()
        self.name = f"{self.kind} {digest[:16]}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.probabilities)} bins, {self.origin})"

    def to_dict(self) -> dict[str, Any]:
        """The fields of the file, arrays as they are."""
        return {
            "kind": self.kind,
            "sampler": self.table.sampler,
            **asdict(self.origin),
            "probabilities": self.probabilities,
            self.extra: getattr(self, self.extra),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file (no secret; a proxy is not in it), whole or not at all."""
        whole_file.write(path, scores_file.to_text(self.to_dict()).encode())

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "LearnedScores":
        """Read what `save` wrote; WatermarkError for anything else."""
        fields = scores_file.read(path)
        try:
            if fields.pop("sampler") != "exp":
                raise WatermarkError("its sampler is not known")
            made = {c.kind: c for c in (TokenScores, ProxyScores)}[fields.pop("kind")]
            extra, probabilities = fields.pop(made.extra), fields.pop("probabilities")
            return made(probabilities, extra, Origin(**fields))
        except WatermarkError as error:
            raise scores_file.damaged(path, str(error)) from None


class TokenScores(LearnedScores):
    """Scores by token id. token_bins: uint8 [V], the bin of each token; see `LearnedScores` for the rest."""

    kind = "tokens"
    extra = "token_bins"

    def __init__(self, probabilities: Any, token_bins: Any, origin: Origin) -> None:
        super().__init__(probabilities, origin)
        bins = np.asarray(token_bins)
        if bins.ndim != 1 or bins.dtype != np.uint8 or not bins.size:
            raise WatermarkError(
                f"token_bins is {bins.dtype} of the shape {bins.shape}, but must be uint8 [vocab_size]"
            )
        if bins.max() >= len(self.probabilities):
            raise WatermarkError(
                f"token_bins holds {bins.max()}, but there are {len(self.probabilities)} bins"
            )
        self.token_bins = bins
        self._finish()

    def bins(self, tokens: np.ndarray) -> np.ndarray:
        """The bin of each token of one text (int64 [m], below V): uint8 [m]."""
        return self.token_bins[tokens]


class ProxyScores(LearnedScores):
    """Scores by what a proxy (`wmcore.proxy`) says of each token.

    Parameters
    ----------
    probabilities, origin
        As for `LearnedScores`.
    edges : float64 [B - 1]
        Ascending: a token of z is in the bin with as many edges at or below z.

    To test, they need a proxy, which is not in the file: see `read_by`.
    """

    kind = "proxy"
    extra = "edges"
    # Of 100 answers at temperature 0.7, 10 % and 20 % of their tokens edited, p <= 0.01 found with a gap of 1.8: .51
    # and .27; 2.4: .61, .41; 3: .66, .42; 4: .64, .38; 5: .63, .35. By token id 1.8 is as good as any, as elsewhere.
    gap = 3.0

    def __init__(self, probabilities: Any, edges: Any, origin: Origin) -> None:
        super().__init__(probabilities, origin)
        self.edges = _numbers("edges", edges, 1)
        if len(self.edges) != len(self.probabilities) - 1 or not (np.diff(self.edges) > 0).all():
            raise WatermarkError(
                f"edges must be {len(self.probabilities) - 1} ascending numbers, one less than there are bins"
            )
        self.proxy: Proxy | None = None
        self._known = _Memory()
        self._finish()

    def read_by(self, proxy: Any) -> "ProxyScores":
        """The same scores with a proxy: a model, a model's name, or a callable (see `wmcore.proxy`)."""
        made = copy(self)
        made.proxy, made._known = as_proxy(proxy), _Memory()
        return made

    def bins(self, tokens: np.ndarray) -> np.ndarray:
        """The bin of each token of one text (int64 [m], m > 0): uint8 [m].

        A text that was read before is not read again. WatermarkError if the proxy cannot read it.
        """
        if self.proxy is None:
            raise WatermarkError(
                "the scores are by a proxy, but there is none: use Detector(..., proxy=...) or read_by"
            )
        key = hashlib.blake2b(tokens.tobytes(), digest_size=16).digest()
        found = self._known.get(key)
        if found is None:
            z = read_with(self.proxy, tokens)
            bins = np.searchsorted(self.edges, z, side="right").astype(np.uint8)
            found = self._known.put(key, bins)
        return found


class _Memory:
    """Bins of texts by a digest: of the latest, `_REMEMBERED` tokens at least; not pickled.

    Without a lock, which a child forked meanwhile would wait for: threads that read one text at once all keep what the
    first of them found.
    """

    def __init__(self) -> None:
        self._new: dict[bytes, np.ndarray] = {}
        self._old: dict[bytes, np.ndarray] = {}
        self._size = 0

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Memory, ()

    def get(self, key: bytes) -> np.ndarray | None:
        """What was put there, unless it is forgotten."""
        found = self._new.get(key)
        return self._old.get(key) if found is None else found

    def put(self, key: bytes, bins: np.ndarray) -> np.ndarray:
        """Keep bins (uint8 [m]); those that are kept."""
        if self._size >= _REMEMBERED:
            self._old, self._new, self._size = self._new, {}, 0
        self._size += len(bins)
        return self._new.setdefault(key, bins)


@cache
def default_scores() -> LearnedScores:
    """Scores by a proxy, learnt from SmolLM2's answers to people's questions, for any proxy that comes without its own.

    Made by: wmcore learn-scores --model smollm2 --chat --temperature 0.7 --top-p 0.9 --max-new-tokens 120 --seed 1
    --prompts FILE, 160 questions of AlpacaEval.
    """
    with as_file(files("wmcore").joinpath("data/proxy-scores.json")) as path:
        return LearnedScores.load(path)


def chosen_scores(
    sampler: str, vocab_size: int, score: Any = None, proxy: Any = None
) -> Scores | str | None:
    """What a user means by a score (Scores, the path of a file, a name, or None) and a proxy, or None.

    sampler, vocab_size: of the watermark.

    Raises
    ------
    WatermarkError
        For a file that cannot be used, scores for another vocabulary, a score and a proxy that do not go together.
    """
    if isinstance(score, os.PathLike) or (isinstance(score, str) and score.endswith(".json")):
        score = LearnedScores.load(score)
    if isinstance(score, TokenScores) and len(score.token_bins) != vocab_size:
        raise WatermarkError(
            f"the scores are for a vocabulary of {len(score.token_bins)} tokens, but the watermark's has {vocab_size}: "
            "learn them from its model"
        )
    if proxy is None:
        if isinstance(score, ProxyScores) and score.proxy is None:
            known = f", such as {shown(score.origin.model)}" if score.origin.model else ""
            raise WatermarkError(
                f"the scores are by a proxy, but none is given: use Detector(..., proxy=...) or detect --proxy{known}"
            )
        return score
    if sampler != "exp":
        raise WatermarkError(
            f"proxy is given, but there are scores by a proxy for the sampler 'exp' alone, and this watermark writes "
            f"with {sampler!r}: leave it out"
        )
    if score is None:
        score = default_scores()
    if not isinstance(score, ProxyScores):
        raise WatermarkError(
            "proxy is given, but the score is not by a proxy: leave one of them out, or learn a score by a proxy"
        )
    return score.read_by(proxy)


def _numbers(name: str, values: Any, dimensions: int) -> np.ndarray:
    """float64; WatermarkError unless finite numbers of so many dimensions."""
    try:
        found = np.asarray(values)
    except ValueError as error:
        raise WatermarkError(f"{name} is no array: {reason(error)}") from None
    if found.size == 0 and dimensions == 1:  # no edges, one bin
        return np.empty(0)
    numbers = found.ndim == dimensions and found.dtype.kind in "fiu"
    if not numbers or not np.isfinite(found).all():
        raise WatermarkError(f"{name} must hold finite numbers in {dimensions} dimensions")
    return found.astype(np.float64)
