"""The texts that benchmarks run on: SmolLM2's, watermarked, and real ones. Made once, kept in results/raw."""

import json
import os
from pathlib import Path

import numpy as np

from wmcore import SCHEMES, Key, PublishedKey, Watermark, generate

RAW = Path(__file__).parent / "results" / "raw"
SEED = 42
VOCAB = 49152


def news_path() -> Path:
    """The JSON Lines file of real text (field `text`) named by NEWS=path."""
    path = os.environ.get("NEWS")
    if not path or not Path(path).exists():
        raise SystemExit(
            "real text is missing: set NEWS to a .jsonl file whose lines have a field 'text'"
        )
    return Path(path)


def published(scheme: str, **settings) -> Watermark:
    """The watermark that the texts carry: a published key, so that peers can test it too."""
    return Watermark.published(
        scheme, seed=SEED, generator="torch", vocab_size=VOCAB, **{"key_length": 256, **settings}
    )


def load(count: int = 64, length: int = 200) -> dict[str, list[np.ndarray]]:
    """{"exp": watermarked, "its": watermarked, "real": of people}: int64 [length] each, count of each."""
    path = RAW / f"texts-{count}-{length}.json"
    if not path.exists():
        RAW.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_make(count, length)))
    texts = json.loads(path.read_text())
    return {name: [np.array(t, np.int64) for t in texts[name]] for name in texts}


def _make(count: int, length: int) -> dict[str, list[list[int]]]:
    from wmcore.models import load_model

    model, tokenizer = load_model("smollm2")
    articles = [
        tokenizer(json.loads(line)["text"])["input_ids"]
        for line in news_path().read_text(encoding="utf-8").splitlines()
    ]
    articles = [a for a in articles if len(a) >= 50 + length][:count]
    if len(articles) < count:
        raise SystemExit(
            f"NEWS has {len(articles)} texts of {50 + length} tokens: {count} are needed"
        )
    texts = {"real": [a[50 : 50 + length] for a in articles]}
    for scheme in ("exp", "its"):
        made = generate(
            model,
            [a[:50] for a in articles],
            published(scheme),
            max_new_tokens=length,
            eos=False,
            seed=1,
        )
        texts[scheme] = [g.tokens for g in made]
    return texts


def secret(scheme: str, key: int = 0, **settings) -> Watermark:
    """A watermark with a ChaCha key that no text carries, tested as the published code tests."""
    return Watermark.create(
        scheme,
        vocab_size=VOCAB,
        key=Key(key.to_bytes(32, "little")),
        **{"key_length": 256, "gap": SCHEMES[scheme].published_gap, **settings},
    )


__all__ = ["SEED", "VOCAB", "PublishedKey", "load", "news_path", "published", "secret"]
