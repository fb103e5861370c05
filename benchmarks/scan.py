"""A scan of 100,000 documents with 1 % planted: what is found, how fast, where time goes (set NEWS; see texts.py).

    NEWS=news.jsonl python benchmarks/scan.py [documents] [name=options ...]

Ordinary documents are sentences of the texts of NEWS, shuffled, about 200 tokens each. Of the planted 1 %, four tenths
are SmolLM2's watermarked texts (150 to 200 tokens, as text, so that tokens may be cut otherwise), three tenths have a
share of 10 to 30 % of their tokens substituted, and three tenths are such texts inside 800 to 2,500 tokens of ordinary
ones. Each row of results/scan.json is one run of the command in a process of its own.
"""

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from machine import machine
from texts import RAW, VOCAB, load, news_path, published

from wmcore.attacks import substitute
from wmcore.models import load_tokenizer

RUNS = {
    "exp": ("exp", []),
    "exp-edit": ("exp-edit", []),
    "exp-edit, calibrated first pass": ("exp-edit", ["--first", "calibrated"]),
}


def make_corpus(path: Path, count: int) -> None:
    """Write the documents as JSON Lines; the id says what each is."""
    rng = np.random.default_rng(0)
    tokenizer = load_tokenizer("smollm2")
    sentences = [
        s.strip() + "."
        for line in news_path().read_text("utf-8").splitlines()
        for s in json.loads(line)["text"].split(".")
        if len(s) > 30
    ]
    marked = load()["exp"]

    def ordinary(characters: int) -> str:
        parts, size = [], 0
        while size < characters:
            parts.append(sentences[rng.integers(len(sentences))])
            size += len(parts[-1]) + 1
        return " ".join(parts)

    def passage() -> list[int]:
        text = marked[rng.integers(len(marked))]
        length = int(rng.integers(150, len(text) + 1))
        first = int(rng.integers(len(text) - length + 1))
        return text[first : first + length].tolist()

    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            kind = (
                "plain"
                if i % 100
                else ("marked", "damaged", "long")[(0, 1, 2, 0, 1, 2, 0, 1, 2, 0)[i // 100 % 10]]
            )
            if kind == "plain":
                text = ordinary(820)
            elif kind == "damaged":
                share = float(rng.choice([0.1, 0.2, 0.3]))
                hurt = substitute(
                    passage(), share, vocab_size=VOCAB - 1, seed=int(rng.integers(2**31))
                )
                text = tokenizer.decode(hurt, skip_special_tokens=True)
                kind = f"damaged {share:.0%}"
            else:
                text = tokenizer.decode(passage())
                if kind == "long":
                    sizes = rng.integers(1600, 5000, size=2)
                    text = f"{ordinary(int(sizes[0]))} {text} {ordinary(int(sizes[1]))}"
            file.write(json.dumps({"id": f"{kind}/{i}", "text": text}) + "\n")


def run(name: str, scheme: str, options: list[str], corpus: Path, count: int) -> dict:
    """One scan in a process of its own."""
    folder = Path(tempfile.mkdtemp(prefix="scan-"))
    published(scheme, tokenizer="smollm2").save(folder / "watermark.json")
    command = [sys.executable, "-m", "wmcore", "scan", str(corpus), "-o", str(folder / "out")]
    command += ["-w", str(folder / "watermark.json"), "--id-field", "id", "--seed", "1", "--json"]
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
    seconds = time.monotonic() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    tables = [pq.read_table(p, partitioning=None) for p in sorted((folder / "out").glob("part-*"))]
    rows = [
        r
        for t in tables
        for r in t.select(["id", "p_value", "q_value", "length", "method"]).to_pylist()
    ]
    found: dict[str, list[int]] = {}
    for row in rows:
        kind = row["id"].split("/")[0]
        hit = row["q_value"] is not None and row["q_value"] <= 0.01
        found.setdefault(kind, [0, 0])[not hit] += 1
    tokens = sum(r["length"] or 0 for r in rows)
    result = {
        "name": name,
        "documents": count,
        "tokens": tokens,
        "seconds": round(seconds, 1),
        "documents_per_second": round(count / seconds),
        "tokens_per_second": round(tokens / seconds),
        "documents_per_second_after_start": _steady(lines),
        "cpu_seconds": round(used.ru_utime + used.ru_stime - cpu.ru_utime - cpu.ru_stime, 1),
        "peak_memory_MB": round(used.ru_maxrss / 1024),
        "spent_seconds": manifest["spent"],
        "found": sum(v[0] for k, v in found.items() if k != "plain"),
        "missed": sum(v[1] for k, v in found.items() if k != "plain"),
        "false": found.get("plain", [0, 0])[0],
        "found_and_missed_by_kind": dict(sorted(found.items())),
        "methods": {m: sum(r["method"] == m for r in rows) for m in {r["method"] for r in rows}},
        "summary": manifest["summary"],
    }
    shutil.rmtree(folder)
    return result


def _steady(lines: list[dict]) -> float | None:
    """Documents per second between the first and the last line of progress."""
    steps = [line for line in lines if line["event"] == "progress" and line["share"] < 1]
    if len(steps) < 3:
        return None
    took = steps[-1]["seconds"] - steps[0]["seconds"]
    return round((steps[-1]["documents"] - steps[0]["documents"]) / took)


def main() -> None:
    """Run all, or those named, and write."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    names = sys.argv[2:] or list(RUNS)
    corpus = RAW / f"scan-{count}.jsonl"
    if not corpus.exists():
        make_corpus(corpus, count)
    out = Path(__file__).parent / "results" / "scan.json"
    before = json.loads(out.read_text())["runs"] if out.exists() else []
    runs = {r["name"]: r for r in before if r["documents"] == count}
    for name in names:
        runs[name] = run(name, *RUNS[name], corpus, count)
        print(json.dumps(runs[name]), flush=True)
        out.write_text(
            json.dumps({"machine": machine(), "runs": list(runs.values())}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
