"""Reports for an authority: the same facts as the scan's files, tied to them, no secret, nothing that runs."""

import hashlib
import html
import json
import platform
import re
import subprocess

import numpy as np
import pytest

pytest.importorskip("pyarrow")
import audits
import sample_pages

from wmcore import Detector, WatermarkError
from wmcore.attacks import substitute
from wmcore.evidence.page import render
from wmcore.evidence.record import Evidence, Fact, digest, plain
from wmcore.evidence.robustness import ATTACKS, Attack, robustness
from wmcore.evidence.scans import how_tested, of_scan
from wmcore.intervals import clopper_pearson
from wmcore.scan.manifest import MANIFEST, read_manifest
from wmcore.scan.store import read_shard, shards
from wmcore.versions import versions

CONTROLS = 4


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    """The output of a scan with control keys."""
    return sample_pages.scanned(tmp_path_factory.mktemp("controlled"), controls=CONTROLS)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """The output of one without, in which nothing is called."""
    return sample_pages.scanned(tmp_path_factory.mktemp("quiet"), every=0)


def columns(folder, *names):
    """Columns of all shards, without the rows that were not tested."""
    tables = [read_shard(path) for *_, path in shards(folder)]
    rows = [row for table in tables for row in table.to_pylist() if row["error"] is None]
    return [np.array([row[name] for row in rows]) for name in names]


def values(facts):
    """{name: value} of facts."""
    return {fact.name: fact.value for fact in facts}


def said(page):
    """The text of a page's body, in one line."""
    body = page[page.index("<body>") :]
    return re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]*>", "", body)))


def test_findings_are_those_of_the_shards(controlled):
    p, q = columns(controlled, "p_value", "q_value")
    found = of_scan(controlled)
    facts = values(found.findings.rows)
    assert (facts["tested"], facts["errors"]) == (len(p), 1)
    assert facts["called"] == (q <= 0.01).sum() == 11
    assert facts["threshold"] == p[q <= 0.01].max()
    assert facts["least_p"] == p.min()
    assert facts["p_at_most_0.05"] == (p <= 0.05).sum()
    assert found.verdict == "Called: 11 of 120 documents carry the watermark"


def test_false_alarms_are_those_of_the_control_keys(controlled):
    (p,) = columns(controlled, "controls")
    assert p.shape == (120, CONTROLS)
    rows = of_scan(controlled).false_alarms.rows
    threshold = read_manifest(controlled)["summary"]["threshold"]
    assert [row.level for row in rows] == [0.05, 0.01, 0.001, threshold]
    for row in rows:
        by_key = (p <= row.level).sum(axis=0)
        assert (row.found.count, row.found.of) == (by_key.sum(), p.size)
        assert (row.keys, row.least, row.most) == (CONTROLS, by_key.min(), by_key.max())
        low, high = row.found.interval
        alone = clopper_pearson(row.found.count, p.size)
        assert low <= alone[0]
        assert high >= alone[1]
    assert rows[0].found.count > 0


def test_what_was_not_tested_is_said(quiet):
    found = of_scan(quiet)
    assert found.false_alarms.rows == []
    assert "--controls 19" in found.false_alarms.says[-1]
    assert len(found.robustness.rows) == len(ATTACKS) + 2
    assert all(row.found is None for row in found.robustness.rows)
    page = said(render(found, "evidence.json")[0])
    assert page.count("not tested here") == len(ATTACKS) + 2 + 1  # the sentence has it, too
    assert found.verdict.startswith("Not called")
    assert "threshold" not in values(found.findings.rows)


def test_parameters_are_those_of_the_manifest(controlled):
    manifest = read_manifest(controlled)
    facts = values(of_scan(controlled).parameters)
    for name in ("fingerprint", "scheme", "key_length", "vocab_size", "gap"):
        assert facts[name] == manifest["watermark"][name]
    for name in ("window", "resamples", "stop_after", "first_resamples", "controls", "tokenizer"):
        assert facts[name] == manifest["settings"][name]
    assert facts["correction_documents"] == "Benjamini-Hochberg"
    assert facts["input_1"].endswith(f"corpus.jsonl, {manifest['inputs'][0]['size']:,} bytes")


def test_a_calibrated_scan_says_that_it_is_approximate(controlled, quiet, tmp_path):
    folder = edited_manifest(
        quiet, tmp_path, lambda m: m["settings"].__setitem__("first", "calibrated")
    )
    assert any("approximate" in line for line in of_scan(folder).false_alarms.says)
    assert not any("approximate" in line for line in of_scan(controlled).false_alarms.says)


def edited_manifest(folder, tmp_path, change):
    """A copy of a scan's output with another manifest."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (copy / MANIFEST).write_text(json.dumps(manifest))
    return copy


def test_digests_are_those_that_the_commands_print(controlled):
    page, content = render(of_scan(controlled), "evidence.json")
    files = of_scan(controlled).files
    assert [file.what for file in files] == ["manifest.json", "part-*.parquet (1)"]
    for file in files:
        done = subprocess.run(
            ["bash", "-c", file.command], cwd=controlled, capture_output=True, text=True, check=True
        )
        assert done.stdout.split()[0] == file.sha256
    for sha256 in [hashlib.sha256(content).hexdigest(), *(file.sha256 for file in files)]:
        assert sha256 in page


@pytest.mark.parametrize(
    "name", ["a b.json", "$(touch hacked).json", "; touch hacked", "-c", "it's"]
)
def test_a_command_can_be_pasted_whatever_the_name(name, tmp_path):
    """The name of a file that others made, in a command for a shell."""
    (tmp_path / name).write_bytes(b"content")
    file = digest(tmp_path / name)
    done = subprocess.run(
        ["bash", "-c", file.command], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[0] == file.sha256 == hashlib.sha256(b"content").hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_shard_of_nothing_but_errors(tmp_path):
    """The 121st document, which cannot be read, in a shard of its own."""
    folder = sample_pages.scanned(tmp_path, controls=2, shard_size=120)
    rows = of_scan(folder).false_alarms.rows
    assert len(list(folder.glob("part-*"))) == 2
    assert {row.found.of for row in rows} == {240}


def test_many_shards_have_one_digest(tmp_path):
    folder = sample_pages.scanned(tmp_path, every=0, shard_size=13)
    (file,) = of_scan(folder).files[1:]
    assert file.what == f"part-*.parquet ({len(list(folder.glob('part-*')))})"
    assert file.bytes == sum(path.stat().st_size for path in folder.glob("part-*"))
    done = subprocess.run(
        ["bash", "-c", file.command], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[0] == file.sha256


def test_page_and_json_say_the_same(controlled):
    found = sample_pages.with_edits(of_scan(controlled))
    page, content = render(found, "evidence.json")
    facts = json.loads(content)
    assert facts == json.loads(json.dumps(found.to_dict()))
    assert (facts["format"], facts["version"]) == ("wmcore.evidence", 1)
    shown = said(page)
    for section in ("findings", "technique", "false_alarms", "robustness"):
        assert facts[section]["says"], section
        for sentence in facts[section]["says"]:
            assert sentence in shown
    for row in [*facts["findings"]["rows"], *facts["technique"]["rows"], *facts["parameters"]]:
        assert row["label"] in shown
        if isinstance(row["value"], str):
            assert row["value"] in shown
    for limit in facts["limits"]:
        assert limit in shown
    for row in [*facts["false_alarms"]["rows"], *facts["robustness"]["rows"]]:
        assert row["what"] in shown
        if row["found"] is not None:
            assert f"{row['found']['count']} of {row['found']['of']}" in shown
    for name, version in facts["reported"].items():
        assert name in shown
        assert version in shown


def test_a_report_holds_no_secret_and_no_text(controlled):
    page, content = render(of_scan(controlled), "evidence.json")
    mark = sample_pages.watermark()
    seed = str(read_manifest(controlled)["settings"]["seed"])
    for part in (page, content.decode()):
        assert mark.key.secret_hex not in part
        assert f'"{seed}"' not in part
        assert mark.fingerprint in part
        assert "مقالة" not in json.dumps(part, ensure_ascii=False)  # no document is named
        assert "olives" not in part


def test_what_others_wrote_is_shown_as_text(quiet, tmp_path):
    hostile = "<script>alert(1)</script>\ud800&"

    def change(manifest):
        manifest["inputs"][0]["name"] = hostile
        manifest["settings"]["tokenizer"] = hostile
        manifest["settings"]["window"] = float("nan")
        manifest["settings"]["fdr"] = ["<i>"]
        manifest["watermark"]["key_length"] = [1, 2]
        manifest["began"] = hostile

    page, content = render(of_scan(edited_manifest(quiet, tmp_path, change)), "<b>.json")
    assert "<script" not in page
    assert "<b>.json" not in page
    page.encode()
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 2
    assert values(Fact(**row) for row in json.loads(content)["parameters"])["window"] == "nan"


def test_nothing_is_fetched_and_nothing_runs(controlled):
    page, _ = render(of_scan(controlled), "evidence.json")
    assert not re.search(
        r"<(script|img|link|iframe|object|embed)|\ssrc=|url\(|@import|https?:", page
    )
    assert "default-src 'none'" in page


def test_scans_that_cannot_be_evidence(quiet, tmp_path):
    with pytest.raises(WatermarkError, match="not the output of a scan"):
        of_scan(tmp_path)
    folder = edited_manifest(quiet, tmp_path, lambda m: m.__setitem__("summary", None))
    with pytest.raises(WatermarkError, match="not finished"):
        of_scan(folder)


@pytest.mark.parametrize("count", [3, 5, 10**12, -1])
def test_controls_that_are_not_in_the_shards(controlled, tmp_path, count):
    folder = edited_manifest(
        controlled, tmp_path, lambda m: m["summary"]["controls"].__setitem__("count", count)
    )
    with pytest.raises(WatermarkError, match="damaged"):
        of_scan(folder)


def test_one_control_key_gives_no_interval(tmp_path):
    rows = of_scan(sample_pages.scanned(tmp_path, controls=1)).false_alarms.rows
    assert all(row.found.interval is None for row in rows)
    assert {row.keys for row in rows} == {1}


def test_dates_and_versions(controlled):
    found = of_scan(controlled)
    assert found.began <= found.ended <= found.made
    assert found.made.endswith("+00:00")
    assert found.ran == found.reported == versions()
    assert {"wmcore", "python", "numpy", "numba", "scipy", "platform"} <= versions().keys()


def test_versions_name_no_host(monkeypatch):
    real = platform.uname()
    named = type(real)(real.system, "host-of-somebody", real.release, real.version, real.machine)
    monkeypatch.setattr(platform, "uname", lambda: named)
    monkeypatch.setattr(platform, "_platform_cache", {})
    found = versions()
    assert real.machine in found["platform"]
    assert "host-of-somebody" not in str(found)


@pytest.fixture(scope="module")
def texts():
    """(detector, marked texts as token ids)."""
    mark, rng = sample_pages.watermark(), np.random.default_rng(8)
    return Detector(mark, threads=1), [sample_pages.marked(mark, rng, length=80) for _ in range(6)]


def test_robustness_counts_what_the_detector_finds(texts):
    detector, arrays = texts
    replaced = []

    def all_replaced(tokens, vocab_size, rng):
        replaced.append(substitute(tokens, 1.0, vocab_size=vocab_size, seed=rng))
        return replaced[-1]

    attacks = [ATTACKS[0], Attack("all", "all replaced", all_replaced)]
    rows = robustness(detector, arrays, level=0.01, attacks=attacks).rows
    p = [d.p_value for d in detector.detect(arrays)]
    q = [d.p_value for d in detector.detect(replaced)]
    for row, wanted in zip(rows, (p, q), strict=False):
        count = sum(one <= 0.01 for one in wanted)
        assert (row.found.count, row.found.of) == (count, 6)
        assert row.found.interval == clopper_pearson(count, 6)
        assert row.median_p == np.median(wanted)
        assert row.tokens == 80
    assert rows[0].found.count == 6
    assert rows[1].found.count <= 2  # each with probability 0.01: three of six are one in 50,000
    assert all(row.found is None for row in rows[2:])


def test_attacks_do_what_they_say():
    tokens = np.arange(1000)
    edited = {
        attack.name: attack.edit(tokens, 10**6, np.random.default_rng(1)) for attack in ATTACKS
    }
    assert edited["none"].tolist() == tokens.tolist()
    for percent in (10, 30):
        same = edited[f"substitute_{percent}"] == tokens
        # A new token can be the old one by chance, one in a million.
        assert 10 * percent - 2 <= (~same).sum() <= 10 * percent
        longer, shorter = edited[f"insert_{percent}"], edited[f"delete_{percent}"]
        assert (len(longer), len(shorter)) == (1000 + 10 * percent, 1000 - 10 * percent)
        assert np.isin(tokens, longer).all()
        assert np.isin(shorter, tokens).all()
    assert edited["first_half"].tolist() == tokens[:500].tolist()
    assert edited["first_quarter"].tolist() == tokens[:250].tolist()
    assert len(ATTACKS[-1].edit(tokens[:1], 10, np.random.default_rng(1))) == 1


def test_a_text_gets_the_same_edits_whoever_else_is_tested(texts):
    detector, arrays = texts
    seen = []

    def note(tokens, vocab_size, rng):
        seen.append(substitute(tokens, 0.5, vocab_size=vocab_size, seed=rng).tolist())
        return tokens

    attack = Attack("half", "half replaced", note)
    robustness(detector, arrays, attacks=[attack])
    robustness(detector, arrays[:2], attacks=[attack])
    robustness(detector, arrays[:2], attacks=[attack], seed=1)
    assert seen[6:8] == seen[:2]
    assert seen[8] != seen[0]


def test_edited_texts_are_tested_finely_enough_for_the_level():
    """Without a bound, the default's resamples give no p of 1e-4."""
    server = audits.Server(audits.watermark("its", key_length=64))
    (text,) = server.write(audits.PROMPTS, [0], marked=True)
    detector = Detector(server.mark, threads=1)
    (row,) = robustness(detector, [text.tokens], level=1e-4, attacks=ATTACKS[:1]).rows[:1]
    assert row.found.count == 1


def test_texts_that_cannot_be_read_are_counted(texts):
    detector, arrays = texts
    found = robustness(detector, [arrays[0], [], [10**6]], attacks=ATTACKS[:1])
    assert found.rows[0].found.of == 1
    assert found.says[-1].startswith("2 more could not be read")
    with pytest.raises(WatermarkError, match="none can be tested"):
        robustness(detector, [[]])
    with pytest.raises(WatermarkError, match="level"):
        robustness(detector, arrays, level=2)
    with pytest.raises(TypeError):
        robustness(detector.watermark, arrays)


def test_a_scan_says_how_it_was_tested(controlled):
    test = how_tested(controlled)
    assert (test.fingerprint, test.scheme) == (sample_pages.watermark().fingerprint, "exp")
    assert (test.gap, test.block_length, test.score) == (0.0, 0, None)


def test_plain_values_are_json():
    for value in (float("inf"), float("nan"), [1], {"a": 1}, True, 2**70, "text", None, 0.5):
        json.dumps(plain(value), allow_nan=False)
    assert plain(float("nan")) == "nan"
    assert plain(True) == "True"


def test_limits_speak_of_what_is_mostly_misread(controlled):
    text = " ".join(of_scan(controlled).limits)
    for part in (
        "not the probability that a machine wrote the text",
        "Absence proves nothing",
        "no compliance programme",
        "forged",
    ):
        assert part in text


def test_every_field_is_shown():
    """A field that the template forgets would be in the JSON alone."""
    template = (sample_pages.TEMPLATES / "evidence.html").read_text("utf-8")
    for name in Evidence.__dataclass_fields__:
        shown = {"files": "in files", "made": "time(made)", "began": "began", "ended": "ended"}
        assert shown.get(name, f"e.{name}") in template, name
