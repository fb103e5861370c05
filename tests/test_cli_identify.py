"""`wmcore identify`: which of many keys wrote each text."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import V, one_line, rows

from wmcore import Detector, Watermark
from wmcore.identify import identify

TENANTS = ("ann", "ben", "caf\u00e9")


@pytest.fixture
def texts(wm, mark):
    """A file of a text by the second tenant, one by nobody and one that cannot be tested; the watermarks."""
    Path("keys").mkdir()
    for i, label in enumerate(TENANTS):
        assert wm("derive", "-w", mark, "--label", label, "-o", f"keys/{i}.json")[0] == 0
    keys = [Watermark.load(f"keys/{i}.json") for i in range(3)]
    detector = Detector(keys[1])
    costs = detector.engine.matrix(detector.costs, np.arange(V))
    best = costs[:, (3 + np.arange(40)) % 40].argmin(axis=0)  # of each row, what the key likes best
    found = [best, np.random.default_rng(1).integers(0, V, 40)]
    lines = [json.dumps({"tokens": text.tolist()}) for text in found]
    Path("in.jsonl").write_text("\n".join([*lines, '{"tokens": [9999]}']))
    return found, keys


IDENTIFY = ("identify", "--tokens-field", "tokens", "in.jsonl", "--seed", 1)


def test_each_text_gets_its_key(wm, texts):
    found, keys = texts
    code, out, err = wm(*IDENTIFY, "--json", "-w", "keys")
    assert code == 0
    assert err == "wmcore: 1 of 3 documents could not be tested\n"
    first, second, third = rows(out)
    assert first["found"] is True
    assert first["watermark"] == "keys/1.json"
    assert first["fingerprint"] == keys[1].fingerprint
    assert (
        second["found"] is False
    )  # p is K p of the best key: 0.001 once in a thousand keys at most
    assert third["found"] is third["watermark"] is third["p_value"] is None
    assert "9999" in third["error"]
    expected = identify(found, keys, seed=1)
    for row, one in zip((first, second), expected, strict=True):
        assert row["p_value"] == one.p_value
        assert (row["shift"], row["length"], row["keys"]) == (one.shift, 40, 3)

    files = [part for i in range(3) for part in ("-w", f"keys/{i}.json")]
    assert wm(*IDENTIFY, "--json", *files)[1] == out


def test_labels_stand_for_the_keys_that_derive_makes(wm, mark, texts):
    Path("labels.txt").write_text("\n".join([*TENANTS, "", "ann"]), encoding="utf-8")
    options = ("-w", mark, "--labels", "labels.txt")
    labelled = rows(wm(*IDENTIFY, "--json", *options)[1])
    by_file = rows(wm(*IDENTIFY, "--json", "-w", "keys")[1])
    assert [row.pop("watermark") for row in labelled][::2] == ["ben", None]
    for row in by_file:
        del row["watermark"]
    assert labelled == by_file

    one_line(wm(*IDENTIFY, "-w", "keys", "--labels", "labels.txt"), "for one watermark file")
    Path("labels.txt").write_text("\n \n")
    one_line(wm(*IDENTIFY, *options), r"labels\.txt: no label in it; give one a line")
    Path("labels.txt").write_bytes(b"\xff")
    one_line(wm(*IDENTIFY, *options), r"labels\.txt: not UTF-8")
    one_line(wm(*IDENTIFY, *options[:-1], "none.txt"), r"none\.txt: No such file")


def test_the_table_names_only_keys_that_are_found(wm, texts):
    code, out, _ = wm(*IDENTIFY, "-w", "keys")
    assert code == 0
    assert out.endswith('"None found" does not say that a text is not ours.\n')
    assert "3 keys; one is found where p, corrected for them, is at most 0.001" in out
    by_line = {line.split()[1]: line for line in out.splitlines() if "in.jsonl:" in line}
    assert "keys/1.json" in by_line["in.jsonl:1"]
    assert "none found" in by_line["in.jsonl:2"]
    assert ".json " not in by_line["in.jsonl:2"]
    out = wm(*IDENTIFY, "-w", "keys", "--level", 1)[1]
    assert "none found" not in out


def test_a_level_beyond_the_resamples_is_said_with_what_would_do(wm, texts):
    code, out, err = wm(*IDENTIFY, "--json", "-w", "keys", "--resamples", 99)
    assert code == 0
    assert "3 keys and 99 resamples give no p below 0.03: none is found at 0.001" in err
    assert "try --resamples 3000\n" in err
    assert not any(row["found"] for row in rows(out))
    code, out, err = wm(*IDENTIFY, "--json", "-w", "keys", "--resamples", 3000)
    assert "resamples" not in err
    assert rows(out)[0]["found"] is True


def test_mistakes(wm, mark, texts):
    one_line(wm(*IDENTIFY), "Missing option '--watermark'")
    one_line(wm("identify", "-w", mark, "in.jsonl"), "no --tokenizer given and the watermark names")
    Path("empty").mkdir()
    one_line(wm(*IDENTIFY, "-w", "empty"), r"--watermark empty: no file in this folder ends in")
    one_line(wm(*IDENTIFY, "--text-field", "text", "-w", "keys"), "either --text-field or --tok")
    wm("keygen", "--scheme", "exp", "--vocab-size", V, "-o", "keys/other.json")
    one_line(
        wm(*IDENTIFY, "-w", "keys"), r"watermark 3 \(.*differs from watermark 0 .*than the key"
    )
    Path("none.jsonl").write_text("")
    code, out, err = wm(*IDENTIFY[:3], "none.jsonl", "-w", mark)
    assert (code, err) == (2, "wmcore: 1 of 1 documents could not be tested\n")
    assert "no documents in it" in out
    assert "p = 0.03" not in out
