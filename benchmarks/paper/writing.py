"""One part of a set of texts: a batch of prompts is continued by a method, and each law is looked at on the way."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from wmcore.errors import WatermarkError
from wmcore.paper import prompts
from wmcore.paper.contract import Batch
from wmcore.paper.prompts import Prompt
from wmcore.paper.study import Study, model_of, tokenizer_of
from wmcore.paper.texts import Text, TextSet, address, numbers, secret_of, shift_of
from wmcore.stepping import Stepper, batches, may_pad
from wmcore.truncate import nucleus


@lru_cache(maxsize=8)
def all_prompts(model: str, kind: str, source: str, count: int) -> list[Prompt]:
    """The first prompts of a source, read once a process."""
    return prompts.read_prompts(kind, source, tokenizer_of(model), count)


def prompts_of(study: Study, texts: TextSet, part: int) -> dict[int, Prompt]:
    """The prompts of a part by number; fewer than a batch, or none, where the source ends.

    A person's texts are tested under as many keys as are asked for: their prompts begin again at the end, unless
    there is one key.
    """
    wanted = numbers(study, part)
    source = study.source(texts.kind)
    found = all_prompts(study.model, texts.kind, source, wanted.stop)
    if texts.how.writer is None and study.mark is None:
        return {i: found[i % len(found)] for i in wanted}
    return {i: found[i] for i in wanted if i < len(found)}


def write_part(study: Study, texts: TextSet, part: int) -> list[Text]:
    """The texts of one part."""
    given = prompts_of(study, texts, part)
    if texts.how.writer is None:
        return [_human(study, texts, number, prompt) for number, prompt in given.items()]
    import torch

    model, _ = model_of(study.model, study.device)
    made: list[Text] = []
    lengths = [len(prompt.tokens) for prompt in given.values()]
    keys = list(given)
    for group in batches(lengths, max(len(given), 1), may_pad(model)):
        some = {keys[i]: given[keys[i]].tokens for i in group}
        with torch.inference_mode():
            made += _write(study, texts, model, some)
    return sorted(made, key=lambda text: text.number)


def _human(study: Study, texts: TextSet, number: int, prompt: Prompt) -> Text:
    tokens = np.array(prompt.human[: texts.new_tokens], np.int64)
    none = np.zeros(0, np.float32)
    return Text(number, tokens, _decoded(study, tokens), none, none)


def _decoded(study: Study, tokens: Any) -> str:
    return str(tokenizer_of(study.model).decode(tokens.tolist(), skip_special_tokens=True))


def _write(study: Study, texts: TextSet, model: Any, given: dict[int, list[int]]) -> Iterator[Text]:
    """Continue prompts, {number: tokens}, together."""
    import torch

    vocab_size = int(model.config.get_text_config().vocab_size)
    mark = study.mark if texts.how.key_sequence else None
    if mark is not None and mark.vocab_size > vocab_size:
        raise WatermarkError(
            f"--watermark {study.watermark}: vocab_size {mark.vocab_size} exceeds the model's {vocab_size} logits; use "
            "the watermark made for this model"
        )
    name = address(study, texts)
    batch = Batch(
        secrets=[secret_of(study, texts, number) for number in given],
        shifts=np.array([shift_of(study, texts, number) for number in given], np.int64),
        rows=np.array(list(given), np.int64) * texts.new_tokens,
        draws=study.number(1 << 62, "draws", name),
        vocab_size=vocab_size if mark is None else mark.vocab_size,
        key_length=texts.key_length,
    )
    if texts.how.writer is None:
        raise ValueError(f"{texts.method} is not written by a model")
    writer = texts.how.writer(batch)
    ends = _ends(model, tokenizer_of(study.model)) if texts.kind == "instructions" else frozenset()
    width = max(map(len, given.values()))
    ids = torch.zeros((len(given), width + texts.new_tokens), dtype=torch.int64)
    for row, tokens in zip(ids, given.values(), strict=True):
        row[width - len(tokens) : width] = torch.tensor(tokens)
    ids = ids.to(study.device)
    stepper = Stepper(model, list(given.values()), texts.new_tokens)
    laws: list[tuple[Any, Any]] = []
    done = torch.zeros(len(given), dtype=torch.bool)
    for step in range(texts.new_tokens):
        logits = nucleus(stepper.logits()[:, : batch.vocab_size], texts.temperature, texts.top_p)
        log_law = logits.log_softmax(-1)
        entropy = (log_law.exp() * -log_law.nan_to_num(neginf=0.0)).sum(-1)
        drawn = writer(ids[:, : width + step], logits, step).to(ids.device)
        laws.append((log_law.gather(1, drawn[:, None])[:, 0].cpu(), entropy.cpu()))
        ids[:, width + step] = drawn
        if ends:
            done |= torch.isin(drawn.cpu(), torch.tensor(sorted(ends)))
            if bool(done.all()):
                break
        stepper.append(drawn)
    log_probability, entropy = (torch.stack(column, 1) for column in zip(*laws, strict=True))
    for b, number in enumerate(given):
        tokens = ids[b, width : width + len(laws)].cpu().numpy()
        m = next((i for i, token in enumerate(tokens.tolist()) if token in ends), len(tokens))
        yield Text(
            number,
            tokens[:m],
            _decoded(study, tokens[:m]),
            log_probability[b, :m].float().numpy(),
            entropy[b, :m].float().numpy(),
        )


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """End-of-text tokens: of the model's generation settings, else of its configuration, else of its tokenizer."""
    for holder in (getattr(model, "generation_config", None), model.config, tokenizer):
        found = getattr(holder, "eos_token_id", None)
        if found is not None:
            return frozenset([found] if isinstance(found, int) else found)
    return frozenset()
