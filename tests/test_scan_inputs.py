"""Inputs and outputs of every kind: what a folder holds, what a file system lacks, and what others have written."""

import errno
import fcntl
import gzip
import json
import os
import sys
import warnings

import numpy as np
import pytest
from scans import OPTIONS, corpus, shard_bytes, watermark

from wmcore import WatermarkError

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402

from wmcore.scan import ScanSettings, scan  # noqa: E402
from wmcore.scan.manifest import MANIFEST, read_manifest  # noqa: E402
from wmcore.scan.page import render  # noqa: E402
from wmcore.scan.store import Store, read_shard, shards  # noqa: E402

MARK = watermark()
LINE = '{"tokens": [1, 2, 3], "id": "a"}\n'


@pytest.fixture(scope="module")
def tokens_file(tmp_path_factory):
    return corpus(tmp_path_factory.mktemp("corpus") / "c.jsonl", MARK, 250)


def run(path, out=None, **options):
    return list(scan(path, MARK, out, **{**OPTIONS, **options}))


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


# inputs


@pytest.mark.parametrize("name", ["A.JSONL", "a.json", "a.array.json", "a.JSON.GZ", "a.ndjson.gz"])
def test_every_name_of_json(tokens_file, tmp_path, name):
    data = tokens_file.read_bytes()
    if "array" in name:
        data = b"[" + b",".join(data.splitlines()) + b"]"
    path = put(tmp_path / "in" / name, gzip.compress(data) if name.lower().endswith("gz") else data)
    assert run(path) == run(tokens_file)
    out = tmp_path / "in" / "out"  # below the input: it is no input itself
    assert len(run(tmp_path / "in", out)) == 250
    assert run(tmp_path / "in", out) == []
    with pytest.raises(WatermarkError, match="is the output, too: choose another folder"):
        run(out, out)


def test_one_parquet_file_of_a_folder_lacks_the_column(tokens_file, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    put(folder / "a.jsonl", tokens_file.read_bytes())
    pq.write_table(pa.table({"ids": ["x"], "tokens": [[1]]}), folder / "b.parquet")
    pq.write_table(pa.table({"id": ["x"], "tokens": [[1, 2]]}), folder / "c.parquet")
    rows = run(folder, out)
    assert len(rows) == 252
    assert "has no column 'id' (columns: ids, tokens): name the right one" in rows[250]["error"]
    assert rows[251]["error"] is None
    assert read_manifest(out)["summary"]["errors"] == 1
    assert run(folder, out) == []


def test_folder_with_what_cannot_be_read(tmp_path, monkeypatch):
    folder = tmp_path / "in"
    for name in (
        "a.jsonl",
        "sub/b.jsonl",
        ".git/c.jsonl",
        "sub/.cache/x/d.jsonl",
        ".e.jsonl",
        "f.bin",
    ):
        put(folder / name, LINE)
    (folder / "dangling.jsonl").symlink_to("nowhere")
    (folder / "loop.jsonl").symlink_to("loop.jsonl")
    (folder / "dangling.png").symlink_to("nowhere")
    (folder / "good.jsonl").symlink_to("a.jsonl")
    (folder / "sub" / "up").symlink_to("..")
    (folder / "dir.jsonl").mkdir()
    os.mkfifo(folder / "fifo.json.gz")
    put(folder / "secret.jsonl", LINE)
    readable = os.access
    monkeypatch.setattr(os, "access", lambda p, m: "secret" not in str(p) and readable(p, m))
    with pytest.warns(UserWarning, match="passed over") as caught:
        rows = run(folder, tmp_path / "out", id_field=None)
    assert [os.path.relpath(r["id"], folder) for r in rows] == [
        *("a.jsonl:1", "good.jsonl:1", "sub/b.jsonl:1")
    ]
    message = str(caught[0].message)
    assert message.startswith("passed over 10 (3 hidden, 2 a link that leads nowhere, ")
    for part in (
        "dangling.jsonl (a link that leads nowhere)",
        "loop.jsonl (a link that leads nowhere)",
        "fifo.json.gz (no regular file)",
        "secret.jsonl (it cannot be read)",
        "sub/up (a link to a folder)",
        "f.bin (.bin is not read)",
        "dangling.png (.png is not read)",
        ".git (hidden)",
        ".e.jsonl (hidden)",
    ):
        assert part in message
    told = read_manifest(tmp_path / "out")["summary"]["passed_over"]
    assert told["total"] == sum(told["reasons"].values()) == 10
    assert told["reasons"]["hidden"] == 3
    assert len(told["first"]) == 10
    assert str(folder / ".git (hidden)") in told["first"]
    page = render(tmp_path / "out")
    assert "<dt>Files and folders that were not read</dt><dd>10</dd>" in page
    assert "sub/up (a link to a folder)" in page


def test_a_folder_of_what_is_not_read_names_it(tmp_path):
    for name in ("a.pdf", "sub/b.docx", "c", ".d"):
        put(tmp_path / name, "x")
    with pytest.raises(WatermarkError, match="holds no file that can be read") as refused:
        run(tmp_path)
    message = str(refused.value)
    assert "passed over 4 (" in message
    for part in ("a.pdf (.pdf is not read)", "sub/b.docx", "c (its name has no ending)", ".d (hid"):
        assert part in message


def test_many_files_that_cannot_be_read_are_counted(tmp_path):
    put(tmp_path / "a.jsonl", LINE)
    for i in range(30):
        (tmp_path / f"d{i:02}.jsonl").symlink_to("nowhere")
    with pytest.warns(UserWarning, match=r"d09\.jsonl \(a link that leads nowhere\) and 20 more"):
        assert len(run(tmp_path)) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_not_utf8(tokens_file, tmp_path):
    folder = os.fsencode(tmp_path) + b"/f\xe9"
    os.mkdir(folder)
    with open(folder + b"/b\xff.jsonl", "wb") as file:
        file.write(LINE.encode())
    out = tmp_path / "out"
    rows = run(os.fsdecode(folder), out, id_field=None)
    assert rows[0]["id"].endswith("/f\ufffd/b\ufffd.jsonl:1")
    assert run(os.fsdecode(folder), out, id_field=None) == []
    assert "f\ufffd/b\ufffd.jsonl" in render(out)


def test_half_a_surrogate_pair_is_one_error(tmp_path):
    lines = [
        r'{"id": "\ud800", "tokens": [1, 2]}',
        r'{"id": "b", "\udcff": [1, 2]}',
        r'{"id": "c", "tokens": "\udcff"}',
    ]
    path = put(tmp_path / "c.jsonl", "\n".join(lines))
    rows = run(path, tmp_path / "out")
    assert [r["id"] for r in rows] == ["\ufffd", "b", "c"]
    assert [r["error"] is None for r in rows] == [True, False, False]
    assert run(path, tmp_path / "out") == []


# outputs


def test_more_than_99999_inputs(tokens_file, tmp_path):
    """Their shards have longer names: they are counted, in the order of numbers, and not made again."""
    out = tmp_path / "out"
    run(tokens_file, out)
    files = sorted(shard_bytes(out))
    for name in files:
        os.rename(out / name, out / name.replace("part-00000", "part-100000"))
    put(out / "part-99999-000000000-end.parquet", b"")
    put(out / "part-99999-1000000000.parquet", b"")
    put(out / "part-9999-000000000.parquet", b"")
    found = [(source, shard, end) for source, shard, end, _ in shards(out)]
    assert found == [
        *((99999, 0, True), (99999, 10**9, False)),
        *((100000, 0, False), (100000, 1, False), (100000, 2, True)),
    ]
    store = Store(out)
    assert 100000 in store.done()[1]
    store.close()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_file_system_without_locks_and_sync(tokens_file, tmp_path, monkeypatch, code):
    expected = tmp_path / "expected"
    run(tokens_file, expected)

    def lacking(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", lacking)
    monkeypatch.setattr(os, "fsync", lacking)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(tokens_file, tmp_path / "out")
    messages = [str(w.message) for w in caught]
    assert ["cannot lock or sync" in m for m in messages] == [True], messages
    assert shard_bytes(tmp_path / "out") == shard_bytes(expected)


def test_other_troubles_with_the_lock_are_named(tokens_file, tmp_path, monkeypatch):
    def failing(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", failing)
    with pytest.raises(WatermarkError, match=r"cannot be locked or tidied \(Input/output error"):
        run(tokens_file, tmp_path / "out")


def test_an_empty_output_is_refused(tokens_file):
    with pytest.raises(WatermarkError, match="output is an empty name"):
        run(tokens_file, "")


def changes():
    """(path of a field in the manifest, a value of another type)."""
    for field in (
        "wmcore",
        "watermark",
        "inputs",
        "settings",
        "seconds",
        "summary",
        "timed",
        "spent",
        "began",
        "ended",
    ):
        yield from (((field,), value) for value in ("x", 5, [3], {"a": "b"}))
    yield from ((("summary", "passed_over"), value) for value in ("x", 5, [], {}))
    for field in ("documents", "hits", "threshold", "least_p", "controls", "at_most_0.001"):
        yield from ((("summary", field), value) for value in ("x", [], {}, 10**400))
    for field in ("name", "size", "files"):
        yield from ((("inputs", 0, field), value) for value in ([], {}, None, True))
    yield from [(("inputs", 0), 3), (("watermark", "fingerprint"), 3), (("spent", "reading"), "x")]


def test_manifests_of_other_types_are_one_sentence(tokens_file, tmp_path):
    def run_again(folder):
        run(tokens_file, folder)

    out = tmp_path / "out"
    run(tokens_file, out)
    good = (out / MANIFEST).read_text()
    for path, value in changes():
        manifest = json.loads(good)
        place = manifest
        for step in path[:-1]:
            place = place[step]
        if (path[-1], value) in [
            *(("wmcore", "x"), ("timed", 5), ("seconds", 5), ("began", "x"), ("ended", "x"))
        ]:
            continue  # of the right type after all
        place[path[-1]] = value
        (out / MANIFEST).write_text(json.dumps(manifest))
        # Settings are compared with those of the run, not read by the report.
        reader = run_again if path == ("settings",) and isinstance(value, dict) else render
        with pytest.raises(WatermarkError, match="damaged|begun with something else") as refused:  # noqa: RUF043
            reader(out)
        assert "\n" not in str(refused.value)
    for path in [(name,) for name in json.loads(good)] + [("summary", "least_p")]:
        manifest = json.loads(good)
        place = manifest
        for step in path[:-1]:
            place = place[step]
        del place[path[-1]]
        (out / MANIFEST).write_text(json.dumps(manifest))
        if path[0] not in ("timed", "spent", "began", "ended", "versions"):
            with pytest.raises(WatermarkError, match="damaged|has version"):  # noqa: RUF043
                render(out)
    for raw in (b"[" * 100_000, b"\xff", b"5", b"", b'{"format": "wmcore.scan", "version": [1]}'):
        (out / MANIFEST).write_bytes(raw)
        with pytest.raises(WatermarkError, match="damaged|has version"):  # noqa: RUF043
            render(out)


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"a": [1]}),
        pa.table({"p_value": ["x"], "error": ["y"]}),
        pa.table({"p_value": pa.array([1], pa.int64())}),
    ],
)
def test_shards_of_other_columns_are_damaged(tokens_file, tmp_path, table):
    out = tmp_path / "out"
    run(tokens_file, out)
    path = out / sorted(shard_bytes(out))[0]
    pq.write_table(table, path)
    for columns in (None, ["p_value"], ["p_value", "error"]):
        with pytest.raises(WatermarkError, match="is damaged"):
            read_shard(path, columns)
    with pytest.raises(WatermarkError, match="is damaged"):
        render(out)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("source", [None]),
        ("id", [None]),
        ("p_value", [float("nan")]),
        ("p_value", [-0.5]),
        ("p_value", [2.0]),
        ("q_value", [float("inf")]),
        ("log_e", [float("nan")]),
        ("length", [None]),
        ("length", [-1]),
        ("windows", [None]),
        ("method", [None]),
        ("window", [{"start": None, "end": 3}]),
        ("excerpt", [{"start": 1, "text": None}]),
    ],
)
def test_shards_with_values_that_no_scan_writes_are_damaged(tokens_file, tmp_path, column, values):
    """They ended `report` with a traceback, or made a page of nonsense."""
    out = tmp_path / "out"
    run(tokens_file, out)
    path = out / sorted(shard_bytes(out))[0]
    table = pq.read_table(path, partitioning=None)
    at = table.schema.get_field_index(column)
    made = pa.array([*values, *table[column].to_pylist()[1:]], table.schema.field(at).type)
    pq.write_table(table.set_column(at, table.schema.field(at), made), path)
    message = f"damaged .column '{column}' holds what no scan writes"
    with pytest.raises(WatermarkError, match=message):
        read_shard(path)
    manifest = json.loads((out / MANIFEST).read_text())
    (out / MANIFEST).write_text(json.dumps({**manifest, "summary": None}))
    with pytest.raises(WatermarkError, match=message):
        run(tokens_file, out)
    path.unlink()
    run(tokens_file, out)
    assert render(out)


def test_controls_of_another_number_are_damage(tokens_file, tmp_path):
    out = tmp_path / "out"
    run(tokens_file, out, controls=2)
    manifest = json.loads((out / MANIFEST).read_text())
    for made in ([0.5], [0.5, None], [0.5, 7.0]):
        (out / MANIFEST).write_text(json.dumps({**manifest, "summary": None}))
        path = out / sorted(shard_bytes(out))[0]
        table = pq.read_table(path, partitioning=None)
        at = table.schema.get_field_index("controls")
        lists = pa.array([made, *table["controls"].to_pylist()[1:]], pa.list_(pa.float64()))
        pq.write_table(table.set_column(at, table.schema.field(at), lists), path)
        with pytest.raises(WatermarkError, match="it has not 2 controls for each document"):
            run(tokens_file, out, controls=2)
        path.unlink()
        run(tokens_file, out, controls=2)
    assert json.loads((out / MANIFEST).read_text())["summary"] == manifest["summary"]


@pytest.mark.parametrize(
    "stem", ["file:a", "s3:a", "memory:a", "a::b", "~", "~root", "%41", "a#b?c"]
)
def test_a_file_is_read_whatever_its_name_looks_like(tokens_file, tmp_path, monkeypatch, stem):
    """Names that look like URLs were "no such file", and s3:out as output was a fault of ours."""
    monkeypatch.chdir(tmp_path)
    put(tmp_path / f"{stem}.jsonl", tokens_file.read_bytes())
    assert run(f"{stem}.jsonl", f"{stem}.out") == run(tokens_file)
    assert run(f"{stem}.jsonl", f"{stem}.out") == []
    assert render(f"{stem}.out")


def test_a_url_as_output_is_refused(tokens_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WatermarkError, match="s3://b/out is a URL, but results are written to"):
        run(tokens_file, "s3://b/out")
    assert not list(tmp_path.iterdir())


def test_settings_take_numpy_numbers():
    settings = ScanSettings(
        window=np.uint8(200), stride=np.int16(100), seed=np.int64(3), controls=np.uint16(0)
    )
    assert type(settings.window) is type(settings.seed) is type(settings.controls) is int
    assert json.dumps(settings.to_dict())
    assert settings.stride * 1000 == 100_000
    for wrong in (True, 1.0, "3", 2**31, np.float32(2)):
        with pytest.raises(WatermarkError, match="window is"):
            ScanSettings(window=wrong)
