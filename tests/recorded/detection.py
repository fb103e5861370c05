"""Recorded cases of detection: permutation tests, alignments, calibrated nulls, many keys, prefixes."""

from functools import partial
from itertools import count, product

import numpy as np
import torch

from recorded.common import (
    KEYS,
    PUBLISHED_GAPS,
    SECRET,
    THREADS,
    V,
    below,
    damaged,
    digest,
    fit,
    mark_of,
    marked,
    share,
    verdict,
)
from wmcore import Detector, Key, PublishedKey, Watermark
from wmcore.calibration import Calibration
from wmcore.identify import identify
from wmcore.prefix import prefix_curve

PLAIN, EDITS = ("exp", "its"), ("exp-edit", "its-edit")
LENGTHS = (1, 5, 16, 17, 40, 256, 300)
GAPS = (None, 0.0, 0.4, 1.5, 1e4)
"""None is the scheme's own; with 1e4 no gap can pay."""

SOME = (("exp-edit", 200.0), ("its-edit", 8.0))
"""Gaps that pay in some texts only: not in those of up to 17 tokens, or 16."""

RUNS = ((99, None), (999, 50), (999, 3), (999, None))
"""(resamples, stop_after)"""


def detector(mark: Watermark) -> Detector:
    return Detector(mark, threads=THREADS[0])


def texts_of(mark: Watermark) -> list:
    """Odd texts in one batch, two of which cannot be tested (three, if one token is less than a block)."""
    n, size = mark.key_length, mark.vocab_size
    return [
        [size // 2],
        np.full(23, size // 3),
        below("few distinct", 20, min(4, size)),
        [0, size, 1],
        damaged(mark, 41, 3 % n, "damaged"),
        marked(mark, 19, n - 1),
        [],
        below("ordinary", 33, size).astype(np.uint16).tolist(),
    ]


def answers(mark: Watermark, texts: list, runs=RUNS) -> dict:
    """{"fits": of each text, "99 None": verdicts, ...}"""
    one, answer = detector(mark), {}
    for resamples, stop_after in runs:
        found = one.detect(texts, resamples=resamples, stop_after=stop_after, seed=11)
        fits = [fit(f) for f in found]
        assert answer.setdefault("fits", fits) == fits
        answer[f"{resamples} {stop_after}"] = " ".join(map(verdict, found))
    return answer


def odd_texts(scheme: str, key: str, runs=RUNS, **settings) -> dict:
    mark = mark_of(scheme, key, **settings)
    return answers(mark, texts_of(mark), runs)


def grid() -> dict:
    """Schemes, keys, key lengths, blocks and gaps, all crossed; two of the runs each, in turn."""
    made, turn = {}, count()
    for scheme, key, n, k in product(PLAIN + EDITS, KEYS, LENGTHS, (None, 7)):
        for gap in GAPS if scheme in EDITS else (None,):
            i = next(turn) % 3
            # 999 resamples without an early stop are dear: short keys only
            runs = (RUNS[i], RUNS[3] if n <= 17 and i else RUNS[(i + 1) % 3])
            name = f"{scheme} {key} n={n} k={k} gap={gap}"
            made[name] = partial(
                odd_texts, scheme, key, runs, key_length=n, block_length=k, gap=gap
            )
    return made


def sizes() -> dict:
    """Other blocks and vocabularies: 1 and 2 tokens, and so many that no table of all costs is made."""
    made = {}
    for scheme, k in product(PLAIN + EDITS, (1, 16, 17, 19)):
        for key, n in (("chacha", 40), ("torch", 33)):
            made[f"{scheme} {key} n={n} k={k}"] = partial(
                odd_texts, scheme, key, RUNS[:2], key_length=n, block_length=k
            )
    for scheme, key, size in product(PLAIN + EDITS, KEYS, (1, 2, 50_000)):
        if key != "mersenne" or size < 50_000:
            made[f"{scheme} {key} V={size}"] = partial(
                odd_texts, scheme, key, RUNS[:2], key_length=18, vocab_size=size
            )
    return made


def long_texts(scheme: str, key: str, n: int, k: int | None) -> dict:
    """Texts longer than the key, several in a batch, of unlike lengths."""
    mark = mark_of(scheme, key, key_length=n, block_length=k)
    longer = np.concatenate([marked(mark, n // 2, 5), below("tail", n // 2 + 9, V)])
    texts = [longer, below("long", n + 1, V), marked(mark, n, 2), below("short", 18, V)]
    return answers(mark, texts, RUNS[:2])


def longer_than_the_key() -> dict:
    return {
        f"longer {scheme} {key} n={n} k={k}": partial(long_texts, scheme, key, n, k)
        for scheme, key, (n, k) in product(
            PLAIN + EDITS, KEYS[:2], ((40, None), (256, None), (256, 33), (300, 16))
        )
    }


def many_texts(scheme: str, resamples: int, stop_after: int | None) -> dict:
    """Fifty texts of 1 to 49 tokens at once, of which every tenth is marked: more than one group of texts."""
    mark = mark_of(scheme, "chacha", key_length=32)
    texts = [below(f"many {i}", 1 + 37 * i % 49, V) for i in range(50)]
    texts[::10] = [damaged(mark, 30, i, f"many {i}") for i in range(5)]
    return answers(mark, texts, ((resamples, stop_after),))


def many_at_once() -> dict:
    return {
        f"many {scheme} {resamples} {stop_after}": partial(
            many_texts, scheme, resamples, stop_after
        )
        for scheme, (resamples, stop_after) in product(
            PLAIN + EDITS, ((999, 3), (3000, 50), (130, None))
        )
    }


def useless_to_some(scheme: str, gap: float) -> dict:
    """A gap that is too dear for texts of up to 16 or 17 tokens, and not for longer ones, in one batch."""
    mark = mark_of(scheme, "chacha", key_length=40, gap=gap)
    return answers(mark, [marked(mark, m, 3) for m in (5, 15, 16, 17, 18, 40, 55)], RUNS[:1])


def kinds_of_text() -> list:
    """Lists, NumPy and torch arrays of several types, views, and what is no text."""
    mark = mark_of("exp-edit", "chacha", key_length=24)
    ids = damaged(mark, 20, 4, "kinds")
    texts = [
        ids.tolist(),
        ids.astype(np.uint8),
        np.repeat(ids, 2)[::2],
        torch.from_numpy(ids).to(torch.int32),
        tuple(ids.tolist()),
        ids.astype(np.float64),
        ids.reshape(2, 10),
        "no tokenizer is given",
        None,
        [-1, 2],
    ]
    return [
        [fit(f), verdict(f)]
        for f in detector(mark).detect(texts, resamples=99, stop_after=None, seed=2)
    ]


def alignments(scheme: str, key: str, n: int, k: int | None, gap: float | None) -> list:
    """Positions, rows and costs (None for a gap) of the best block of each text."""
    mark = mark_of(scheme, key, key_length=n, block_length=k, gap=gap)
    found = detector(mark).detect(
        texts_of(mark), resamples=19, stop_after=None, seed=3, alignment=True
    )
    answer = []
    for one in found:
        if one.error is not None:
            answer.append(None)
            continue
        shown = one.to_dict()["alignment"]
        positions, rows, costs = shown["positions"], shown["rows"], shown["costs"]
        assert positions == list(range(one.block, one.block + len(rows)))
        answer.append([positions[0], " ".join(map(str, rows)), digest(costs), costs[:2]])
    return answer


def alignment_cases() -> dict:
    made = {}
    for scheme, key, n, k in product(PLAIN + EDITS, KEYS, (5, 40), (None, 7)):
        for gap in (None, 0.2, 1e4) if scheme in EDITS else (None,):
            made[f"{scheme} {key} n={n} k={k} gap={gap}"] = partial(
                alignments, scheme, key, n, k, gap
            )
    return made


def calibrated(scheme: str, key: str, k: int | None, corpus: bool) -> dict:
    """The null itself, and detections by it: at calibrated lengths, between them and outside."""
    mark = mark_of(scheme, key, key_length=24, block_length=k)
    tokens = [below("corpus 0", 90, 9), below("corpus 1", 60, V)] if corpus else None
    null = Calibration.fit(
        mark, [41, 8, 20], resamples=150, tokens=tokens, seed=5, threads=THREADS[0]
    )
    found = detector(mark).detect(
        texts_of(mark), resamples=99, stop_after=None, seed=1, calibration=null
    )
    return {
        "lengths": null.lengths.tolist(),
        "least": null.statistics[:, 0].tolist(),
        "all": digest(null.statistics),
        "fits": [fit(f) for f in found],
        "verdicts": " ".join(map(verdict, found)),
        "errors": [f.p_error for f in found],
    }


def calibrated_cases() -> dict:
    return {
        f"{scheme} {key} k={k} corpus={corpus}": partial(calibrated, scheme, key, k, corpus)
        for scheme, key, k, corpus in product(PLAIN + EDITS, KEYS[:2], (None, 7), (False, True))
    }


def identified(scheme: str, key: str, k: int | None, count: int) -> list:
    """Which of several keys; text 1 carries the first one, which is there twice, texts 2 and 3 the third one."""
    settings = {"vocab_size": V, "key_length": 40, "block_length": k}
    settings["gap"] = PUBLISHED_GAPS[scheme]
    marks: list[Watermark]
    if key == "chacha":
        root = Key(bytes(range(32)))
        marks = [
            Watermark.create(scheme, key=root.derive(f"tenant {i}"), **settings)
            for i in range(count)
        ]
    else:
        marks = [
            Watermark.published(scheme, seed=100 + i, generator=key, **settings)
            for i in range(count)
        ]
    third = marks[min(2, count - 1)]
    marks.append(marks[0])  # a tie: the first of equals is named
    texts = [
        below("nobody's", 30, V),
        marked(marks[0], 20, 3),
        marked(third, 25, 38),
        damaged(third, 41, 7, "third"),
        [V],
        [3] * 9,
    ]
    answer = []
    for resamples, stop_after in ((999, None), (999, 50), (99, 3)):
        found = identify(
            texts,
            marks,
            resamples=resamples,
            stop_after=stop_after,
            seed=4,
            threads=THREADS[0],
        )
        answer.append(
            [
                None if f.error is not None else [f.index, f.p_value, f.resamples, *fit(f)]
                for f in found
            ]
        )
    return answer


def identify_cases() -> dict:
    return {
        f"{scheme} {key} k={k} keys={count}": partial(identified, scheme, key, k, count)
        for scheme, (key, count), k in product(
            PLAIN + EDITS, (("chacha", 6), ("chacha", 1), ("torch", 4)), (None, 7)
        )
    }


def curve(scheme: str, key: str, n: int, gap: float | None) -> dict:
    mark = mark_of(scheme, key, key_length=n, gap=gap)
    text = np.concatenate([below("before", 5, V), damaged(mark, 24, 2, "curve"), [7, 7, 7]])
    found = prefix_curve(detector(mark), text, resamples=199, seed=6)
    hits = np.rint(found.p_value * 200 - 1).astype(int).tolist()
    p = " ".join(share(p, h, 199) for p, h in zip(found.p_value.tolist(), hits, strict=True))
    return {
        "lengths": [int(found.lengths[0]), int(found.lengths[-1])],
        "p": p.replace("/199", ""),
        "statistics": digest(found.statistic.astype(np.float64)),
        "last": found.statistic[-3:].tolist(),
        "until": [found.tokens_until(level) for level in (0.5, 0.05, 0.005, 0.001)],
    }


def curve_cases() -> dict:
    made = {}
    for scheme, key, n in product(PLAIN + EDITS, KEYS, (5, 21, 40)):
        for gap in GAPS if scheme in EDITS else (None,):
            made[f"{scheme} {key} n={n} gap={gap}"] = partial(curve, scheme, key, n, gap)
    for (scheme, gap), n in product(SOME, (21, 40)):
        made[f"{scheme} chacha n={n} gap={gap}"] = partial(curve, scheme, "chacha", n, gap)
    return made


def fingerprints() -> list:
    """Of keys, and what is derived from a key."""
    key = Key(SECRET)
    made = [key, key.derive("tenant"), key.derive("")]
    seeds = [PublishedKey(seed, name) for seed, name in product((0, 42), KEYS[1:])]
    return [[k.fingerprint for k in (*made, *seeds)], [k.secret_hex for k in made[1:]]]


FILES = {
    "detect": {
        **grid(),
        **sizes(),
        **longer_than_the_key(),
        **many_at_once(),
        **{f"{scheme} gap={gap}": partial(useless_to_some, scheme, gap) for scheme, gap in SOME},
        "kinds of text": kinds_of_text,
        "fingerprints": fingerprints,
    },
    "alignment": alignment_cases(),
    "calibration": calibrated_cases(),
    "identify": identify_cases(),
    "prefix": curve_cases(),
}
