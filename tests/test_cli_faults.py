"""Nothing that a file, a terminal or a shell does ends in a traceback, and nothing that is printed can be obeyed."""

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import one_line, rows

LINE = '{"tokens": [1, 2, 3, 4, 5], "id": "a"}\n'
ATTACK = "a\nwmcore: 0 documents\r\x1b]0;title\x07\x9b31m\u202e"
SHOWN = r"a\nwmcore: 0 documents\r\x1b]0;title\x07\x9b31m\u202e"


def shell(command, **environment):
    """(exit code, output, errors) of a shell command in which `wmcore` is the command."""
    done = subprocess.run(
        command.replace("wmcore", f"{sys.executable} -m wmcore"),
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )
    assert b"Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture
def tokens(mark):
    """A file of one token document, beside the watermark."""
    (mark.parent / "in.jsonl").write_text(LINE)


DETECT = "wmcore detect -w mark.json --tokens-field tokens --resamples 9"
SCAN = "wmcore scan -w mark.json -o out --tokens-field tokens --window 32 --stride 16"


# numbers and names


@pytest.mark.parametrize(
    "arguments",
    [
        ("keygen", "--scheme", "exp", "-o", "x.json", "--vocab-size"),
        ("keygen", "--scheme", "exp", "-o", "x.json", "--vocab-size", 9, "--key-length"),
        ("keygen", "--scheme", "exp-edit", "-o", "x.json", "--vocab-size", 9, "--gap"),
        ("detect", "-w", "mark.json", "in.jsonl", "--tokens-field", "tokens", "--resamples"),
        ("detect", "-w", "mark.json", "in.jsonl", "--tokens-field", "tokens", "--stop-after"),
        ("detect", "-w", "mark.json", "in.jsonl", "--tokens-field", "tokens", "--seed"),
        ("detect", "-w", "mark.json", "in.jsonl", "--tokens-field", "tokens", "--max-bytes"),
        ("generate", "-w", "mark.json", "--prompts", "in.jsonl", "--max-new-tokens"),
        ("generate", "-w", "mark.json", "--prompts", "in.jsonl", "--top-k"),
        ("generate", "-w", "mark.json", "--prompts", "in.jsonl", "--seed"),
        ("demo", "--seed"),
        ("scan", "-w", "mark.json", "in.jsonl", "-o", "out", "--window"),
        ("scan", "-w", "mark.json", "in.jsonl", "-o", "out", "--resamples"),
        ("scan", "-w", "mark.json", "in.jsonl", "-o", "out", "--seed"),
        ("scan", "-w", "mark.json", "in.jsonl", "-o", "out", "--threads"),
        ("scan", "-w", "mark.json", "in.jsonl", "-o", "out", "--max-bytes"),
        ("report", "out", "--hits"),
    ],
)
@pytest.mark.parametrize("number", ["9" * 400, "-" + "9" * 400, "9" * 5000])
def test_numbers_beyond_64_bits(wm, mark, tokens, arguments, number):
    one_line(wm(*arguments, number), r"\d|[Ii]nvalid")
    assert not os.path.exists("x.json")


@pytest.mark.parametrize(
    "arguments",
    [
        ("detect", "-w", "mark.json", "--tokens-field", "tokens", ""),
        ("generate", "-w", "mark.json", "--prompts", ""),
        ("scan", "-w", "mark.json", "--tokens-field", "tokens", "", "-o", "out"),
    ],
)
def test_empty_names_are_refused(wm, mark, tokens, arguments):
    one_line(wm(*arguments), "empty")


# standard streams


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (f"{SCAN} in.jsonl >&-", 0, ""),
        (f"{SCAN} in.jsonl --json >&-", 2, "standard output is closed"),
        (f"{DETECT} none.jsonl 2>&-", 2, ""),
        ("wmcore --version >&-", 0, ""),
        ("wmcore -h >/dev/full", 2, "No space left"),
    ],
)
def test_closed_and_full_streams(mark, tokens, command, code, message):
    found, _, err = shell(command)
    assert (found, message in err, err.count("\n")) == (code, True, bool(message))


def test_the_reader_of_a_table_may_leave(mark):
    (mark.parent / "in.jsonl").write_text(LINE * 3000)
    code, out, err = shell(f"set -o pipefail; {DETECT} in.jsonl | head -n 2")
    assert (code, err) == (0, "")
    assert out.count("\n") == 2


def test_a_terminal_that_knows_ascii_only(mark, tokens):
    (mark.parent / "Grüße.jsonl").write_text(LINE)
    for command in (f"{DETECT} Grüße.jsonl", "wmcore scan -h", f"{SCAN} Grüße.jsonl"):
        code, out, err = shell(command, PYTHONIOENCODING="ascii")
        assert (code, err) == (0, "")
        assert out.isascii()
    code, _, err = shell(f"{DETECT} Grüßen.jsonl", PYTHONIOENCODING="ascii")
    assert (code, err) == (2, "wmcore: Gr\\xfc\\xdfen.jsonl: no such file, or it cannot be read\n")


# what is printed


def test_names_ids_and_fields_cannot_steer_the_terminal(wm, mark, tokens):
    name = ATTACK.replace("/", "") + ".jsonl"
    with open(name, "w", encoding="utf-8") as file:
        file.write(LINE + json.dumps({ATTACK: 1, "id": ATTACK}) + "\n")
    given = ("-w", mark, "--tokens-field", "tokens")
    for command in (
        ("detect", *given, name),
        ("detect", *given, "--json", name),
        ("detect", "-w", mark, "--tokenizer", "letters", name),
        ("detect", *given, "none" + name),
        ("detect", *given, name + ".pdf"),
        ("scan", *given, "-o", "out", "--id-field", "id", "--window", 32, "--stride", 16, name),
        ("scan", *given, "-o", ATTACK, "--window", 32, "--stride", 16, name),
        ("scan", *given, "-o", "other", "--window", 32, "--stride", 16, "none" + name),
        ("keygen", "--scheme", ATTACK, "--vocab-size", 9, "-o", "x.json"),
        ("keygen", "--scheme", "exp", "--vocab-size", 9, "-o", ATTACK + ".json"),
        ("generate", "-w", mark, "--prompts", name),
        ("report", ATTACK),
        (ATTACK,),
    ):
        _, out, err = wm(*command)
        assert all(line.isprintable() for line in [*out.split("\n"), *err.split("\n")]), command
        assert not re.search("^wmcore: 0 documents", err, re.MULTILINE), command


def test_an_attack_is_shown_as_it_is(wm, mark, tokens):
    given = ("-w", mark, "--tokens-field", "tokens", "--window", 32, "--stride", 16)
    with open("in.jsonl", "a") as file:
        file.write(json.dumps({"id": ATTACK}) + "\n")
    code, _, err = wm("scan", "in.jsonl", *given, "-o", "out", "--id-field", "id")
    assert code == 0
    assert err == f"wmcore: {SHOWN}: field 'tokens' is not a list of token ids\n"


# exit codes


def test_nothing_to_test_gives_the_same_code_in_detect_and_scan(wm, mark):
    files = {"empty.jsonl": b"", "bad.jsonl": b"no\n", "empty.json": b"[]", "mixed.jsonl": b"no\n"}
    files["mixed.jsonl"] += LINE.encode()
    for name, data in files.items():
        with open(name, "wb") as file:
            file.write(data)
        given = (name, "-w", mark, "--tokens-field", "tokens")
        expected = 0 if name == "mixed.jsonl" else 2
        assert wm("detect", *given)[0] == expected
        options = ("-o", f"out-{name}", "--window", 32, "--stride", 16)
        for _ in range(2):  # also when it was finished before
            code, out, err = wm("scan", *given, *options)
            assert code == expected
            assert ("No verdict: no document could be tested" in out) == (expected == 2)
            assert ("may still be ours" in out) == (expected == 0)
            assert ("none could be tested" in err) == (expected == 2)


@pytest.mark.parametrize("name", ["a.json", "A.JSON.GZ", "b.JSONL", "c.ndjson.gz"])
def test_detect_and_scan_read_the_same(wm, mark, name):
    pytest.importorskip("pyarrow")
    from wmcore.scan.store import read_shard, shards

    records = [{"tokens": [1, 2, 3]}, {"tokens": []}, {"no": 1}, 5, {"tokens": [4]}]
    lines = "\n".join(map(json.dumps, records))
    data = (json.dumps(records, indent=1) if ".json." in f"{name}.".lower() else lines).encode()
    with open(name, "wb") as file:
        file.write(gzip.compress(data) if name.lower().endswith(".gz") else data)
    given = (name, "-w", mark, "--tokens-field", "tokens")
    found = rows(wm("detect", *given, "--json")[1])
    assert wm("scan", *given, "-o", "out", "--window", 32, "--stride", 16)[0] == 0
    ((*_, shard),) = shards(Path("out"))
    scanned = read_shard(shard).to_pylist()
    assert len(found) == 5
    for theirs, ours in (("document", "id"), ("length", "length"), ("error", "error")):
        assert [r[theirs] for r in found] == [r[ours] for r in scanned]


def test_a_text_beside_records_is_one_error(wm, mark, tokens):
    with open("notes.txt", "w") as file:
        file.write("a text")
    given = ("-w", mark, "--tokens-field", "tokens")
    code, out, _ = wm("detect", *given, "--json", "in.jsonl", "notes.txt")
    assert code == 0
    message = "a text, which has no field 'tokens': give records"
    assert [r["error"] for r in rows(out)] == [None, message]
    code, out, err = wm(
        "scan", *given, "-o", "out", "--window", 32, "--stride", 16, "in.jsonl", "notes.txt"
    )
    assert code == 0
    assert f"notes.txt: {message}" in err


# the last resort


def test_out_of_memory_is_no_fault_of_ours(wm, monkeypatch):
    def failing(*_, **__):
        raise MemoryError

    monkeypatch.setattr("wmcore.watermark.Watermark.create", failing)
    one_line(wm("keygen", "--scheme", "exp", "--vocab-size", 9, "-o", "x.json"), "out of memory")


def test_warnings_are_one_line(wm, mark, tokens, monkeypatch):
    import warnings

    from wmcore.detect import Detector

    real = Detector.detect

    def warning(*arguments, **options):
        warnings.warn("first\n  second \x1b[31m", stacklevel=1)
        return real(*arguments, **options)

    monkeypatch.setattr(Detector, "detect", warning)
    _, _, err = wm("detect", "-w", mark, "--tokens-field", "tokens", "in.jsonl")
    assert err == "wmcore: warning: first second \\x1b[31m\n"


def test_keygen_does_not_write_through_a_dangling_link(wm):
    os.symlink("nowhere", "link.json")
    one_line(wm("keygen", "--scheme", "exp", "--vocab-size", 9, "-o", "link.json"), "file exists")
    assert not os.path.exists("nowhere")
