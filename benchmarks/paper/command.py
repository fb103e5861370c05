"""What ``wmcore bench`` does: which experiments, in which folder, and what is said meanwhile."""

import json
import re
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from wmcore import whole_file
from wmcore.errors import WatermarkError
from wmcore.paper import cost, estimates, grids
from wmcore.paper.attacks import attack_of
from wmcore.paper.experiments import EXPERIMENTS, Experiment, Findings
from wmcore.paper.points import Point, merged, point_under, rows_of
from wmcore.paper.report import write_rows
from wmcore.paper.run import Outcome, Runner, available, begin, ended_early
from wmcore.paper.sizes import SIZES, Size
from wmcore.paper.study import Study, chats
from wmcore.paper.texts import TextSet, texts_under

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
    for attack in options.attacks:
        if attack_of(attack).texts is None:
            raise WatermarkError(
                f"--attack {attack}: it changes no texts; name one of {', '.join(grids.text_attacks())}, or "
                "module:function"
            )
    plans = [plan(one, options, study) for one in chosen(name, study, note)]
    start = time.monotonic()
    runner = Runner(study, workers(options), options.processes or available(), note)
    outcome = runner.run(
        (point for one in plans for point in one.points),
        (pair for one in plans for pair in one.texts),
    )
    for one in plans:
        shown = finish(one, study, options, outcome)
        note(f"{one.name}: {shown or 'nothing to show, as nothing of it can be run here'}")
    note(f"{len(plans)} experiments in {(time.monotonic() - start) / 60:.1f} minutes")


def chosen(name: str, study: Study, note: Callable[[str], object]) -> list[str]:
    """The experiments of a name; of "all" those whose prompts are given, and a note of each of the others."""
    if name != ALL:
        if name not in EXPERIMENTS:
            raise WatermarkError(
                f"experiment {name!r} is not known: use one of {', '.join(EXPERIMENTS)}, all, or list"
            )
        for kind in EXPERIMENTS[name].needs:
            study.source(kind)
        return [name]
    found = []
    for one, experiment in EXPERIMENTS.items():
        lacking = [f"--{kind}" for kind in experiment.needs if kind not in study.sources]
        if one not in possible(study):
            note(f"{one}: not run, it needs keys of several lengths: leave --watermark out")
        elif lacking:
            note(f"{one}: not run, it needs {' and '.join(lacking)}")
        elif "instructions" in experiment.needs and not chats(study.model):
            note(f"{one}: not run, the model has no chat template; take an instruct model")
        else:
            found.append(one)
    if not found:
        raise WatermarkError(
            "no experiment has its prompts: give --news FILE or --instructions FILE"
        )
    return found


def possible(study: Study) -> list[str]:
    """The experiments that can be asked for: under a watermark file, not those over key lengths."""
    return [n for n, e in EXPERIMENTS.items() if study.mark is None or not e.varies_key_length]


def plan(name: str, options: Options, study: Study) -> Plan:
    """What an experiment asks for; under a watermark file, of its sampler and key length alone."""
    experiment = EXPERIMENTS[name]
    if study.mark is not None and experiment.varies_key_length:
        raise WatermarkError(
            f"experiment {name!r} needs keys of several lengths: leave --watermark out"
        )
    attacks = options.attacks or tuple(grids.text_attacks())
    points = [point_under(study, point) for point in experiment.points(options.size, attacks)]
    texts = [(texts_under(study, texts), n) for texts, n in experiment.texts(options.size)]
    return Plan(
        name,
        experiment,
        merged(point for point in points if point is not None),
        [(one, n) for one, n in texts if one is not None],
    )


def finish(one: Plan, study: Study, options: Options, outcome: Outcome) -> Path | None:
    """Measure what is measured alone, and write the results of an experiment; where its table is, if there is one."""
    stem = stem_of(study, one.name, options.size, options.attacks)
    stem.parent.mkdir(parents=True, exist_ok=True)
    if one.experiment.alone is not None and not _is_measured(stem, study, options.size):
        found = _alone(one.experiment.alone, study, options)
        whole_file.write(stem.with_suffix(".json"), (json.dumps(found, indent=1) + "\n").encode())
    done = [point for point in one.points if point.texts not in outcome.unavailable]
    rows = [row for point in done for row in rows_of(study, point)]
    if rows:
        write_rows(stem.with_suffix(".parquet"), rows)
    lost = dict.fromkeys(
        f"attack {point.texts.attack}: {outcome.unavailable[point.texts]}"
        for point in one.points
        if point.texts in outcome.unavailable
    )
    if not rows and not one.texts:
        return None
    one.experiment.show(Findings(study, options.size, rows, list(lost), stem))
    return stem.with_suffix(".md")


def _is_measured(stem: Path, study: Study, size: Size) -> bool:
    """Whether what is measured alone is there, and of what it is now."""
    path = stem.with_suffix(".json")
    if not path.exists():
        return False
    found = json.loads(path.read_text(encoding="utf-8"))
    return bool(found.get("of") == cost.subject(study, size))


def _alone(measure: Callable[[Study, Size], Any], study: Study, options: Options) -> Any:
    """In a process of its own, while no other works."""
    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=begin, initargs=(study, 1)
    ) as pool:
        try:
            return pool.submit(measure, study, options.size).result()
        except BrokenProcessPool:
            raise ended_early() from None


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
