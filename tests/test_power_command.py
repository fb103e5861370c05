"""`wmcore plan`: table, JSON, picture, and one clear line for every mistake."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import one_line

SMALL = ("--simulations", 6, "--resamples", 99, "--key-length", 40, "--lengths", "5,10,20")


EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "sampled.jsonl"


@pytest.fixture
def sampled(tmp_path):
    """A file of six texts of high entropy."""
    rng = np.random.default_rng(1)
    with (tmp_path / "sampled.jsonl").open("w") as file:
        for _ in range(6):
            record = {"tokens": rng.integers(900, size=25).tolist(), "logprobs": [-2.5] * 25}
            file.write(json.dumps(record) + "\n")
    return "sampled.jsonl"


def test_table(wm, sampled):
    code, out, err = wm("plan", sampled, *SMALL, "--scheme", "exp", "--scheme", "exp-free")
    assert code == 0, err
    assert "exp, n = 40" in out
    assert "exp-free, score log, n = 40" in out
    assert "> 20" in out
    assert "6 texts, 150 tokens of 2.50 nats" in err
    assert "must be those after temperature and top-p" in err  # there are no top_logprobs to tell


def test_the_example(wm):
    code, out, err = wm(
        "plan", EXAMPLE, "--simulations", 8, "--resamples", 99, "--lengths", "40,90"
    )
    assert code == 0, err
    assert "exp-free, score log, n = 256" in out
    assert "32 texts" in err
    assert "could not be used" not in err


def test_json_and_picture(wm, sampled, tmp_path):
    pytest.importorskip("matplotlib")
    code, out, err = wm("plan", sampled, *SMALL, "--json", "--plot", "plan.png")
    assert code == 0, err
    result = json.loads(out)
    (setting,) = result["settings"]
    assert setting["scheme"] == "exp-free"
    assert [one["rate"] for one in setting["edited"]] == [0, 0.1, 0.3]
    clean = setting["edited"][0]["levels"][0]
    assert clean["level"] == 0.01
    assert clean["curve"]["lengths"] == [5, 10, 20]
    assert clean["curve"]["rate"][-1] >= 0.5  # a gain of 1.8 nats for each of 20 tokens
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_the_models_texts_are_kept(wm, tmp_path, monkeypatch):
    import tiny

    model = tiny.llama(60)
    monkeypatch.setattr("wmcore.models.load_model", lambda _: (model, tiny.words(60)))
    (tmp_path / "p.jsonl").write_text('{"prompt": "w1 w2"}\n{"prompt": "w3"}\n')
    options = ("--max-new-tokens", 20, "--samples", 2, "--scheme", "its", *SMALL)
    code, out, err = wm("plan", "--prompts", "p.jsonl", *options, "--json", "-o", "kept.jsonl")
    assert code == 0, err
    assert len((tmp_path / "kept.jsonl").read_text().splitlines()) == 4
    again = wm("plan", "kept.jsonl", "--vocab-size", 60, "--scheme", "its", *SMALL, "--json")[1]
    assert "must be those after" not in err
    first, second = json.loads(out), json.loads(again)
    assert first["tokens"] == second["tokens"] == 80
    assert first["entropy"] == pytest.approx(second["entropy"], abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either FILES or --prompts"),
        (("sampled.jsonl", "--prompts", "p.jsonl"), "give either FILES or --prompts"),
        (("sampled.jsonl", "-o", "x.jsonl"), "--output keeps what a model writes"),
        (("--prompts", "p.jsonl", "-o", "-"), "--output -: give the name of a file"),
        (("sampled.jsonl", "--lengths", "many"), "--lengths many: give numbers"),
        (("sampled.jsonl", "--plot", "plan.txt"), r"--plot plan\.txt: end its name"),
        (("sampled.jsonl", "--plot", "sampled.jsonl"), "the file exists"),
        (("sampled.jsonl", "--scheme", "magic"), "magic"),
        (("letter.txt",), r"letter\.txt: texts with log-probabilities are records"),
        (("none.jsonl",), r"none\.jsonl: No such file"),
    ],
)
def test_mistakes(wm, sampled, arguments, message):
    one_line(wm("plan", *arguments), message)


def test_records_that_cannot_be_used_are_named(wm, sampled, tmp_path):
    with (tmp_path / sampled).open("a") as file:
        file.write('{"text": "nothing else"}\n')
    code, _, err = wm("plan", sampled, *SMALL)
    assert code == 0
    assert "sampled.jsonl:7: no log-probabilities" in err
    (tmp_path / "bad.jsonl").write_text("{}\n")
    code, _, err = wm("plan", "bad.jsonl")
    assert code == 2
    assert "see docs/plan.md" in err
