"""The command: results, exit codes, and one clear line for every mistake."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import V, one_line, rows

from wmcore import Watermark
from wmcore.kernels.cpu.jit import COMPILING

# keygen


def test_keygen_writes_a_secret_file_and_shows_no_secret(wm, mark):
    assert stat.S_IMODE(mark.stat().st_mode) == 0o600
    before = mark.read_bytes()
    one_line(
        wm("keygen", "--scheme", "exp", "--vocab-size", V, "-o", mark),
        r"mark\.json: the file exists; choose another or add --force",
    )
    assert mark.read_bytes() == before
    code, out, err = wm("keygen", "--scheme", "exp", "--vocab-size", V, "-o", mark, "--force")
    assert (code, out) == (0, "")
    assert re.search(
        r"mark.json: exp, vocabulary 128, key length 256, fingerprint [0-9a-f]{8}\n", err
    )
    assert mark.read_bytes() != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--scheme", "exp"), "one of --model and --vocab-size"),
        (("--scheme", "exp", "--model", "m", "--vocab-size", 9), "one of --model and --vocab-size"),
        (("--scheme", "magic", "--vocab-size", 9), "magic.*exp-edit"),
        (("--scheme", "exp", "--vocab-size", 0), "vocab_size"),
        (("--scheme", "exp", "--vocab-size", "many"), "--vocab-size"),
        (("--scheme", "exp", "--vocab-size", 9, "--key-length", 0), "key_length"),
        (("--scheme", "exp", "--vocab-size", 9, "--block-length", 0), "block_length"),
        (("--scheme", "exp-edit", "--vocab-size", 9, "--gap", -1), "gap"),
        (("--scheme", "exp-edit", "--vocab-size", 9, "--gap", "nan"), "gap"),
        (("--scheme", "exp-fre", "--vocab-size", 9), "scheme 'exp-fre' is not known"),
        (("--scheme", "exp", "--vocab-size", 9, "--colour", "red"), "No such option.*--colour"),
    ],
)
def test_keygen_mistakes(wm, options, message):
    one_line(wm("keygen", *options, "-o", "new.json"), message)
    assert not os.path.exists("new.json")


def test_keygen_does_not_print_secrets_or_invent_folders(wm):
    options = ("keygen", "--scheme", "exp", "--vocab-size", V, "-o")
    one_line(wm(*options, "-"), "a secret is only written to a file")
    one_line(wm(*options, "no/such/folder.json"), "no/such")


def test_keygen_does_not_replace_by_race(wm, tmp_path, monkeypatch):
    """A file that appears between the check and the writing is left alone; so is nothing of a key that failed."""
    real = Watermark.save
    options = ("keygen", "--scheme", "exp", "--vocab-size", V, "-o", "new.json")

    def slow(self, path, **_):
        one_line(wm(*options), r"new\.json: the file exists; choose another or add --force")
        real(self, path, replace=True)

    monkeypatch.setattr(Watermark, "save", slow)
    assert wm(*options)[0] == 0
    assert Watermark.load("new.json").vocab_size == V

    def failing(self, path, **_):
        raise OSError(28, "No space left on device", path)

    os.remove("new.json")
    monkeypatch.setattr(Watermark, "save", failing)
    one_line(wm(*options), r"new\.json: No space left on device")
    assert not os.path.exists("new.json")


@pytest.mark.parametrize(
    "arguments",
    [
        ("keygen", "--scheme", "exp", "--vocab-size", 9, "-o", ""),
        ("generate", "-w", "mark.json", "--prompts", "-", "-o", ""),
        ("demo", "-o", ""),
        ("scan", "-w", "mark.json", "in.jsonl", "-o", ""),
        ("report", "scan", "-o", ""),
    ],
)
def test_an_empty_output_is_refused(wm, arguments):
    one_line(wm(*arguments), "'-o': it is empty: give a name")


# generate


def test_generate_does_not_write_over_its_prompts(wm, mark):
    with open("p.jsonl", "w") as file:
        file.write('{"prompt": "a"}\n')
    one_line(wm("generate", "-w", mark, "--prompts", "p.jsonl", "-o", "./p.jsonl"), "these are the")
    assert Path("p.jsonl").read_text() == '{"prompt": "a"}\n'


class Made(SimpleNamespace):
    pass


@pytest.fixture
def writer(monkeypatch, letters):
    """A generator that writes the prompt backwards, last prompt first."""

    def generate(model, prompts, watermark, *, on_done, **options):
        assert options["max_new_tokens"] == 7
        for i in reversed(range(len(prompts))):
            text = prompts[i][::-1]
            error = "too long" if prompts[i] == "endless" else None
            tokens = letters.encode(text)
            on_done(i, Made(prompt=prompts[i], text=text, tokens=tokens, shift=3, error=error))

    model = SimpleNamespace(logits=V)
    model.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=model.logits))
    monkeypatch.setattr("wmcore.models.load_model", lambda _: (model, letters))
    monkeypatch.setattr("wmcore.generation.generate", generate)
    return model


def test_generate_writes_a_line_for_every_prompt(wm, mark, writer):
    given = b'{"prompt": "abc"}\n{"prompt": 5}\n\nnonsense\n{"prompt": "de"}\n'
    options = ("generate", "-w", mark, "--prompts", "-", "--max-new-tokens", 7)
    code, out, err = wm(*options, stdin=given)
    assert code == 0
    found = {r["index"]: r for r in rows(out)}
    assert sorted(found) == [0, 1, 2, 3]
    assert found[0] == {
        **{"index": 0, "prompt": "abc", "text": "cba"},
        **{"tokens": [99, 98, 97], "shift": 3},
    }
    assert found[1]["error"] == "field 'prompt' is a number, not a string"
    assert found[2]["error"].startswith("not JSON")
    assert found[3]["text"] == "ed"
    assert err.count("\n") == 2

    code, out, _ = wm(*options, "-o", "out.jsonl", stdin=given)
    assert (code, out) == (0, "")
    with open("out.jsonl", encoding="utf-8") as file:
        assert len(file.readlines()) == 4


def test_a_prompt_that_cannot_be_continued_gets_its_line(wm, mark, writer):
    given = b'{"prompt": "abc"}\n{"prompt": "endless"}\n'
    options = ("generate", "-w", mark, "--prompts", "-", "--max-new-tokens", 7)
    code, out, _ = wm(*options, stdin=given)
    assert code == 0
    assert rows(out)[0] == {"index": 1, "prompt": "endless", "error": "too long"}
    assert rows(out)[1]["text"] == "cba"


def test_generated_lines_can_be_detected(wm, mark, writer):
    options = ("generate", "-w", mark, "--prompts", "-", "--max-new-tokens", 7, "-o", "out.jsonl")
    assert wm(*options, stdin=b'{"prompt": "abc"}\n')[0] == 0
    code, out, _ = wm("detect", "-w", mark, "--tokens-field", "tokens", "--json", "out.jsonl")
    assert code == 0
    assert rows(out)[0]["length"] == 3


def test_generate_mistakes(wm, mark, writer):
    given = ("generate", "-w", mark, "--max-new-tokens", 7, "--prompts")
    one_line(wm(*given, "none.jsonl"), "none.jsonl: No such file")
    code, out, err = wm(*given, "-", stdin=b'{"text": "abc"}\n')
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].endswith("no line with a field 'prompt'; give some")
    one_line(wm(*given, "-", "--batch-size", 0), "--batch-size")
    writer.logits = V + 1
    one_line(
        wm(*given, "-", stdin=b'{"prompt": "abc"}'),
        "--model smollm2: it has 129 logits but the watermark was made for 128",
    )


def test_generate_reads_prompts_of_every_kind(wm, mark, writer):
    rows_of = [{"prompt": "abc"}, {"prompt": "\ud800", "\udcff": 1}, {"prompt": "de"}]
    given = ("generate", "-w", mark, "--max-new-tokens", 7, "--prompts")
    for name, raw in (
        ("p.json", json.dumps(rows_of)),
        ("p.txt", "\n".join(map(json.dumps, rows_of))),
        ("prompts", json.dumps(rows_of, indent=1)),
    ):
        Path(name).write_text(raw)
        code, out, err = wm(*given, name)
        assert code == 0
        found = {r["index"]: r.get("text") for r in rows(out)}
        assert found == {0: "cba", 1: None, 2: "ed"}
        assert "half of a surrogate pair" in err
    one_line(wm(*given, "prompts.pdf"), r"prompts\.pdf: \.pdf is not read")


# everywhere


def test_a_fault_of_our_own_is_one_line(wm, mark, monkeypatch):
    from wmcore.detect import Detector

    Path("in.jsonl").write_text('{"tokens": [1, 2]}')
    options = ("detect", "-w", mark, "--tokens-field", "tokens", "in.jsonl")
    for error in (
        RuntimeError("a\nb \x1b[31m"),
        EOFError("end"),
        RecursionError("x"),
    ):
        monkeypatch.setattr(Detector, "detect", raising(error))
        code, out, err = wm(*options)
        assert (code, out) == (1, "")
        line = err.strip()
        assert line.isprintable()
        assert re.search(
            rf"{type(error).__name__} at test_cli\.py:\d+, called from \w+\.py:\d+", line
        )
        assert "please report this line and the command" in line


def raising(error):
    def function(*_, **__):
        raise error

    return function


@pytest.mark.parametrize(
    ("shell", "code", "message"),
    [
        ("wm - <&-", 2, "standard input is closed"),
        ("wm in.jsonl >&-", 2, "standard output is closed"),
        ("wm --json in.jsonl >&-", 2, "standard output is closed"),
        ("wm in.jsonl 2>&-", 0, ""),
        ("wm in.jsonl > /dev/full", 2, "No space left"),
        ("wm --json in.jsonl > /dev/full", 2, "No space left"),
        ("PYTHONIOENCODING=ascii wm in.jsonl", 0, ""),
        ("PYTHONIOENCODING=latin1 wm --json in.jsonl", 0, ""),
    ],
)
def test_streams_that_are_closed_full_or_ascii(mark, tmp_path, shell, code, message):
    (tmp_path / "in.jsonl").write_text('{"tokens": [1, 2]}\n{"\u2264": 1}\n')
    command = f"{sys.executable} -m wmcore detect -w {mark} --tokens-field tokens --resamples 9"
    done = subprocess.run(
        shell.replace("wm ", command + " ", 1),
        shell=True,
        executable="/bin/bash",
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert message in done.stderr


def test_help_has_examples(wm):
    for command in ("keygen", "generate", "detect", "demo"):
        code, out, _ = wm(command, "-h")
        assert code == 0
        assert "Examples" in out
        assert f"wmcore {command}" in out


def test_no_command_and_version(wm):
    one_line(wm(), "wmcore -h lists")
    code, out, _ = wm("--version")
    assert code == 0
    assert re.fullmatch(r"wmcore \d+\.\d+\.\d+\n", out)


INTERRUPTED = """
    import signal, sys, time, types
    from types import SimpleNamespace as S

    # Tests that run in the background of a shell inherit SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def generate(model, prompts, watermark, *, on_done, **options):
        for i, prompt in enumerate(prompts):
            on_done(i, S(prompt=prompt, text="x" * 100_000, tokens=[1, 2], shift=0, error=None))
            if i == 2:
                time.sleep(60)

    model = S(config=S(get_text_config=lambda: S(vocab_size=128)))
    for name, content in [
        ("wmcore.generation", {"generate": generate, "Generation": S}),
        ("wmcore.models", {"load_model": lambda name: (model, None)}),
    ]:
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(content)
    from wmcore.cli.main import main
    main(sys.argv[1:])
"""


def test_interrupt_keeps_the_lines_so_far(mark, tmp_path):
    prompts, out = tmp_path / "p.jsonl", tmp_path / "out.jsonl"
    prompts.write_text('{"prompt": "a"}\n' * 9)
    arguments = ["generate", "-w", mark, "--prompts", prompts, "-o", out]
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(INTERRUPTED), *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (out.exists() and out.read_bytes().count(b"\n") == 3):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert [r["index"] for r in rows(out.read_text())] == [0, 1, 2]


def test_reader_that_stops_early_is_no_error(mark, tmp_path):
    given = tmp_path / "in.jsonl"
    given.write_text('{"tokens": [1, 2, 3]}\n' * 3000)
    arguments = f"detect -w {mark} --tokens-field tokens --resamples 9 --json {given}"
    done = subprocess.run(
        f"set -o pipefail; {sys.executable} -m wmcore {arguments} | head -n 1",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr in ("", f"wmcore: {COMPILING}\n")  # the first run on a machine compiles
    assert len(rows(done.stdout)) == 1
