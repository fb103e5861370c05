"""`wmcore bench` as a command: what it takes, which mistakes it tells, what it leaves out, where results go."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from commands import one_line

pytest.importorskip("pyarrow")
pytest.importorskip("matplotlib")

from tiny_study import SIZE, SMALLER, mark_file, options

from wmcore.paper import command, grids, run
from wmcore.paper.experiments import EXPERIMENTS
from wmcore.paper.methods import METHODS
from wmcore.paper.sizes import SIZES
from wmcore.paper.testing import TESTS


def test_the_command_says_what_to_run(wm, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(command, "run", lambda *arguments: ran.append(arguments[:2]))
    assert wm("bench", "lengths", "--news", "a.jsonl")[0] == 0
    expected = options(
        "smollm2", {"news": "a.jsonl"}, "wmcore-bench", size=SIZES["default"], processes=None
    )
    assert ran.pop() == ("lengths", expected)
    line = (
        "bench all --model m --instructions q.json:body -o there --quick -w mark.json --attack a:b --attack french"
        " --with c --with d --processes 3 --device cuda --seed 5"
    )
    assert wm(*line.split())[0] == 0
    expected = options(
        "m",
        {"instructions": "q.json:body"},
        "there",
        size=SIZES["quick"],
        watermark=Path("mark.json"),
        attacks=("a:b", "french"),
        modules=("c", "d"),
        processes=3,
        device="cuda",
        seed=5,
    )
    assert ran.pop() == ("all", expected)
    wm("bench", "lengths", "--paper")
    assert ran.pop()[1].size == SIZES["paper"]


WRONG = {
    "nonsense": "experiment 'nonsense' is not known: use one of lengths, .*entropy, all, or list$",
    "lengths": "this experiment needs news: give --news FILE$",
    "sweep --news news.jsonl": "this experiment needs instructions: give --instructions FILE$",
    "lengths --quick --paper": "--quick and --paper are given: leave one of them out$",
    "lengths --news none.jsonl": r"--news none.jsonl: it cannot be read \(No such file",
    "lengths --news news.jsonl:title": "--news news.jsonl:title: record 1: .*title",
    "lengths --news short.jsonl": "short.jsonl: it has no text of at least 230 tokens; give anoth",
    "lengths --news news.jsonl -w none.json": "none.json",
    "lengths --news news.jsonl --with no_such_module": "--with no_such_module: cannot be imported",
    "lengths --news news.jsonl --with broken": r"--with broken: cannot be imported \(invalid syntax",
    "paraphrase --news news.jsonl --attack thing": "attack 'thing' is not known: use one of none, ",
    "paraphrase --news news.jsonl --attack no_such:thing": "'no_such:thing': it cannot be imported",
    "paraphrase --news news.jsonl --attack json:thing": "'json:thing': it cannot be imported",
    "paraphrase --news news.jsonl --attack broken:thing": "'broken:thing': it cannot be imported",
    "paraphrase --news news.jsonl --attack substitute": "--attack substitute: it changes no texts",
    "paraphrase --news news.jsonl --attack json:__name__": "is a str: name a function of",
    "lengths --news news.jsonl --processes 0": "--processes",
}


@pytest.mark.parametrize("line", WRONG)
def test_mistakes_are_told_in_one_line_before_any_work(wm, tiny_model, tmp_path, monkeypatch, line):
    model, sources = tiny_model
    (tmp_path / "news.jsonl").write_bytes(Path(sources["news"]).read_bytes())
    (tmp_path / "short.jsonl").write_text('{"text": "w1 w2"}', encoding="utf-8")
    (tmp_path / "broken.py").write_text("def", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(run.ProcessPoolExecutor, "submit", pytest.fail)
    one_line(wm("bench", *line.split(), "--model", model), WRONG[line])
    assert not list(tmp_path.glob("wmcore-bench/*/*/*"))


def test_all_without_any_prompts(wm):
    code, out, err = wm("bench", "all")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].endswith("give --news FILE or --instructions FILE")


def test_all_says_what_it_leaves_out(tiny_model, tmp_path):
    model, sources = tiny_model
    notes = []
    study = options(model, {"news": sources["news"]}, tmp_path).study()
    found = command.chosen("all", study, notes.append)
    asking = ["instructions", "sweep", "entropy"]
    assert found == [name for name in EXPERIMENTS if name not in asking]
    assert notes == [f"{one}: not run, it needs --instructions" for one in asking]


def test_all_leaves_out_questions_where_a_model_takes_none(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "chats", lambda name: False)
    notes = []
    found = command.chosen("all", options(*tiny_model, tmp_path).study(), notes.append)
    assert "lengths" in found
    assert not {"instructions", "sweep", "entropy"} & set(found)
    assert [note.split(": ")[1] for note in notes] == [
        "not run, the model has no chat template; take an instruct model"
    ] * 3


def test_processes_are_as_many_as_cores_but_one_with_a_device(tiny_model, tmp_path):
    wanted = options(*tiny_model, tmp_path, processes=None)
    assert command.workers(wanted) == run.available() >= 1
    assert command.workers(replace(wanted, device="cuda")) == 1
    assert command.workers(replace(wanted, device="cuda", processes=3)) == 3


def test_results_of_other_settings_have_folders_of_their_own(tiny_model, tmp_path):
    mark_file(tmp_path / "mark.json", "exp")
    base = options(*tiny_model, tmp_path)
    others = [
        base,
        replace(base, model=f"{base.model}-2"),
        replace(base, size=SMALLER),
        replace(base, size=replace(SIZE, name="other")),
        replace(base, seed=2),
        replace(base, attacks=("french",)),
        replace(base, watermark=tmp_path / "mark.json"),
    ]
    stems = [command.stem_of(one.study(), "x", one.size, one.attacks) for one in others]
    assert stems[2] == stems[0]
    assert len(set(stems)) == len(stems) - 1


@pytest.mark.parametrize("size", SIZES.values(), ids=lambda size: size.name)
def test_every_size_asks_for_each_point_once_and_for_what_can_be(size, tiny_model, tmp_path):
    wanted = options(*tiny_model, tmp_path, size=size)
    for name in EXPERIMENTS:
        plan = command.plan(name, wanted, wanted.study())
        assert plan.points or plan.texts
        assert len(set(plan.points)) == len(plan.points)
        for point in plan.points:
            assert point.cut is None or point.cut < point.texts.new_tokens
            longest = point.texts.key_length if point.texts.how.key_sequence else point.cut
            if name not in ("key-lengths", "sweep"):
                assert point.cut is None or point.cut <= longest
            assert METHODS[point.texts.method].family in (None, TESTS[point.test].family)
    assert size.nulls >= size.count  # people's texts are those of smaller counts, too
    assert grids.BUFFER > 0


def test_the_module_is_the_command():
    root = Path(__file__).resolve().parent.parent
    program = [sys.executable, "-m", "benchmarks.paper", "lengths", "--quick", "--paper"]
    done = subprocess.run(program, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "--quick and --paper are given: leave one of them out" in done.stderr
