"""Scans of HTML, CSV, WARC and standard input: positions, ids, what resumes, and what a stop keeps."""

import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import pytest
from commands import Letters
from scans import OPTIONS, corpus, shard_bytes, watermark
from test_formats import answer, record

from wmcore import WatermarkError

pytest.importorskip("pyarrow")
pytest.importorskip("lxml")

from wmcore.scan import scan
from wmcore.scan.manifest import read_manifest
from wmcore.scan.passed import PassedOver
from wmcore.scan.settings import ScanSettings
from wmcore.scan.sources import open_sources

MARK = watermark()
TEXTS = {**OPTIONS, "tokens_field": None, "id_field": None, "shard_size": 4}


def words(number):
    return f"text number {number} " * 5


def files(folder):
    """The same ten texts in every format; the eighth is a broken one where there can be one."""
    folder.mkdir()
    pages = [answer(f"<p>{words(i)}".encode()) for i in range(10)]
    pages.insert(7, record("request", b""))
    (folder / "a.warc.gz").write_bytes(b"".join(map(gzip.compress, pages)))
    rows = "".join(f'{i},"{words(i)}"\n' for i in range(7)) + "\n7\n"
    (folder / "b.csv").write_text("id,text\n" + rows + f'8,"{words(8)}"\n9,"{words(9)}"\n')
    (folder / "c.json").write_text(json.dumps([words(i) for i in range(10)]))
    for i in range(5):
        (folder / f"t{i}.html").write_text(f"<p>{words(i)}")
        (folder / f"u{i}.txt.gz").write_bytes(gzip.compress(words(i).encode()))
    return folder


def run(path, out=None, **options):
    return list(scan(path, MARK, out, tokenizer=Letters(), **{**TEXTS, **options}))


def test_every_format_in_one_folder(tmp_path):
    folder, out = files(tmp_path / "in"), tmp_path / "out"
    rows = run(folder, out)
    by = {n: [r for r in rows if r["source"] == n] for n in range(4)}
    assert [r["position"] for r in by[0]] == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10]
    assert [r["position"] for r in by[1]] == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10]
    assert [r["position"] for r in by[2]] == list(range(10))
    assert [os.path.basename(r["id"]) for r in by[3]] == [
        *(f"t{i}.html" for i in range(5)),
        *(f"u{i}.txt.gz" for i in range(5)),
    ]
    assert by[0][-1]["id"] == f"{folder}/a.warc.gz:11"
    assert [r["position"] for r in rows if r["error"]] == [8]
    assert "1 cells below 2 columns" in by[1][7]["error"]
    lengths = {r["length"] for r in rows if r["error"] is None}
    assert lengths == {len(words(1)), len(words(1)) - 1}  # HTML drops the space at the end


def test_shards_that_are_missing_are_made_anew(tmp_path):
    folder, out = files(tmp_path / "in"), tmp_path / "out"
    run(folder, out)
    whole = shard_bytes(out)
    assert len(whole) == 3 * 4
    for name in list(whole)[::2]:
        (out / name).unlink()
    again = run(folder, out)
    assert 0 < len(again) < 40
    assert shard_bytes(out) == whole


def standard_input(monkeypatch, raw):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(raw)))


def test_standard_input(tmp_path, monkeypatch):
    path = corpus(tmp_path / "c.jsonl", MARK, 2000)
    raw = path.read_bytes()
    assert len(raw) > 1 << 17  # more than the head
    expected = list(scan(path, MARK, **OPTIONS))
    out = tmp_path / "out"
    standard_input(monkeypatch, raw)
    assert list(scan("-", MARK, out, **OPTIONS)) == expected
    summary = read_manifest(out)["summary"]
    assert (summary["documents"], summary["passed_over"]["total"]) == (2000, 0)
    names = list(shard_bytes(out))
    (out / names[1]).unlink()
    standard_input(monkeypatch, raw)
    assert 0 < len(list(scan("-", MARK, out, **OPTIONS))) < 2000
    standard_input(monkeypatch, raw[1:])
    with pytest.raises(WatermarkError, match=r"begun with something else .input -: head was"):
        list(scan("-", MARK, out, **OPTIONS))
    standard_input(monkeypatch, raw)
    with pytest.raises(WatermarkError, match="- is given twice"):
        list(scan(["-", "-"], MARK, **OPTIONS))
    standard_input(monkeypatch, raw)
    with pytest.raises(WatermarkError, match="reads the first documents twice"):
        list(scan("-", MARK, first="calibrated", **OPTIONS))


def test_progress_moves_within_an_input(tmp_path):
    """Each batch says what was read of its input, at the end of a shard, too."""
    path = corpus(tmp_path / "c.jsonl", MARK, 3000)
    settings = ScanSettings(tokens_field="tokens", shard_size=500)
    (source,) = open_sources([str(path)], None, PassedOver())
    shares = [batch.done for batch in source.batches(0, settings, ())]
    assert len(shares) == 6
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-2] < shares[-1] == 1.0


INTERRUPTED = """
    import signal, sys
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from wmcore.cli.main import main
    main(sys.argv[1:])
"""


def interrupted(arguments, out, ready):
    """(exit code, standard error) of a command that writes to the file `out` and gets SIGINT once it is `ready`."""
    with open(out, "w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(INTERRUPTED), *map(str, arguments)],
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
        )
    deadline = time.monotonic() + 100
    while not ready():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    return process.returncode, err


def test_an_interrupted_scan_says_what_it_keeps(tmp_path):
    MARK.save(tmp_path / "mark.json")
    path, out = corpus(tmp_path / "c.jsonl", MARK, 20_000), tmp_path / "out"
    command = ["scan", path, "-w", tmp_path / "mark.json", "-o", out, "--tokens-field", "tokens"]
    command += ["--shard-size", 100, "--window", 64, "--seed", 1]
    code, err = interrupted(command, tmp_path / "shown", lambda: len(shard_bytes(out)) > 1)
    assert code == 130
    kept = len(shard_bytes(out))
    assert 1 < kept < 200
    assert (
        f"stopped: {out} keeps the {kept} shards of 100 records that are done; run the same" in err
    )
    before = shard_bytes(out)
    settings = {"tokens_field": "tokens", "shard_size": 100, "window": 64, "seed": 1}
    first = next(scan(path, MARK, out, **settings))
    assert first["position"] == kept * 100
    assert all(shard_bytes(out)[name] == raw for name, raw in before.items())


def test_an_interrupted_detect_says_what_it_keeps(tmp_path):
    MARK.save(tmp_path / "mark.json")
    given, out = tmp_path / "in.jsonl", tmp_path / "results"
    given.write_text('{"tokens": [1, 2, 3]}\n' * 200_000)
    command = ["detect", "--json", "-w", tmp_path / "mark.json", "--tokens-field", "tokens", given]
    code, err = interrupted(command, out, lambda: out.stat().st_size > 0)
    assert code == 130
    kept = [json.loads(line) for line in out.read_text().splitlines()]
    assert 0 < len(kept) < 200_000
    told = int(
        re.search(r"stopped after ([\d,]+) documents: their lines are written", err)[1].replace(
            ",", ""
        )
    )
    assert told in (len(kept), len(kept) - 1)  # the signal may fall between a line and its count
