"""`detection_power`: how many tokens a watermarked text needs to be found, by simulation from unmarked ones."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from wmcore.checks import real_number, text_list, thread_count, whole_number
from wmcore.errors import WatermarkError
from wmcore.kernels.cpu import threads as pool
from wmcore.key import Key
from wmcore.learned_scores import chosen_scores
from wmcore.plan import Plan
from wmcore.power.lengths import Curve, Needed, curve, grid
from wmcore.power.sampled import SampledText, likeliest
from wmcore.power.trials import Setting, Trial, edit_named, trial
from wmcore.progress import progress_bar
from wmcore.schemes import DEFAULT_SCHEME, scheme_of
from wmcore.types import SchemeName

LEVELS = (1e-2, 1e-4, 1e-6)
SHARES = (0.5, 0.9, 0.99)
RATES = (0.0, 0.1, 0.3)
RESAMPLES = 19_999
"""Enough for p <= 1e-4; smaller p-values come from the proven bound alone."""
STOP_AFTER = 10
SIMULATIONS = 200
_SHORTEST = 5
_LEAST_VOCABULARY = 50_000
_SURELY = 5  # standard errors: once in a million by chance


@dataclass(frozen=True)
class Edited:
    """What is found of texts edited at a rate: {level: Curve}, and {level: {share: Needed}}."""

    rate: float
    curves: dict[float, Curve]
    needed: dict[float, dict[float, Needed]]


@dataclass(frozen=True)
class SettingPower:
    """What one statistic finds of texts written with one key length.

    Attributes
    ----------
    scheme, score, gap : str, str or None, float
        The statistic.
    key_length : int
    score_per_token, chance_per_token : float
        What the statistic gives a token at its own key row, on average, and by chance; their difference is what a
        token adds. In nats; for its without scores, minus the distance of u and eta.
    edited : tuple of Edited
        One for each rate of edits.
    """

    scheme: str
    score: str | None
    gap: float
    key_length: int
    score_per_token: float
    chance_per_token: float
    edited: tuple[Edited, ...]


@dataclass(frozen=True)
class DetectionPower:
    """What `detection_power` found.

    Attributes
    ----------
    texts, tokens, longest : int
        Of the sample; longest: the most tokens that at least half of its texts have.
    entropy : float
        Nats a token: the mean of minus the log-probabilities.
    simulations, resamples, seed : int
    edit : str
        The kind of edits.
    settings : tuple of SettingPower
        One for each scheme and key length.
    """

    texts: int
    tokens: int
    longest: int
    entropy: float
    simulations: int
    resamples: int
    seed: int
    edit: str
    settings: tuple[SettingPower, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        fields["settings"] = [_setting_dict(setting) for setting in self.settings]
        return fields


def detection_power(
    texts: Sequence[SampledText],
    *,
    schemes: Sequence[SchemeName] = (DEFAULT_SCHEME,),
    key_lengths: Sequence[int] = (256,),
    score: Any = None,
    lengths: Sequence[int] | None = None,
    rates: Sequence[float] = RATES,
    edit: str = "mixed",
    levels: Sequence[float] = LEVELS,
    shares: Sequence[float] = SHARES,
    simulations: int = SIMULATIONS,
    resamples: int = RESAMPLES,
    vocab_size: int | None = None,
    seed: int = 1,
    threads: int | None = None,
    progress: bool = True,
) -> DetectionPower:
    """Simulate watermarked texts from unmarked ones, and test them.

    For each simulation a key is drawn from its law given that it wrote the text (`wmcore.power.planting` says why this
    is the law of watermarked texts), the text is cut and edited, and `Detector.detect` tests it.

    Parameters
    ----------
    texts : sequence of SampledText
        Unmarked texts as the model will write, of the kind that it will write. Simulations take them in turn.
    schemes : sequence of str
        How texts are tested; each also says how they are written, exp or its.
    key_lengths : sequence of int
        n. No text is simulated beyond n tokens, where it would no longer be distortion-free.
    score : optional
        Of free and local schemes, as for `Detector`: a name, learnt scores by token ids, or their file.
    lengths : sequence of int, optional
        Tokens to try. Default: from 5 on, each about 1.4 times the one before.
    rates : sequence of float
        Shares of the tokens that are edited.
    edit : {"mixed", "substitute", "insert", "delete"}
        As `wmcore.attacks`; mixed: a third each, `damage`.
    levels : sequence of float
        A text is found where p <= level. Below 1 / (resamples + 1) only the proven bound can find it.
    shares : sequence of float
        Of texts that are to be found.
    simulations : int
        For each scheme and key length.
    resamples : int
        T: p is that of `Plan(resamples=T, stop_after=10)`.
    vocab_size : int, optional
        V. Default: what the token ids need, at least 50,000. It matters little: edits put in tokens below it.
    seed : int
        Makes all repeatable, on any number of threads.
    threads : int, optional
        CPU threads (default: the cores this process may use).
    progress : bool
        Show a bar on standard error if that is a terminal.

    Raises
    ------
    WatermarkError
        For a number out of range, no texts, a scheme or score that cannot be used, or an its scheme with texts whose
        laws are not known.

    Warns
    -----
    UserWarning
        Where the texts cannot come from the laws given: the likeliest token was written too often or too seldom. It
        takes others in the texts to see that; without them, laws of another temperature give a wrong result unsaid.
    """
    sample = _sample(texts)
    _check_laws(sample)
    simulations = whole_number("simulations", simulations, 1)
    seed = whole_number("seed", seed)
    workers = thread_count(threads)
    levels = [real_number("levels", level, 0, 1) for level in levels]
    shares = [real_number("shares", share, 0, 1) for share in shares]
    longest = int(np.sort([len(text) for text in sample])[::-1][(len(sample) - 1) // 2])
    common = Setting(
        scheme=DEFAULT_SCHEME,
        score=None,
        key_length=longest,
        vocab_size=_vocab_size(vocab_size, sample),
        lengths=np.empty(0, np.int64),
        rates=[real_number("rates", rate, 0, 1) for rate in rates],
        edit=edit_named(edit),
        plan=Plan(resamples=resamples, stop_after=STOP_AFTER),
    )
    settings = []
    for name, n in product(schemes, key_lengths):
        n = whole_number("key_length", n, 1)
        tried = _lengths(lengths, min(n, longest))
        chosen = _scores(name, common.vocab_size, score, sample)
        settings.append(replace(common, scheme=name, score=chosen, key_length=n, lengths=tried))
    powers = []
    with progress_bar(wanted=progress) as bar:
        task = bar.add_task("simulations", total=simulations * len(settings))
        for setting in settings:
            trials = _trials(setting, sample, simulations, seed, workers, lambda: bar.advance(task))
            powers.append(_power(setting, trials, len(sample), levels, shares))
    log_p = np.concatenate([text.log_p for text in sample])
    return DetectionPower(
        texts=len(sample),
        tokens=len(log_p),
        longest=longest,
        entropy=float(-log_p.mean()),
        simulations=simulations,
        resamples=common.plan.resamples,
        seed=seed,
        edit=edit,
        settings=tuple(powers),
    )


def _trials(
    setting: Setting,
    sample: Sequence[SampledText],
    count: int,
    seed: int,
    threads: int,
    done: Callable[[], None],
) -> list[Trial]:
    """Trials of the texts in turn. Each follows from the seed and its number, whatever the scheme: all see the same
    texts."""
    cut = [text.cut(setting.key_length) for text in sample]
    made: dict[int, Trial] = {}

    def one(i: int) -> None:
        made[i] = trial(setting, cut[i % len(cut)], [seed, i])
        done()

    pool.run(one, [(i,) for i in range(count)], threads)
    return [made[i] for i in range(count)]


def _vocab_size(given: int | None, sample: Sequence[SampledText]) -> int:
    """V: as given, or large enough."""
    least = 1 + max(int(max(text.tokens.max(), text.others.max(initial=0))) for text in sample)
    if given is None:
        return max(least, _LEAST_VOCABULARY)
    return whole_number("vocab_size", given, least)


def _scores(name: str, vocab_size: int, score: Any, sample: Sequence[SampledText]) -> Any:
    """The scores of a scheme; WatermarkError where these texts cannot be simulated for it."""
    scheme = scheme_of(name)
    if scheme.sampler == "its" and not all(text.complete for text in sample):
        raise WatermarkError(
            f"scheme {name!r} needs the probabilities of other tokens (top_logprobs), which some texts lack: give "
            "them, or use an exp scheme"
        )
    given = score if scheme.alignment.scored else None
    return chosen_scores(scheme.sampler, vocab_size, given)


def _sample(texts: Any) -> list[SampledText]:
    """The texts, checked."""
    sample = list(text_list("texts", texts))
    if not sample:
        raise WatermarkError("texts is empty: give at least one, and better forty")
    for text in sample:
        if not isinstance(text, SampledText):
            raise TypeError(
                f"texts holds a {type(text).__name__}, but must hold SampledText: use SampledText(tokens, log_p)"
            )
    return sample


def _check_laws(sample: Sequence[SampledText]) -> None:
    """Warn of laws that the texts were not sampled from."""
    drawn, expected, deviation = likeliest(sample)
    # The token that ended a text is seldom in it: each may count for one more or less.
    if abs(drawn - expected) > _SURELY * deviation + len(sample):
        warnings.warn(
            f"the likeliest token was written {drawn:,} times, but {expected:,.0f} times were to be expected: these "
            "log-probabilities are not those of the law that was sampled from, and the plan is wrong; take them after "
            "temperature, top-p and penalties (docs/plan.md)",
            stacklevel=3,
        )


def _lengths(given: Sequence[int] | None, last: int) -> np.ndarray:
    """The lengths to try, ascending, none beyond the last that the sample can tell."""
    if given is None:
        return grid(min(_SHORTEST, last), last)
    wanted = sorted({whole_number("lengths", length, 1) for length in given})
    kept = [length for length in wanted if length <= last]
    if not kept:
        raise WatermarkError(
            f"lengths begin at {wanted[0] if wanted else 'none'}, but texts and key reach {last} tokens: give longer "
            "texts, or smaller numbers"
        )
    return np.array(kept, np.int64)


def _power(
    setting: Setting,
    made: Sequence[Trial],
    texts: int,
    levels: Sequence[float],
    shares: Sequence[float],
) -> SettingPower:
    owner = np.arange(len(made)) % texts
    p_value = np.stack([one.p_value for one in made])
    edited = []
    for r, rate in enumerate(setting.rates):
        p = p_value[:, r]
        found = {level: np.where(np.isnan(p), np.nan, p <= level) for level in levels}
        curves = {level: curve(found[level], owner, setting.lengths) for level in levels}
        needed = {
            level: {share: one.needed(share) for share in shares} for level, one in curves.items()
        }
        edited.append(Edited(rate, curves, needed))
    statistic = setting.detector(Key(bytes(32))).statistic
    tokens = sum(one.tokens for one in made)
    return SettingPower(
        scheme=setting.scheme,
        score=None if statistic.scores is None else statistic.scores.name,
        gap=statistic.gap,
        key_length=setting.key_length,
        score_per_token=sum(one.score for one in made) / tokens,
        chance_per_token=sum(one.chance for one in made) / tokens,
        edited=tuple(edited),
    )


def _setting_dict(setting: SettingPower) -> dict[str, Any]:
    """A setting as JSON-ready values."""
    fields: dict[str, Any] = {
        name: getattr(setting, name) for name in setting.__dataclass_fields__ if name != "edited"
    }
    fields["edited"] = [
        {
            "rate": one.rate,
            "levels": [
                {
                    "level": level,
                    "needed": [
                        {"share": share, **asdict(found)}
                        for share, found in one.needed[level].items()
                    ],
                    "curve": drawn.to_dict(),
                }
                for level, drawn in one.curves.items()
            ],
        }
        for one in setting.edited
    ]
    return fields
