"""Strategies of input files for detect and scan, and what the two say of them."""

import bz2
import gzip
import io
import json
import lzma
import os
import warnings
from dataclasses import replace

from commands import Letters
from hypothesis import strategies as st

from fuzz.marks import mark
from fuzz.mutations import TOKENS, altered, damaged, values
from wmcore.formats import given_format
from wmcore.reading import Reading
from wmcore.records import read_documents
from wmcore.scan import ScanSettings, scan

LETTERS = Letters()
LETTERS.name_or_path = "letters"
ROWS = [
    {"text": "the first text of all", "id": "a", "tokens": [1, 2, 3, 4, 5, 6]},
    {"text": 'quotes "and" [brackets] {braces} \\', "id": 2, "tokens": [7, 8, 9]},
    {"text": "Grüße\nzwei Zeilen", "id": None, "tokens": [0, 127, 1]},
    {"text": "x" * 50, "tokens": list(range(60))},
]
SETTINGS = ScanSettings(
    window=32, stride=16, resamples=19, stop_after=2, first_resamples=3, shard_size=3, seed=1
)


def packed(name, data):
    """The bytes as the end of a name says: gzip, bzip2, xz, zstd or as they are."""
    if name.endswith(".gz"):
        return gzip.compress(data, 1, mtime=0)
    if name.endswith(".bz2"):
        return bz2.compress(data)
    if name.endswith(".xz"):
        return lzma.compress(data)
    if name.endswith((".zst", ".zstd")):
        import zstandard

        return zstandard.ZstdCompressor(1).compress(data)
    return data


def parquet(rows):
    """The bytes of a Parquet file of these rows, in groups of two."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "text": pa.array([row.get("text") for row in rows], pa.string()),
        "id": pa.array([str(row.get("id")) for row in rows], pa.string()),
        "tokens": pa.array([row.get("tokens") for row in rows], pa.list_(pa.int64())),
    }
    held = io.BytesIO()
    pq.write_table(pa.table(columns), held, row_group_size=2)
    return held.getvalue()


LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
ARRAY = json.dumps(ROWS, indent=1, ensure_ascii=False).encode()
PARQUET = parquet(ROWS)
_PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n<p>x\r\n0\r\n\r\n"
WARC = (
    b"WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http\r\nid: u\r\n"
    b"Content-Length: %d\r\n\r\n%b\r\n\r\n" % (len(_PAGE), _PAGE)
) * 3
PLAIN = {
    "a.jsonl": LINES,
    "b.NDJSON": LINES,
    "c.json": ARRAY,
    "d.json": LINES,
    "e.json": json.dumps(ROWS[0], indent=2).encode(),
    "f.txt": ROWS[2]["text"].encode(),
    "g.parquet": PARQUET,
    "m.html": b"<!doctype html><meta charset=utf-8><p>a <b>page</b><pre>\n x</pre><script>y</script>&amp;",
    "n.csv": b'id,text,tokens\n1,"a ""b"",\nc","[1, 2]"\n2,d,[3]\n\n3,e,\n',
    "o.tsv": b"text\tid\na\t1\nb\t2\n",
    "p.warc": WARC,
    "q.json": json.dumps(["one", [1, 2], {"text": "x"}]).encode(),
}
PACKED = {
    "h.jsonl.gz": LINES,
    "i.json.gz": ARRAY,
    "j.jsonl.zst": LINES,
    "k.json.zst": ARRAY,
    "l.JSON.GZ": ARRAY,
    "j.jsonl.bz2": LINES,
    "k.json.xz": ARRAY,
    "r.txt.gz": PLAIN["f.txt"],
    "s.csv.zst": PLAIN["n.csv"],
    "t.warc.gz": WARC,
}


@st.composite
def damaged_files(draw):
    """(name, bytes) of a file of any format, damaged before or after it was packed."""
    name = draw(st.sampled_from([*PLAIN, *PACKED]))
    if name in PLAIN:
        return name, draw(damaged([PLAIN[name]]))
    data = PACKED[name]
    if draw(st.booleans()):
        return name, packed(name.lower(), draw(damaged([data])))
    return name, draw(damaged([packed(name.lower(), data)]))


@st.composite
def records(draw):
    """Records, good and bad: [(bytes of a JSON value or of something else, its text or None where it is bad)]."""
    made = []
    for number in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(["good", "good", "altered", "value", "bytes", "mutated"]))
        if kind == "good":
            text = f"good text number {number} " + draw(
                st.sampled_from(["", "é", '"', "]", "\\", "\n"])
            )
            made.append((json.dumps({"text": text}).encode(), text))
        elif kind == "altered":
            made.append((json.dumps(draw(altered(ROWS[0]))).encode(), None))
        elif kind == "value":
            made.append((json.dumps(draw(values())).encode(), None))
        elif kind == "bytes":
            made.append((draw(st.sampled_from(TOKENS) | st.binary(max_size=20)), None))
        else:
            made.append((draw(damaged([json.dumps(ROWS[0]).encode()])), None))
    return made


@st.composite
def readings(draw):
    """How records are read: of text or tokens, with or without ids, with a small limit at times."""
    return Reading(
        text_field=draw(st.sampled_from(["text", "text", "id", "none", "\ud800"])),
        id_field=draw(st.sampled_from([None, "id", "tokens", "none"])),
        tokens_field=draw(st.sampled_from([None, None, "tokens", "text"])),
        max_bytes=draw(st.sampled_from([4_000_000, 4_000_000, 200, 1])),
    )


def as_detect(path, reading):
    """[(id, length of the text or tokens, error)] as `wmcore detect` reads a file."""
    named = reading.tokens_field is not None or reading.text_field != "text"
    form = given_format(str(path), named)
    return [(d.id, _length(d), d.error) for d in read_documents(str(path), form, reading)]


def _length(document):
    if document.text is not None:
        return len(LETTERS.encode(document.text))
    return None if document.tokens is None else len(document.tokens)


def as_scan(path, reading, output=None, **changes):
    """The rows of a scan with this reading."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = {
            "text_field": reading.text_field,
            "id_field": reading.id_field,
            "tokens_field": reading.tokens_field,
            "max_bytes": reading.max_bytes,
            **changes,
        }
        return list(
            scan(
                os.fspath(path),
                mark("exp"),
                output,
                tokenizer=LETTERS,
                settings=replace(SETTINGS, **settings),
                threads=1,
            )
        )
