"""`wmcore serve` in a process of its own, and texts that it finds: of words that SmolLM2's tokenizer keeps whole."""

import json
import re
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from urllib.request import urlopen

import numpy as np
import sample_pages

from wmcore import Detector, Key, Watermark
from wmcore.models import load_tokenizer

V = 49_152


def watermark(folder):
    """The file of a watermark for SmolLM2's tokens."""
    path = folder / "watermark.json"
    mark = Watermark.create(
        "exp", vocab_size=V, key_length=64, key=Key(bytes(32)), tokenizer="smollm2"
    )
    mark.save(path)
    return path


@contextmanager
def served(folder, *options):
    """(process, address, lines) of a service that is ready, on a free port; lines() are those of its log so far, which
    is in the folder."""
    log = folder / "service.log"
    command = [sys.executable, "-m", "wmcore", "serve", "--port", "0", *map(str, options)]
    with log.open("w") as file:
        process = subprocess.Popen(command, stderr=file)
    try:
        address = _when_ready(process, log)
        yield process, address, lambda: _lines(log)
    finally:
        with suppress(subprocess.TimeoutExpired):
            process.terminate()
            process.wait(timeout=60)
        process.kill()
        process.wait()


def _when_ready(process, log):
    deadline = time.monotonic() + 100
    while process.poll() is None and time.monotonic() < deadline:
        if address := re.search(r"http://127\.0\.0\.1:\d+", log.read_text()):
            with suppress(OSError), urlopen(f"{address[0]}/healthz", timeout=10) as answer:
                assert answer.status == 200
                return address[0]
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def _lines(log):
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def plain(length):
    """So many of the tokenizer's tokens, each a common word, as a text without the watermark."""
    words = _words()
    return "".join(
        " " + words[i][0] for i in np.random.default_rng(3).integers(len(words), size=length)
    )


def marked(watermark_file, length=200):
    """The same with the watermark: each word fits the key row that it meets best of eight."""
    mark = Watermark.load(watermark_file)
    words, rng = _words(), np.random.default_rng(4)
    detector = Detector(mark, threads=1)
    costs = detector.engine.matrix(detector.costs, np.array([token for _, token in words]))
    choices = rng.integers(len(words), size=(length, 8))
    rows = np.arange(length) % mark.key_length
    best = choices[np.arange(length), costs[choices, rows[:, None]].argmin(axis=1)]
    return "".join(" " + words[i][0] for i in best)


def _words():
    """(word, token) of common words that are one token each, with the space before."""
    tokenizer = load_tokenizer("smollm2")
    found = {}
    for word in sorted(set(re.findall(r"[a-z]+", sample_pages.PROSE))):
        tokens = tokenizer(" " + word, add_special_tokens=False)["input_ids"]
        if len(tokens) == 1:
            found[word] = tokens[0]
    assert len(found) > 200
    return list(found.items())
