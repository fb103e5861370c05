"""Texts with log-probabilities: records of ours and of OpenAI's interfaces, and a model's own."""

import json

import numpy as np
import pytest
import tiny

from wmcore import SampledText, WatermarkError
from wmcore.power.model import sample_texts
from wmcore.power.reading import SampleReader, record_of

CHAT = {
    "choices": [
        {
            "logprobs": {
                "content": [
                    {
                        "token": " the",
                        "logprob": -0.5,
                        "top_logprobs": [
                            {"token": " the", "logprob": -0.5},
                            {"token": " a", "logprob": -1.5},
                        ],
                    },
                    {"token": " sea", "logprob": -2.0, "top_logprobs": []},
                    {"token": " the", "logprob": -0.1},
                ]
            }
        }
    ]
}
COMPLETION = {
    "tokens": [" the", " sea", " the"],
    "token_logprobs": [-0.5, -2.0, -0.1],
    "top_logprobs": [{" the": -0.5, " a": -1.5}, None, {" the": -0.1, " x": -9999.0}],
}
OURS = {
    "tokens": [7, 9, 7],
    "logprobs": [-0.5, -2.0, -0.1],
    "top_logprobs": [[[7, -0.5], [2, -1.5]], [], []],
}


def read(tmp_path, *lines):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(line + "\n" for line in lines))
    reader = SampleReader()
    return reader.read(str(path)), reader.errors


def test_formats_agree(tmp_path):
    forms = [OURS, CHAT, CHAT["choices"][0], COMPLETION, {"logprobs": COMPLETION}]
    texts, errors = read(tmp_path, *map(json.dumps, forms))
    assert not errors
    assert len(texts) == len(forms)
    for one in texts:
        assert one.log_p.tolist() == [-0.5, -2.0, -0.1]
        assert one.tokens[0] == one.tokens[2] != one.tokens[1]
        assert (one.others >= 0).sum() == 1  # the token itself and the unknown ones are none
        assert one.others_log_p[0].max() == -1.5
        assert np.allclose(one.rest[0], 1 - np.exp(-0.5) - np.exp(-1.5))
        assert not one.complete
    strings = texts[1:]
    assert len({tuple(one.tokens) for one in strings}) == 1  # one number for one string


def test_bad_records_are_named(tmp_path):
    bad = [
        "nonsense",
        '{"text": "no logprobs"}',
        '{"tokens": [1], "logprobs": [-0.5, -0.1]}',
        '{"tokens": [1], "logprobs": [0.5]}',
        '{"tokens": [1], "logprobs": [-9999.0]}',
        '{"tokens": [1], "logprobs": [null]}',
        '{"tokens": [], "logprobs": []}',
        '{"tokens": [1], "logprobs": [-0.1], "top_logprobs": [[[2, -0.1]]]}',
        '{"tokens": [1.5], "logprobs": [-0.1]}',
        "[1, 2]",
    ]
    texts, errors = read(tmp_path, *bad, json.dumps(OURS))
    assert len(texts) == 1
    assert [int(error.split(":")[1]) for error in errors] == list(range(1, len(bad) + 1))


def test_records_come_back(tmp_path):
    text = SampledText([7, 9], [-0.5, -2.0], [[7, 3], [9, -1]], [[-0.5, -1.5], [-2.0, 0.0]])
    ((again,), _) = read(tmp_path, json.dumps(record_of(text)))
    assert again.tokens.tolist() == [7, 9]
    assert np.allclose(again.log_p, text.log_p)
    assert np.allclose(again.rest, text.rest)


@pytest.mark.parametrize("top_p", [None, 0.8])
def test_a_models_laws(top_p):
    import torch

    model = tiny.llama(30)
    prompts = [[1, 2, 3], [4, 5]]
    made = sample_texts(
        model, tiny.words(30), prompts, max_new_tokens=20, temperature=0.8, top_p=top_p, samples=3,
        seed=1,
    )  # fmt: skip
    assert len(made) == 6
    assert len({tuple(text.tokens) for text in made}) == 6
    for text, prompt in zip(made, [p for p in prompts for _ in range(3)], strict=True):
        ids = torch.tensor([[*prompt, *text.tokens.tolist()]])
        with torch.no_grad():
            law = (model(ids).logits[0, len(prompt) - 1 : -1].double() / 0.8).softmax(-1).numpy()
        own = law[np.arange(20), text.tokens]
        if top_p is None:
            assert np.allclose(text.log_p, np.log(own), atol=1e-4)
            assert text.rest.max() > 1e-4  # 20 of 30 are kept
        else:
            kept = np.array([np.sort(p)[::-1][: np.searchsorted(np.cumsum(np.sort(p)[::-1]), 0.8) + 1].sum() for p in law])  # fmt: skip  # noqa: E501
            assert np.allclose(text.log_p, np.log(own / kept), atol=1e-4)
            assert text.rest.max() < 1e-3
        there = text.others >= 0
        at, k = np.nonzero(there)
        ratio = np.exp(text.others_log_p[at, k] - text.log_p[at])
        assert np.allclose(ratio, law[at, text.others[at, k]] / own[at], rtol=1e-3)


def test_wrong_arrays():
    with pytest.raises(WatermarkError, match="log_p"):
        SampledText([1, 2], [-0.5])
    with pytest.raises(WatermarkError, match="others and others_log_p"):
        SampledText([1], [-0.5], others=[[2]])
    with pytest.raises(WatermarkError, match=r"add up to 1\.2"):
        SampledText([1], [np.log(0.6)], [[2]], [[np.log(0.6)]])
