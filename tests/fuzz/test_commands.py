"""The command with odd arguments, files and standard input: exit code 0 or 2, notes of one line, no secret in them."""

import json
import shutil
from pathlib import Path

import pytest
from commands import Letters
from hypothesis import strategies as st

from fuzz.budget import inputs
from fuzz.corpora import ARRAY, LINES, PARQUET
from fuzz.holds import is_harmless, keeps
from fuzz.marks import HEX, mark, scores
from fuzz.mutations import damaged
from wmcore import WatermarkError

NUMBERS = [
    *("1", "2", "9", "32", "0", "-1", "1.5", "x", "", "9" * 400, "-" + "9" * 30, "2147483648"),
    *(
        "9223372036854775808",
        "nan",
        "inf",
        "1e999",
        "٣",
        "1_0",
        " 7",
        "0x10",
        "+3",
        "True",
        "9" * 5000,
    ),
]
STRANGE = [
    *("", "-", "--", "-h", "~", "*", "?", "[", "[bold]", "[/]", "{}", "%s", "$HOME", ".", "none"),
    *(
        "a\nwmcore: 0 documents",
        "\x1b]0;x\x07\x9b31m",
        "\u202e",
        "\udcff",
        "ü",
        "x" * 300,
        "x/y",
        "sub",
    ),
    *(
        "s3://b/x.jsonl",
        "memory://x",
        "nonsense://x",
        "http://",
        "a::b",
        "file:///none.jsonl",
        "s3:a",
        "gs:/a",
    ),
]
FILES = [
    *("in.jsonl", "in.json", "in.parquet", "notes.txt", "bad.jsonl", "bad.json.gz", "bad.parquet"),
    *("bad.txt", "sub", "out", "mark.json", "none.jsonl", "page.html", "records", "link.jsonl"),
]
FIELDS = ["text", "tokens", "id", "none", "\udcff", "a\nb", "\x1b[31m", "", "9"]
NAMES = ["exp", "exp-edit", "its", "its-edit", "EXP", "exp-local", "", "\x1b[31m"]

READING = {
    "--watermark": ["mark.json", "its.json", *FILES],
    "--tokenizer": ["letters", *STRANGE],
    "--scheme": NAMES,
    "--gap": NUMBERS,
    "--block-length": NUMBERS,
    "--score": ["scores.json", "mixture", *FILES, *STRANGE],
    "--resamples": NUMBERS,
    "--stop-after": NUMBERS,
    "--seed": NUMBERS,
    "--text-field": FIELDS,
    "--tokens-field": FIELDS,
    "--max-bytes": NUMBERS,
    "--json": None,
}
OPTIONS = {
    "keygen": {
        "--scheme": NAMES,
        "--output": ["x.json", "x.json", "mark.json", "sub", "none/x.json", *STRANGE],
        "--model": STRANGE,
        "--vocab-size": NUMBERS,
        "--key-length": NUMBERS,
        "--block-length": NUMBERS,
        "--gap": NUMBERS,
        "--tokenizer": STRANGE,
        "--key-from-env": ["NONE", "HOME", *STRANGE],
        "--force": None,
    },
    "detect": {**READING, "--proxy": STRANGE, "--calibration": [*FILES, *STRANGE]},
    "identify": {
        "--watermark": ["mark.json", "its.json", "sub", *FILES],
        "--labels": ["notes.txt", "in.jsonl", *FILES, *STRANGE],
        "--tokenizer": ["letters", *STRANGE],
        "--level": NUMBERS,
        "--resamples": NUMBERS,
        "--seed": NUMBERS,
        "--text-field": FIELDS,
        "--tokens-field": FIELDS,
        "--max-bytes": NUMBERS,
        "--json": None,
    },
    "derive": {
        "--watermark": ["mark.json", "its.json", *FILES],
        "--label": ["a", "b", *STRANGE],
        "--output": ["x.json", "x.json", "mark.json", "sub", "none/x.json", *STRANGE],
        "--force": None,
    },
    "calibrate": {
        **{
            option: READING[option]
            for option in READING
            if option not in ("--stop-after", "--json")
        },
        "--lengths": ["10,20", "20", *NUMBERS, "10,", "9" * 30 + ",1"],
        "--output": ["x.npz", "y.npz", "sub", "none/x.npz", *STRANGE],
        "--force": None,
    },
    "scan": {
        **READING,
        "--output": ["new", "new", "out", "mark.json", "sub", "new/deep", *STRANGE],
        "--id-field": FIELDS,
        "--window": NUMBERS,
        "--stride": NUMBERS,
        "--first": ["resamples", "calibrated", *STRANGE],
        "--first-resamples": NUMBERS,
        "--controls": NUMBERS,
        "--fdr": ["bh", "by", "ebh", *STRANGE],
        "--shard-size": NUMBERS,
        "--excerpts": None,
        "--no-excerpts": None,
        "--threads": ["1", "2", "0", "9" * 30, "x"],
        "--backend": ["auto", "cpu", *STRANGE],
        "--engine": ["local", *STRANGE],
        "--gpus": NUMBERS,
    },
    "report": {"--output": ["page.html", "/dev/full", "sub", *STRANGE], "--hits": NUMBERS},
    "generate": {
        "--watermark": FILES,
        "--prompts": ["-", *FILES, *STRANGE],
        "--model": STRANGE,
        "--output": ["x.jsonl", "sub", *STRANGE],
        "--prompt": ["a", "-", *STRANGE],
        "--chat": None,
        "--force": None,
        "--max-new-tokens": NUMBERS,
        "--temperature": NUMBERS,
        "--top-k": NUMBERS,
        "--top-p": NUMBERS,
        "--batch-size": NUMBERS,
        "--seed": NUMBERS,
    },
    "learn-scores": {
        "--prompts": ["-", *FILES, *STRANGE],
        "--model": STRANGE,
        "--output": ["x.json", "sub", *STRANGE],
        "--by": ["proxy", "tokens", *STRANGE],
        "--proxy": STRANGE,
        "--temperature": NUMBERS,
        "--top-p": NUMBERS,
        "--chat": None,
        "--max-new-tokens": NUMBERS,
        "--batch-size": NUMBERS,
        "--seed": NUMBERS,
    },
    "demo": {"--scheme": NAMES, "--output": ["x.html", "sub", *STRANGE], "--seed": NUMBERS},
}
NEEDED = {
    "keygen": ["--scheme", "--output", "--vocab-size"],
    "detect": ["--watermark"],
    "identify": ["--watermark"],
    "derive": ["--watermark", "--label", "--output"],
    "calibrate": ["--watermark", "--output"],
    "scan": ["--watermark", "--output"],
    "report": [],
    "generate": ["--watermark", "--prompts"],
    "learn-scores": ["--prompts", "--output"],
    "demo": [],
}
FILES_OF = {
    "detect": [*FILES, "-", *STRANGE],
    "identify": [*FILES, "-", *STRANGE],
    "calibrate": [*FILES, "-", *STRANGE],
    "scan": [*FILES, *STRANGE],
    "report": ["out", *FILES, *STRANGE],
}
SMALL = {
    "detect": ["--resamples", "9", "--tokens-field", "tokens"],
    "identify": ["--resamples", "9", "--tokens-field", "tokens"],
    "calibrate": ["--resamples", "9", "--lengths", "2,3", "--tokens-field", "tokens"],
    "scan": ["--resamples", "9", "--first-resamples", "3", "--window", "32", "--stride", "16"],
}
"""What makes a good command quick; what is drawn comes later and counts."""
WEIGHTS = (
    ["detect"] * 5
    + ["scan"] * 4
    + ["keygen"] * 3
    + ["identify", "identify", "calibrate", "calibrate", "derive"]
    + ["report", "report", "generate", "learn-scores", "demo", ""]
)


def one_of(values, good, odds):
    """Strategy: one of the first `good` values, which are, or one time in `odds` any of them."""
    return st.integers(1, odds).flatmap(
        lambda n: st.sampled_from(values if n == odds else values[:good])
    )


@st.composite
def commands(draw):
    """Arguments of the command: mostly good ones, with a few that are not."""
    name = draw(st.sampled_from(WEIGHTS))
    if not name:
        return draw(st.lists(st.sampled_from([*STRANGE, *OPTIONS, "--version", "-h"]), max_size=4))
    arguments = [name, *SMALL.get(name, [])]
    options = OPTIONS[name]
    some = draw(st.lists(st.sampled_from(sorted(options)), max_size=3))
    for option in [*NEEDED[name], *some]:
        arguments.append(option)
        if options[option] is not None:
            arguments.append(draw(one_of(options[option], 2, 20 if option in NEEDED[name] else 4)))
    if name in FILES_OF:
        files = st.integers(1, 2).flatmap(lambda n: st.tuples(*[one_of(FILES_OF[name], 4, 4)] * n))
        arguments += draw(files)
    if draw(st.integers(0, 19)) == 0:
        del arguments[draw(st.integers(0, len(arguments) - 1))]
    return arguments


class Folder:
    """A folder with files for the command, restored before each run."""

    def __init__(self, path, wm):
        self.path, self.wm = path, wm
        mark("exp").save("mark.json")
        mark("its-edit").save("its.json")
        scores("tokens").save("scores.json")
        Path("in.jsonl").write_bytes(LINES)
        Path("records").write_bytes(LINES)
        Path("in.json").write_bytes(ARRAY)
        Path("in.parquet").write_bytes(PARQUET)
        Path("notes.txt").write_text("a text of some length, for the letters")
        Path("page.html").write_text("<p>")
        Path("sub").mkdir()
        Path("sub/in.jsonl").write_bytes(LINES)
        Path("link.jsonl").symlink_to("nowhere")
        code, _, err = wm("scan", "-w", "mark.json", "in.jsonl", "-o", "out", *SMALL["scan"])
        assert (code, err) == (0, "")
        self.copy = path.with_name(f"{path.name}-copy")
        shutil.copytree(path, self.copy, symlinks=True)

    def restore(self, bad):
        for entry in self.path.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        shutil.copytree(self.copy, self.path, symlinks=True, dirs_exist_ok=True)
        for name in ("bad.jsonl", "bad.json.gz", "bad.parquet", "bad.txt"):
            Path(name).write_bytes(bad)

    def secrets(self):
        """The secrets in all watermark files that are there."""
        for path in self.path.glob("*.json"):
            try:
                yield json.loads(path.read_bytes())["key"]["secret"]
            except (ValueError, KeyError, TypeError, OSError, RecursionError):
                continue


@pytest.fixture
def folder(wm, letters, tmp_path, monkeypatch):
    """No model is there: it would only take long."""

    def absent(name, *_, **__):
        raise WatermarkError("no model is here: use another")

    for function in (
        "wmcore.models.load_model",
        "wmcore.models.vocab_size_of",
        "wmcore.cli.demo.run",
    ):
        monkeypatch.setattr(function, absent)
    monkeypatch.setattr("wmcore.models.load_tokenizer", lambda _: Letters())
    return Folder(tmp_path, wm)


def holds(result, arguments, secrets):
    """What is true of every run of the command."""
    code, out, err = result
    assert code in (0, 2), err
    assert code == 0 or err
    for line in err.splitlines():
        assert line.startswith("wmcore: "), err
        assert len(line) > len("wmcore: x"), err
    is_harmless(out)
    is_harmless(err)
    keeps(out + err, HEX, *secrets)
    asked = {"detect", "identify", "scan"}.intersection(arguments[:1])
    if (
        code == 0
        and asked
        and "--json" in arguments
        and not {"-h", "--help"}.intersection(arguments)
    ):
        for line in out.splitlines():
            json.loads(line)


DATA = damaged([LINES, ARRAY, PARQUET, b"a text"])


@inputs(0.14, arguments=commands(), data=DATA)
def test_commands(folder, arguments, data):
    folder.restore(data)
    result = folder.wm(*arguments, stdin=data)
    holds(result, arguments, folder.secrets())


@inputs(0.04, data=DATA, tokens=st.booleans(), as_json=st.booleans())
def test_standard_input_and_files_agree(folder, data, tokens, as_json):
    """What is piped in is read as a file of records is."""
    folder.restore(data)
    options = [*SMALL["detect"], "--seed", "1", "-w", "mark.json"]
    if not tokens:
        options = ["--text-field", "text", *options[:2], *options[4:]]
    if as_json:
        options.append("--json")
    piped = folder.wm("detect", *options, "-", stdin=data)
    Path("stdin.json").write_bytes(data)
    read = folder.wm("detect", *options, "stdin.json")
    holds(piped, ["detect", *options], folder.secrets())
    assert piped[0] == read[0]
    if as_json:
        as_file = [json.loads(line) for line in read[1].splitlines()]
        for row in as_file:
            row["document"] = row["document"].replace("stdin.json", "stdin")
            if row["error"]:
                row["error"] = row["error"].replace("stdin.json", "stdin")
        assert [json.loads(line) for line in piped[1].splitlines()] == as_file


@inputs(0.02, name=st.sampled_from(["new", "out"]), arguments=commands(), data=DATA)
def test_a_scan_that_failed_can_be_finished(folder, name, arguments, data):
    """Whatever a first command did to the output, the right one then works, or says to take another folder."""
    folder.restore(data)
    if arguments[:1] == ["scan"]:
        holds(folder.wm(*arguments, "-o", name), arguments, folder.secrets())
    good = ("scan", "-w", "mark.json", "in.jsonl", "-o", name, *SMALL["scan"])
    code, _, err = folder.wm(*good)
    if code:
        assert "choose another folder" in err
        code, _, err = folder.wm(*good, "-o", "other")
        name = "other"
    assert (code, err) == (0, "")
    assert folder.wm("report", name)[0] == 0
