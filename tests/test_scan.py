"""A scan: what it reads, finds and writes; that it goes on after a stop, and refuses what it must."""

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from scans import OPTIONS, corpus, marked, ordinary, shard_bytes, watermark

from wmcore import Detector, Watermark, WatermarkError

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402

from wmcore.plan import log_evalues  # noqa: E402
from wmcore.records import Document  # noqa: E402
from wmcore.scan import ScanSettings, scan  # noqa: E402
from wmcore.scan.batch import Batch  # noqa: E402
from wmcore.scan.manifest import read_manifest  # noqa: E402
from wmcore.scan.page import render  # noqa: E402
from wmcore.scan.store import read_shard, shards  # noqa: E402
from wmcore.scan.windows import window_and_stride  # noqa: E402
from wmcore.scan.worker import Scanner  # noqa: E402
from wmcore.windows import starts  # noqa: E402

MARK = watermark()


@pytest.fixture(scope="module")
def tokens_file(tmp_path_factory):
    return corpus(tmp_path_factory.mktemp("corpus") / "c.jsonl", MARK, 450)


@pytest.fixture(scope="module")
def whole(tokens_file, tmp_path_factory):
    """An uninterrupted scan: (rows, output)."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return list(scan(tokens_file, MARK, out, **OPTIONS)), out


@pytest.fixture(scope="module")
def byte_tokenizer():
    """A fast tokenizer of bytes, made on the spot."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core)


def test_finds_what_is_marked(whole):
    rows, out = whole
    summary = read_manifest(out)["summary"]
    assert summary["documents"] == summary["tested"] == 450
    table = pa.concat_tables([read_shard(path) for *_, path in shards(out)]).to_pylist()
    assert [r["position"] for r in table] == list(range(450))
    called = {r["id"] for r in table if r["q_value"] <= 0.01}
    planted = {r["id"] for r in rows if r["id"][0] == "m"}
    assert len(planted - called) <= 1
    assert len([i for i in called if i[0] == "d"]) <= 1
    assert summary["hits"] == len(called)


def test_ebh_calls_by_e_values(tokens_file, tmp_path):
    """log_e is that of the mean over the windows that passed; q is e-BH's; the page and the summary say so."""
    out = tmp_path / "out"
    rows = list(scan(tokens_file, MARK, out, **{**OPTIONS, "fdr": "ebh"}))
    detector = Detector(MARK)
    table = pa.concat_tables([read_shard(path) for *_, path in shards(out)]).to_pylist()
    assert [r["log_e"] for r in table] == [r["log_e"] for r in rows]
    lines = [json.loads(line)["tokens"] for line in tokens_file.read_text().splitlines()]
    made = 0
    for row in table:
        if row["log_e"] is None:
            assert row["method"] == "first"
            continue
        made += 1
        tokens = np.array(lines[row["position"]])
        pieces = [tokens[s : s + 64] for s in starts(len(tokens), 64, 32)]
        full = np.logaddexp.reduce(log_evalues(detector.subject, pieces)) - np.log(len(pieces))
        assert row["log_e"] <= full + 1e-9
        if row["windows"] == 1 or row["log_e"] > 10:
            assert row["log_e"] == pytest.approx(full, abs=0.1 if row["windows"] > 1 else 1e-9)
    assert 20 <= made <= 80
    e = np.exp([-np.inf if r["log_e"] is None else r["log_e"] for r in table])
    ordered = np.sort(e)[::-1]
    ratios = 450 / (np.arange(1, 451) * np.maximum(ordered, 1e-300))
    q = [min(1.0, ratios[ordered <= x].min()) for x in e]
    assert [r["q_value"] for r in table] == pytest.approx(q)
    summary = read_manifest(out)["summary"]
    called = [r["id"] for r in table if r["q_value"] <= 0.01]
    assert summary["hits"] == len(called) >= 18
    assert 1 / summary["threshold"] == pytest.approx(
        min(x for x, y in zip(e, q, strict=True) if y <= 0.01)
    )
    assert not [i for i in called if i[0] == "d"]
    assert "whatever the documents have in common" in render(out)


def test_ebh_needs_e_values(tokens_file, tmp_path):
    for mark, message in [
        (watermark("its"), "scheme 'its' has no e-values, as exp, exp-edit, exp-free, exp-local"),
        (Watermark.published("exp", seed=1, generator="mersenne", vocab_size=2048), "rounded"),
    ]:
        with pytest.raises(WatermarkError, match=message):
            list(scan(tokens_file, mark, tmp_path / "out", **{**OPTIONS, "fdr": "ebh"}))
    assert not (tmp_path / "out").exists()


def test_outputs_of_versions_without_e_values_go_on(tokens_file, whole, tmp_path):
    """Their shards lack log_e: they are read, shown and finished, and a lost one is made anew, with it."""
    out = tmp_path / "out"
    shutil.copytree(whole[1], out)
    for *_, path in shards(out):
        pq.write_table(pq.read_table(path, partitioning=None).drop_columns("log_e"), path)
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**manifest, "summary": None}))
    assert render(whole[1])
    next(out.glob("part-*-000000002.parquet")).unlink()
    assert len(list(scan(tokens_file, MARK, out, **OPTIONS))) == 100
    assert read_manifest(out)["summary"] == manifest["summary"]
    assert render(out)
    column = [read_shard(path)["log_e"].null_count for *_, path in shards(out)]
    assert column[0] == 100 > column[2]


def test_long_documents_show_the_best_window(whole):
    rows, _ = whole
    found = [r for r in rows if r["id"][0] == "l" and r["p_value"] < 1e-3]
    assert len(found) >= 9
    for row in found:
        assert row["windows"] == 9
        assert row["length"] == 304
        overlap = min(row["window"]["end"], 214) - max(row["window"]["start"], 150)
        assert overlap >= 40


def test_a_local_pass_finds_the_passage_of_a_whole_document(tokens_file):
    options = {name: value for name, value in OPTIONS.items() if name not in ("window", "stride")}
    rows = list(scan(tokens_file, MARK, scheme="exp-local", **options))
    assert list(scan(tokens_file, MARK, scheme="exp-local", threads=1, **options)) == rows
    assert all(r["windows"] == 1 for r in rows)
    long = [r for r in rows if r["id"][0] == "l"]
    assert sum(r["p_value"] <= 1e-6 for r in long) >= len(long) - 1
    errors = [abs(r["window"]["start"] - 150) + abs(r["window"]["end"] - 214) for r in long]
    assert np.median(errors) <= 25
    assert sum(r["p_value"] <= 0.001 for r in rows if r["id"][0] == "d") <= 3


def test_windows_of_a_scheme():
    free, local = ({"scheme": f"exp-{name}", **OPTIONS} for name in ("free", "local"))
    for given, least in ((free, 256), (local, 4096)):
        scheme = MARK.tested_as(given["scheme"]).scheme
        for window, stride in ((None, None), (64, None), (63, None), (64, 10), (None, 8)):
            settings = ScanSettings(**{**given, "window": window, "stride": stride})
            size = window or least
            assert window_and_stride(settings, scheme) == (size, stride or -(-size // 2))


def test_results_do_not_depend_on_batches_and_threads(tokens_file, whole, monkeypatch):
    from wmcore.scan import sources

    monkeypatch.setattr(sources, "BATCH_DOCUMENTS", 7)
    again = list(scan(tokens_file, MARK, threads=1, **OPTIONS))
    assert again == whole[0]


@pytest.mark.parametrize("kind", ["gz", "zst", "parquet"])
def test_formats_give_the_same(tokens_file, whole, tmp_path, kind):
    data = tokens_file.read_bytes()
    if kind == "gz":
        path = tmp_path / "c.jsonl.gz"
        half = data.index(b"\n", len(data) // 2) + 1
        path.write_bytes(gzip.compress(data[:half]) + gzip.compress(data[half:]))
    elif kind == "zst":
        path = tmp_path / "c.jsonl.zst"
        half = data.index(b"\n", len(data) // 2) + 1
        path.write_bytes(
            b"".join(pa.compress(p, "zstd", asbytes=True) for p in (data[:half], data[half:]))
        )
    else:
        path = tmp_path / "c.parquet"
        records = [json.loads(line) for line in data.splitlines()]
        pq.write_table(pa.Table.from_pylist(records), path, row_group_size=130)
    assert list(scan(path, MARK, **OPTIONS)) == whole[0]


def test_memory_url_and_id_default(tokens_file):
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://corpus/c.jsonl", "wb") as file:
        file.write(b"".join(tokens_file.read_bytes().splitlines(True)[:5]))
    rows = list(scan("memory://corpus/c.jsonl", MARK, **{**OPTIONS, "id_field": None}))
    assert [r["id"] for r in rows] == [f"memory://corpus/c.jsonl:{i}" for i in range(1, 6)]


def test_text_folder_and_span_of_characters(tmp_path, byte_tokenizer):
    folder = tmp_path / "texts"
    folder.mkdir()
    rng = np.random.default_rng(0)
    mark = watermark(key=1)
    small = marked(mark, rng, 64)
    (folder / "a.txt").write_text("Straße und Äpfel " * 3, encoding="utf-8")
    (folder / "b.txt").write_text("", encoding="utf-8")
    (folder / "c.txt").write_bytes(b"\xff broken")
    (folder / "d.txt").write_text("日本語のテキスト" * 20, encoding="utf-8")
    (folder / ".hidden.txt").write_text("no", encoding="utf-8")
    settings = {"window": 64, "stride": 32, "resamples": 99, "seed": 1}
    rows = {
        os.path.basename(r["id"]): r
        for r in scan(folder, mark, tokenizer=byte_tokenizer, **settings)
    }
    assert {os.path.dirname(r["id"]) for r in rows.values()} == {str(folder)}
    assert set(rows) == {"a.txt", "b.txt", "c.txt", "d.txt"}
    assert "no tokens" in rows["b.txt"]["error"]
    assert "not UTF-8" in rows["c.txt"]["error"]
    d = rows["d.txt"]
    assert d["length"] == 480
    # Three bytes a character: the span covers whole characters of the window's 64 tokens.
    start, end = d["window"]["start"] // 3, -(-d["window"]["end"] // 3)
    assert (d["span"]["start"], d["span"]["end"]) == (start, end)
    assert rows["a.txt"]["p_value"] is not None
    assert small.shape == (64,)


def test_encoder_is_the_tokenizer(byte_tokenizer):
    from wmcore.scan.windows import Encoder

    texts = ["short", "a much longer text " * 30, "ü", ""]
    expected = [byte_tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]
    for spans in (False, True):
        got = Encoder(byte_tokenizer, 16).encode(texts, spans)
        assert [ids.tolist() for ids, _ in got] == expected


def test_learnt_scores_in_a_scan(tmp_path):
    """As the detector's with the same file; another file of the same name is another scan; none is by a proxy."""
    from wmcore import Detector
    from wmcore.learned_scores import Origin, TokenScores, default_scores

    source, path = corpus(tmp_path / "c.jsonl", MARK, 40), str(tmp_path / "scores.json")
    origin = Origin(None, 1.0, 1.0, 1, 500)
    bins = np.arange(MARK.vocab_size, dtype=np.uint8) % 2
    scores = TokenScores([[0.1, 0.3], [0.5, 0.9]], bins, origin)
    scores.save(path)
    options = {**OPTIONS, "score": path, "controls": 1}
    rows = list(scan(source, MARK, tmp_path / "out", **options))
    manifest = read_manifest(tmp_path / "out")
    assert manifest["watermark"]["scheme"] == "exp-free"
    assert manifest["settings"]["score_name"] == scores.name
    plain = Detector(MARK, score=scores)
    other = Detector(MARK, scheme="exp-free")
    differ = 0
    for line, row in zip(source.read_text().splitlines(), rows, strict=True):
        if row["windows"] == 1:
            text = json.loads(line)["tokens"]
            found = plain.detect([text], resamples=9)[0].statistic
            assert row["statistic"] == found
            differ += found != other.detect([text], resamples=9)[0].statistic
    assert differ > 20
    TokenScores([[0.1, 0.3], [0.5, 0.8]], bins, origin).save(path)
    with pytest.raises(WatermarkError, match=r"score_name was 'tokens .*' and is now 'tokens "):
        list(scan(source, MARK, tmp_path / "out", **options))
    default_scores().save(path)
    with pytest.raises(WatermarkError, match="the scores are by a proxy, but none is given"):
        list(scan(source, MARK, tmp_path / "new", **options))


def test_rows_are_those_of_the_detector(whole, tokens_file):
    """A document in one window that passes the first pass has the p of a plain detection, plus epsilon."""
    from wmcore.significance import derived_seed

    settings = ScanSettings(**OPTIONS)
    detector = Detector(MARK)
    lines = tokens_file.read_text().splitlines()
    checked = 0
    for row in whole[0]:
        if row["windows"] > 1 or row["method"] in ("first", "bound"):
            continue
        seed = derived_seed(derived_seed(1, row["source"], row["position"] // 100), "full")
        (found,) = detector.detect(
            [json.loads(lines[row["position"]])["tokens"]], resamples=999, stop_after=3, seed=seed
        )
        assert row["p_value"] == pytest.approx(found.p_value + settings.plan.epsilon, rel=1e-12)
        assert (row["statistic"], row["shift"]) == (found.statistic, found.shift)
        checked += 1
    assert checked >= 3


def test_going_on_after_a_stop(tokens_file, whole, tmp_path):
    out = tmp_path / "out"
    results = scan(tokens_file, MARK, out, **OPTIONS)
    first = [next(results) for _ in range(130)]
    results.close()
    rest = list(scan(tokens_file, MARK, out, **OPTIONS))
    # The 70 rows of the shard that was written but not yet yielded are in the output.
    assert first[:100] + first[100:] + whole[0][130:200] + rest == whole[0]
    assert shard_bytes(out) == shard_bytes(whole[1])
    assert list(scan(tokens_file, MARK, out, **OPTIONS)) == []


def test_a_lost_shard_is_made_anew(tokens_file, whole, tmp_path, monkeypatch):
    from wmcore.scan import run

    out = tmp_path / "out"
    list(scan(tokens_file, MARK, out, **OPTIONS))
    next(out.glob("part-*-000000002.parquet")).unlink()
    again = list(scan(tokens_file, MARK, out, **OPTIONS))
    assert [r["position"] for r in again] == list(range(200, 300))
    assert shard_bytes(out) == shard_bytes(whole[1])
    # Killed after the last shard, before its q-values: the next run fills them in.
    next(out.glob("part-*-000000002.parquet")).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(run, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            list(scan(tokens_file, MARK, out, **OPTIONS))
    assert read_manifest(out)["summary"] is None
    assert list(scan(tokens_file, MARK, out, **OPTIONS)) == []
    assert shard_bytes(out) == shard_bytes(whole[1])
    damaged = next(out.glob("part-*-000000001.parquet"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    next(out.glob("part-*-000000002.parquet")).unlink()
    with pytest.raises(WatermarkError, match="damaged"):
        list(scan(tokens_file, MARK, out, **OPTIONS))


def test_a_fresh_seed_is_kept(tokens_file, tmp_path):
    options = {**OPTIONS, "seed": None}
    results = scan(tokens_file, MARK, tmp_path / "out", **options)
    next(results)
    results.close()
    seed = read_manifest(tmp_path / "out")["settings"]["seed"]
    list(scan(tokens_file, MARK, tmp_path / "out", **options))
    list(scan(tokens_file, MARK, tmp_path / "same", **{**options, "seed": seed}))
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "same")


def test_another_scan_is_refused(tokens_file, tmp_path):
    out = tmp_path / "out"
    path = tmp_path / "c.jsonl"
    path.write_bytes(tokens_file.read_bytes())
    results = scan(path, MARK, out, **OPTIONS)
    next(results)
    with pytest.raises(WatermarkError, match="another scan is writing there"):
        next(scan(path, MARK, out, **OPTIONS))
    results.close()
    with pytest.raises(WatermarkError, match="fingerprint was"):
        next(scan(path, watermark(key=5), out, **OPTIONS))
    with pytest.raises(WatermarkError, match="window was 64 and is now 128"):
        next(scan(path, MARK, out, **{**OPTIONS, "window": 128}))
    with pytest.raises(WatermarkError, match="inputs: there were 1, and now 2"):
        next(scan([path, tokens_file], MARK, out, **OPTIONS))
    lines = path.read_bytes().splitlines(True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1].replace(b'"d', b'"e'))
    with pytest.raises(WatermarkError, match="changed was"):
        next(scan(path, MARK, out, **OPTIONS))
    path.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(WatermarkError, match="size was"):
        next(scan(path, MARK, out, **OPTIONS))


def test_an_input_that_changes_meanwhile_is_noticed(tokens_file, tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_bytes(tokens_file.read_bytes())
    results = scan(path, MARK, tmp_path / "out", **OPTIONS)
    next(results)
    with path.open("ab") as file:
        file.write(b'{"id": "late", "tokens": [1, 2, 3]}\n')
    with pytest.raises(WatermarkError, match="changed while it was read"):
        list(results)
    assert read_manifest(tmp_path / "out")["summary"] is None


COMMAND = [sys.executable, "-m", "wmcore", "scan"]


def command(tokens_file, mark_file, out):
    return [
        *COMMAND,
        *(str(tokens_file), "-w", str(mark_file), "-o", str(out), "--tokens-field", "tokens"),
        *("--id-field", "id", "--window", "64", "--stride", "32", "--resamples", "999"),
        *("--shard-size", "100", "--seed", "1", "--json", "--threads", "1"),
    ]


def kill_and_go_on(tokens_file, tmp_path, kills, seed):
    """Kill a scan at random moments; the output must equal that of an uninterrupted one."""
    mark_file = tmp_path / "watermark.json"
    MARK.save(mark_file)
    began = time.monotonic()
    subprocess.run(
        command(tokens_file, mark_file, tmp_path / "ref"), check=True, capture_output=True
    )
    took = time.monotonic() - began
    rng = random.Random(seed)
    done = 0
    last = None
    while done < kills:
        process = subprocess.Popen(
            command(tokens_file, mark_file, tmp_path / "out"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # Most of the time is start-up: aim at the end of it and at the work itself.
        time.sleep(took * rng.uniform(0.5, 1.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        done += 1
        last = shard_bytes(tmp_path / "out")
        if len(last) == len(shard_bytes(tmp_path / "ref")) and done < kills:
            # All shards are there: take some away, as if the kills had come earlier.
            for name in list(last)[rng.randrange(len(last)) :]:
                (tmp_path / "out" / name).unlink()
    finished = subprocess.run(
        command(tokens_file, mark_file, tmp_path / "out"),
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(finished.stdout.splitlines()[-1])["documents"] == len(
        tokens_file.read_text().splitlines()
    )
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "ref")
    assert not list((tmp_path / "out").glob(".writing-*"))


def test_three_kills(tokens_file, tmp_path):
    kill_and_go_on(tokens_file, tmp_path, 3, seed=0)


@pytest.mark.slow
def test_twenty_kills(tmp_path):
    path = corpus(tmp_path / "c.jsonl", MARK, 6000, seed=3)
    kill_and_go_on(path, tmp_path, 20, seed=1)


def test_one_bad_document_costs_nothing_else():
    scanner = Scanner(MARK, ScanSettings(**OPTIONS))
    rng = np.random.default_rng(0)
    documents = [
        Document(0, "a", tokens=ordinary(rng, 40)),
        Document(1, "b", error="unreadable"),
        Document(2, "c", tokens=np.array([5, 99999])),
        Document(3, "d", tokens=np.empty(0, np.int64)),
        Document(4, "e", tokens=ordinary(rng, 40)),
    ]
    rows = scanner.rows(Batch(0, 0, documents))
    assert [r["error"] is None for r in rows] == [True, False, False, False, True]
    assert "outside the vocabulary" in rows[2]["error"]
    alone = scanner.rows(Batch(0, 0, documents[4:]))
    assert alone == rows[4:]


def test_blocks_within_windows():
    mark = watermark("exp-edit", block_length=24)
    rng = np.random.default_rng(1)
    text = np.concatenate([ordinary(rng, 90), marked(mark, rng, 40, 1.0), ordinary(rng, 50)])
    scanner = Scanner(mark, ScanSettings(**OPTIONS))
    (row,) = scanner.rows(Batch(0, 0, [Document(0, "a", tokens=text)]))
    assert row["p_value"] < 0.02
    assert row["window"]["end"] - row["window"]["start"] == 24
    assert 80 <= row["window"]["start"] <= 130
    with pytest.raises(WatermarkError, match="blocks of 24"):
        Scanner(mark, ScanSettings(**{**OPTIONS, "window": 16, "stride": 16}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 100}, "more than the window"),
        ({"window": 0}, "window is 0"),
        ({"first": "guess"}, "first is 'guess'"),
        ({"fdr": "x"}, "fdr is 'x'"),
        ({"controls": 1, "fdr": "ebh"}, "leave one of them out"),
        ({"first_stop": 50}, "first_stop is 50"),
        ({"controls": -1}, "controls is -1"),
        ({"controls": 10_000}, "controls is 10000, but must be a whole number from 0 to 9999"),
        ({"controls": 1, "first": "calibrated"}, "tested alike"),
    ],
)
def test_settings_are_checked(options, message):
    with pytest.raises(WatermarkError, match=message):
        ScanSettings(**{**OPTIONS, **options})


def test_an_unknown_setting_is_an_error():
    with pytest.raises(TypeError, match="windows"):
        scan("x.jsonl", MARK, windows=3)


def test_datasets_map_takes_a_detector(tokens_file):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    detector = Detector(MARK, threads=1)
    records = [json.loads(line) for line in tokens_file.read_text().splitlines()[:40]]
    data = datasets.Dataset.from_list(records)

    def test(batch):
        found = detector.detect(batch["tokens"], resamples=99, seed=1)
        return {"p_value": [d.p_value for d in found]}

    mapped = data.map(test, batched=True, num_proc=2)
    expected = [
        d.p_value for d in detector.detect([r["tokens"] for r in records], resamples=99, seed=1)
    ]
    assert mapped["p_value"][:] == expected
    assert MARK.key.secret_hex not in repr(detector)


def test_calibrated_first_pass(tokens_file, tmp_path):
    options = {**OPTIONS, "first": "calibrated"}
    rows = list(scan(tokens_file, MARK, tmp_path / "whole", **options))
    assert {r["method"] for r in rows} >= {"calibrated", "bound"}
    assert all(r["p_value"] < 1e-3 for r in rows if r["id"][0] == "m")
    part = scan(tokens_file, MARK, tmp_path / "part", **options)
    next(part)
    part.close()
    list(scan(tokens_file, MARK, tmp_path / "part", **options))
    assert shard_bytes(tmp_path / "part") == shard_bytes(tmp_path / "whole")


def test_progress(tokens_file):
    seen = []
    list(
        scan(
            tokens_file, MARK, on_progress=lambda p: seen.append((p.documents, p.share)), **OPTIONS
        )
    )
    assert seen[-1] == (450, 1.0)
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)


def test_a_scan_tests_as_it_is_told(tokens_file, tmp_path):
    """Rows and manifest are those of a watermark whose own test this is."""
    edits = watermark("exp-edit", gap=1.0, block_length=20)
    asked = {**OPTIONS, "scheme": "exp-edit", "gap": 1.0, "block_length": 20}
    found = list(scan(tokens_file, MARK, tmp_path / "a", **asked))
    expected = list(scan(tokens_file, edits, tmp_path / "b", **OPTIONS))
    assert found == expected
    one, two = (json.loads((tmp_path / n / "manifest.json").read_text()) for n in "ab")
    assert one["watermark"] == two["watermark"]
    with pytest.raises(WatermarkError, match="scheme was 'exp-edit' and is now 'exp'"):
        list(scan(tokens_file, MARK, tmp_path / "a", **OPTIONS))
