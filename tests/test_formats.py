"""HTML, CSV, WARC and packed texts: what is read of them, and what odd, damaged and hostile ones cost."""

import bz2
import gzip
import io
import json
import lzma
import re
import sys
import time
import tracemalloc
import zlib
from types import SimpleNamespace

import pytest

from wmcore.formats import given_format
from wmcore.html_text import html_text
from wmcore.reading import Cursor, Reading
from wmcore.records import read_documents

LIMIT = 4_000_000


def contents(path, raw, **reading):
    """(id after the file's name, text or token ids or error) of each document of a file of these bytes."""
    path.write_bytes(raw)
    found = []
    for d in read_documents(str(path), given_format(str(path), False), Reading(**reading)):
        tokens = None if d.tokens is None else d.tokens.tolist()
        found.append((d.id.removeprefix(str(path)), d.text or tokens or d.error))
    return found


# HTML

lxml = pytest.mark.usefixtures("_lxml")


@pytest.fixture
def _lxml():
    pytest.importorskip("lxml")


@lxml
@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<title>no</title><p>One  two<b>bold</b>\n three<p>four", "One twobold three\n\nfour"),
        ("a<br>b<br><br>c", "a\nb\n\nc"),
        ("<ul><li>a<li>b</ul>c", "a\nb\nc"),
        ("<table><tr><td>1</td> <td>2<tr><th>3<th>4</table>", "1 2\n3 4"),
        (
            "<script>x<y</script>a<style>b{}</style><noscript>c</noscript><template>d</template>",
            "a",
        ),
        ("&amp;&eacute;&#x1F600;&nbsp;&bogus;&#0;", "&é\N{GRINNING FACE}\xa0&bogus;\ufffd"),
        ("x<pre>  a\n   b</pre>y", "x\n  a\n   b\ny"),
        ("a<!-- b --> c <![CDATA[d]]> <?php e ?> f", "a c f"),
        ("<b>a</b><i>b</i> <i>c</i>", "ab c"),
        ("1 < 2 > 0", "1 < 2 > 0"),
        ("</div></p>a<p></p></p>b<", "a\n\nb<"),
        ("\0<p>a\0b", "ab"),
        ("<head><p>c", "c"),
        ("<svg><title>a</title><svg>b</svg>c</svg>d", "d"),
    ],
)
def test_the_text_of_a_page(page, text):
    assert html_text(page.encode(), None, LIMIT) == (text, None)


@lxml
@pytest.mark.parametrize(
    ("raw", "charset"),
    [
        ("café".encode(), None),
        ("\ufeffcafé".encode(), "latin-1"),
        ("café".encode("cp1252"), None),
        ("café".encode("cp1252"), "ISO-8859-1"),
        ("café".encode("utf-16"), None),
        (b"<meta charset=latin1>caf\xe9", None),
        (b'<meta http-equiv=c content="text/html; charset=latin1">caf\xe9', None),
        ("<meta charset=latin1>café".encode(), "utf-8"),
        ("<meta charset=utf-16>café".encode(), None),
        ("<meta charset=punycode>café".encode(), "zlib"),
        ("café".encode(), "no such encoding"),
    ],
)
def test_the_encoding_of_a_page(raw, charset):
    assert html_text(raw, charset, LIMIT) == ("café", None)


@lxml
@pytest.mark.parametrize("page", ["", " \n", "<script>draw()</script>", "<!-- x -->", "<p>", "<a"])
def test_pages_without_text_are_errors(page):
    text, error = html_text(page.encode(), None, LIMIT)
    assert text is None
    assert error.startswith("a page that shows no text")


@lxml
@pytest.mark.parametrize(
    "part", ["<div>", "<b><p>", "<table>", "<svg>", "<a ", "<!--", "&", "</p>", "<p a='x'>y", "]]>"]
)
def test_hostile_pages_take_linear_time(part):
    """Deeper than any limit of a tree, and nothing after it is lost."""
    raw = (part * (2_000_000 // len(part))).encode() + b"--></svg>' > <p>last"
    start = time.monotonic()
    text, error = html_text(raw, None, LIMIT)
    assert time.monotonic() - start < 20  # 0.01 to 1 s; quadratic time would be hours
    if part not in ("<svg>",):
        assert text.endswith("last"), error


@lxml
def test_html_files(tmp_path):
    assert contents(tmp_path / "a.html", b"<p>a") == [("", "a")]
    assert contents(tmp_path / "a.HTM.gz", gzip.compress(b"<p>a")) == [("", "a")]
    ((_, error),) = contents(tmp_path / "b.html", b"<p>" * 99, max_bytes=100)
    assert error.startswith("longer than 100 bytes")
    ((_, error),) = contents(tmp_path / "c.html", b"<p>a", tokens_field="t")
    assert error == "a text, which has no field 't': give records"


# packed texts, JSON in texts


def test_packed_texts(tmp_path):
    packed = gzip.compress(b"a text")
    assert contents(tmp_path / "a.txt.gz", packed) == [("", "a text")]
    assert contents(tmp_path / "m.md.gz", packed + packed) == [("", "a texta text")]
    ((_, error),) = contents(tmp_path / "b.txt.gz", packed[:-5])
    assert error.startswith("breaks off (Compressed file ended")
    ((_, error),) = contents(tmp_path / "c.txt.gz", b"no gzip")
    assert error.startswith("breaks off (Not a gzipped file")
    for end, pack in ((".bz2", bz2.compress), (".xz", lzma.compress)):
        packed = pack(b"a text")
        assert contents(tmp_path / f"a.txt{end}", packed + packed) == [("", "a texta text")]
        ((_, error),) = contents(tmp_path / f"b.txt{end}", packed[:-5])
        assert error.startswith("breaks off (Compressed file ended")
        ((_, error),) = contents(tmp_path / f"c.txt{end}", b"neither of them")
        assert error.startswith("breaks off (")
        cut = pack(b'{"text": "a"}\n' * 9)[:-9]
        assert contents(tmp_path / f"a.jsonl{end}", cut)[-1][1].endswith("read it anew")
    zstandard = pytest.importorskip("zstandard")
    packed = zstandard.ZstdCompressor().compress(b"a text")
    assert contents(tmp_path / "a.txt.zst", packed) == [("", "a text")]


@pytest.mark.parametrize("name", ["a.txt.gz", "a.html.gz", "a.csv.gz", "a.warc.gz"])
def test_bombs_take_bounded_memory(tmp_path, name):
    """200 MB in 200 KB."""
    pytest.importorskip("lxml")
    head = {"a.csv.gz": b'text\n"', "a.warc.gz": b"WARC/1.0\r\nA: "}.get(name, b"")
    raw = gzip.compress(head + b"a" * 200_000_000, 1)
    tracemalloc.start()
    found = contents(tmp_path / name, raw)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 1
    assert "longer than 4,000,000 bytes" in found[0][1] or "headers" in found[0][1]
    assert peak < 40_000_000


def test_json_lines_in_a_text(tmp_path):
    lines = b'{"text": "a"}\n\n{"text": "b"}\n'
    ((_, error),) = contents(tmp_path / "a.txt", lines)
    assert error.startswith("JSON Lines, not a text: every line is a JSON object; give it a name")
    ((_, error),) = contents(tmp_path / "a.txt", b'\n[{"text": "a"}, "b"]\n')
    assert error == "a JSON array, not a text: give it a name that ends in .json"
    for text in (
        b'{"text": "a"}\n',
        b'["a"',
        b"[]",
        b"[1, 2]",
        b'["a"] b',
        lines + b"end",
        b"{\n}\n{\n}",
        b"{}x\n{}",
    ):
        assert contents(tmp_path / "a.txt", text) == [("", text.decode())]


def test_arrays_of_texts_and_of_token_ids(tmp_path):
    raw = json.dumps(["one", "two [2], {", {"text": "three"}, [1, 2], [], [True]]).encode()
    found = [content for _, content in contents(tmp_path / "a.json", raw)]
    assert found[:4] == ["one", "two [2], {", "three", [1, 2]]
    assert all("an array, not an object" in error for error in found[4:])
    found = [c for _, c in contents(tmp_path / "a.json", b'["x", [3]]', tokens_field="t")]
    assert found == ["a text, which has no field 't': give records", [3]]
    ((_, error),) = contents(tmp_path / "b.json", rb'["\ud800"]')
    assert error == "the string holds half of a surrogate pair, which is not text"


# CSV


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("a.csv", b'id,text\n1,"a, ""b""\nc"\n2,d\n'),
        ("a.csv", b'\xef\xbb\xbfid,text\r\n1,"a, ""b""\nc"\r\n2,d'),
        ("a.csv", b'text;id\n"a, ""b""\nc";1\nd;2\n'),
        ("a.csv", b'text\tid\n"a, ""b""\nc"\t1\nd\t2\n'),
        ("a.TSV", b'text\tid\n"a, ""b""\nc"\t1\nd\t2\n'),
    ],
)
def test_rows_of_a_table(tmp_path, name, raw):
    assert contents(tmp_path / name, raw) == [(":1", 'a, "b"\nc'), (":2", "d")]
    assert contents(tmp_path / name, raw, id_field="id") == [("1", 'a, "b"\nc'), ("2", "d")]
    ((_, error),) = contents(tmp_path / name, raw, text_field="body")
    assert re.search(r"has no column 'body' \(columns: (id, text|text, id)\)", error)


def test_a_bad_row_does_not_end_the_table(tmp_path):
    rows = [b"a,1", b"", b"b", b"c,1,2", b"\xff,1", b'"d"x,1', b"\0,1", b"x" * 300 + b",1", b"e,1"]
    found = contents(tmp_path / "a.csv", b"\n".join([b"text,n", *rows]), max_bytes=200)
    assert [place for place, _ in found] == [":1", *(f":{i}" for i in range(3, 10))]
    assert (found[0][1], found[-1][1]) == ("a", "e")
    expected = ["1 cells below 2", "3 cells", "not UTF-8", "no row", "zero byte", "longer than 200"]
    assert all(part in error for part, (_, error) in zip(expected, found[1:-1], strict=True))


def test_a_quote_that_is_never_closed_costs_rows_up_to_the_limit(tmp_path):
    raw = b'text\na\n"b\n' + b"".join(b"row %03d\n" % i for i in range(100))
    found = contents(tmp_path / "a.csv", raw, max_bytes=99)
    assert found[0] == (":1", "a")
    assert "or a quote is not closed" in found[1][1]
    assert [text for _, text in found[2:]] == [f"row {i:03d}" for i in range(13, 100)]
    ((_, error),) = contents(tmp_path / "b.csv", b'text\n"b\n')
    assert "unexpected end of data" in error


def test_large_cells_and_token_ids(tmp_path):
    found = contents(tmp_path / "a.csv", b"text\n" + b"x" * 1_000_000 + b"\n")
    assert [len(text) for _, text in found] == [1_000_000]
    raw = b'tokens\n"[1, 2]"\n"[1, ""a""]"\n3\n[4]\n'
    found = [c for _, c in contents(tmp_path / "a.csv", raw, tokens_field="tokens")]
    error = "field 'tokens' is not a list of token ids"
    assert found == [[1, 2], error, error, [4]]


@pytest.mark.parametrize("raw", [b"", b"\n\n", b"text\n", b"text"])
def test_tables_of_nothing(tmp_path, raw):
    ((_, error),) = contents(tmp_path / "a.csv", raw)
    assert error == "no documents in it" or "has no column 'text' (columns: none)" in error


def test_a_table_in_utf_16(tmp_path):
    ((_, error),) = contents(tmp_path / "a.csv", "text\na\n".encode("utf-16"))
    assert "its first line, which names the columns, is" in error


# WARC


def record(kind, body, content="application/http; msgtype=response", length=None):
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://x/{kind}\r\n"
    head += f"Content-Type: {content}\r\nContent-Length: {len(body) if length is None else length}"
    return head.encode() + b"\r\n\r\n" + body + b"\r\n\r\n"


def answer(body, *headers, content="text/html"):
    lines = ["HTTP/1.1 200 OK", f"Content-Type: {content}", *headers, "", ""]
    return record("response", "\r\n".join(lines).encode() + body)


def chunked(*parts):
    return b"".join(b"%x;a=b\r\n%s\r\n" % (len(p), p) for p in (*parts, b""))


@lxml
@pytest.mark.parametrize("end", [".warc", ".warc.gz"])
def test_pages_of_a_warc(tmp_path, end):
    made = [
        record("warcinfo", b"software: x", "application/warc-fields"),
        record("request", b"GET / HTTP/1.1\r\n\r\n", "application/http; msgtype=request"),
        answer(b"<p>one"),
        answer(b"caf\xe9", content="TEXT/HTML; Charset=latin1; q=1"),
        answer(chunked(b"<p>thr", b"ee"), "Transfer-Encoding: chunked"),
        answer(gzip.compress(b"<p>four"), "Content-Encoding: gzip"),
        answer(
            chunked(zlib.compress(b"<p>five")),
            "Transfer-Encoding: Chunked",
            "content-encoding: deflate",
        ),
        answer(b"plain <b>", content="text/plain"),
        record("conversion", "Grüße".encode(), "text/plain"),
        answer(b"\x89PNG", content="image/png"),
        answer(b"<p>x", "Content-Encoding: br"),
        answer(b"zz", "Transfer-Encoding: chunked"),
        answer(chunked(b"<p>cut")[:-9], "Transfer-Encoding: chunked"),
        answer(gzip.compress(b"<p>cut")[:-9], "Content-Encoding: gzip"),
        answer(b"<p>last"),
    ]
    raw = b"".join(map(gzip.compress, made)) if end == ".warc.gz" else b"".join(made)
    found = contents(tmp_path / f"a{end}", raw)
    assert [place for place, _ in found] == [f":{i}" for i in range(3, 16)]
    texts = [text for _, text in found]
    assert texts[:7] == ["one", "café", "three", "four", "five", "plain <b>", "Grüße"]
    assert texts[7] == "image/png: no text is read of it"
    assert texts[8] == "content encoding br is not read"
    assert texts[9] == "zz"  # some archives keep the header when they have joined the chunks
    assert all("damaged: its chunks or its packing" in text for text in texts[10:12])
    assert texts[12] == "last"
    found = contents(tmp_path / f"a{end}", raw, id_field="warc-target-uri")
    assert found[0][0] == "http://x/response"
    found = contents(tmp_path / f"a{end}", raw, tokens_field="t")
    assert "a page, which has no field 't'" in found[0][1]


@lxml
def test_a_warc_that_breaks_off(tmp_path):
    good = answer(b"<p>one")
    for bad in (
        good[:-9],
        good[:30],
        b"nonsense\n" + good,
        record("response", b"x", length="-1"),
        record("response", b"x", length=10**17),
        b"WARC/1.0\r\n" + b"A: b\r\n" * 20_000,
    ):
        found = contents(tmp_path / "a.warc", good + bad)
        assert found[0] == (":1", "one")
        assert "breaks off here" in found[-1][1], bad[:40]
    found = contents(
        tmp_path / "a.warc", record("response", b"HTTP/1.1 200 OK\r\nA:" + b"b" * 99_999) + good
    )
    assert [text for _, text in found] == ["the headers of a record are too long", "one"]


@lxml
def test_a_page_that_unpacks_to_much(tmp_path):
    bomb = answer(gzip.compress(b"a" * 100_000_000, 1), "Content-Encoding: gzip")
    tracemalloc.start()
    found = contents(tmp_path / "a.warc", bomb + answer(b"x" * 5_000_000) + answer(b"<p>last"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [text[:11] for _, text in found] == ["longer than", "longer than", "last"]
    assert peak < 40_000_000


# standard input, progress


def test_packed_files_say_how_far_they_are(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "some text"}\n' * 20_000)
    cursor = Cursor(total=path.stat().st_size)
    shares = []
    for _ in read_documents(str(path), given_format(str(path), False), Reading(), cursor):
        shares.append(cursor.share)
    assert shares == sorted(shares)
    assert len(set(shares)) > 2
    assert shares[-1] > 0.9


def test_json_lines_on_standard_input_are_said(monkeypatch):
    stdin = SimpleNamespace(buffer=io.BytesIO(b'{"text": "a"}\n{"text": "b"}\n'))
    monkeypatch.setattr(sys, "stdin", stdin)
    (found,) = read_documents("-", given_format("-", False), Reading())
    assert found.error.startswith("JSON, it seems, not a text: give --text-field")
