"""`wmcore detect`: a result for every document, of whatever file, and one clear line for every mistake."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
from commands import V, one_line, rows
from test_scored import marked

from wmcore import Detector, Key, Watermark
from wmcore.locate import locate

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:
    pa = None


def test_detect_results_for_every_document(wm, mark, letters):
    lines = [{"tokens": [1, 2, 3] * 9}, {"tokens": []}, {"tokens": [V]}, {"tokens": [5]}]
    lines += [{"tokens": "x"}, {"tokens": [10**30]}, {"tokens": [-1]}]
    with open("in.jsonl", "w") as file:
        file.writelines(json.dumps(line) + "\n" for line in [*lines[:4], *lines[4:]])
        file.write("not json\n")
    options = ("detect", "-w", mark, "--tokens-field", "tokens", "--resamples", 99, "--seed", 1)
    code, out, err = wm(*options, "--json", "in.jsonl")
    assert code == 0
    found = rows(out)
    assert [r["document"] for r in found] == [f"in.jsonl:{i}" for i in range(1, 9)]
    assert [r["error"] is None for r in found] == [True, False, False, True] + [False] * 4
    assert all((r["p_value"] is None) == (r["error"] is not None) for r in found)
    assert 0 < found[0]["p_value"] <= 1
    assert found[0]["length"] == 27
    assert "6 of 8 documents could not be tested" in err

    assert wm(*options, "--json", "in.jsonl")[1] == out
    code, table, _ = wm(*options, "in.jsonl")
    assert code == 0
    assert "in.jsonl:8" in table
    assert "not JSON" in table


def test_detect_says_where_the_passages_are(wm, letters):
    watermark = Watermark.create("exp", vocab_size=V, key_length=64, key=Key(b"\3" * 32))
    watermark.save("fixed.json")
    rng = np.random.default_rng(1)
    text = np.concatenate(
        [rng.integers(V, size=90), marked(watermark, 60, 5), rng.integers(V, size=50)]
    )
    with open("in.jsonl", "w") as file:
        for tokens in (text.tolist(), text[:80].tolist(), []):
            file.write(json.dumps({"tokens": tokens}) + "\n")
    given = ("detect", "-w", "fixed.json", "--tokens-field", "tokens", "--spans", "--seed", 1)
    code, out, _ = wm(*given, "--json", "in.jsonl")
    assert code == 0
    whole, part, failed = rows(out)
    (span,) = whole["spans"]
    expected = locate(Detector(watermark), text, seed=1)
    assert span == expected[0].to_dict()
    assert span["char_start"] is None
    assert part["spans"] == []
    assert failed["spans"] is None
    code, table, _ = wm(*given, "in.jsonl")
    assert f"{span['start']} to {span['stop']}: p = {span['p_value']:.4g}" in table
    assert wm(*given, "--level", 1e-300, "--json", "in.jsonl")[1].count('"spans": []') == 2
    code, _, err = wm(*given[:-2], "--verdict-only", "in.jsonl")
    assert code == 2
    assert "--spans says more than found or not" in err


def test_detect_text_files_and_standard_input(wm, mark, letters):
    with open("a.txt", "w") as file:
        file.write("some text of a file")
    options = (
        "detect",
        "-w",
        mark,
        "--tokenizer",
        "letters",
        "--resamples",
        19,
        "--seed",
        1,
        "--json",
    )
    code, out, _ = wm(*options, "a.txt", "-", stdin=b"some text of a file")
    assert code == 0
    first, second = rows(out)
    assert (first.pop("document"), second.pop("document")) == ("a.txt", "stdin")
    assert first == second
    assert first["length"] == 19


def test_detect_uses_all_resamples_only_when_asked(wm):
    Watermark.create("exp", vocab_size=50, key_length=32, key=Key(bytes(32))).save("fixed.json")
    with open("in.jsonl", "w") as file:
        file.write(json.dumps({"tokens": [1, 2, 3, 4, 5, 6]}) + "\n")
    given = ("detect", "-w", "fixed.json", "--tokens-field", "tokens", "--json", "in.jsonl")
    options = ("--resamples", 5000, "--seed", 1)
    for stop_after, method in ((50, "sequential"), (7, "sequential"), (0, "permutation")):
        code, out, _ = wm(*given, *options, "--stop-after", stop_after)
        assert code == 0
        (found,) = rows(out)
        assert found["method"] == method
        assert (found["resamples"] == 5000) == (stop_after == 0)
        if stop_after:
            assert found["hits"] == stop_after
            assert found["p_value"] == stop_after / found["resamples"]
    assert rows(wm(*given, *options)[1])[0]["hits"] == 50


def test_detect_says_that_an_input_is_empty(wm, mark):
    Path("in.jsonl").touch()
    Path("head.csv").write_text("tokens\n")
    given = ("detect", "-w", mark, "--tokens-field", "tokens", "--json", "in.jsonl", "head.csv")
    code, out, err = wm(*given)
    assert code == 2
    assert err == "wmcore: 2 of 2 documents could not be tested\n"
    told = [(row["document"], row["error"]) for row in rows(out)]
    assert told == [("in.jsonl:1", "no documents in it"), ("head.csv:1", "no documents in it")]
    assert "p = 0.03" not in wm("detect", "-w", mark, "--tokens-field", "tokens", "in.jsonl")[1]


def test_detect_reports_a_text_shorter_than_the_block(wm):
    keygen = ("keygen", "--scheme", "exp", "--vocab-size", 9, "--block-length", 4, "-o", "k.json")
    assert wm(*keygen)[0] == 0
    with open("in.jsonl", "w") as file:
        file.write('{"tokens": [1, 2, 3]}\n{"tokens": [1, 2, 3, 4]}\n')
    code, out, _ = wm("detect", "-w", "k.json", "--tokens-field", "tokens", "--json", "in.jsonl")
    assert code == 0
    short, fine = rows(out)
    assert "block_length 4 exceeds the text's 3 tokens" in short["error"]
    assert fine["error"] is None


def test_detect_text_field(wm, mark, letters):
    code, out, _ = wm(
        *("detect", "-w", mark, "--tokenizer", "letters", "--resamples", 9, "--json"),
        *("--text-field", "body", "-"),
        stdin=b'{"body": "abc"}\n{"text": "abc"}\n',
    )
    assert code == 0
    assert [r["error"] for r in rows(out)] == [
        None,
        "no field 'body' (fields: text): name the right one",
    ]


@pytest.mark.parametrize("raw", [b"\x00\x01", b"\xff\xfe", b"a" * 10_000_000])
def test_detect_only_unreadable_documents(wm, mark, letters, raw):
    with open("bad.txt", "wb") as file:
        file.write(raw)
    code, out, err = wm("detect", "-w", mark, "--tokenizer", "letters", "--json", "bad.txt")
    assert code == 2
    assert rows(out)[0]["error"]
    assert err == "wmcore: 1 of 1 documents could not be tested\n"


def test_detect_mistakes(wm, mark, letters):
    with open("a.txt", "w") as file:
        file.write("text")
    given = ("detect", "--tokenizer", "letters")
    one_line(wm(*given, "-w", mark, "none.txt"), "none.txt: no such file")
    one_line(wm(*given, "-w", mark, "."), "a folder")
    one_line(wm(*given, "-w", "none.json", "a.txt"), "none.json cannot be read.*keygen")
    one_line(wm(*given, "-w", mark), "Missing argument")
    one_line(wm("detect", "-w", mark, "a.txt"), "no --tokenizer given")
    one_line(wm(*given, "-w", mark, "--resamples", 0, "a.txt"), "--resamples")
    both = ("--text-field", "a", "--tokens-field", "b")
    one_line(wm(*given, "-w", mark, *both, "a.txt"), "either --text-field or --tokens-field")


def test_a_tokenizer_with_more_tokens_than_the_watermark(wm, mark, letters):
    letters.size = V + 1  # an added [PAD], say: only tokens that occur count
    with open("a.txt", "w") as file:
        file.write("text")
    code, out, _ = wm("detect", "-w", mark, "--tokenizer", "other", "--json", "a.txt")
    assert code == 0
    assert rows(out)[0]["error"] is None


def broken(mark, **changes):
    held = json.loads(mark.read_text()) | changes
    return json.dumps({k: v for k, v in held.items() if v is not None}).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda m: b"",
        lambda m: b"{",
        lambda m: b"[]",
        lambda m: b"\x00\xff",
        lambda m: m.read_bytes()[:-20],
        lambda m: broken(m, version=0),
        lambda m: broken(m, version=99),
        lambda m: broken(m, version=None),
        lambda m: broken(m, scheme="magic"),
        lambda m: broken(m, scheme=None),
        lambda m: broken(m, vocab_size="many"),
        lambda m: broken(m, vocab_size=-1),
        lambda m: broken(m, key_length=1.5),
        lambda m: broken(m, gap="wide"),
    ],
)
def test_broken_watermark_file(wm, mark, letters, damage):
    secret = re.findall(r"[0-9a-f]{64}", mark.read_text())
    assert secret
    mark.write_bytes(damage(mark))
    result = wm("detect", "-w", mark, "--tokenizer", "letters", "-", stdin=b"text")
    one_line(result, r"mark\.json")
    assert not any(s in result[2] for s in secret)


def test_json_on_standard_input_is_told_what_to_do(wm, mark, letters):
    given = ("detect", "-w", mark, "--tokenizer", "letters", "--json", "--resamples", 9)
    code, out, _ = wm(*given, "-", stdin=b'{"text": "a"}\n')
    assert code == 2
    error = rows(out)[0]["error"]
    assert error.startswith(
        "JSON, it seems, not a text: give --text-field or --tokens-field, or a file whose"
    )
    code, out, _ = wm(*given, "--text-field", "text", "-", stdin=b'{"text": "a"}\n')
    assert (code, rows(out)[0]["error"]) == (0, None)


def test_watermark_file_that_others_can_read_gives_a_warning(wm, mark, letters):
    mark.chmod(0o644)
    options = ("detect", "-w", mark, "--tokenizer", "letters", "--resamples", 9, "--json", "-")
    code, out, err = wm(*options, stdin=b"some text")
    assert code == 0
    assert rows(out)[0]["p_value"] is not None
    assert re.fullmatch(r"wmcore: warning: [^\n]*mark\.json[^\n]*\n", err)


def test_every_kind_of_file_gives_the_same_results(wm, mark):
    """As records, in whatever case and packing: one document is never many records read as one text."""
    records = [{"tokens": [1, 2, 3] * 9}, {"tokens": [4, 5, 6]}, {"tokens": [9] * 12}]
    lines = "".join(json.dumps(r) + "\n" for r in records).encode()
    files = {"A.JSONL": lines, "a.json": json.dumps(records).encode(), "c4.json": lines}
    files |= {name + ".gz": gzip.compress(data) for name, data in files.items()}
    for name, data in files.items():
        Path(name).write_bytes(data)
    if pa is not None:
        Path("a.jsonl.zst").write_bytes(pa.compress(lines, "zstd", asbytes=True))
        pq.write_table(pa.Table.from_pylist(records), "a.parquet")
        files |= {"a.jsonl.zst": b"", "a.parquet": b""}
    options = ("detect", "-w", mark, "--tokens-field", "tokens", "--seed", 1, "--json")
    expected = None
    for name in files:
        code, out, err = wm(*options, name)
        assert (code, err) == (0, "")
        found = rows(out)
        assert [r.pop("document") for r in found] == [f"{name}:{i}" for i in (1, 2, 3)]
        expected = expected or found
        assert found == expected


def test_other_files_are_not_texts(wm, mark, letters):
    given = ("detect", "-w", mark, "--tokenizer", "letters", "--json")
    Path("a.odd").write_text("text")
    for name in ("a.PDF", "a.docx", "a.txt.7z"):
        Path(name).write_text("text")
        code, out, err = wm(*given, name, "a.odd")
        assert code == 0
        assert re.search("is not read: convert it to .txt", rows(out)[0]["error"])
        assert "1 of 2 documents could not be tested" in err
        code, out, err = wm(*given, name)
        assert (code, len(rows(out))) == (2, 1)
    Path("b.odd").write_text('{"text": "text"}')
    code, out, _ = wm(*given, "a.odd", "b.odd")
    assert code == 0
    assert [r["error"] is None for r in rows(out)] == [True, False]


def test_max_bytes(wm, mark, letters):
    Path("a.txt").write_text("x" * 100)
    given = ("detect", "-w", mark, "--tokenizer", "letters", "--json", "a.txt", "--max-bytes")
    assert "longer than 99 bytes" in rows(wm(*given, 99)[1])[0]["error"]
    assert rows(wm(*given, 100)[1])[0]["length"] == 100
    one_line(wm(*given, 0), "--max-bytes")
    one_line(wm(*given, 10**30), "--max-bytes")


@pytest.mark.parametrize("option", ["--resamples", "--stop-after"])
def test_numbers_beyond_64_bits(wm, mark, option):
    one_line(wm("detect", "-w", mark, "--tokens-field", "t", "-", option, 10**30), option)


def test_names_cannot_write_to_the_terminal(wm, mark, letters):
    """Nor forge a line of a log, piped or not, as a table or as JSON."""
    name = "a\nwmcore: all fine\x1b]0;evil\x07\x9b31m\u202e.jsonl"
    Path(name).write_text('{"tokens": [1, 2]}\n{"\\u001b[2J\\n": 1}\n')
    for extra in ((), ("--json",)):
        code, out, err = wm(
            "detect", "-w", mark, "--text-field", "x", "--tokenizer", "m", *extra, name
        )
        assert code == 2
        shown = (out + err).replace("\n", "")
        assert shown.isprintable() or not extra
        assert not set("\x1b\x07\x9b\u202e") & set(shown)
        assert "\nwmcore: all fine" not in out + err


def test_how_to_test_is_an_option(wm, letters, mark):
    """As a watermark file of that scheme would test; another sampler's is refused."""
    (mark.parent / "a.txt").write_text(
        "some ordinary letters, sixty of them or so, enough for a test"
    )
    options = ("detect", "-w", mark, "--tokenizer", "letters", "a.txt", "--json")
    fixed = ("--resamples", 99, "--seed", 1)
    code, out, _ = wm(*options, "--scheme", "exp", "--block-length", 9, *fixed)
    assert code == 0
    (found,) = rows(out)
    text = letters.encode((mark.parent / "a.txt").read_text())
    detector = Detector(Watermark.load(mark), scheme="exp", block_length=9)
    (expected,) = detector.detect([text], resamples=99, seed=1)
    assert found["p_value"] == expected.p_value
    assert found["statistic"] == expected.statistic
    code, out, _ = wm(*options[:-1], "--scheme", "exp", *fixed)
    assert "exp, watermark" in out
    code, _, err = wm(*options, "--scheme", "its", *fixed)
    assert code == 2
    assert "scheme 'its' tests text of the sampler 'its'" in err
    code, out, _ = wm(*options, "--seed", 1)
    assert rows(out)[0]["method"] == "sequential"


def write_texts(rng):
    """A watermark's file, and records: a text with the watermark, one without, one too short, one without tokens."""
    watermark = Watermark.create("exp", vocab_size=V, key_length=64, key=Key(b"\3" * 32))
    watermark.save("fixed.json")
    plain = rng.integers(65, 91, size=60).tolist()
    with open("in.jsonl", "w") as file:
        for tokens in (marked(watermark, 60, 5).tolist(), plain, plain[:5], []):
            file.write(json.dumps({"tokens": tokens}) + "\n")
    return watermark


def test_a_verdict_in_words_beside_each_p(wm, letters):
    watermark = write_texts(np.random.default_rng(1))
    given = ("detect", "-w", "fixed.json", "--tokens-field", "tokens")
    code, out, _ = wm(*given, "--json", "in.jsonl")
    assert code == 0
    found = rows(out)
    assert out == wm(*given, "--json", "in.jsonl")[1]  # with no seed
    assert [r["verdict"] for r in found] == [
        "found (p <= 0.001)",
        "not found (p > 0.001): this does not say that the text is not ours",
        "too short to tell (p > 0.001): 5 tokens, but 25 are needed",
        None,
    ]
    assert {r["level"] for r in found} == {0.001}
    how = {(r["scheme"], r["score"], r["fingerprint"]) for r in found}
    assert how == {("exp", None, watermark.fingerprint)}
    assert {
        r["score"] for r in rows(wm(*given, "--score", "mixture", "--json", "in.jsonl")[1])
    } == {"mixture"}
    code, table, _ = wm(*given, "in.jsonl")
    for words in (
        f"watermark {watermark.fingerprint}, found: p <= 0.001",
        "found (p <= 0.001)",
        "not found (p > 0.001)",
        "too short to tell (p > 0.001)",
        "5 tokens, but 25 are needed",
        "p = 0.03: 3 of 100 unrelated texts look this good. It is not the probability that the text is ours.",
        '"Not found" does not say that a text is not ours.',
    ):
        assert words in table, words
    loose = rows(wm(*given, "--level", 1, "--json", "in.jsonl")[1])
    assert [r["verdict"] for r in loose[:3]] == ["found (p <= 1)"] * 3
    few = rows(wm(*given, "--resamples", 99, "--json", "in.jsonl")[1])[0]
    assert (
        few["verdict"]
        == "too few resamples to tell (p > 0.001): use at least 1020 (--resamples 1020)"
    )
    one_line(wm(*given, "--level", 2, "in.jsonl"), "--level is 2.0, but must be a number from 0 to")


def test_a_page_of_ones_own_texts(wm, letters):
    write_texts(np.random.default_rng(1))
    given = ("detect", "-w", "fixed.json", "--tokens-field", "tokens", "--html", "page.html")
    one_line(wm(*given, "in.jsonl"), "--html shows words: give the model's --tokenizer")
    given = (*given, "--tokenizer", "letters")
    code, out, err = wm(*given, "--json", "--spans", "in.jsonl")
    assert code == 0
    assert "alignment" not in rows(out)[0]
    assert "page.html: each token coloured" in err
    page = Path("page.html").read_text()
    assert all(f"in.jsonl:{i}" in page for i in (1, 2, 3, 4))
    for words in (
        "in.jsonl:4",
        "Found, with p ≤ 0.001, in 1 of 4 texts.",
        "This does not say that the text is not ours.",
        "not tested",
    ):
        assert words in page, words
    assert Path("page.html").stat().st_mode & 0o077 == 0
    one_line(wm(*given, "in.jsonl"), "page.html: the file exists; choose another or add --force")
    assert Path("page.html").read_text() == page
    Path("one.txt").write_text("<script>some letters" * 3)
    code, _, _ = wm("detect", "-w", "fixed.json", "--tokenizer", "letters", *given[5:7], "one.txt")
    assert code == 2
    code, _, _ = wm(
        "detect", "-w", "fixed.json", "--tokenizer", "x", *given[5:7], "--force", "one.txt"
    )
    assert code == 0
    page = Path("page.html").read_text()
    assert "one.txt" in page
    assert "<script>" not in page
    assert "in.jsonl" not in page
    assert not [f for f in Path().iterdir() if f.name.startswith(".wmcore-page")]
    one_line(wm(*given[:5], "--html", "no/page.html", "in.jsonl"), "words")
    one_line(wm(*given[:5], "--force", "in.jsonl"), "--force is for the page of --html")


def test_a_page_has_room_for_so_many_texts(wm, letters, monkeypatch):
    monkeypatch.setattr("wmcore.cli.text_page.MOST_TEXTS", 2)
    write_texts(np.random.default_rng(1))
    given = ("detect", "-w", "fixed.json", "--tokens-field", "tokens", "--tokenizer", "letters")
    code, _, err = wm(*given, "--html", "page.html", "in.jsonl")
    assert code == 0
    assert "without 2 texts that it has no room for" in err
    assert "in.jsonl:3" not in Path("page.html").read_text()


def test_a_long_text_is_tested_in_windows_and_shown(wm, letters):
    watermark = write_texts(np.random.default_rng(1))
    rng = np.random.default_rng(2)
    tokens = rng.integers(65, 91, size=8300)
    tokens[5000:5064] = marked(watermark, 64, 0)
    Path("long.jsonl").write_text(json.dumps({"tokens": tokens.tolist()}))
    given = ("detect", "-w", "fixed.json", "--tokens-field", "tokens", "--tokenizer", "letters")
    code, out, _ = wm(*given, "--json", "--html", "page.html", "long.jsonl")
    assert code == 0
    (found,) = rows(out)
    assert found["verdict"] == "found (p <= 0.001)"
    assert found["windows"] == 64
    assert found["window"][0] <= 5000
    assert found["window"][1] >= 5064
    page = Path("page.html").read_text()
    assert "long.jsonl:1" in page
    assert f"Watermark {found['fingerprint']} in 1 text<" in page
