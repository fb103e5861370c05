"""What `wmcore plan` foresees against what is found of real watermarked texts: results/planning.json.

    python benchmarks/planning.py texts FOLDER DATA    # unmarked answers to the questions of guide.py's answers
    python benchmarks/planning.py test FOLDER          # foresees from these, tests those

FOLDER is that of `guide.py texts`, whose answers at three temperatures were written with keys; DATA holds
`instructions.jsonl`. Both kinds are answers to the same questions, drawn apart: nothing of a watermarked text is known
to the planner. p of both is that of one plan; observed shares have their Wilson interval, foreseen ones that of
`Curve`.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import entropy_texts
import numpy as np
from guide_texts import SETTINGS
from machine import machine

from wmcore import Detector, Watermark, attacks, detection_power
from wmcore.models import load_model
from wmcore.plan import Plan
from wmcore.power.lengths import curve
from wmcore.power.model import sample_texts
from wmcore.power.reading import SampleReader, record_of
from wmcore.power.simulation import LEVELS, RATES, RESAMPLES, STOP_AFTER

RESULTS = Path(__file__).parent / "results"
EXAMPLE = Path(__file__).parent.parent / "examples" / "sampled.jsonl"
ANSWERS = ("guide-t1", "guide-t0.7", "guide-t0.5")
LENGTHS = (25, 50, 100, 200)
SCHEME = "exp-free"
SIMULATIONS = 240
SEED = 1


def plain_path(folder: Path, setting: str) -> Path:
    return folder / "texts" / f"{setting}-plain.jsonl"


def write(folder: Path, data: Path) -> None:
    """Let the model answer, where that was not done."""
    model, tokenizer = load_model(entropy_texts.MODEL)
    lines = (data / "instructions.jsonl").read_text(encoding="utf-8").splitlines()
    for name in ANSWERS:
        setting, path = SETTINGS[name], plain_path(folder, name)
        if path.exists():
            continue
        prompts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": json.loads(line)["instruction"]}],
                add_generation_prompt=True,
                return_dict=True,
            )["input_ids"]
            for line in lines[: setting.texts]
        ]
        texts = sample_texts(
            model,
            tokenizer,
            prompts,
            max_new_tokens=setting.new_tokens,
            temperature=setting.temperature,
            top_p=None if setting.top_p == 1 else setting.top_p,
            batch_size=40,
            seed=SEED,
        )
        path.write_text("".join(json.dumps(record_of(text)) + "\n" for text in texts))
        print(path, flush=True)


def observed(folder: Path, setting: str) -> dict[tuple[float, float], Any]:
    """{(rate of edits, level): Curve} of the texts that were written with keys."""
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


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    for name in ANSWERS:
        began = time.process_time()
        reader = SampleReader()
        texts = reader.read(str(plain_path(folder, name)))
        power = detection_power(
            texts,
            schemes=[SCHEME],
            key_lengths=[entropy_texts.KEY_LENGTH],
            lengths=LENGTHS,
            simulations=SIMULATIONS,
            seed=SEED,
        )
        seconds = time.process_time() - began
        print(f"{name}: {power.entropy:.2f} nats, {seconds:.0f} s of CPU time", flush=True)
        real = observed(folder, name)
        for edited in power.settings[0].edited:
            for level, foreseen in edited.curves.items():
                found = real[edited.rate, level]
                for i, m in enumerate(foreseen.lengths.tolist()):
                    (k,) = np.flatnonzero(found.lengths == m)
                    yield {
                        "setting": name,
                        "edited": edited.rate,
                        "level": level,
                        "tokens": m,
                        "foreseen": numbers(foreseen, i),
                        "observed": numbers(found, int(k)),
                    }


def numbers(drawn: Any, i: int) -> list[float]:
    """Share, the ends of its interval, and how many texts."""
    values = (drawn.rate[i], drawn.low[i], drawn.high[i])
    return [*(round(float(x), 4) for x in values), int(drawn.trials[i])]


def test(folder: Path) -> None:
    result = {
        "machine": machine(),
        "model": entropy_texts.MODEL,
        "key_length": entropy_texts.KEY_LENGTH,
        "scheme": SCHEME,
        "resamples": RESAMPLES,
        "simulations": SIMULATIONS,
        "settings": {name: SETTINGS[name].title for name in ANSWERS},
        "example": None,
        "rows": [],
    }
    body = ",\n  ".join(map(json.dumps, rows(folder)))
    head = json.dumps(result, indent=1).replace('"rows": []', f'"rows": [\n  {body}\n ]')
    example = detection_power(SampleReader().read(str(EXAMPLE))).to_dict()
    head = head.replace('"example": null', f'"example": {json.dumps(example)}')
    (RESULTS / "planning.json").write_text(head + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    texts = commands.add_parser("texts", help="let the model answer")
    texts.add_argument("folder", type=Path)
    texts.add_argument("data", type=Path)
    texts.set_defaults(run=lambda args: write(args.folder, args.data))
    tests = commands.add_parser("test", help="foresee, test, and write the results")
    tests.add_argument("folder", type=Path)
    tests.set_defaults(run=lambda args: test(args.folder))
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
