"""`wmcore.bindings.llama_cpp` on a stub: rows, candidates, refusals, and what it does where llama_cpp has changed."""

import itertools
import subprocess
import sys
from pathlib import Path

import llama_cpp_stub as stub
import numpy as np
import pytest
import torch

from wmcore import Watermark, WatermarkError, sampling
from wmcore.key import Key

N = 20
SECRET = Key(bytes(range(32)))


def mark_of(vocab_size=stub.VOCAB, scheme="exp"):
    return Watermark.create(scheme, vocab_size=vocab_size, key_length=N, key=SECRET)


@pytest.fixture
def binding():
    with stub.installed() as module:
        yield module


@pytest.fixture
def llm(binding):
    return binding.Llama("m.gguf", watermark=mark_of())


def reference(llm, mark, shift, n, start=3, **settings):
    """The tokens that the key draws from the stub's candidates, by the draw of torch tensors."""
    made, draw = [], sampling.watermarked(mark)
    for i in range(n):
        llm.n_tokens = start + i
        x = torch.full((1, mark.vocab_size), -torch.inf)
        for token, logit in llm.pairs(**settings):
            if token < mark.vocab_size:
                x[0, token] = logit
        made.append(int(draw(x, np.array([(shift + i) % N]), 1.0)))
    return made


def made(llm, n, **settings):
    return list(itertools.islice(llm.generate([1, 2, 3], **settings), n))


@pytest.mark.parametrize("scheme", ["exp", "its"])
@pytest.mark.parametrize("settings", [{}, {"top_k": 0, "temp": 1.5}])
def test_tokens_are_the_keys(binding, scheme, settings):
    mark = mark_of(scheme=scheme)
    llm = binding.Llama("m.gguf", watermark=mark)
    for shift in (0, 13):
        with llm.marking(wmcore_shift=shift):
            tokens = made(llm, 15, **settings)
        assert tokens == reference(llm, mark, shift, 15, **settings)


def test_a_token_outside_the_vocabulary_is_never_drawn(binding):
    mark = mark_of(vocab_size=9)
    llm = binding.Llama("m.gguf", watermark=mark)
    with llm.marking(wmcore_shift=4):
        tokens = made(llm, 18, top_k=0)
    assert tokens == reference(llm, mark, 4, 18, top_k=0)
    assert "unmarked tokens" not in llm.service.counts


def test_a_row_without_a_distribution_is_left_and_counted(llm):
    stub.FAULTS["nan"] = True
    made(llm, 3)
    assert llm.service.counts == {
        "marked": 1,
        "unmarked tokens": 3,
        "texts with unmarked tokens": 1,
    }


def test_labels_seeds_and_streams(llm):
    mark = mark_of()
    with llm.marking(wmcore_label="acme", wmcore_shift=2):
        stream = llm.create_completion([1, 2, 3], stream=True)
    acme = Watermark.create("exp", vocab_size=stub.VOCAB, key_length=N, key=SECRET.derive("acme"))
    assert list(stream) == reference(llm, acme, 2, 5)
    with llm.marking(wmcore_label="acme", wmcore_shift=2):
        tokens = llm.generate([1, 2, 3])
    assert list(itertools.islice(tokens, 5)) == reference(llm, acme, 2, 5)
    runs = [llm.create_completion([1, 2, 3], max_tokens=12, seed=s) for s in (7, 7, 8)]
    assert runs[0] == runs[1] != runs[2]
    rows = [reference(llm, mark, shift, 12) for shift in range(N)]
    assert runs[0] in rows
    runs = [llm.create_completion([1, 2, 3], max_tokens=12, seed=-1) for _ in range(9)]
    assert len({rows.index(run) for run in runs}) > 3


def test_a_seed_of_the_model_repeats_its_texts_in_order(binding):
    def texts(**options):
        llm = binding.Llama("m.gguf", watermark=mark_of(), **options)
        return [tuple(made(llm, 12)) for _ in range(6)]

    assert texts(seed=42) == texts(seed=42) != texts(seed=43)
    assert texts(seed=0) == texts(seed=0)
    assert len(set(texts(seed=42))) > 2
    assert texts() != texts()


def test_unknown_wishes_and_what_cannot_be_marked(binding, llm):
    with pytest.raises(TypeError, match="wmcore_typo"), llm.marking(wmcore_typo=1):
        pass
    with pytest.raises(WatermarkError, match="not a whole number"), llm.marking(wmcore_shift="1"):
        pass
    for settings, why in [({"temp": 0.0}, "greedy"), ({"mirostat_mode": 2}, "mirostat")]:
        llm.service.counts.clear()
        assert len(made(llm, 2, **settings)) == 2
        assert llm.service.counts == {why: 1}
        with llm.marking(wmcore=True), pytest.raises(WatermarkError, match="cannot be watermarked"):
            made(llm, 2, **settings)
    strict = binding.Llama("m.gguf", watermark=mark_of(), required=True)
    for settings in ({"temp": 0.0}, {"mirostat_mode": 1}):
        with pytest.raises(WatermarkError, match="cannot be watermarked"):
            made(strict, 2, **settings)
    assert made(
        strict, 2, temp=-1.0, mirostat_mode=1
    )  # draws: llama_cpp heeds mirostat above 0 alone
    assert strict.service.counts["marked"] == 1


def test_a_token_outside_a_text_has_no_row(llm):
    with pytest.raises(WatermarkError, match=r"use generate\(\), or marking\(wmcore=False\)"):
        llm.sample()
    with llm.marking(wmcore=False):
        assert llm.sample() == llm.pairs()[0][0]


def test_an_error_in_the_draw_is_raised(llm, monkeypatch):
    stream = llm.generate([1, 2, 3])
    next(stream)
    with llm.marking(wmcore=True), pytest.raises(WatermarkError):
        made(llm, 1, temp=0.0)  # the text before goes on, and is still looked at
    monkeypatch.setattr(np, "frombuffer", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(stream)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"last": b"adaptive"}, "ends its chain of samplers with b'adaptive'"),
        ({"deaf": True}, "did not take the token"),
        ({"ignores": True}, "did not take the token"),
    ],
    ids=str,
)
def test_another_way_of_sampling_is_refused(binding, llm, fault, message):
    """When the model is loaded, and again with every token."""
    stub.FAULTS.update(fault)
    with pytest.raises(WatermarkError, match=message):
        made(llm, 5)
    with pytest.raises(WatermarkError, match=message):
        binding.Llama("m.gguf", watermark=mark_of())


def test_other_names_are_refused(binding, monkeypatch):
    monkeypatch.delattr(sys.modules["llama_cpp"], "llama_sampler_chain_remove")
    with pytest.raises(WatermarkError, match="samples in a way that is not known here"):
        binding.Llama("m.gguf", watermark=mark_of())
    monkeypatch.undo()
    monkeypatch.setattr(stub.Llama, "_init_sampler", lambda self, temperature=1.0: None)
    with pytest.raises(WatermarkError, match="samples in a way that is not known here"):
        binding.Llama("m.gguf", watermark=mark_of())


@pytest.mark.parametrize("version", ["0.3.35", "0.4.0"])
def test_other_versions_are_refused(version):
    refused = pytest.raises(WatermarkError, match="llama-cpp-python is version")
    with refused, stub.installed(version):
        pass


def test_a_watermark_of_another_model_is_refused(binding):
    for size, message in [(65, "exceeds the model's 64 logits"), (2, "no text would end")]:
        with pytest.raises(WatermarkError, match=message):
            binding.Llama("m.gguf", watermark=mark_of(vocab_size=size))


def test_drawing_needs_no_torch(tmp_path):
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import llama_cpp_stub as stub
from wmcore import Watermark
with stub.installed() as binding:
    llm = binding.Llama("m.gguf", watermark=Watermark.create("exp", vocab_size=stub.VOCAB))
    print(len(llm.create_completion([1, 2, 3])), "torch" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.strip() == "5 False", done.stderr
