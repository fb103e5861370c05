"""The whole way with the real model: keygen, generate, detect; the demo."""

import io
import json

import pytest

from wmcore.cli import demo
from wmcore.cli.main import main


def command(capsys, *arguments) -> str:
    """Standard output of a command that must succeed."""
    with pytest.raises(SystemExit) as done:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    assert done.value.code == 0, err
    return out


@pytest.mark.slow
@pytest.mark.model
def test_files_from_keygen_to_detect(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with open("prompts.jsonl", "w") as file:
        for prompt in ("The harbour", "Last week, the mayor of the old town"):
            file.write(json.dumps({"prompt": prompt}) + "\n")
    command(capsys, "keygen", "--scheme", "exp-edit", "--model", "smollm2", "-o", "mark.json")
    given = ("-w", "mark.json", "--prompts", "prompts.jsonl", "-o", "out.jsonl")
    command(capsys, "generate", *given, "--max-new-tokens", 40, "--seed", 1)

    with open("out.jsonl", encoding="utf-8") as file:
        made = sorted(map(json.loads, file), key=lambda record: record["index"])
    assert [record["prompt"] for record in made] == [
        "The harbour",
        "Last week, the mayor of the old town",
    ]
    assert all(0 < len(record["tokens"]) <= 40 and 0 <= record["shift"] < 256 for record in made)

    for fields in ([], ["--tokens-field", "tokens"]):
        out = command(capsys, "detect", "-w", "mark.json", "--json", *fields, "out.jsonl")
        found = [json.loads(line) for line in out.splitlines()]
        assert [d["error"] for d in found] == [None, None]
        # 40 tokens at temperature 1 carry far more than is needed for the least p of 999 resamples.
        assert all(d["p_value"] <= 0.01 for d in found)


@pytest.mark.model
@pytest.mark.slow
def test_demo_finds_the_watermark(monkeypatch, capsys):
    every = demo.openings()
    monkeypatch.setattr(demo, "openings", lambda: [every[0], every[-1]])
    page, stages = io.StringIO(), []
    trials = demo.run(("exp", "its-edit"), page, seed=1, stage=stages.append, max_new_tokens=80)
    assert [t.scheme for t in trials] == ["exp", "exp", "its-edit", "its-edit"]
    # its needs more tokens than these for certainty (the key is a new one at every run)
    assert all(t.detections[1].p_value <= 0.01 for t in trials if t.scheme == "exp")
    assert all(0 < d.p_value <= 1 for t in trials for d in t.detections)
    assert len(stages) == 6
    out = capsys.readouterr().out
    assert out.count("its-edit") == 3
    assert page.getvalue().count("<details") == 4
