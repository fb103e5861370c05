"""One page of each kind, of texts that hold what must be shown as text: a script, Arabic, emoji, a very long word."""

import json
import re
from importlib.resources import files

import numpy as np

from wmcore import Detector, Key, Watermark, token_page
from wmcore.cli import demo
from wmcore.evidence.page import render as render_evidence
from wmcore.evidence.robustness import robustness
from wmcore.evidence.scans import of_scan
from wmcore.generation import Generation
from wmcore.scan import scan
from wmcore.scan.page import render

HOSTILE = ("<script>document.title='run'</script>", "<img", "onerror=alert(1)>", "&amp;")
FOREIGN = ("العلامة", "المائية", "في", "النص", "😀", "👩‍👩‍👧", "Grüße", "x" * 120)
PROSE = " ".join(opening["prompt"] for opening in demo.openings())
WORDS = list(dict.fromkeys([*HOSTILE, *FOREIGN, *re.findall(r"\S+", PROSE)]))
TEMPLATES = files("wmcore") / "templates"
STRANGE = len(HOSTILE) + len(FOREIGN)
V = 512
WEAK = 0.4
"""Share of the eighth document that is marked: its p is small, but without other marked ones no call."""


class Words:
    """A tokenizer of one word a token."""

    name_or_path = "words"

    def __len__(self):
        return V

    def __call__(self, text, add_special_tokens=False, **_):
        one = isinstance(text, str)
        found = [[WORDS.index(w) for w in t.split()] for t in ([text] if one else text)]
        return {"input_ids": found[0] if one else found}

    def decode(self, tokens, **_):
        return "".join(" " + WORDS[t % len(WORDS)] for t in tokens)


def watermark(scheme="exp"):
    """A watermark for these words."""
    return Watermark.create(scheme, vocab_size=V, key_length=64, key=Key(bytes(32)))


def plain(rng, length=60):
    """Tokens without the watermark, the hostile and foreign words among them now and then."""
    return rng.integers(len(WORDS), size=length)


def marked(mark, rng, length=60, share=0.7):
    """Tokens of which this share fits the key row that it meets best of eight."""
    detector = Detector(mark, threads=1)
    costs = detector.engine.matrix(detector.costs, np.arange(V))
    choices = rng.integers(len(WORDS), size=(length, 8))
    rows = (rng.integers(mark.key_length) + np.arange(length)) % mark.key_length
    best = choices[np.arange(length), costs[choices, rows[:, None]].argmin(axis=1)]
    return np.where(rng.random(length) < share, best, choices[:, 0])


def text_of(tokens):
    """The tokens as a text."""
    return " ".join(WORDS[t] for t in tokens)


def scanned(folder, every=12, **settings):
    """The output of a scan of 121 documents, every `every`th marked (0: none), the eighth a little, the last broken.

    Those that are marked end with all that must be shown as text.
    """
    mark, rng = watermark(), np.random.default_rng(5)
    path = folder / "corpus.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for i in range(120):
            ours = every and i % every == 3
            tokens = marked(mark, rng) if ours else plain(rng)
            if ours:
                tokens[-STRANGE:] = np.arange(STRANGE)
            elif i == 7:
                tokens = marked(mark, rng, share=WEAK)
            name = f"https://example.org/{'a' if i % 5 else 'quite-long/' * 9}/مقالة-{i}<b>.html"
            file.write(json.dumps({"id": name, "text": text_of(tokens)}) + "\n")
        file.write("<i>no JSON\n")
    options = {"id_field": "id", "seed": 1, "window": 64, "tokenizer": Words(), **settings}
    list(scan(path, mark, folder / "out", **options))
    return folder / "out"


def report(folder, **settings):
    """The page of that scan."""
    return render(scanned(folder, **settings))


def evidence(folder):
    """The page for an authority of that scan, with control keys, a hostile input's name and edited texts."""
    found = with_edits(of_scan(scanned(folder, controls=4)))
    return render_evidence(found, "<b>evidence</b>.json")[0]


def with_edits(found):
    """The evidence with six texts that are edited and tested again."""
    mark, rng = watermark(), np.random.default_rng(8)
    texts = [marked(mark, rng, length=80) for _ in range(6)]
    return found.with_robustness(robustness(Detector(mark), texts), [])


def demo_page():
    """A page of the demo: two prompts, one of them Arabic."""
    mark, rng = watermark("exp-edit"), np.random.default_rng(6)
    shown = ["Write about the harvest <b>of olives</b>.", "اكتب عن حصاد الزيتون في المتوسط"]
    written = [
        [Generation(p, text_of(t), t.tolist(), 0) for p, t in zip(shown, texts, strict=True)]
        for texts in ([plain(rng) for _ in shown], [marked(mark, rng, share=0.9) for _ in shown])
    ]
    trials = demo.detect_versions(Detector(mark), shown, *written, seed=1)
    return demo.to_html(trials, Words(), "words")


def token_page_of_one():
    """A page of one text of one's own, tested under one scheme."""
    mark = watermark()
    tokens = marked(mark, np.random.default_rng(7))
    (found,) = Detector(mark).detect([tokens.tolist()], seed=1, alignment=True)
    shown = token_page.passage("", "exp", Words(), tokens, found)
    return token_page.render(
        "letter.txt", [token_page.Section("exp", "", [token_page.Example("letter.txt", [shown])])]
    )
