"""How large the experiments are: quick (minutes on two cores), default (the committed results), paper (for a GPU)."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Size:
    """The numbers of all experiments.

    Attributes
    ----------
    count, batch_size : int
        Texts of a point; texts that are written together.
    new_tokens, answer_tokens : int
        Tokens written of news (those beyond m make up for deletions), and the most of an answer.
    resamples, fine_resamples : int
        T of curves, and of shares with p <= 1e-4.
    lengths, key_lengths, rates, cuts, paraphrase_cuts, buckets : tuple
        m of the length curve; n; shares of edited tokens; m of the edits; m of the paraphrases; m of the calibration.
    temperatures : tuple of float
        At which news are written for curves at other entropies.
    nulls : int
        Human texts (each under a key of its own) for observed false alarms.
    repeats : int
        Timed runs of each method.
    """

    name: str
    count: int
    batch_size: int
    new_tokens: int
    answer_tokens: int
    resamples: int
    fine_resamples: int
    lengths: tuple[int, ...]
    key_lengths: tuple[int, ...]
    rates: tuple[float, ...]
    cuts: tuple[int, ...]
    paraphrase_cuts: tuple[int, ...]
    buckets: tuple[int, ...]
    temperatures: tuple[float, ...]
    nulls: int
    repeats: int


QUICK = Size(
    name="quick",
    count=10,
    batch_size=10,
    new_tokens=80,
    answer_tokens=50,
    resamples=999,
    fine_resamples=999,
    lengths=(5, 15, 35, 60),
    key_lengths=(64, 256, 1024),
    rates=(0.1, 0.3, 0.5),
    cuts=(35,),
    paraphrase_cuts=(35,),
    buckets=(32, 64),
    temperatures=(1.0, 0.7),
    nulls=20,
    repeats=1,
)
DEFAULT = Size(
    name="default",
    count=100,
    batch_size=50,
    new_tokens=180,
    answer_tokens=200,
    resamples=999,
    fine_resamples=9_999,
    lengths=(3, 5, 7, 10, 15, 20, 25, 30, 35, 40, 60, 80),
    key_lengths=(64, 128, 256, 512, 1024, 2048, 4096, 8192),
    rates=(0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8),
    cuts=(35, 70),
    paraphrase_cuts=(20, 35, 50, 70),
    buckets=(32, 64, 128, 256, 512),
    temperatures=(1.0, 0.85, 0.7, 0.5),
    nulls=400,
    repeats=5,
)
PAPER = replace(
    DEFAULT,
    name="paper",
    count=500,
    batch_size=100,
    resamples=9_999,
    fine_resamples=99_999,
    paraphrase_cuts=(10, 15, 20, 25, 30, 40, 50, 70),
    nulls=5_000,
)

SIZES = {size.name: size for size in (QUICK, DEFAULT, PAPER)}
