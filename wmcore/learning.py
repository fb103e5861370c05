"""Scores from samples: which tokens of a model's text are nearly certain, and which say something of a key."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wmcore.checks import real_number, token_ids, whole_number
from wmcore.errors import WatermarkError, shown
from wmcore.generation import generate
from wmcore.learned_scores import LearnedScores, Origin, ProxyScores, TokenScores
from wmcore.progress import progress_bar
from wmcore.proxy import as_proxy, log_probabilities, read_with
from wmcore.stepping import language_model
from wmcore.types import Texts

KINDS = ("proxy", "tokens")
BINS = 10
QUANTILES = 32
"""Of the probabilities in a bin."""

LEAST_TOKENS = 500
PRIOR = 10.0
"""How many occurrences the mean over all tokens counts for in a token's own."""

_FOLDS = 5
_LEAST_P = 1e-6


@dataclass(frozen=True, eq=False)
class Sample:
    """An unmarked text of a model.

    tokens : int64 [m]; p : float64 [m], the probability of each under the law that it was drawn from, after temperature
    and top-p; z : float64 [m] or None, what a proxy says of each (`wmcore.proxy`).
    """

    tokens: np.ndarray
    p: np.ndarray
    z: np.ndarray | None = None

    def __post_init__(self) -> None:
        tokens = token_ids(self.tokens).astype(np.int64)
        p = np.asarray(self.p, np.float64)
        if p.shape != tokens.shape or not ((p > 0) & (p <= 1)).all():
            raise WatermarkError(
                f"p must be a number in (0, 1] for each of {len(tokens)} tokens of a sample"
            )
        object.__setattr__(self, "tokens", tokens)
        object.__setattr__(self, "p", p)
        if self.z is not None:
            z = np.asarray(self.z, np.float64)
            if z.shape != tokens.shape or not np.isfinite(z).all():
                raise WatermarkError(
                    f"z must be a finite number for each of {len(tokens)} tokens of a sample"
                )
            object.__setattr__(self, "z", z)


def fit_scores(
    samples: Sequence[Sample],
    *,
    by: str = "proxy",
    vocab_size: int | None = None,
    model: str | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> LearnedScores:
    """Scores from ready samples.

    Parameters
    ----------
    samples : sequence of Sample
        Of one kind of text, written as the watermarked text will be; 500 tokens or more.
    by : {"proxy", "tokens"}
        Bins of tokens by z, cut at its quantiles; or by token id: by the mean of log p of each token id, which is drawn
        towards that of all the less often it occurs.
    vocab_size : int
        Needed by tokens.
    model, temperature, top_p
        What wrote the samples: for the record.

    Raises
    ------
    WatermarkError
        For too few tokens, samples without z, or a number out of range.
    """
    _check_kind(by)
    count = sum(len(sample.tokens) for sample in samples)
    if count < LEAST_TOKENS:
        raise WatermarkError(
            f"the samples have {count} tokens, but {LEAST_TOKENS} are needed: give more or longer ones"
        )
    origin = Origin(model, temperature, top_p, len(samples), count)
    p = np.concatenate([sample.p for sample in samples])
    if by == "proxy":
        read = [sample.z for sample in samples if sample.z is not None]
        if len(read) < len(samples):
            raise WatermarkError(
                "samples have no z, which scores by a proxy need: let it read them"
            )
        z = np.concatenate(read)
        edges = _edges(z)
        bins = np.searchsorted(edges, z, side="right")
        return ProxyScores(_quantiles(p, bins, len(edges) + 1), edges, origin)
    if vocab_size is None:
        raise WatermarkError("vocab_size is not given, but scores by token id need it")
    vocab_size = whole_number("vocab_size", vocab_size, 1, 2**31 - 1)
    tokens = np.concatenate([sample.tokens for sample in samples])
    if not 0 <= tokens.min() <= tokens.max() < vocab_size:
        raise WatermarkError(f"samples hold a token outside the vocabulary of {vocab_size} tokens")
    fold = np.arange(count) * _FOLDS // count
    mean = _token_means(tokens, p, vocab_size)
    edges = _edges(mean[tokens])
    # The probabilities in a bin are those of tokens that were put there by other texts: their own would flatter it.
    bins = np.empty(count, np.int64)
    for f in range(_FOLDS):
        inside = fold == f
        others = _token_means(tokens[~inside], p[~inside], vocab_size)
        bins[inside] = np.searchsorted(edges, others[tokens[inside]], side="right")
    token_bins = np.searchsorted(edges, mean, side="right").astype(np.uint8)
    return TokenScores(_quantiles(p, bins, len(edges) + 1), token_bins, origin)


def learn_scores(
    model: Any,
    tokenizer: Any,
    prompts: Texts,
    *,
    temperature: float = 1.0,
    top_p: float | None = None,
    by: str = "proxy",
    proxy: Any = None,
    max_new_tokens: int = 120,
    batch_size: int = 16,
    seed: int | None = None,
    name: str | None = None,
) -> LearnedScores:
    """Let a model write texts without a watermark, and learn scores from them.

    Parameters
    ----------
    model, tokenizer
        As for `wmcore.generate`: the model whose watermarked texts will be tested.
    prompts : sequence of str or of token ids
        Of the kind that it will get; a hundred give useful scores. One that cannot be used is left out.
    temperature, top_p
        As the model will sample.
    by : {"proxy", "tokens"}
        See `fit_scores`.
    proxy : optional
        What will read texts at detection, as for `Detector`. Default: the model itself.
    max_new_tokens, batch_size, seed
        As for `wmcore.generate`.
    name : str, optional
        The model's, for the record.

    Raises
    ------
    WatermarkError
        For a setting out of range, or texts of too few tokens.

    Notes
    -----
    Time: that of writing the texts, and one or two forward passes over each.
    """
    _check_kind(by)
    real_number("temperature", temperature, 0)
    law = 1.0 if top_p is None else real_number("top_p", top_p, 0, 1)
    reader = as_proxy(model if proxy is None else proxy) if by == "proxy" else None
    ids = [tokenizer(prompt).input_ids if isinstance(prompt, str) else prompt for prompt in prompts]
    made = generate(
        model,
        ids,
        None,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        batch_size=batch_size,
        seed=seed,
        tokenizer=tokenizer,
    )
    samples = []
    with progress_bar() as bar:
        for text in bar.track(made, description="texts"):
            if text.error is None:
                before = token_ids(text.prompt).tolist()
                log_p = log_probabilities(model, before, text.tokens, temperature, law)
                tokens = np.array(text.tokens)
                z = None if reader is None else read_with(reader, tokens)
                samples.append(Sample(tokens, np.exp(np.maximum(log_p, np.log(_LEAST_P))), z))
    return fit_scores(
        samples,
        by=by,
        vocab_size=language_model(model).config.get_text_config().vocab_size,
        model=name,
        temperature=temperature,
        top_p=law,
    )


def _check_kind(by: Any) -> None:
    if by not in KINDS:
        raise WatermarkError(f"by is {shown(by)}: use one of {', '.join(KINDS)}")


def _edges(values: np.ndarray) -> np.ndarray:
    """Where to cut values into `BINS` bins of about the same size, fewer where many are equal; none is empty."""
    cuts = np.quantile(values, np.arange(1, BINS) / BINS, method="inverted_cdf")
    return np.unique(cuts[cuts > values.min()])


def _quantiles(p: np.ndarray, bins: np.ndarray, count: int) -> np.ndarray:
    """Mid-quantiles of p in each bin, to four digits: float64 [count, QUANTILES]; of all p where a bin is empty."""
    at = (np.arange(QUANTILES) + 0.5) / QUANTILES
    found = np.empty((count, QUANTILES))
    for b in range(count):
        inside = p[bins == b]
        found[b] = np.quantile(inside if len(inside) else p, at)
    return np.array([[float(f"{x:.4g}") for x in row] for row in np.clip(found, _LEAST_P, 1.0)])


def _token_means(tokens: np.ndarray, p: np.ndarray, vocab_size: int) -> np.ndarray:
    """The mean of log p of each token id, drawn towards that of all: float64 [V]."""
    log_p = np.log(np.maximum(p, _LEAST_P))
    total = np.bincount(tokens, log_p, vocab_size)
    often = np.bincount(tokens, minlength=vocab_size)
    return (total + PRIOR * log_p.mean()) / (often + PRIOR)
