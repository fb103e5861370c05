"""Set-ups to audit: a made-up language, written with the watermark and with the faults that servers have."""

from dataclasses import dataclass, field, replace

import numpy as np

from wmcore import sampling
from wmcore.audit.run import Settings, audit
from wmcore.audit.writers import Written
from wmcore.detect import Detector
from wmcore.key import Key
from wmcore.watermark import Watermark

V, LENGTH = 512, 80
PROMPTS = [f"prompt {i}" for i in range(20)]


class Pairs:
    """A tokenizer whose token t is one character; `turn` makes it another one of the same characters."""

    name_or_path = "pairs"

    def __init__(self, turn=0, size=V):
        self.turn, self.size = turn, size

    def __len__(self):
        return self.size

    def __call__(self, text, add_special_tokens=False):
        return {"input_ids": [(ord(c) - 0x4E00 + self.turn) % self.size for c in text]}

    def decode(self, tokens, skip_special_tokens=False):
        return "".join(chr(0x4E00 + (t - self.turn) % self.size) for t in tokens)


@dataclass
class Server:
    """Writes texts of 80 tokens; `fault` names what is wrong with it."""

    mark: Watermark
    fault: str = ""
    temperature: float = 1.0
    knows_tokens: bool = True
    unmarks: bool = True
    length: int = LENGTH
    asked: int = 0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(5))
    coder = Pairs()

    def __post_init__(self):
        # A token is followed by others with the entropy of a language model's answers, about 2.7 nats.
        self.table = 4.0 * np.random.default_rng(3).normal(size=(V, V)).astype(np.float32)
        key = Key(bytes(32)) if self.fault == "other key" else self.mark.key
        self.draw = sampling.on_arrays(replace(self.mark, key=key, vocab_size=V))

    def describe(self):
        return {"kind": "stub", "temperature": self.temperature}

    def write(self, prompts, places, *, marked):
        count = len(places)
        tokens = np.array([sum(map(ord, prompts[p])) * 7 % V for p in places])
        n = self.mark.key_length
        shifts = self.rng.integers(n, size=count)
        if self.fault == "fixed shift":
            shifts[:] = 3
        elif self.fault == "few shifts":
            shifts %= 4
        elif self.fault == "shift of the prompt":
            shifts = np.array([11 * p % n for p in places])
        on = np.full(count, marked)
        if self.fault == "dropped":
            on[:] = False
        elif self.fault == "half dropped":
            on[::2] = False
        elif self.fault == "cannot switch off":
            on[:] = True
        made = np.empty((count, self.length), int)
        for i in range(self.length):
            logits = self.table[tokens] / max(self.temperature, 1e-3)
            chosen = self.draw(logits, (shifts + i) % n, 1.0)
            if self.fault == "drawn again":
                biased = logits.copy()
                biased[np.arange(count), chosen] += 2.0
                chosen = self._ordinary(biased)
            tokens = np.where(on, chosen, self._ordinary(logits))
            made[:, i] = tokens
        self.asked += count
        return [
            Written(
                place,
                self.coder.decode(row),
                row if self.knows_tokens else None,
                len(row),
            )
            for place, row in zip(places, made.tolist(), strict=True)
        ]

    def _ordinary(self, logits):
        """Tokens drawn at random, by the Gumbel trick."""
        return np.argmax(logits + self.rng.gumbel(size=logits.shape), axis=1)


def watermark(scheme="exp", vocab_size=V, key_length=256):
    return Watermark.create(scheme, vocab_size=vocab_size, key_length=key_length)


def audited(server, detector=None, **settings):
    """The audit of a server."""
    detector = detector or Detector(server.mark, tokenizer=Pairs(), threads=1)
    chosen = Settings(**{"texts": 12, "answers": 8, "other_keys": 0, "curves": 0, **settings})
    return audit(detector, server, PROMPTS, settings=chosen)


def verdicts(done):
    return {check.name: check.verdict for check in done.checks}


def faults(done):
    return {one.fault for one in done.diagnoses}
