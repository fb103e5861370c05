"""The experiments' runner and command: one small run of everything, which is killed on its way and goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import chain
from math import log, sqrt
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("matplotlib")

import tiny_study
from tiny_study import SIZE, SMALLER, make, mark_file, options

from wmcore.errors import WatermarkError
from wmcore.paper import agreement, attacks, command, cost, estimates, report, run
from wmcore.paper.attacks import ATTACKS
from wmcore.paper.contract import Attack, Method
from wmcore.paper.experiments import EXPERIMENTS
from wmcore.paper.methods import METHODS
from wmcore.paper.points import Point, point_path
from wmcore.paper.report import read_rows
from wmcore.paper.testing import TESTS
from wmcore.paper.texts import TextSet, part_path

pytestmark = pytest.mark.usefixtures("one_torch_thread")

AT_KILL = 4
"""Files of texts after which the run is killed."""


@pytest.fixture(scope="module")
def everything(tiny_model, tmp_path_factory):
    """`all` in a process that is killed, then again in this one: what was there before, and what there is."""
    place = tmp_path_factory.mktemp("run")
    (place / "mine.py").write_text(tiny_study.ATTACKS, encoding="utf-8")
    wanted = options(*tiny_model, place / "bench", attacks=tiny_study.WANTED)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        at_first, left = listed(wanted), killed_run(*tiny_model, wanted.folder, place)
        notes, before = [], stamps(wanted.folder)
        command.run("all", wanted, notes.append)
        yield SimpleNamespace(
            options=wanted,
            study=wanted.study(),
            notes=notes,
            left=left,
            before=before,
            listed=(at_first, listed(wanted)),
            plans=[command.plan(name, wanted, wanted.study()) for name in EXPERIMENTS],
        )
    attacks.attack_of.cache_clear()


def stem(everything, name):
    """Where the results of an experiment are."""
    (path,) = everything.options.folder.glob(f"results/tiny/*/{name}.md")
    return path.with_suffix("")


def killed_run(model, sources, folder, place):
    """Start a run and kill it when some texts are written; the processes that it had, and those that are left."""
    program = [sys.executable, tiny_study.__file__, model, *sources.values(), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(place), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(program, env=environment, stdout=subprocess.DEVNULL) as process:
        limit = time.monotonic() + 300
        while len(list(folder.glob("texts/*/*.parquet"))) < AT_KILL:
            assert process.poll() is None, "the run ended before it was killed"
            assert time.monotonic() < limit
            time.sleep(0.01)
        children = descendants(process.pid)
        process.send_signal(signal.SIGKILL)
    limit = time.monotonic() + 20
    while any(map(alive, children)) and time.monotonic() < limit:
        time.sleep(0.1)
    return children, [child for child in children if alive(child)]


def descendants(pid):
    """Numbers of the processes that a process started, and of those that these started; none without /proc."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    children = [int(one) for one in listed.read_text().split()] if listed.exists() else []
    return children + [d for child in children for d in descendants(child)]


def alive(pid):
    """Whether a process runs; one that waits to be buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def stamps(folder):
    """{file: (inode, time of its last change, content)} of texts and tests."""
    found = chain(folder.glob("texts/*/*.parquet"), folder.glob("tests/*/*.parquet"))
    return {p: (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes()) for p in found}


def listed(wanted):
    """{experiment: the rest of its row of `list`}."""
    tables = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimates, "show_table", lambda console, table: tables.append(table))
        command.run("list", wanted, print)
    columns = [list(column.cells) for column in tables[0].columns]
    return {name: cells for name, *cells in zip(*columns, strict=True)}


# A run that was killed


@pytest.mark.slow
def test_a_killed_run_leaves_no_process_that_works_on(everything):
    had, left = everything.left
    assert left == []
    if Path("/proc/self/task").exists():
        assert len(had) >= 2


@pytest.mark.slow
def test_what_was_there_is_not_made_again(everything):
    after = stamps(everything.options.folder)
    assert AT_KILL <= len(everything.before) < len(after) / 2
    assert {path: after[path] for path in everything.before} == everything.before


@pytest.mark.slow
def test_a_killed_run_ends_with_what_another_would_have_found(everything, tmp_path):
    other = replace(everything.options, folder=tmp_path / "other").study()
    counts = {}
    for plan in everything.plans:
        counts |= run.text_counts(plan.points, plan.texts)
    first = [t for t in counts if part_path(everything.study, t, 0) in everything.before]
    assert len(first) >= 2
    last = [t for t in counts if t not in first and t.method == "exp"][-2:]
    attacked = [t for t in counts if t.attack == "mine:shorten" and t.method == "exp"][:1]
    some = first[:3] + last + attacked
    points = [p for plan in everything.plans for p in plan.points if p.texts in some][::7]
    assert len(points) > 10
    make(other, points, [(texts, 5) for texts in some])
    compared = Counter()
    for path, (_, _, content) in stamps(other.folder).items():
        place = path.relative_to(other.folder)
        assert (everything.options.folder / place).read_bytes() == content, place
        compared[place.parts[0]] += 1
    assert compared["texts"] >= len(some)
    assert compared["tests"] == len(set(points))


# What a run gives


def available(everything, plan):
    return [p for p in plan.points if p.texts.attack in ("none", "mine:shorten")]


@pytest.mark.slow
def test_each_experiment_has_its_table_its_plot_and_its_rows(everything):
    assert [plan.name for plan in everything.plans] == list(EXPERIMENTS)
    for plan in everything.plans:
        place = stem(everything, plan.name)
        assert f"{plan.name}: {place}.md" in everything.notes
        table = place.with_suffix(".md").read_text(encoding="utf-8")
        assert table.startswith("| ")
        assert "nan" not in table
        assert place.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        assert "</svg>" in place.with_suffix(".svg").read_text(encoding="utf-8")
        if not plan.points:
            continue
        rows = read_rows(place.with_suffix(".parquet"))
        points = available(everything, plan)
        # Of people there are as many texts as are asked for, of questions as many as there are.
        most = {"news": 60, "instructions": tiny_study.QUESTIONS}
        assert len(rows) == sum(min(p.count, most[p.texts.kind]) for p in points)
        made = chain.from_iterable(read_rows(point_path(everything.study, p)) for p in points)
        assert Counter(map(repr, rows)) == Counter(map(repr, made))
        assert all(0 < row["p"] <= 1 or np.isnan(row["p"]) for row in rows)
        assert all(row["tokens"] <= (row["cut"] or 60) for row in rows)


@pytest.mark.slow
def test_texts_that_are_looked_at_without_a_test_are_rows_too(everything):
    (plan,) = (plan for plan in everything.plans if plan.name == "distortion")
    rows = read_rows(stem(everything, "distortion").with_suffix(".parquet"))
    found = Counter((row["method"], row["test"]) for row in rows)
    assert found == {(texts.method, "none"): count for texts, count in plan.texts}
    assert np.isnan([row["p"] for row in rows]).all()
    assert all(row["nll"] > 0 for row in rows)


@pytest.mark.slow
def test_what_is_kept_as_json_can_be_read_anywhere(everything):
    found = sorted(everything.options.folder.glob("results/tiny/*/*.json"))
    assert [path.stem for path in found] == ["calibration", "cost", "distortion", "lengths"]
    for path in found:
        json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)


MISSING = {
    "french": "transformers cannot load it",
    "mine:lose": "attack 'mine:lose' gave 0 texts for 1: it must give one for each",
    "mine:fail": "attack 'mine:fail' failed with KeyError ('no such word'): mend it and run again",
}


@pytest.mark.slow
def test_attacks_that_cannot_be_run_are_said_and_the_rest_is_there(everything):
    for name in ("paraphrase", "instructions"):
        table = stem(everything, name).with_suffix(".md").read_text(encoding="utf-8")
        told = [line for line in table.splitlines() if line.startswith("Not run: ")]
        assert len(told) == len(MISSING)
        rows = read_rows(stem(everything, name).with_suffix(".parquet"))
        assert {row["attack"] for row in rows} == {"none", "mine:shorten"}
        for attack, why in MISSING.items():
            (line,) = (line for line in told if line.startswith(f"Not run: attack {attack}: "))
            assert why in line
            (noted,) = (n for n in everything.notes if n.startswith(f"not run: attack {attack}: "))
            assert why in noted
    assert "shorten" in table
    for name in ("lengths", "substitution"):
        assert "Not run" not in stem(everything, name).with_suffix(".md").read_text("utf-8")


@pytest.mark.slow
def test_a_users_attack_did_its_work(everything):
    sets = TextSet("news", "exp", new_tokens=SIZE.new_tokens)
    written, shortened = (
        run.load(everything.study, one, 5) for one in (sets, replace(sets, attack="mine:shorten"))
    )
    for a, b in zip(written, shortened, strict=True):
        assert b.text.split() == a.text.split()[:-3]
        assert b.tokens.tolist() == a.tokens.tolist()


@pytest.mark.slow
def test_list_says_what_is_done(everything):
    first, last = everything.listed
    assert list(first) == list(last) == list(EXPERIMENTS)
    for name, (title, _, _, done, minutes) in first.items():
        assert title == EXPERIMENTS[name].title
        assert done == "0%"
        assert float(minutes) >= 0
    assert any(float(row[-1]) > 0 for row in first.values())
    for name, (_, _, _, done, minutes) in last.items():
        if name in ("paraphrase", "instructions"):
            assert 20 < int(done[:-1]) < 100
        else:
            assert (done, minutes) == ("100%", "0.0")


@pytest.mark.slow
def test_list_needs_no_prompts_and_outlives_a_broken_line_of_timings(everything, tmp_path):
    wanted = options(everything.options.model, {}, tmp_path)
    rows = listed(wanted)
    assert rows["sweep"][-1] == "give --instructions, --news"
    assert rows["lengths"][-1] == "give --news"
    study = wanted.study()
    lines = ['{"work": "test", "name": "exp", "size": 10, "seconds": 5.0}', '{"work": "te']
    run.timings_path(study).write_text("\n".join(lines), encoding="utf-8")
    assert estimates.Speeds(study).test("exp") == 0.5


@pytest.mark.slow
def test_a_second_plot_needs_no_model_and_is_the_same(everything, monkeypatch):
    found = sorted(stem(everything, "substitution").parent.glob("substitution.*"))
    assert len(found) == 4
    before = {path: path.read_bytes() for path in found}
    for path in found:
        path.unlink()
    monkeypatch.setattr(run.ProcessPoolExecutor, "submit", pytest.fail)
    command.run("substitution", everything.options, print)
    assert {path: path.read_bytes() for path in found} == before


# Statistics


@pytest.mark.slow
def test_p_of_people_is_uniform_under_every_test(everything):
    """Dvoretzky, Kiefer, Wolfowitz; Massart: farther than this once in 10,000 times. Ties put p up, never down."""
    rows = read_rows(stem(everything, "lengths").with_suffix(".parquet"))
    people = [row for row in rows if row["method"] == "human" and row["cut"] == SIZE.cuts[0]]
    found = {test: np.sort([r["p"] for r in people if r["test"] == test]) for test in TESTS}
    found = {test: p for test, p in found.items() if len(p)}
    assert {TESTS[test].family for test in found} == {test.family for test in TESTS.values()}
    for test, p in found.items():
        assert len(p) == SIZE.nulls
        assert np.isfinite(p).all()
        levels = np.arange(1, 101) / 100
        share = np.searchsorted(p, levels + 1e-9) / len(p)
        far = sqrt(log(2 / 1e-4) / (2 * len(p)))
        assert (share - levels).max() < far, test
        if TESTS[test].family == "exp":  # costs that hardly ever tie
            assert (levels - share).max() < far + 0.01, test
    pooled = np.concatenate([p for test, p in found.items() if TESTS[test].family == "exp"])
    assert abs(pooled.mean() - 0.505) < 4 * 0.29 / sqrt(SIZE.nulls)  # as if tests were one


# In one process: what the runner does with trouble


class Inline:
    """A pool that does its work at once, in this process."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def shutdown(self, **_):
        pass

    def submit(self, work, *arguments):
        future = Future()
        try:
            future.set_result(work(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture
def inline(monkeypatch):
    monkeypatch.setattr(run, "ProcessPoolExecutor", Inline)
    monkeypatch.setattr(command, "ProcessPoolExecutor", Inline)


SETS = TextSet("news", "exp", new_tokens=6)
POINT = Point(SETS, "exp", 4, resamples=9, count=12)


@pytest.fixture
def runner(tiny_model, tmp_path, inline):
    """A runner without processes, and its notes."""
    notes = []
    return run.Runner(tiny_study.study(*tiny_model, tmp_path / "s"), 1, 1, notes.append), notes


def test_an_attack_that_fails_on_some_texts_is_left_out_whole(runner, monkeypatch):
    here, notes = runner
    make(here.study, texts=[(SETS, 12)])
    bad = run.load(here.study, SETS, 12)[7].text

    def fail(texts, seed):
        return [None if text == bad else text for text in texts]

    monkeypatch.setitem(ATTACKS, "picky", Attack("picky", texts=fail))
    attacked = replace(POINT, texts=replace(SETS, attack="picky"))
    why = "attack 'picky' gave a NoneType for a text: it must give strings"
    for _ in range(2):
        assert here.run([attacked, POINT]).unavailable == {attacked.texts: why}
        assert notes.pop() == f"not run: attack picky: {why}"
        assert point_path(here.study, POINT).exists()
        assert not point_path(here.study, attacked).exists()
    ATTACKS["picky"] = Attack("picky", texts=lambda texts, seed: texts)
    attacks.attack_of.cache_clear()
    assert here.run([attacked, POINT]).unavailable == {}
    assert len(read_rows(point_path(here.study, attacked))) == 12


def test_an_attack_is_not_asked_for_no_texts(runner, monkeypatch):
    here, notes = runner

    def fussy(texts, seed):
        assert texts
        return texts

    monkeypatch.setitem(ATTACKS, "fussy", Attack("fussy", texts=fussy))
    point = replace(POINT, texts=replace(SETS, attack="fussy"), count=30)
    assert here.run([point]).unavailable == {}
    assert notes == []
    assert len(read_rows(point_path(here.study, point))) == tiny_study.NEWS


def test_a_damaged_part_ends_a_run_even_where_an_attack_meets_it(runner):
    here, _ = runner
    here.run([POINT])
    path = part_path(here.study, SETS, 1)
    path.write_bytes(path.read_bytes()[:-100])
    run.load.__globals__["_read_part"].cache_clear()
    attacked = replace(POINT, texts=replace(SETS, attack="synonyms-50"))
    for point in (replace(POINT, cut=3), attacked):
        with pytest.raises(WatermarkError, match=f"texts {path}: .* delete the file and run again"):
            here.run([point])
    path.unlink()
    assert here.run([replace(POINT, cut=3)]).unavailable == {}


def test_a_method_that_fails_ends_a_run(runner, monkeypatch):
    def begin(batch):
        raise WatermarkError("no writer today")

    monkeypatch.setitem(METHODS, "lazy", Method("lazy", "exp", begin))
    here, _ = runner
    with pytest.raises(WatermarkError, match="no writer today"):
        here.run([replace(POINT, texts=replace(SETS, method="lazy"))])


def test_a_process_that_is_ended_from_outside_is_said_so(runner, monkeypatch):
    def broken(tasks):
        raise BrokenProcessPool("a process was terminated abruptly")

    monkeypatch.setattr(run, "as_completed", broken)
    with pytest.raises(WatermarkError, match=r"out of memory.*: run the same again"):
        runner[0].run([POINT])


def test_points_of_two_experiments_are_made_for_the_larger_count(runner):
    here, _ = runner
    here.run([replace(POINT, count=3), replace(POINT, count=12)])
    assert len(read_rows(point_path(here.study, POINT))) == 12


# What users add


ADDED = """
from dataclasses import replace

import numpy as np

from wmcore.paper.attacks import ATTACKS
from wmcore.paper.contract import Attack, Method, Test
from wmcore.paper.experiments import EXPERIMENTS, Experiment
from wmcore.paper.methods import METHODS
from wmcore.paper.points import Point
from wmcore.paper.testing import TESTS
from wmcore.paper.texts import TextSet


def greedy(batch):
    return lambda ids, logits, step: logits.argmax(-1)


def count(texts, secrets, trial):
    return np.array([1 / len(text) for text in texts])


def halve(texts, seed):
    return [" ".join(text.split()[::2]) for text in texts]


def points(size, attacks):
    for attack in ("none", "halve"):
        texts = TextSet("news", "greedy", new_tokens=8, attack=attack)
        yield Point(texts, "count", count=size.count)


def show(findings):
    shares = {row["attack"]: 1 / row["p"] for row in findings.rows}
    findings.write(f"{len(findings.rows)} rows, {shares}\\n")


METHODS["greedy"] = Method("greedy", "most", greedy)
TESTS["count"] = Test("count", "most", count)
ATTACKS["halve"] = Attack("every other word", texts=halve)
EXPERIMENTS["mine"] = Experiment("of mine", points, show)
"""


@pytest.fixture
def tables():
    """The tables, put back afterwards."""
    kept = [(table, dict(table)) for table in (METHODS, TESTS, ATTACKS, EXPERIMENTS)]
    yield
    for table, entries in kept:
        table.clear()
        table.update(entries)
    sys.modules.pop("added", None)


@pytest.mark.slow
def test_a_module_adds_to_the_tables_of_every_process(tiny_model, tmp_path, monkeypatch, tables):
    (tmp_path / "added.py").write_text(ADDED, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    notes = []
    wanted = options(*tiny_model, tmp_path / "bench", modules=("added",))
    command.run("mine", wanted, notes.append)
    (path,) = tmp_path.glob("bench/results/tiny/*/mine.md")
    assert notes[0] == f"mine: {path}"
    rows = read_rows(path.with_suffix(".parquet"))
    assert [(row["attack"], row["text"]) for row in rows] == [
        (attack, i) for attack in ("none", "halve") for i in range(5)
    ]
    lengths = [row["tokens"] for row in rows]
    assert [row["p"] for row in rows] == [1 / m for m in lengths]
    assert lengths[5:] == [-(-m // 2) for m in lengths[:5]]
    assert path.read_text(encoding="utf-8").startswith("10 rows, ")
    assert "mine" in listed(wanted)


# Under a watermark file


@pytest.fixture
def kept(monkeypatch):
    """An attack that changes nothing, in place of those that ask for models."""
    monkeypatch.setitem(ATTACKS, "kept", Attack("kept", texts=lambda texts, seed: texts))
    return ("kept",)


@pytest.mark.parametrize("scheme", ["exp-edit", "its"])
def test_a_watermark_file_is_what_texts_carry(
    tiny_model, tmp_path, inline, monkeypatch, kept, scheme
):
    mark = mark_file(tmp_path / "mark.json", scheme)
    monkeypatch.setattr(agreement, "CALIBRATED", 99)
    monkeypatch.setattr(cost, "STEPS", 2)
    for plot in ("draw", "bars", "intervals"):  # which are the same whatever texts carry
        monkeypatch.setattr(report, plot, lambda *_, **__: None)
    wanted = options(
        *tiny_model,
        tmp_path / "bench",
        size=replace(SMALLER, new_tokens=34, cuts=(32,), paraphrase_cuts=(8,)),
        watermark=tmp_path / "mark.json",
        attacks=kept,
    )
    notes = []
    command.run("all", wanted, notes.append)
    for name in ("key-lengths", "sweep"):
        why = "it needs keys of several lengths: leave --watermark out"
        assert f"{name}: not run, {why}" in notes
    results = tmp_path / "bench" / "results" / "tiny"
    assert all(mark.fingerprint in path.name for path in results.glob("*"))
    made = {path.stem for path in results.glob("*/*.md")}
    left_out = {"key-lengths", "sweep"} | ({"entropy"} if scheme == "its" else set())
    assert made == EXPERIMENTS.keys() - left_out
    rows = [
        row
        for path in results.glob("*/*.parquet")
        for row in read_rows(path)
        if row["test"] != "none"
    ]
    others = {"human", "plain", "synthid", "kgw-1", "kgw-1.5", "kgw-2"}
    assert {row["method"] for row in rows} == {mark.sampler, *others}
    assert {row["key_length"] for row in rows} == {40}
    families = {TESTS[row["test"]].family for row in rows}
    assert families == {mark.sampler, "kgw", "synthid"}
    own = [row for row in rows if row["method"] == row["test"] == mark.sampler]
    found = [row["p"] for row in own if row["cut"] == 32 and row["attack"] == "none"]
    assert len(found) >= 6
    # Three texts. Without the mark 3 in 100 such tests pass.
    assert np.exp(np.mean(np.log(found))) <= 0.1
    (path,) = results.glob("*/lengths.json")
    compared = json.loads(path.read_text(encoding="utf-8"))["calibrated"]
    assert {TESTS[one["test"]].family for one in compared} == {mark.sampler}
    assert all(1 <= one["texts"] <= 3 for one in compared)  # some lack a token that vanished
    assert listed(wanted)["lengths"][-2:] == ["100%", "0.0"]


def test_texts_with_tokens_that_a_watermark_does_not_know_are_told(tiny_model, tmp_path, inline):
    mark_file(tmp_path / "mark.json", "exp", vocab_size=9)
    folder = tmp_path / "bench"
    wanted = options(*tiny_model, folder, size=SMALLER, watermark=tmp_path / "mark.json")
    command.run("substitution", wanted, print)
    (path,) = folder.glob("results/tiny/*/substitution.md")
    assert "a token that the watermark does not know" in path.read_text(encoding="utf-8")
    rows = [row for row in read_rows(path.with_suffix(".parquet")) if row["test"] == "exp"]
    unknown = [row["attack"] for row in rows if np.isnan(row["p"])]
    assert set(unknown) == {"substitute"}


@pytest.mark.parametrize("name", ["key-lengths", "sweep"])
def test_experiments_over_key_lengths_refuse_a_watermark(tiny_model, tmp_path, name):
    mark_file(tmp_path / "mark.json", "exp")
    wanted = options(*tiny_model, tmp_path / "bench", watermark=tmp_path / "mark.json")
    with pytest.raises(WatermarkError, match=f"'{name}' needs keys of several lengths: leave --wa"):
        command.run(name, wanted, print)
    assert name not in listed(wanted)
