"""Files given to detect and scan: good records come through, bad ones are errors, and the two agree."""

import gzip
import os
import shutil

import pytest
from hypothesis import strategies as st

from fuzz.budget import inputs
from fuzz.corpora import (
    LINES,
    PLAIN,
    SETTINGS,
    as_detect,
    as_scan,
    damaged_files,
    packed,
    parquet,
    readings,
    records,
)
from fuzz.holds import is_harmless, is_plain, only_refusals
from fuzz.mutations import damaged
from wmcore import WatermarkError
from wmcore.reading import Reading
from wmcore.records import printable


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("corpora")


def agree(path, reading):
    """detect and scan find the same documents, with errors in the same places; returns what detect reads."""
    read = as_detect(path, reading)
    rows = as_scan(path, reading)
    assert [i for i, *_ in read] == [row["id"] for row in rows]
    for (_, length, error), row in zip(read, rows, strict=True):
        if error is None:
            assert row["length"] == length
            assert (row["error"] is None) == (0 < row.get("p_value", -1) <= 1)
        else:
            assert row["error"] == error
        if row["error"] is not None:
            is_plain(printable(row["error"]))
            is_harmless(printable(row["id"]))
    return read


@inputs(0.1, file=damaged_files(), reading=readings())
def test_damaged_files(folder, file, reading):
    name, data = file
    (folder / name).write_bytes(data)
    agree(folder / name, reading)


@inputs(
    0.06,
    parts=records(),
    name=st.sampled_from(["a.jsonl", "a.jsonl.gz", "a.ndjson.zst", "a.JSONL"]),
    end=st.sampled_from([b"\n", b"\r\n", b"\n\n \n"]),
)
def test_good_lines_come_through(folder, parts, name, end):
    """Whatever the other lines are."""
    lines = [(raw.replace(b"\n", b" ").replace(b"\r", b" "), text) for raw, text in parts]
    (folder / name).write_bytes(packed(name, end.join(raw for raw, _ in lines)))
    found = {i: (length, error) for i, length, error in agree(folder / name, Reading())}
    lines_each = end.count(b"\n")
    for number, (_, text) in enumerate(lines):
        place = f"{folder / name}:{1 + number * lines_each}"
        if text is not None:
            assert found[place] == (len(text), None)


@inputs(0.04, parts=records(), name=st.sampled_from(["a.json", "a.json.gz", "a.JSON.zst"]))
def test_good_elements_come_through(folder, parts, name):
    """Those before the first that is not JSON."""
    (folder / name).write_bytes(packed(name.lower(), b"[" + b",".join(p for p, _ in parts) + b"]"))
    found = {i: (length, error) for i, length, error in agree(folder / name, Reading())}
    for number, (_, text) in enumerate(parts):
        if text is None:
            break
        assert found[f"{folder / name}:{number + 1}"] == (len(text), None)


@inputs(
    0.02,
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "text": st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
                "id": st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
                "tokens": st.none() | st.lists(st.integers(-(2**63), 2**63 - 1), max_size=9),
            }
        ),
        max_size=6,
    ),
    reading=readings(),
)
def test_parquet_rows(folder, rows, reading):
    (folder / "a.parquet").write_bytes(parquet(rows))
    read = agree(folder / "a.parquet", reading)
    column = reading.tokens_field or reading.text_field
    if column in ("text", "tokens") and reading.id_field != "none":
        assert len(read) == max(len(rows), 1)  # of no rows, that there are none


NAME_CHARACTERS = st.characters(exclude_characters="/\0", exclude_categories=["Cs"])
ODD_CHARACTERS = "\udc80\udcff~:%*?[]{}#&;$!-+.@\\ \n\x1b'\"=|<>a"


@inputs(
    0.02,
    stem=st.text(NAME_CHARACTERS, min_size=1, max_size=20)
    | st.text(st.sampled_from(ODD_CHARACTERS), min_size=1, max_size=12)
    | st.sampled_from(
        ["file:", "s3:", "http:", "memory:", "a::b", "zip:", "~", "..", "-", "$HOME"]
    ),
    inside=st.booleans(),
)
def test_file_names(folder, stem, inside):
    """A file is read under whatever name it has, given itself or in its folder."""
    root = folder / "names"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    (root / f"{stem}.jsonl").write_bytes(LINES)
    if not inside and stem.strip("."):
        assert len(agree(root / f"{stem}.jsonl", Reading())) == 4
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root)
            assert len(agree(f"{stem}.jsonl", Reading())) == 4
    elif not stem.startswith("."):
        assert len(as_scan(root, Reading())) == 4
    elif inside:
        with pytest.raises(WatermarkError, match="holds no"):
            as_scan(root, Reading())


NAMES = [
    *("b.jsonl", "c.txt", "d.json.gz", "e.parquet", ".hidden.jsonl", "f.docx", "g", "h.jsonl.bak"),
    *("new\nline.jsonl", "esc\x1b]0;x\x07.txt", "caf\udce9.jsonl", "* [?].jsonl", "-o.jsonl"),
    *(
        "ü.JSONL",
        " .txt",
        "sub/i.jsonl",
        ".git/j.jsonl",
        "sub/.cache/k.txt",
        "a:b.jsonl",
        "%41.txt",
    ),
    *("part-00000-000000000.parquet", "l.jsonl/m.jsonl", "#n.jsonl", "C::D.jsonl", "{o}.jsonl"),
]
KINDS = ["good", "good", "damaged", "empty", "folder", "link", "dangling", "loop", "fifo"]


@inputs(
    0.02,
    entries=st.lists(
        st.tuples(st.sampled_from(NAMES), st.sampled_from(KINDS), damaged([LINES])), max_size=5
    ),
    reading=readings(),
)
def test_folders(folder, entries, reading):
    """Every good file of a folder is read, whatever lies beside it."""
    root = folder / "in"
    shutil.rmtree(root, ignore_errors=True)
    shutil.rmtree(folder / "out", ignore_errors=True)
    root.mkdir()
    (root / "a.jsonl").write_bytes(LINES)
    for name, kind, data in entries:
        _make(root / name, kind, data)
    with only_refusals():
        rows = as_scan(root, reading, folder / "out")
        assert sum(row["id"].startswith("in/a.jsonl") for row in rows) <= 4
        assert len([row for row in rows if row["source"] == _number(root)]) == 4
        assert as_scan(root, reading, folder / "out") == []


def _make(path, kind, data):
    """One thing in a folder, unless its place is taken."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "folder":
            path.mkdir()
        elif kind in ("link", "dangling", "loop"):
            path.symlink_to({"link": "a.jsonl", "dangling": "nowhere", "loop": "."}[kind])
        elif kind == "fifo":
            os.mkfifo(path)
        elif not path.exists():
            good = PLAIN.get(f"g{path.suffix}") or {".gz": gzip.compress(LINES)}.get(path.suffix)
            path.write_bytes({"good": good or LINES, "empty": b""}.get(kind, data))
    except OSError:
        pass


def _number(root):
    """The number of a.jsonl among the inputs of a folder."""
    from wmcore.scan.sources import open_sources

    names = [source.name for source in open_sources([str(root)])]
    return names.index(f"{root}/a.jsonl")


def test_the_inputs_are_good_before_they_are_damaged(folder):
    """Else the fuzzers would look at errors only."""
    for name, data in PLAIN.items():
        (folder / name).write_bytes(data)
        read = agree(folder / name, Reading(max_bytes=SETTINGS.max_bytes))
        assert read
        assert all(error is None for *_, error in read), name
