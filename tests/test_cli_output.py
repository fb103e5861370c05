"""What commands write: nothing that is there is lost, unless that is asked for and there is something in its place."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import V, one_line, rows

from wmcore.errors import WatermarkError

PROMPT = b'{"prompt": "abc"}\n'


@pytest.fixture
def model(monkeypatch, letters):
    """A model whose texts are its prompts again; `fails` says when to fail: at loading, before or after a text."""
    model = SimpleNamespace(fails=None, loaded=0)
    model.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=V))

    def load(_):
        model.loaded += 1
        if model.fails == "loading":
            raise WatermarkError("no such model")
        return model, letters

    def generate(model, prompts, watermark, *, on_done, **_):
        if model.fails == "before":
            raise WatermarkError("a bad number")
        for i, prompt in enumerate(prompts):
            on_done(i, SimpleNamespace(text=str(prompt), tokens=[1], shift=0, error=None))
            if model.fails == "after":
                raise WatermarkError("no more")

    monkeypatch.setattr("wmcore.models.load_model", load)
    monkeypatch.setattr("wmcore.generation.generate", generate)
    return model


GENERATE = ("generate", "-w", "mark.json", "--prompts", "-", "-o", "out.jsonl")


def test_generate_asks_before_it_replaces(wm, mark, model):
    Path("out.jsonl").write_text("old\n")
    one_line(wm(*GENERATE, stdin=PROMPT), r"out\.jsonl: the file exists; choose another or add --f")
    assert model.loaded == 0
    assert Path("out.jsonl").read_text() == "old\n"
    assert wm(*GENERATE, "--force", stdin=PROMPT)[0] == 0
    assert rows(Path("out.jsonl").read_text())[0]["text"] == "abc"


def test_a_terminal_is_told_that_a_model_is_loaded(wm, mark, model, monkeypatch):
    code, _, err = wm(*GENERATE, stdin=PROMPT)
    assert (code, "loading" in err) == (0, False)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # as rich sees it
    code, _, err = wm(*GENERATE, "--force", stdin=PROMPT)
    assert code == 0
    assert "loading smollm2" in err


@pytest.mark.parametrize("fails", ["loading", "before"])
def test_a_failing_generate_changes_nothing(wm, mark, model, fails):
    model.fails = fails
    one_line(wm(*GENERATE, stdin=PROMPT), "no such model|a bad number")
    assert not os.path.exists("out.jsonl")
    Path("out.jsonl").write_text("old\n")
    one_line(wm(*GENERATE, "--force", stdin=PROMPT), "no such model|a bad number")
    assert Path("out.jsonl").read_text() == "old\n"


def test_the_first_text_takes_the_place_of_the_old_file(wm, mark, model):
    model.fails = "after"
    Path("out.jsonl").write_text("a longer line than any that comes\n" * 9)
    one_line(wm(*GENERATE, "--force", stdin=PROMPT * 2), "no more")
    assert len(rows(Path("out.jsonl").read_text())) == 1


def test_a_file_that_appears_meanwhile_is_left_alone(wm, mark, model, monkeypatch):
    exists = os.path.exists

    def late(path):
        found = exists(path)
        if path == "out.jsonl" and not found:
            Path(path).write_text("theirs\n")
        return found

    monkeypatch.setattr(os.path, "exists", late)
    one_line(wm(*GENERATE, stdin=PROMPT), "the file exists")
    assert Path("out.jsonl").read_text() == "theirs\n"


def test_generate_writes_to_devices(wm, mark, model):
    assert wm(*GENERATE[:-1], "/dev/null", stdin=PROMPT)[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        GENERATE[:-1],
        ("demo", "-o"),
        ("derive", "-w", "mark.json", "--label", "a", "-o"),
    ],
)
def test_an_output_that_cannot_be_is_said_first(wm, mark, model, arguments):
    one_line(
        wm(*arguments, "no/such/out", stdin=PROMPT), "--output no/such/out: there is no such f"
    )
    one_line(wm(*arguments, ".", stdin=PROMPT), r"--output \.: a folder; give the name of a file")
    assert model.loaded == 0


# prompts


def test_prompts_of_the_command_line(wm, mark, model):
    given = ("generate", "-w", mark)
    code, out, _ = wm(*given, "--prompt", "The harbour", "--prompt", "-", stdin=b"The sea\r\n")
    assert code == 0
    assert [(r["index"], r["prompt"], r["text"]) for r in rows(out)] == [
        (0, "The harbour", "The harbour"),
        (1, "The sea", "The sea"),
    ]
    message = "either --prompts, a file, or --prompt, a text"
    one_line(wm(*given), message)
    one_line(wm(*given, "--prompts", "-", "--prompt", "a", stdin=PROMPT), message)
    one_line(wm(*given, "--prompt", "-", "--prompt", "-"), "--prompt - is given twice")
    one_line(wm(*given, "--prompt", "-", stdin=b"\xff"), "--prompt -: not UTF-8")


def test_prompts_in_a_chat_format(wm, mark, model, letters, monkeypatch):
    given = ("generate", "-w", mark, "--chat", "--prompt", "Why?")
    one_line(wm(*given), "--chat: model smollm2 has no chat format; leave it out")

    def apply(messages, add_generation_prompt, return_dict):
        assert add_generation_prompt
        assert return_dict
        (message,) = messages
        return {"input_ids": [1, *map(ord, f"{message['role']}: {message['content']}"), 2]}

    monkeypatch.setattr(letters, "chat_template", "...", raising=False)
    monkeypatch.setattr(letters, "apply_chat_template", apply, raising=False)
    code, out, _ = wm(*given)
    assert code == 0
    (row,) = rows(out)
    assert row["prompt"] == "Why?"
    assert row["text"] == str([1, *map(ord, "user: Why?"), 2])


# pages, scores


@pytest.mark.parametrize("error", [WatermarkError("no model"), KeyboardInterrupt()])
def test_a_failing_demo_leaves_the_old_page(wm, monkeypatch, error):
    def run(schemes, page, **_):
        page.write("<html>half a page")
        raise error

    monkeypatch.setattr("wmcore.cli.demo.run", run)
    Path("page.html").write_text("old")
    assert wm("demo", "-o", "page.html")[0] in (2, 130)
    assert Path("page.html").read_text() == "old"
    assert os.listdir() == ["page.html"]


def test_a_demo_writes_its_page(wm, monkeypatch):
    monkeypatch.setattr("wmcore.cli.demo.run", lambda schemes, page, **_: page.write("<p>\u2264"))
    Path("page.html").write_text("old")
    assert wm("demo", "-o", "page.html")[0] == 0
    assert Path("page.html").read_text(encoding="utf-8") == "<p>\u2264"


def test_scores_are_not_replaced_unasked(wm, model):
    Path("p.jsonl").write_text(json.dumps({"prompt": "abc"}))
    Path("scores.json").write_text("old")
    learn = ("learn-scores", "--prompts", "p.jsonl", "-o", "scores.json")
    one_line(wm(*learn), r"scores\.json: the file exists; choose another or add --force")
    assert model.loaded == 0
    model.fails = "loading"
    one_line(wm(*learn, "--force"), "no such model")
    assert Path("scores.json").read_text() == "old"
