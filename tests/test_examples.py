"""examples/: the lines of its README run as they stand, and its files are what it says they are."""

import hashlib
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from wmcore import Detector, Key, Watermark
from wmcore.models import load_tokenizer

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
TEXT = (EXAMPLES / "README.md").read_text(encoding="utf-8")
LINES = [shlex.split(line) for line in re.findall(r"^ {4}wmcore (.*)$", TEXT, re.MULTILINE)]
SLOW = "out.jsonl"
"""Where the model writes to: lines that name it load the model, or what it has written."""


@pytest.fixture
def clone(tmp_path):
    """The test's folder holds examples/ as a clone does: readable by everybody."""
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    for path in (tmp_path / "examples").iterdir():
        path.chmod(0o644)
    return tmp_path


def run(wm, lines):
    """The outputs of the commands, which succeed and warn of nothing."""
    outputs = []
    for line in lines:
        code, out, err = wm(*line)
        assert code == 0, (line, err)
        assert "warning" not in err.lower(), err
        outputs.append(out)
    return outputs


@pytest.mark.model
def test_fast_lines_run_as_they_stand(wm, clone):
    lines = [line for line in LINES if SLOW not in line]
    assert [line[0] for line in lines] == ["detect", "scan", "report"]
    _, scanned, _ = run(wm, lines)
    assert "Called: 7 of 20 documents carry the watermark at q <= 0.01" in " ".join(scanned.split())
    assert (clone / "found/report.html").is_file()


@pytest.mark.slow
@pytest.mark.model
def test_lines_that_load_the_model_run_as_they_stand(wm, clone):
    lines = [line for line in LINES if SLOW in line]
    assert [line[0] for line in lines] == ["generate", "detect"]
    run(wm, lines)
    assert len((clone / SLOW).read_text().splitlines()) == 8


@pytest.mark.model
def test_documents_carry_the_watermark_where_it_is_said():
    """p of an unmarked text is below 1e-6 once in a million keys."""
    watermark = Watermark.load(EXAMPLES / "watermark.json")
    detector = Detector(watermark, tokenizer=load_tokenizer(watermark.tokenizer))
    lines = (EXAMPLES / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    documents = [json.loads(line) for line in lines]
    found = detector.detect([document["text"] for document in documents], seed=1)
    marked = [result.p_value < 1e-6 for result in found]
    assert marked == [d["source"] == "smollm2, watermarked" for d in documents]
    assert (len(marked), sum(marked)) == (20, 7)
    assert detector.detect([(EXAMPLES / "letter.txt").read_text()], seed=1)[0].p_value > 0.01


def test_the_key_is_nobodys_secret():
    """It is the hash of a sentence that says so: nobody has used it, or will, for texts of their own."""
    document = json.loads((EXAMPLES / "watermark.json").read_text())
    assert document["key"]["public"] is True
    said = hashlib.sha256(b"wmcore examples: public, for trying only").digest()
    assert Watermark.load(EXAMPLES / "watermark.json").key == Key(said)


def test_readme_names_each_file():
    named = set(re.findall(r"^\| \[(\S+)\]\((\S+)\)", TEXT, re.MULTILINE))
    assert all(shown == target for shown, target in named)
    there = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    assert {target for _, target in named} == there - {"README.md"}
