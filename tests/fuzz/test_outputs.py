"""Damaged output folders of scans: a scan or report says what is wrong in one line; mended, the scan goes on."""

import json
import math
import os
import shutil
import warnings
from dataclasses import replace

import pytest
from commands import Letters
from hypothesis import strategies as st

from fuzz.budget import inputs
from fuzz.corpora import ROWS, SETTINGS
from fuzz.holds import is_plain, only_refusals
from fuzz.marks import HEX, mark
from fuzz.mutations import altered, damaged
from wmcore import WatermarkError
from wmcore.scan import scan
from wmcore.scan.page import render

TOKENIZER = Letters()
TOKENIZER.name_or_path = "letters"


class Output:
    """A finished scan of eight documents, whose files can be damaged and mended."""

    def __init__(self, folder):
        self.folder, self.input = folder / "out", folder / "in.jsonl"
        self.input.write_text("".join(json.dumps(row) + "\n" for row in ROWS * 2))
        self.scan()
        self.whole = {path.name: path.read_bytes() for path in self.folder.iterdir()}
        self.manifest = json.loads(self.whole["manifest.json"])
        self.shards = sorted(name for name in self.whole if name.startswith("part-"))

    def scan(self, **changes):
        """The rows of a scan that goes on in the folder."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows = scan(
                str(self.input),
                mark("exp"),
                self.folder,
                tokenizer=TOKENIZER,
                settings=replace(SETTINGS, **changes),
                threads=1,
            )
            return list(rows)

    def mend(self):
        """As it was after the scan."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        for name, data in self.whole.items():
            (self.folder / name).write_bytes(data)

    def is_whole(self):
        """Whether all results are as they were."""
        return all((self.folder / n).read_bytes() == self.whole[n] for n in self.shards)


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return Output(tmp_path_factory.mktemp("output"))


def look(output, **changes):
    """Scan and report, which may both refuse; returns what the scan refused, if it did."""
    with only_refusals(HEX):
        page = render(output.folder)
        assert "<script" not in page
    try:
        output.scan(**changes)
    except WatermarkError as error:
        is_plain(str(error), HEX)
        return str(error)
    return None


@inputs(0.02, data=st.data())
def test_manifests(output, data):
    output.mend()
    if data.draw(st.booleans()):
        made = json.dumps(data.draw(altered(output.manifest))).encode()
    else:
        made = data.draw(damaged([output.whole["manifest.json"]]))
    (output.folder / "manifest.json").write_bytes(made)
    look(output)
    (output.folder / "manifest.json").write_bytes(output.whole["manifest.json"])
    assert output.scan() == []
    assert output.is_whole()


@inputs(0.02, data=st.data())
def test_shards(output, data):
    """A damaged shard that is deleted, as the message says, is made anew."""
    output.mend()
    name = data.draw(st.sampled_from(output.shards))
    (output.folder / name).write_bytes(data.draw(damaged([output.whole[name]])))
    (output.folder / data.draw(st.sampled_from(output.shards))).unlink()
    refusal = look(output)
    assert refusal is None or "delete it and run the same scan again" in refusal
    (output.folder / name).unlink(missing_ok=True)
    output.scan()
    assert output.is_whole()


ODD_NUMBERS = [None, 0, -1, 1, 2, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63)]
ODD_SHARES = [None, math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-320, 1e-9, 0.5, 1.0, 2.0, 1e300]


@st.composite
def columns(draw, table):
    """A table of a shard with values of the right types in some columns that no scan writes."""
    import pyarrow as pa

    for _ in range(draw(st.integers(1, 4))):
        field = draw(st.sampled_from(list(table.schema)))
        made = [draw(_odd(field.type)) for _ in range(table.num_rows)]
        at = table.schema.get_field_index(field.name)
        table = table.set_column(at, field, pa.array(made, field.type))
    return table.slice(0, draw(st.sampled_from([0, 1, table.num_rows, table.num_rows])))


def _odd(kind):
    """Strategy: a value of a type of Arrow."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return st.none() | st.fixed_dictionaries({f.name: _odd(f.type) for f in kind})
    if pa.types.is_list(kind):
        return st.none() | st.lists(_odd(kind.value_type), max_size=3)
    if pa.types.is_string(kind):
        return st.sampled_from([None, "", "x", "<script>", "a\nb\x1b[31m", "bound", "\u202e"])
    if pa.types.is_int32(kind):
        return st.sampled_from([n for n in ODD_NUMBERS if n is None or abs(n) <= 2**31])
    return st.sampled_from(ODD_SHARES if pa.types.is_floating(kind) else ODD_NUMBERS)


@inputs(0.02, data=st.data(), finished=st.booleans(), controls=st.sampled_from([0, 0, 2]))
def test_forged_shards(output, data, finished, controls):
    """Values that no scan writes: a page or a refusal, of report and of the scan that would finish."""
    import pyarrow.parquet as pq

    output.mend()
    name = data.draw(st.sampled_from(output.shards))
    table = pq.read_table(output.folder / name, partitioning=None)
    pq.write_table(data.draw(columns(table)), output.folder / name)
    if not finished:
        settings = {**output.manifest["settings"], "controls": controls}
        made = {**output.manifest, "summary": None, "settings": settings}
        (output.folder / "manifest.json").write_text(json.dumps(made))
    look(output, controls=controls)


LEFT = [
    *(
        "part-00000-000000000.parquet",
        "part-00000-000000007.parquet",
        "part-00001-000000000.parquet",
    ),
    *("part-00000-000000001-end.parquet", "part-99999999999-000000000.parquet", "part-x.parquet"),
    *(".writing-1-manifest.json", ".lock", "calibration.npz", "report.html", "notes.txt"),
    *("part-00000-99999999999999999999.parquet", "part-٣٣٣٣٣-000000000.parquet"),
]


@inputs(0.01, name=st.sampled_from(LEFT), kind=st.sampled_from(["file", "shard", "folder", "link"]))
def test_things_that_do_not_belong_there(output, name, kind):
    output.mend()
    path = output.folder / name
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("nowhere")
    else:
        path.write_bytes(output.whole[output.shards[0]] if kind == "shard" else b"x")
    with only_refusals(HEX):
        look(output)
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (output.folder / "manifest.json").write_bytes(output.whole["manifest.json"])
    output.scan()
    assert output.is_whole()


@inputs(0.01, lost=st.sets(st.integers(0, 2)), stop=st.integers(0, 6))
def test_scans_that_are_stopped(output, lost, stop):
    """At any document, with any shards missing."""
    output.mend()
    for number in lost:
        (output.folder / output.shards[number]).unlink()
    running = scan(
        os.fspath(output.input),
        mark("exp"),
        output.folder,
        tokenizer=TOKENIZER,
        settings=SETTINGS,
        threads=1,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _, _ in zip(range(stop), running, strict=False):
            pass
        running.close()
    output.scan()
    assert output.is_whole()
