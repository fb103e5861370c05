"""Reports for an authority from audits, and the command."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")
import sample_pages
from commands import V, one_line

from wmcore import Detector, Watermark, WatermarkError
from wmcore.audit.result import Audit, Check, Diagnosis, Row
from wmcore.evidence.audits import how_tested, of_audit, read_audit
from wmcore.evidence.page import render
from wmcore.intervals import clopper_pearson

MARKED = [1e-9, 1e-4, 0.02, None]
UNMARKED = [0.9, 0.03, 0.0005, 0.4, 0.2, 0.008, 1.0]


def audit_of(mark, texts=()):
    """An audit of four marked texts, one of which failed, and seven unmarked ones; the marked ones may be kept."""
    kept = [*texts, *[None] * len(MARKED)]
    rows = [Row("marked", 0, 90, p_value=p, text=t) for p, t in zip(MARKED, kept, strict=False)]
    rows += [Row("unmarked", None, 90, p_value=p, text="never") for p in UNMARKED]
    counts = {"failed": 1, "too_short": 0, "other_keys": 15, "other_keys_found": 1}
    return Audit(
        began="2026-11-29T08:00:00+00:00",
        ended="2026-11-29T08:05:00+00:00",
        version="0.0.1",
        versions={"wmcore": "0.0.1", "numpy": "1.0"},
        technique="a key sequence",
        fingerprint=mark.fingerprint,
        watermark={"scheme": mark.scheme, "key_length": mark.key_length, "tokenizer": "letters"},
        detector={
            "scheme": mark.scheme,
            "score": None,
            "gap": mark.gap,
            "block_length": None,
            "tokenizer": "/home/somebody/letters",
        },
        writer={
            "kind": "model",
            "name": "/home/somebody/model",
            "temperature": 0.7,
            "more": [1, "<b>"],
        },
        level=0.001,
        error=0.001,
        counts=counts,
        checks=(Check("found", "good", "2 of 3 <i>texts</i>", {}),),
        diagnoses=(Diagnosis("wrong tokenizer", False, "it may be the tokenizer"),),
        rows=tuple(rows),
    )


@pytest.fixture
def written(wm, mark):
    """Writes an audit of the watermark in `mark.json` to audit.json."""

    def write(change=lambda _: None, texts=()):
        facts = audit_of(Watermark.load(mark), texts).to_dict()
        change(facts)
        Path("audit.json").write_text(json.dumps(facts))
        return "audit.json"

    return write


def values(facts):
    """{name: value} of facts."""
    return {fact.name: fact.value for fact in facts}


def test_an_audit_is_counted_from_its_texts(written):
    found = of_audit(written())
    facts = values(found.findings.rows)
    assert (facts["marked"], facts["found"], facts["failed"]) == (3, 2, 1)
    assert [facts["found_low"], facts["found_high"]] == clopper_pearson(2, 3)
    assert facts["check_1"] == "good: 2 of 3 <i>texts</i>"
    assert found.findings.says[-1] == "it may be the tokenizer"
    *texts, keys = found.false_alarms.rows
    assert [(row.level, row.found.count, row.found.of) for row in texts] == [
        *((0.05, 3, 7), (0.01, 2, 7), (0.001, 1, 7))
    ]
    assert texts[0].found.interval == clopper_pearson(3, 7)
    assert (keys.found.count, keys.found.of, keys.keys) == (1, 15, 15)
    assert keys.found.interval == clopper_pearson(1, 15)
    assert found.verdict == "The self-test cannot tell whether the set-up works"
    assert (found.began, found.ended, found.ran) == (
        "2026-11-29T08:00:00+00:00",
        "2026-11-29T08:05:00+00:00",
        {"wmcore": "0.0.1", "numpy": "1.0"},
    )
    old = of_audit(written(without("versions")))
    assert old.ran == {"wmcore": "0.0.1"}


def test_texts_that_could_not_be_tested_are_counted(written):
    """None was written in vain, but none can be read: an audit with the wrong vocabulary."""

    def change(facts):
        facts["rows"] = [{**row, "p_value": None} for row in facts["rows"]]
        facts["counts"]["failed"] = 0

    found = of_audit(written(change))
    facts = values(found.findings.rows)
    assert (facts["failed"], facts["marked"], facts["found"]) == (11, 0, 0)
    assert "found_low" not in facts
    assert [row.what for row in found.false_alarms.rows] == ["marked texts, other keys"]


def test_an_audit_that_failed_says_so_first(written):
    def change(facts):
        facts["verdict"] = facts["checks"][0]["verdict"] = "bad"

    found = of_audit(written(change))
    page, _ = render(found, "evidence.json")
    assert "<h1>The set-up failed its self-test.</h1>" in page
    assert values(found.findings.rows)["check_1"].startswith("bad: ")


def test_the_page_of_an_audit(written):
    page, content = render(of_audit(written()), "evidence.json")
    assert "<i>texts" not in page
    assert "2 of 3 &lt;i&gt;texts&lt;/i&gt;" in page
    assert "Run from" in page
    assert "29 November 2026, 08:05 UTC" in page
    facts = {fact["name"]: fact["value"] for fact in json.loads(content)["parameters"]}
    assert facts["writer_temperature"] == 0.7
    assert facts["detector_tokenizer"] == "letters"
    assert "somebody" not in page + content.decode()


def test_an_audit_without_unmarked_texts_says_so(written):
    def change(facts):
        facts["rows"] = [row for row in facts["rows"] if row["kind"] == "marked"]
        facts["counts"]["other_keys"] = 0

    found = of_audit(written(change)).false_alarms
    assert found.rows == []
    assert "nothing was measured" in found.says[-1]


def without(name):
    return lambda facts: facts.pop(name)


def with_value(name, value):
    return lambda facts: facts.__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *((without(name), "damaged") for name in ("rows", "counts", "level", "began", "detector")),
        (with_value("rows", [{"kind": "marked"}]), "damaged"),
        (with_value("rows", [7]), "damaged"),
        (with_value("rows", [{"kind": "marked", "p_value": float("nan")}]), "damaged"),
        (with_value("rows", [{"kind": "marked", "p_value": -1}]), "damaged"),
        (with_value("versions", 5), "damaged"),
        (with_value("versions", {"numpy": 2}), "damaged"),
        (with_value("checks", {"found": 1}), "damaged"),
        (with_value("level", float("nan")), "damaged"),
        (with_value("level", True), "damaged"),
        (with_value("counts", {"other_keys": 1}), "damaged"),
        (with_value("format", "wmcore.scan"), "neither the folder of a scan nor an audit"),
        (with_value("format_version", 2), "version 2"),
        (with_value("detector", {"scheme": "none"}), "scheme 'none' is not known"),
    ],
)
def test_what_is_no_audit_is_refused(written, change, message):
    with pytest.raises(WatermarkError, match=message):
        of_audit(written(change))


def test_files_that_are_no_json(tmp_path):
    file = tmp_path / "audit.json"
    for content in (b"\xff\xfe", b"[1", b"[" * 100_000, b"[]"):
        file.write_bytes(content)
        with pytest.raises(WatermarkError, match="neither"):
            read_audit(file)
    with pytest.raises(WatermarkError, match="cannot be read"):
        read_audit(tmp_path / "none.json")


def test_an_audit_says_how_it_tested(written):
    scheme = with_value("detector", {"scheme": "exp-free", "score": "log", "gap": 2.0})
    test = how_tested(read_audit(written(scheme)))
    assert (test.scheme, test.score, test.gap, test.block_length) == ("exp-free", None, 2.0, 0)
    other = with_value("detector", {"scheme": "exp-free", "score": "clipped", "block_length": 5})
    test = how_tested(read_audit(written(other)))
    assert (test.scheme, test.score, test.block_length) == ("exp-free", "clipped", 5)


# the command


def marked_letters(mark, count=3, length=80):
    """Texts of letters that fit the key."""
    detector = Detector(Watermark.load(mark), threads=1)
    costs = detector.engine.matrix(detector.costs, np.arange(32, 127))
    rows = np.arange(length) % detector.watermark.key_length
    return [
        "".join(map(chr, 32 + costs[:, (rows + i) % detector.watermark.key_length].argmin(axis=0)))
        for i in range(count)
    ]


@pytest.fixture
def marked(mark):
    """marked.jsonl with three marked texts of letters."""
    lines = [json.dumps({"text": text}) for text in marked_letters(mark)]
    Path("marked.jsonl").write_text("\n".join(lines))
    return "marked.jsonl"


def test_the_command_writes_a_page_and_json(wm, mark, letters, written, marked):
    given = ("report", "--evidence", written(), "--texts", marked, "-w", mark)
    code, out, err = wm(*given, "--tokenizer", "letters", "-o", "e.html")
    assert (code, out) == (0, ""), err
    facts = json.loads(Path("e.json").read_text())
    rows = {row["name"]: row for row in facts["robustness"]["rows"]}
    assert rows["none"]["found"]["count"] == rows["none"]["found"]["of"] == 3
    assert rows["insert_30"]["tokens"] == 104
    assert [file["what"] for file in facts["files"]] == ["audit.json", "marked.jsonl"]
    assert "3 of 3" in Path("e.html").read_text()
    secret = json.loads(mark.read_text())["key"]["secret"]
    assert secret not in Path("e.html").read_text() + Path("e.json").read_text() + err


def test_nothing_is_replaced_without_force(wm, written):
    given = ("report", "--evidence", written())
    assert wm(*given)[0] == 0
    before = Path("evidence.json").read_bytes()
    one_line(wm(*given), r"evidence\.html: the file exists; choose another or add --force")
    os.unlink("evidence.html")
    one_line(wm(*given), r"evidence\.json: the file exists; choose another or add --force")
    assert Path("evidence.json").read_bytes() == before
    assert wm(*given, "--force")[0] == 0
    assert Path("evidence.html").exists()
    # The audit itself is never replaced.
    one_line(wm(*given, "--force", "-o", "audit.html"), "give the page another name")
    one_line(wm(*given, "--force", "-o", "page.json"), "give the page another name")
    read_audit("audit.json")


def test_texts_that_the_audit_kept_are_edited(wm, mark, letters, written):
    audit = written(texts=marked_letters(mark))
    assert wm("report", "--evidence", audit)[0] == 0
    rows = json.loads(Path("evidence.json").read_text())["robustness"]["rows"]
    assert all(row["found"] is None for row in rows)
    options = ("-w", mark, "--tokenizer", "letters", "--force")
    assert wm("report", "--evidence", audit, *options)[0] == 0
    rows = json.loads(Path("evidence.json").read_text())["robustness"]["rows"]
    assert rows[0]["found"]["of"] == 3  # none of the unmarked ones


def test_what_does_not_go_together(wm, mark, letters, written, marked):
    audit = written()
    given = ("report", "--evidence", audit)
    one_line(wm(*given, "--texts", marked), "give it with -w")
    one_line(wm(*given, "--hits", 3), "leave --hits out")
    one_line(wm(*given, "--texts", "none.jsonl", "-w", mark), "no such file")
    one_line(wm(*given, "--texts", ".", "-w", mark), "no such file")
    one_line(wm(*given, "--texts", marked, "-w", mark), "no --tokenizer given")
    one_line(wm("report", audit), "give that, or --evidence")
    one_line(wm("report", "scan", "--force"), "--force is for --evidence")
    one_line(wm("report", "scan", "--texts", marked), "--texts is for --evidence")
    one_line(wm("report", "--evidence", "none"), "none cannot be read")
    Watermark.create("exp-edit", vocab_size=V, key_length=40).save("other.json")
    options = ("--tokenizer", "letters", "-w", "other.json")
    one_line(wm(*given, "--texts", marked, *options), "give the one that was tested")
    Path("broken.jsonl").write_text('{"text": 7}\n')
    options = ("--tokenizer", "letters", "-w", mark)
    one_line(wm(*given, "--texts", "broken.jsonl", *options), "mend it, or leave it out")
    assert not os.path.exists("evidence.html")
    assert not os.path.exists("evidence.json")


def test_evidence_of_a_scan(wm, tmp_path):
    folder = sample_pages.scanned(tmp_path)
    mark = replace(sample_pages.watermark(), tokenizer="words")
    mark.save("words.json")
    rng = np.random.default_rng(8)
    tokens = [sample_pages.marked(mark, rng, length=80).tolist() for _ in range(2)]
    Path("tokens.jsonl").write_text("\n".join(json.dumps({"tokens": t}) for t in tokens))
    options = ("--texts", "tokens.jsonl", "--tokens-field", "tokens", "-w", "words.json")
    code, _, err = wm("report", "--evidence", folder, *options)
    assert code == 0, err
    facts = json.loads((folder / "evidence.json").read_text())
    assert facts["about"] == "scan"
    assert facts["robustness"]["rows"][0]["found"]["count"] == 2
    assert (folder / "evidence.html").exists()
    assert wm("report", folder)[0] == 0  # the page of the scan is another one
    assert (folder / "report.html").exists()
