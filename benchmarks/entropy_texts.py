"""SmolLM2's texts for `entropy.py`: answers and continuations at several entropies, made once and kept in a folder.

FOLDER/texts/<setting>-<source>.jsonl has one object a text:

    id: which prompt (its place among those of its kind).
    tokens: int [m], with the end-of-text token if it was drawn.
    probability, entropy: of each token under the law that it was drawn from, and of that law (nats): float [m].
    z: log-softmax(logits / 0.7)[token] of the same model reading the text without its prompt: float [m].
    watermark, shift: the file in FOLDER/keys with its key, and the key row of its first token; null if unmarked.
    text: the tokens as a string.

A source is a sampler ("exp", "its") or "unmarked": then the answers are to other instructions. Each key writes
KEY_TEXTS texts. A text depends on the seed, its setting, source and id, and, since the last digits of
a matrix product can change a draw, on the machine and the batch.
"""

import hashlib
import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from wmcore import Key, Watermark
from wmcore.generation import MAX_ROWS
from wmcore.sampling import Draw, ordinary, watermarked
from wmcore.stepping import Stepper
from wmcore.truncate import nucleus

MODEL = "smollm2"
KEY_LENGTH = 256
KEY_TEXTS = 10
OPENING = 50
BATCH = 64
PROXY_TEMPERATURE = 0.7
PROXY_BATCH = 16


@dataclass(frozen=True)
class Setting:
    """What is written, and how. kind: "instruct" or "news" (a continuation, which no end-of-text token ends)."""

    name: str
    title: str
    kind: str
    temperature: float
    top_p: float
    new_tokens: int
    texts: int
    sources: tuple[str, ...]


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting(
            "t0.7",
            "answers, T = 0.7, top-p 0.9",
            "instruct",
            0.7,
            0.9,
            120,
            160,
            ("exp", "its", "unmarked"),
        ),
        Setting("t1", "answers, T = 1", "instruct", 1.0, 1.0, 120, 160, ("exp", "its", "unmarked")),
        Setting(
            "t0.5", "answers, T = 0.5, top-p 0.9", "instruct", 0.5, 0.9, 120, 160, ("exp", "its")
        ),
        Setting("news", "news, T = 1", "news", 1.0, 1.0, 100, 100, ("exp", "its")),
    )
}


@dataclass(frozen=True)
class Writer:
    """What draws one slice of a batch: from the rows (first [.] + step) mod key_length."""

    draw: Draw
    part: slice
    first: np.ndarray
    key_length: int

    def __call__(self, logits: Any, step: int) -> Any:
        """The tokens of the slice, int64 tensor [.]; logits: of the batch."""
        return self.draw(logits[self.part], (self.first + step) % self.key_length, 1.0)


@dataclass(frozen=True)
class Job:
    """The texts of one file."""

    setting: Setting
    source: str
    folder: Path
    data: Path
    seed: int

    @property
    def path(self) -> Path:
        return text_path(self.folder, self.setting.name, self.source)

    def entropy(self, purpose: str, number: int) -> bytes:
        """32 bytes for one purpose of this job."""
        name = f"{self.seed}/{self.setting.name}/{self.source}/{purpose}/{number}"
        return hashlib.sha256(name.encode()).digest()

    def number(self, purpose: str, number: int, below: int) -> int:
        return int.from_bytes(self.entropy(purpose, number), "little") % below


def text_path(folder: Path, setting: str, source: str) -> Path:
    return folder / "texts" / f"{setting}-{source}.jsonl"


def load(folder: Path, setting: str, source: str) -> list[dict[str, Any]]:
    """The whole lines of a file that may have been cut off, in the order of their ids; none if there is no file."""
    path = text_path(folder, setting, source)
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    made = [json.loads(line) for line in lines if line.endswith("\n")]
    return sorted(made, key=lambda text: text["id"])


def make(folder: Path, data: Path, seed: int, processes: int) -> None:
    """Write what is missing of all files."""
    for name in ("texts", "keys"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    jobs = [Job(s, source, folder, data, seed) for s in SETTINGS.values() for source in s.sources]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for line in pool.map(write, jobs):
            print(line, flush=True)


def write(job: Job) -> str:
    """Write what is missing of one file, a batch at a time; what there is."""
    made = load(job.folder, job.setting.name, job.source)
    have = {text["id"] for text in made}
    missing = [i for i in range(job.setting.texts) if i not in have]
    if missing:
        model, tokenizer = _model()
        prompts = _prompts(job, tokenizer)
        _keep(job.path, made, append=False)
        # Prompts are padded to the longest of a batch: like lengths together. Texts of one key stay neighbours.
        missing.sort(key=lambda i: len(prompts[i]))
        for first in range(0, len(missing), BATCH):
            ids = sorted(missing[first : first + BATCH])
            texts = _batch(job, model, tokenizer, ids, [prompts[i] for i in ids])
            _keep(job.path, texts, append=True)
            made += texts
    lengths = [len(text["tokens"]) for text in made]
    entropy = np.concatenate([text["entropy"] for text in made]).mean()
    return f"{job.path.name}: {len(made)} texts, {sum(lengths)} tokens, {entropy:.2f} nats a token"


@cache
def _model() -> tuple[Any, Any]:
    """The model and its tokenizer, on one thread of this process."""
    import torch

    from wmcore.models import load_model

    torch.set_num_threads(1)
    # bfloat16 factors and float32 sums where the processor has them; a text keeps the laws that it was drawn from.
    torch.set_float32_matmul_precision("medium")
    return load_model(MODEL)


def _keep(path: Path, texts: list[dict[str, Any]], append: bool) -> None:
    with path.open("a" if append else "w", encoding="utf-8") as file:
        file.writelines(json.dumps(text, ensure_ascii=False) + "\n" for text in texts)
        file.flush()
        os.fsync(file.fileno())


def _prompts(job: Job, tokenizer: Any) -> list[list[int]]:
    """Token ids of the prompts of all texts of a job."""
    setting = job.setting
    name = "news" if setting.kind == "news" else "instructions"
    lines = (job.data / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    if setting.kind == "news":
        articles = tokenizer([json.loads(line)["text"] for line in lines])["input_ids"]
        openings = [
            a[i : i + OPENING] for i in (0, OPENING) for a in articles if len(a) > i + OPENING
        ]
        found = openings[: setting.texts]
    else:
        first = setting.texts if job.source == "unmarked" else 0
        asked = [json.loads(line)["instruction"] for line in lines[first : first + setting.texts]]
        found = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=True
            )["input_ids"]
            for text in asked
        ]
    if len(found) < setting.texts:
        raise SystemExit(
            f"{job.data}: {setting.texts} prompts are needed, but there are {len(found)}"
        )
    return found


def _batch(
    job: Job, model: Any, tokenizer: Any, ids: list[int], prompts: list[list[int]]
) -> list[dict[str, Any]]:
    """Write one batch of texts."""
    import torch

    setting = job.setting
    vocab_size = model.config.get_text_config().vocab_size
    shifts = [job.number("shift", i, KEY_LENGTH) for i in ids]
    files: list[str | None] = [None] * len(ids)
    writers = []
    if job.source == "unmarked":
        draw = ordinary(job.number("draws", 0, 1 << 62))
        rows = np.array(ids) * setting.new_tokens  # which no two texts share
        writers.append(Writer(draw, slice(0, len(ids)), rows, MAX_ROWS))
    else:
        groups = np.array(ids) // KEY_TEXTS
        for group in np.unique(groups).tolist():
            members = np.flatnonzero(groups == group)
            name = f"{setting.name}-{job.source}-{group}.json"
            watermark = Watermark.create(
                job.source,
                vocab_size=vocab_size,
                key_length=KEY_LENGTH,
                key=Key(job.entropy("key", group)),
                tokenizer=MODEL,
            )
            watermark.save(job.folder / "keys" / name, replace=True)
            part = slice(int(members[0]), int(members[-1]) + 1)
            files[part] = [name] * len(members)
            first = np.array(shifts[part])
            writers.append(Writer(watermarked(watermark), part, first, KEY_LENGTH))
    with torch.inference_mode():
        drawn = _draw(setting, model, prompts, writers)
        texts = []
        for b, i in enumerate(ids):
            m = _length(setting, model, drawn[0][b].tolist())
            tokens, probability, entropy = (column[b, :m].tolist() for column in drawn)
            texts.append(
                {
                    "id": i,
                    "tokens": tokens,
                    "probability": [float(f"{p:.6g}") for p in probability],
                    "entropy": [round(h, 5) for h in entropy],
                    "z": [],
                    "watermark": files[b],
                    "shift": None if files[b] is None else shifts[b],
                    "text": tokenizer.decode(tokens),
                }
            )
        for first in range(0, len(texts), PROXY_BATCH):
            some = texts[first : first + PROXY_BATCH]
            read = without_prompt(model, tokenizer, [text["tokens"] for text in some])
            for text, z in zip(some, read, strict=True):
                text["z"] = [round(x, 5) for x in z]
    return texts


def _length(setting: Setting, model: Any, tokens: list[int]) -> int:
    """How many of the drawn tokens are the text."""
    end = model.config.get_text_config().eos_token_id
    ends = setting.kind == "instruct" and end in tokens
    return tokens.index(end) + 1 if ends else len(tokens)


def _draw(
    setting: Setting, model: Any, prompts: list[list[int]], writers: list[Writer]
) -> tuple[Any, Any, Any]:
    """Tokens, their probabilities and the entropies of their laws: [B, steps] each, beyond an end of text, too.

    As `wmcore.generate`, but with a key for each slice of the batch, and the laws are looked at.
    """
    import torch

    settled = torch.zeros(len(prompts), dtype=torch.bool)
    end = model.config.get_text_config().eos_token_id
    stepper = Stepper(model, prompts, setting.new_tokens)
    columns: list[tuple[Any, Any, Any]] = []
    for step in range(setting.new_tokens):
        logits = nucleus(stepper.logits(), setting.temperature, setting.top_p)
        tokens = torch.cat([writer(logits, step) for writer in writers])
        log_law = logits.log_softmax(-1)
        probability = log_law.gather(1, tokens[:, None])[:, 0].exp()
        entropy = (log_law.exp() * -log_law.nan_to_num(neginf=0.0)).sum(-1).abs()
        columns.append((tokens, probability, entropy))
        settled |= tokens == end
        if setting.kind == "instruct" and bool(settled.all()):
            break
        stepper.append(tokens)
    return tuple(torch.stack(column, 1) for column in zip(*columns, strict=True))


def without_prompt(model: Any, tokenizer: Any, texts: list[list[int]]) -> list[list[float]]:
    """z of each token of each text, which is read after the tokenizer's first token alone."""
    import torch

    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    width = max(map(len, texts))
    ids = torch.full((len(texts), 1 + width), start)
    for row, text in zip(ids, texts, strict=True):
        row[1 : 1 + len(text)] = torch.tensor(text)
    # What pads on the right is seen by nothing before it.
    log_law = (model(input_ids=ids[:, :-1]).logits.float() / PROXY_TEMPERATURE).log_softmax(-1)
    z = log_law.gather(2, ids[:, 1:, None])[:, :, 0]
    return [row[: len(text)].tolist() for row, text in zip(z, texts, strict=True)]
