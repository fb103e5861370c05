"""The command: results, exit codes, and one clear line for every mistake."""

import io
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

from wmcore import Key, Watermark, cli

V = 128


class Letters:
    """A tokenizer of one ASCII character a token."""

    size = V

    def __len__(self):
        return self.size

    def encode(self, text, add_special_tokens=False):
        return [ord(c) % V for c in text]

    def __call__(self, text, add_special_tokens=False, **_):
        if isinstance(text, str):
            return {"input_ids": self.encode(text)}
        return {"input_ids": [self.encode(t) for t in text]}

    def decode(self, tokens, **_):
        return "".join(map(chr, tokens))


@pytest.fixture
def wm(monkeypatch, capsys, tmp_path):
    """Runs the command in the test's folder; gives (exit code, output, errors)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin)))
        capsys.readouterr()
        with pytest.raises(SystemExit) as done:
            cli.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return done.value.code, out, err

    return run


@pytest.fixture
def letters(monkeypatch):
    """The tokenizer in place of a real one, whatever its name."""
    tokenizer = Letters()
    monkeypatch.setattr("wmcore.models.load_tokenizer", lambda _: tokenizer)
    return tokenizer


@pytest.fixture
def mark(wm, tmp_path):
    """A watermark file for the letters."""
    options = ("--scheme", "exp-edit", "--vocab-size", V, "--key-length", 40)
    assert wm("keygen", *options, "-o", "mark.json")[0] == 0
    return tmp_path / "mark.json"


def one_line(result, pattern):
    """The result is exit code 2 and one line that fits the pattern."""
    code, out, err = result
    assert code == 2, err
    assert out == ""
    assert err.count("\n") == 1, err
    assert re.search(pattern, err), err


def rows(out):
    return [json.loads(line) for line in out.splitlines()]


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
        (("--scheme", "exp"), "either --model or --vocab-size"),
        (("--scheme", "exp", "--model", "m", "--vocab-size", 9), "either --model or --vocab-size"),
        (("--scheme", "magic", "--vocab-size", 9), "magic.*exp-edit"),
        (("--scheme", "exp", "--vocab-size", 0), "vocab_size"),
        (("--scheme", "exp", "--vocab-size", "many"), "--vocab-size"),
        (("--scheme", "exp", "--vocab-size", 9, "--key-length", 0), "key_length"),
        (("--scheme", "exp", "--vocab-size", 9, "--block-length", 0), "block_length"),
        (("--scheme", "exp-edit", "--vocab-size", 9, "--gap", -1), "gap"),
        (("--scheme", "exp-edit", "--vocab-size", 9, "--gap", "nan"), "gap"),
        (("--vocab-size", 9), "Missing option '--scheme'"),
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


# detect


def test_detect_results_for_every_document(wm, mark, letters):
    lines = [{"tokens": [1, 2, 3] * 9}, {"tokens": []}, {"tokens": [V]}, {"tokens": [5]}]
    lines += [{"tokens": "x"}, {"tokens": [10**30]}, {"tokens": [-1]}]
    with open("in.jsonl", "w") as file:
        file.writelines(json.dumps(line) + "\n" for line in [*lines[:4], *lines[4:]])
        file.write("not json\n")
    options = ("detect", "-w", mark, "--tokens-field", "tokens", "--resamples", 99, "--seed", 1)
    code, out, err = wm(*options, "--json", "in.jsonl")
    assert code == 0
    found = rows(out)
    assert [r["document"] for r in found] == [f"in.jsonl:{i}" for i in range(1, 9)]
    assert [r["error"] is None for r in found] == [True, False, False, True] + [False] * 4
    assert all((r["p_value"] is None) == (r["error"] is not None) for r in found)
    assert 0 < found[0]["p_value"] <= 1
    assert found[0]["length"] == 27
    assert "6 of 8 documents could not be tested" in err

    assert wm(*options, "--json", "in.jsonl")[1] == out
    code, table, _ = wm(*options, "in.jsonl")
    assert code == 0
    assert "in.jsonl:8" in table
    assert "not JSON" in table


def test_detect_text_files_and_standard_input(wm, mark, letters):
    with open("a.txt", "w") as file:
        file.write("some text of a file")
    options = (
        "detect",
        "-w",
        mark,
        "--tokenizer",
        "letters",
        "--resamples",
        19,
        "--seed",
        1,
        "--json",
    )
    code, out, _ = wm(*options, "a.txt", "-", stdin=b"some text of a file")
    assert code == 0
    first, second = rows(out)
    assert (first.pop("document"), second.pop("document")) == ("a.txt", "stdin")
    assert first == second
    assert first["length"] == 19


def test_detect_uses_all_resamples_only_when_asked(wm):
    Watermark.create("exp", vocab_size=50, key_length=32, key=Key(bytes(32))).save("fixed.json")
    with open("in.jsonl", "w") as file:
        file.write(json.dumps({"tokens": [1, 2, 3, 4, 5, 6]}) + "\n")
    given = ("detect", "-w", "fixed.json", "--tokens-field", "tokens", "--json", "in.jsonl")
    options = ("--resamples", 5000, "--seed", 1)
    for stop_after, method in ((50, "sequential"), (7, "sequential"), (0, "permutation")):
        code, out, _ = wm(*given, *options, "--stop-after", stop_after)
        assert code == 0
        (found,) = rows(out)
        assert found["method"] == method
        assert (found["resamples"] == 5000) == (stop_after == 0)
        if stop_after:
            assert found["hits"] == stop_after
            assert found["p_value"] == stop_after / found["resamples"]
    assert rows(wm(*given, *options)[1])[0]["hits"] == 50


def test_detect_says_that_an_input_is_empty(wm, mark):
    Path("in.jsonl").touch()
    one_line(wm("detect", "-w", mark, "--tokens-field", "tokens", "in.jsonl"), "no documents")


def test_generate_does_not_write_over_its_prompts(wm, mark):
    with open("p.jsonl", "w") as file:
        file.write('{"prompt": "a"}\n')
    one_line(wm("generate", "-w", mark, "--prompts", "p.jsonl", "-o", "./p.jsonl"), "these are the")
    assert Path("p.jsonl").read_text() == '{"prompt": "a"}\n'


def test_detect_reports_a_text_shorter_than_the_block(wm):
    keygen = ("keygen", "--scheme", "exp", "--vocab-size", 9, "--block-length", 4, "-o", "k.json")
    assert wm(*keygen)[0] == 0
    with open("in.jsonl", "w") as file:
        file.write('{"tokens": [1, 2, 3]}\n{"tokens": [1, 2, 3, 4]}\n')
    code, out, _ = wm("detect", "-w", "k.json", "--tokens-field", "tokens", "--json", "in.jsonl")
    assert code == 0
    short, fine = rows(out)
    assert "block_length 4 exceeds the text's 3 tokens" in short["error"]
    assert fine["error"] is None


def test_detect_text_field(wm, mark, letters):
    code, out, _ = wm(
        *("detect", "-w", mark, "--tokenizer", "letters", "--resamples", 9, "--json"),
        *("--text-field", "body", "-"),
        stdin=b'{"body": "abc"}\n{"text": "abc"}\n',
    )
    assert code == 0
    assert [r["error"] for r in rows(out)] == [
        None,
        "no field 'body' (fields: text): name the right one",
    ]


@pytest.mark.parametrize("raw", [b"\x00\x01", b"\xff\xfe", b"a" * 10_000_000])
def test_detect_only_unreadable_documents(wm, mark, letters, raw):
    with open("bad.txt", "wb") as file:
        file.write(raw)
    code, out, err = wm("detect", "-w", mark, "--tokenizer", "letters", "--json", "bad.txt")
    assert code == 2
    assert rows(out)[0]["error"]
    assert err == "wmcore: 1 of 1 documents could not be tested\n"


def test_detect_mistakes(wm, mark, letters):
    with open("a.txt", "w") as file:
        file.write("text")
    given = ("detect", "--tokenizer", "letters")
    one_line(wm(*given, "-w", mark, "none.txt"), "none.txt: no such file")
    one_line(wm(*given, "-w", mark, "."), "a folder")
    one_line(wm(*given, "-w", "none.json", "a.txt"), "none.json cannot be read.*keygen")
    one_line(wm(*given, "-w", mark), "Missing argument")
    one_line(wm("detect", "-w", mark, "a.txt"), "no --tokenizer given")
    one_line(wm(*given, "-w", mark, "--resamples", 0, "a.txt"), "--resamples")
    both = ("--text-field", "a", "--tokens-field", "b")
    one_line(wm(*given, "-w", mark, *both, "a.txt"), "either --text-field or --tokens-field")


def broken(mark, **changes):
    held = json.loads(mark.read_text()) | changes
    return json.dumps({k: v for k, v in held.items() if v is not None}).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda m: b"",
        lambda m: b"{",
        lambda m: b"[]",
        lambda m: b"\x00\xff",
        lambda m: m.read_bytes()[:-20],
        lambda m: broken(m, version=0),
        lambda m: broken(m, version=99),
        lambda m: broken(m, version=None),
        lambda m: broken(m, scheme="magic"),
        lambda m: broken(m, scheme=None),
        lambda m: broken(m, vocab_size="many"),
        lambda m: broken(m, vocab_size=-1),
        lambda m: broken(m, key_length=1.5),
        lambda m: broken(m, gap="wide"),
    ],
)
def test_broken_watermark_file(wm, mark, letters, damage):
    secret = re.findall(r"[0-9a-f]{64}", mark.read_text())
    assert secret
    mark.write_bytes(damage(mark))
    result = wm("detect", "-w", mark, "--tokenizer", "letters", "-", stdin=b"text")
    one_line(result, r"mark\.json")
    assert not any(s in result[2] for s in secret)


def test_watermark_file_that_others_can_read_gives_a_warning(wm, mark, letters):
    mark.chmod(0o644)
    options = ("detect", "-w", mark, "--tokenizer", "letters", "--resamples", 9, "--json", "-")
    code, out, err = wm(*options, stdin=b"some text")
    assert code == 0
    assert rows(out)[0]["p_value"] is not None
    assert re.fullmatch(r"wmcore: warning: [^\n]*mark\.json[^\n]*\n", err)


# generate


class Made(SimpleNamespace):
    pass


@pytest.fixture
def writer(monkeypatch, letters):
    """A generator that writes the prompt backwards, last prompt first."""

    def generate_iter(model, prompts, watermark, **options):
        assert options["max_new_tokens"] == 7
        for i in reversed(range(len(prompts))):
            text = prompts[i][::-1]
            yield i, Made(prompt=prompts[i], text=text, tokens=letters.encode(text), shift=3)

    model = SimpleNamespace(logits=V)
    model.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=model.logits))
    monkeypatch.setattr("wmcore.models.load_model", lambda _: (model, letters))
    monkeypatch.setattr("wmcore.generation.generate_iter", generate_iter)
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
    assert found[1]["error"] == "field 'prompt' is a int, not a string"
    assert found[2]["error"].startswith("not JSON")
    assert found[3]["text"] == "ed"
    assert err.count("\n") == 2

    code, out, _ = wm(*options, "-o", "out.jsonl", stdin=given)
    assert (code, out) == (0, "")
    with open("out.jsonl", encoding="utf-8") as file:
        assert len(file.readlines()) == 4


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


# everywhere


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

    def generate_iter(model, prompts, watermark, **options):
        for i, prompt in enumerate(prompts):
            yield i, S(prompt=prompt, text="x" * 100_000, tokens=[1, 2], shift=0)
            if i == 2:
                time.sleep(60)

    model = S(config=S(get_text_config=lambda: S(vocab_size=128)))
    for name, content in [
        ("wmcore.generation", {"generate_iter": generate_iter}),
        ("wmcore.models", {"load_model": lambda name: (model, None)}),
    ]:
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(content)
    from wmcore.cli import main
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
    assert done.stderr == ""
    assert len(rows(done.stdout)) == 1
