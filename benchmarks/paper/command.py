"""What ``wmcore bench`` does: which experiments, in which folder, and what is said meanwhile."""

import json
import re
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from wmcore.errors import WatermarkError
from wmcore.paper import estimates, grids
from wmcore.paper.attacks import attack_of
from wmcore.paper.experiments import EXPERIMENTS, Experiment, Findings
from wmcore.paper.points import Point, rows_of
from wmcore.paper.report import write_rows
from wmcore.paper.run import Outcome, Runner, available, begin
from wmcore.paper.sizes import SIZES, Size
from wmcore.paper.study import Study
from wmcore.paper.testing import TESTS
from wmcore.paper.texts import TextSet, replace_file
from wmcore.schemes import SCHEMES
from wmcore.watermark import Watermark

ALL, LIST = "all", "list"


@dataclass(frozen=True)
class Options:
    """What the command line says; see `wmcore.cli.bench`."""

    model: str
    sources: dict[str, str]
    folder: Path
    size: Size
    watermark: Path | None
    attacks: tuple[str, ...]
    modules: tuple[str, ...]
    processes: int | None
    device: str
    seed: int

    def study(self) -> Study:
        return Study(
            folder=self.folder,
            model=self.model,
            sources=self.sources,
            seed=self.seed,
            batch_size=self.size.batch_size,
            device=self.device,
            watermark=self.watermark,
            modules=self.modules,
        )


def size_named(quick: bool, paper: bool) -> Size:
    if quick and paper:
        raise WatermarkError("--quick and --paper are given: leave one of them out")
    return SIZES["quick" if quick else "paper" if paper else "default"]


@dataclass(frozen=True)
class Plan:
    """One experiment of one run: its points, and texts without a test."""

    name: str
    experiment: Experiment
    points: list[Point]
    texts: list[tuple[TextSet, int]]


def run(name: str, options: Options, note: Callable[[str], object]) -> None:
    """Run an experiment, all of them, or say what there is.

    Raises
    ------
    WatermarkError
        For a name that is not known, a source that is missing or cannot be read, a model that cannot be loaded.
    """
    study = options.study()
    study.begin()
    if name == LIST:
        plans = [plan(one, options, study) for one in possible(study)]
        estimates.show(study, plans, workers(options))
        return
    chosen = possible(study) if name == ALL else [name]
    unknown = [one for one in chosen if one not in EXPERIMENTS]
    if unknown:
        raise WatermarkError(
            f"experiment {name!r} is not known: use one of {', '.join(EXPERIMENTS)}, all, or list"
        )
    for attack in options.attacks:
        attack_of(attack)
    if name == ALL:
        lacking = [n for n in chosen if not set(EXPERIMENTS[n].needs) <= options.sources.keys()]
        for one in lacking:
            needs = " and ".join(f"--{kind}" for kind in EXPERIMENTS[one].needs)
            note(f"{one}: not run, it needs {needs}")
        chosen = [n for n in chosen if n not in lacking]
    for one in chosen:
        for kind in EXPERIMENTS[one].needs:
            study.source(kind)
    plans = [plan(one, options, study) for one in chosen]
    start = time.monotonic()
    runner = Runner(study, workers(options), note)
    outcome = runner.run(
        (point for one in plans for point in one.points),
        (pair for one in plans for pair in one.texts),
    )
    for one in plans:
        finish(one, study, options, outcome)
        note(f"{one.name}: {stem_of(study, one.name, options.size, options.attacks)}.md")
    note(f"{len(plans)} experiments in {(time.monotonic() - start) / 60:.1f} minutes")


def possible(study: Study) -> list[str]:
    """The experiments that can be asked for: under a watermark file, not those over key lengths."""
    return [n for n, e in EXPERIMENTS.items() if study.mark is None or not e.varies_key_length]


def plan(name: str, options: Options, study: Study) -> Plan:
    """What an experiment asks for; under a watermark file, of its sampler and key length alone."""
    experiment = EXPERIMENTS[name]
    mark = study.mark
    if mark is not None and experiment.varies_key_length:
        raise WatermarkError(
            f"experiment {name!r} needs keys of several lengths: leave --watermark out"
        )

    def taken(texts: TextSet) -> bool:
        return mark is None or not texts.how.key_sequence or texts.how.family == mark.sampler

    def under(texts: TextSet) -> TextSet:
        return texts if mark is None else replace(texts, key_length=mark.key_length)

    attacks = options.attacks or tuple(grids.text_attacks())
    points = [
        replace(point, texts=under(point.texts))
        for point in experiment.points(options.size, attacks)
        if taken(point.texts) and _tested(point, mark)
    ]
    texts = [(under(texts), n) for texts, n in experiment.texts(options.size) if taken(texts)]
    return Plan(name, experiment, list(dict.fromkeys(points)), texts)


def _tested(point: Point, mark: Watermark | None) -> bool:
    """Whether a test is one for the texts of a watermark, or not for a key sequence at all."""
    family = TESTS[point.test].family
    samplers = {scheme.sampler for scheme in SCHEMES.values()}
    return mark is None or family == mark.sampler or family not in samplers


def finish(one: Plan, study: Study, options: Options, outcome: Outcome) -> None:
    """Measure what is measured alone, and write the results of an experiment."""
    stem = stem_of(study, one.name, options.size, options.attacks)
    stem.parent.mkdir(parents=True, exist_ok=True)
    if one.experiment.alone is not None and not stem.with_suffix(".json").exists():
        found = _alone(one.experiment.alone, study, options)
        replace_file(stem.with_suffix(".json"), (json.dumps(found, indent=1) + "\n").encode())
    done = [point for point in one.points if point.texts not in outcome.unavailable]
    rows = [row for point in done for row in rows_of(study, point)]
    if rows:
        write_rows(stem.with_suffix(".parquet"), rows)
    lost = dict.fromkeys(
        f"attack {point.texts.attack}: {outcome.unavailable[point.texts]}"
        for point in one.points
        if point.texts in outcome.unavailable
    )
    if rows or not one.points:
        one.experiment.show(Findings(study, options.size, rows, list(lost), stem))


def _alone(measure: Callable[[Study, Size], Any], study: Study, options: Options) -> Any:
    """In a process of its own, while no other works."""
    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=begin, initargs=(study, 1)
    ) as pool:
        return pool.submit(measure, study, options.size).result()


def workers(options: Options) -> int:
    """How many processes work at once."""
    if options.processes is not None:
        return options.processes
    return available() if options.device == "cpu" else 1


def stem_of(study: Study, name: str, size: Size, attacks: tuple[str, ...] = ()) -> Path:
    """Where the results of an experiment are: a folder for each size, model, watermark and choice of attacks."""
    parts = [study.model]
    if study.mark is not None:
        parts.append(study.mark.fingerprint)
    if study.seed != 1:
        parts.append(f"seed {study.seed}")
    folder = " ".join([*parts, *attacks])
    return study.folder / "results" / size.name / re.sub(r"[^\w.]+", "-", folder).strip("-") / name
