"""What goes wrong with inputs and outputs: what the user sees, and that nothing is lost."""

import contextlib
import gzip
import json
import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
from scans import OPTIONS, corpus, ordinary, shard_bytes, watermark

from wmcore import WatermarkError

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402

from wmcore.scan import scan  # noqa: E402
from wmcore.scan.manifest import read_manifest  # noqa: E402

MARK = watermark()


@pytest.fixture(scope="module")
def tokens_file(tmp_path_factory):
    return corpus(tmp_path_factory.mktemp("corpus") / "c.jsonl", MARK, 250)


def run(path, out=None, **options):
    return list(scan(path, MARK, out, **{**OPTIONS, **options}))


def lines_of(file):
    return file.read_bytes().splitlines(True)


def test_truncated_parquet(tokens_file, tmp_path):
    good, bad = tmp_path / "a.jsonl", tmp_path / "b.parquet"
    good.write_bytes(tokens_file.read_bytes())
    pq.write_table(pa.table({"id": ["x"], "tokens": [[1, 2, 3]]}), bad)
    bad.write_bytes(bad.read_bytes()[:-20])
    rows = run([bad, good], tmp_path / "out")
    assert rows[0]["error"].startswith(f"{bad} breaks off here")
    assert len(rows) == 251
    assert read_manifest(tmp_path / "out")["summary"]["errors"] == 1


def test_parquet_with_a_damaged_page(tmp_path):
    path = tmp_path / "b.parquet"
    rng = np.random.default_rng(0)
    tokens = [ordinary(rng, 40).tolist() for _ in range(300)]
    pq.write_table(pa.table({"tokens": tokens}), path, row_group_size=100, compression="zstd")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 600] = bytes(600)
    path.write_bytes(bytes(data))
    rows = run(path, id_field=None)
    assert len(rows) >= 101
    assert "breaks off" in rows[-1]["error"]
    assert all(r["error"] is None for r in rows[:-1])


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_broken_compression(tmp_path, kind):
    # A block of zstd has 128 KiB: what is in a broken one is lost.
    plain = corpus(tmp_path / "c.jsonl", MARK, 2000, every=10**9, long_every=10**9)
    data = plain.read_bytes()
    packed = gzip.compress(data) if kind == "gz" else pa.compress(data, "zstd", asbytes=True)
    path = tmp_path / f"c.jsonl.{kind}"
    path.write_bytes(packed[: len(packed) * 3 // 4])
    rows = run(path, tmp_path / "out")
    assert "breaks off here" in rows[-1]["error"]
    good = run(plain)
    assert len(rows) > 500
    # Every line that could be read has its result; a line that was cut is not JSON.
    whole = [r for r in rows if r["error"] is None]
    assert [r["p_value"] for r in whole] == [r["p_value"] for r in good[: len(whole)]]
    assert run(path, tmp_path / "out") == []


@pytest.mark.parametrize("lost", [[1], [0, 1, 2], [3], [1, 3]])
def test_lost_shards_of_a_broken_file(tmp_path, lost):
    """The row that says where a file breaks off goes where it was, not over a shard that is done."""
    plain = corpus(tmp_path / "c.jsonl", MARK, 350)
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(gzip.compress(plain.read_bytes())[:-10])
    run(path, tmp_path / "out")
    expected = shard_bytes(tmp_path / "out")
    assert len(expected) == 4
    for name in [sorted(expected)[i] for i in lost]:
        (tmp_path / "out" / name).unlink()
    run(path, tmp_path / "out")
    assert shard_bytes(tmp_path / "out") == expected


def test_break_at_the_edge_of_a_shard(tmp_path):
    """Stopped just before the break: the row that tells of it does not take the place of the first shard."""
    plain = corpus(tmp_path / "c.jsonl", MARK, 300)
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(gzip.compress(plain.read_bytes())[:-10])
    rows = run(path, tmp_path / "out")
    assert (len(rows), rows[-1]["position"]) == (301, 300)
    expected = shard_bytes(tmp_path / "out")
    (tmp_path / "out" / sorted(expected)[-1]).unlink()
    (row,) = run(path, tmp_path / "out")
    assert (row["position"], "breaks off" in row["error"]) == (300, True)
    assert shard_bytes(tmp_path / "out") == expected


def test_not_gzip_at_all(tmp_path):
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(b'{"tokens": [1]}\n')
    (row,) = run(path)
    assert "breaks off here (Not a gzipped file" in row["error"]


def test_lines_that_are_wrong(tokens_file, tmp_path):
    good = lines_of(tokens_file)[:3]
    bad = [
        b'{"tokens": [1, 2], "id": "\xff"}\n',
        b"not json\n",
        b"[1, [2]]\n",
        b'{"id": "none"}\n',
        b'{"id": "type", "tokens": ["a"]}\n',
        b'{"id": "huge", "tokens": [99999999999999999999]}\n',
        b"\n",
        b"   \n",
    ]
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"".join([good[0], *bad, good[1], good[2].rstrip(b"\n")]))
    rows = run(path, tmp_path / "out")
    assert [r["error"] is None for r in rows] == [True, *[False] * 6, True, True]
    errors = " | ".join(r["error"] or "" for r in rows)
    for part in (
        "not UTF-8: byte 0xff",
        "not JSON",
        "an array",
        "not a list of token ids",
        "64 bits",
    ):
        assert part in errors
    assert [r["position"] for r in rows] == [0, 1, 2, 3, 4, 5, 6, 9, 10]


def test_empty_file(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"")
    (row,) = run(path, tmp_path / "out")
    assert row["error"] == "no documents in it"
    assert read_manifest(tmp_path / "out")["summary"]["tested"] == 0
    assert run(path, tmp_path / "out") == []


def test_line_of_100_megabytes(tokens_file, tmp_path):
    """It becomes an error, its neighbours are tested, and it is never held in memory."""
    path = tmp_path / "c.jsonl"
    good = lines_of(tokens_file)
    with path.open("wb") as file:
        file.write(good[0])
        file.write(b'{"id": "big", "text": "')
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n')
        file.write(good[1])
    import tracemalloc

    tracemalloc.start()
    rows = run(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [r["error"] is None for r in rows] == [True, False, True]
    assert "longer than 4,000,000 bytes" in rows[1]["error"]
    assert peak < 60_000_000


def test_duplicate_ids_are_kept_apart(tokens_file, tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_bytes(lines_of(tokens_file)[0] * 250)
    rows = run(path, tmp_path / "out")
    assert len(rows) == 250
    assert len({r["position"] for r in rows}) == 250
    assert len({r["id"] for r in rows}) == 1


def test_read_only_output(tokens_file, tmp_path):
    if os.geteuid() == 0:
        # Root writes anywhere: a folder under a file cannot be made, which is the same error path.
        (tmp_path / "file").write_text("")
        out = tmp_path / "file" / "out"
    else:
        tmp_path.chmod(0o500)
        out = tmp_path / "out"
    try:
        with pytest.raises(
            WatermarkError, match=r"output .* cannot be written .*choose another folder"
        ):
            run(tokens_file, out)
    finally:
        tmp_path.chmod(0o700)


@contextlib.contextmanager
def file_limit(size):
    """No file may grow beyond `size` bytes: what a full disk does, without one."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


def test_full_disk(tokens_file, tmp_path):
    expected = tmp_path / "expected"
    run(tokens_file, expected)
    out = tmp_path / "out"
    with (
        file_limit(3_000),
        pytest.raises(WatermarkError, match=r"part-00000-000000000\.parquet cannot be written"),
    ):
        run(tokens_file, out)
    assert not shard_bytes(out)
    assert not list(out.glob(".writing-*"))
    run(tokens_file, out)
    assert shard_bytes(out) == shard_bytes(expected)


def test_disk_full_while_finishing(tokens_file, tmp_path, monkeypatch):
    from wmcore.scan import store

    expected = tmp_path / "expected"
    run(tokens_file, expected)
    out = tmp_path / "out"
    real = store.Store.write_table
    calls = []

    def failing(self, name, table):
        calls.append(name)
        if len(calls) == 5:  # three shards, then the second q-values
            raise WatermarkError("no space")
        real(self, name, table)

    monkeypatch.setattr(store.Store, "write_table", failing)
    with pytest.raises(WatermarkError, match="no space"):
        run(tokens_file, out)
    monkeypatch.undo()
    assert read_manifest(out)["summary"] is None
    assert run(tokens_file, out) == []
    assert shard_bytes(out) == shard_bytes(expected)


def test_output_that_is_something_else(tokens_file, tmp_path):
    out = tmp_path / "out"
    run(tokens_file, out)
    (out / "manifest.json").write_text("{")
    with pytest.raises(WatermarkError, match="damaged or not of a scan"):
        run(tokens_file, out)
    (out / "manifest.json").unlink()
    with pytest.raises(WatermarkError, match=r"holds shards but no manifest\.json"):
        run(tokens_file, out)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.jsonl", "no such file"),
        ("odd.docx", r"\.docx is not read: rename it or convert it to \.txt"),
        ("empty", r"holds no file that can be read, \.txt.*, and nothing else"),
        ("", "an input is an empty name"),
        ("fifo.jsonl", "no regular file"),
    ],
)
def test_inputs_that_cannot_be_used(tmp_path, name, message):
    (tmp_path / "odd.docx").write_text("x")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "fifo.jsonl")
    with pytest.raises(WatermarkError, match=message):
        run(str(tmp_path / name) if name else "")
    with pytest.raises(WatermarkError, match="cannot be opened"):
        run("nonsense://x/y.jsonl")


def wmcore(*arguments):
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "wmcore", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_two_scans_into_one_output(tokens_file, tmp_path):
    mark = tmp_path / "watermark.json"
    MARK.save(mark)
    running = scan(tokens_file, MARK, tmp_path / "out", **OPTIONS)
    next(running)
    done = wmcore(
        "scan", tokens_file, "-w", mark, "-o", tmp_path / "out", "--tokens-field", "tokens"
    )
    assert done.returncode == 2
    assert "another scan is writing there" in done.stderr
    running.close()


def test_command_and_report(tokens_file, tmp_path):
    mark, out = tmp_path / "watermark.json", tmp_path / "out"
    MARK.save(mark)
    path = tmp_path / "c.jsonl"
    path.write_bytes(tokens_file.read_bytes() + b"broken\n")
    options = ("--tokens-field", "tokens", "--id-field", "id", "--window", 64, "--stride", 32)
    done = wmcore("scan", path, "-w", mark, "-o", out, "--controls", 2, *options)
    assert done.returncode == 0, done.stderr
    assert "251 documents, 1 of them could not be tested" in done.stdout
    assert "2 control keys found" in done.stdout
    assert f"{path}:251: not JSON" in done.stderr
    again = wmcore("scan", path, "-w", mark, "-o", out, "--controls", 2, "--json", *options)
    last = json.loads(again.stdout.splitlines()[-1])
    assert (last["event"], last["documents"]) == ("done", 251)
    assert len(last["controls"]["at_most_0.05"]) == 2
    done = wmcore("report", out)
    assert done.returncode == 0, done.stderr
    page = (out / "report.html").read_text("utf-8")
    assert "carry the watermark." in page
    assert MARK.key.secret_hex not in page + (out / "manifest.json").read_text()
    refused = wmcore("report", tmp_path)
    assert refused.returncode == 2
    assert "not the output of a scan" in refused.stderr


class Letters:
    """A slow tokenizer of single characters, so that the texts below are tested as they are."""

    name_or_path = "letters"

    def __len__(self):
        return 2048

    def __call__(self, text, add_special_tokens=True):
        if isinstance(text, list):
            return {"input_ids": [[ord(c) % 2048 for c in t] for t in text]}
        return {"input_ids": [ord(c) % 2048 for c in text]}


def test_report_shows_html_as_text(tmp_path, monkeypatch):
    """A hit that consists of HTML is text on the page: nothing in it can run."""
    from wmcore.scan import worker
    from wmcore.scan.page import render

    monkeypatch.setattr(worker, "EXCERPT_BELOW", 1.0)
    attack = "</mark></div><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
    path = tmp_path / "c.jsonl"
    path.write_text(
        "".join(json.dumps({"id": f"<b>{i}</b>", "text": attack * 3}) + "\n" for i in range(3))
        + "<i>bad\n"
    )
    options = {"id_field": "id", "seed": 1, "shard_size": 2}
    rows = list(scan(path, MARK, tmp_path / "out", tokenizer=Letters(), **options))
    assert rows[0]["span"] == {"start": 0, "end": len(attack) * 3}
    monkeypatch.undo()
    store_path = next((tmp_path / "out").glob("part-*-000000000.parquet"))
    table = pq.read_table(store_path, partitioning=None)
    low = pa.array([1e-9] * len(table), pa.float64())
    table = table.set_column(table.schema.get_field_index("p_value"), "p_value", low)
    pq.write_table(table, store_path)
    page = render(tmp_path / "out")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;b&gt;0&lt;/b&gt;" in page
    assert "<script" not in page
    assert "<img" not in page
    assert "<b>0</b><span" not in page
    assert "<i>bad" not in page
    assert "default-src 'none'" in page


def test_report_of_an_unfinished_scan(tokens_file, tmp_path):
    from wmcore.scan.page import render

    running = scan(tokens_file, MARK, tmp_path / "out", **OPTIONS)
    next(running)
    running.close()
    with pytest.raises(WatermarkError, match="is not finished"):
        render(tmp_path / "out")
