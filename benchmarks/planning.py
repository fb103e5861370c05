"""What `wmcore plan` foresees against what is found of real watermarked texts: results/planning.json.

    python benchmarks/planning.py FOLDER

FOLDER is that of `entropy.py texts` and `guide.py texts`: answers at three temperatures, written with keys, with the
probability of each token, and unmarked answers to other questions. *Observed* is what is found of the first under the
keys that wrote them. It is foreseen twice: from the log-probabilities of these same texts, which leaves keys and edits
as the only chance between the two; and where there are any, from the unmarked answers to other questions alone. All
p-values are those of one plan.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import entropy_texts
import numpy as np
from guide_texts import SETTINGS
from machine import machine

from wmcore import Detector, SampledText, Watermark, attacks, detection_power
from wmcore.plan import Plan
from wmcore.power.lengths import Curve, curve
from wmcore.power.reading import SampleReader
from wmcore.power.simulation import LEVELS, RATES, RESAMPLES, STOP_AFTER

RESULTS = Path(__file__).parent / "results"
EXAMPLE = Path(__file__).parent.parent / "examples" / "sampled.jsonl"
ANSWERS = {"guide-t1": "t1", "guide-t0.7": "t0.7", "guide-t0.5": "t0.5"}
"""Settings of `guide.py`, and those of `entropy.py` whose unmarked answers are alike."""
LENGTHS = (25, 50, 100, 200)
SCHEME = "exp-free"
SEED = 1

Curves = dict[tuple[float, float], Curve]
"""By rate of edits and level."""


def observed(folder: Path, setting: str) -> Curves:
    """Of the texts that were written with keys."""
    made = entropy_texts.load(folder, setting, "exp")
    p = np.full((len(made), len(RATES), len(LENGTHS)), np.nan)
    plan = Plan(resamples=RESAMPLES, stop_after=STOP_AFTER)
    for i, text in enumerate(made):
        detector = Detector(Watermark.load(folder / "keys" / text["watermark"]), scheme=SCHEME)
        cells = [
            (r, k)
            for r in range(len(RATES))
            for k, m in enumerate(LENGTHS)
            if m <= len(text["tokens"])
        ]
        edited = [
            attacks.damage(
                text["tokens"][: LENGTHS[k]],
                RATES[r],
                vocab_size=detector.watermark.vocab_size,
                seed=[SEED, i, r, k],
            )
            for r, k in cells
        ]
        for cell, found in zip(cells, detector.detect(edited, plan=plan), strict=True):
            p[i][cell] = found.p_value
    return {
        (rate, level): curve(
            np.where(np.isnan(p[:, r]), np.nan, p[:, r] <= level),
            np.arange(len(made)),
            np.array(LENGTHS),
        )
        for r, rate in enumerate(RATES)
        for level in LEVELS
    }


def foreseen(texts: Sequence[dict[str, Any]]) -> Curves:
    """From texts and their probabilities: one simulation of each."""
    began = time.process_time()
    power = detection_power(
        [SampledText(text["tokens"], np.log(text["probability"])) for text in texts],
        schemes=[SCHEME],
        key_lengths=[entropy_texts.KEY_LENGTH],
        lengths=LENGTHS,
        simulations=len(texts),
        seed=SEED,
    )
    print(f"{len(texts)} simulations: {time.process_time() - began:.0f} s of CPU time", flush=True)
    (setting,) = power.settings
    return {
        (edited.rate, level): drawn
        for edited in setting.edited
        for level, drawn in edited.curves.items()
    }


def sources(folder: Path, setting: str) -> Iterator[tuple[str, Curves]]:
    yield "observed", observed(folder, setting)
    yield "same texts", foreseen(entropy_texts.load(folder, setting, "exp"))
    others = entropy_texts.load(folder, ANSWERS[setting], "unmarked")
    if others:
        yield "other texts", foreseen(others)


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    for setting in ANSWERS:
        for source, curves in sources(folder, setting):
            for (rate, level), drawn in curves.items():
                for i, m in enumerate(drawn.lengths.tolist()):
                    shares = (drawn.rate[i], drawn.low[i], drawn.high[i])
                    yield {
                        "setting": setting,
                        "source": source,
                        "edited": rate,
                        "level": level,
                        "tokens": m,
                        "n": int(drawn.trials[i]),
                        "share": [round(float(x), 4) for x in shares],
                    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    result = {
        "machine": machine(),
        "model": entropy_texts.MODEL,
        "key_length": entropy_texts.KEY_LENGTH,
        "scheme": SCHEME,
        "resamples": RESAMPLES,
        "settings": {name: SETTINGS[name].title for name in ANSWERS},
        "example": None,
        "rows": [],
    }
    body = ",\n  ".join(map(json.dumps, rows(folder)))
    head = json.dumps(result, indent=1).replace('"rows": []', f'"rows": [\n  {body}\n ]')
    example = detection_power(SampleReader().read(str(EXAMPLE))).to_dict()
    head = head.replace('"example": null', f'"example": {json.dumps(example)}')
    (RESULTS / "planning.json").write_text(head + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
