"""SGLang's engine on the CPU with the packaged SmolLM2 (`make sglang`), our sampler in it: every token against the key.

Prompts come in chunks that ride along with running requests, batches overlap, and requests are retracted every few
steps. `Reference` says what the tokens must be. Float noise between SGLang's kernels and transformers' may turn a draw
that is all but a tie: of the tokens compared here, at most one in a hundred may differ.
"""

import json
import os

import pytest
import smollm2
import torch
from sglang_reference import (
    ENGINE,
    LENGTH,
    NOISE,
    PROMPTS,
    SETTINGS,
    N,
    ask,
    found,
    mark,
    reference,
)

from wmcore import Watermark

__all__ = ["mark", "reference"]  # fixtures
pytestmark = pytest.mark.sglang


def test_a_server_that_could_not_write_does_not_start(mark):
    import sglang

    with pytest.raises(ValueError, match="nothing would write a watermark"):
        sglang.Engine(model_path=str(smollm2.folder()), **ENGINE)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """What the processes of the first engine say."""
    return tmp_path_factory.mktemp("sglang") / "log"


@pytest.fixture(scope="module")
def engine(mark, log):
    import sglang

    with log.open("w") as file:
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            made = sglang.Engine(
                model_path=str(smollm2.folder()), sampling_backend="wmcore", log_level="info",
                **ENGINE,
            )  # fmt: skip
        finally:
            os.dup2(before, 2)
    yield made
    made.shutdown()


def test_every_token_is_the_keys(engine, reference, log):
    pairs = [(prompt, one) for prompt in PROMPTS for one in SETTINGS]
    asked = [one | {"custom_params": {"wmcore_shift": 11 * i}} for i, (_, one) in enumerate(pairs)]
    answers = ask(engine, [prompt for prompt, _ in pairs], *asked)
    wrong = [
        reference.differing(prompt, answer["output_ids"], 11 * i, **one)
        for i, ((prompt, one), answer) in enumerate(zip(pairs, answers, strict=True))
    ]
    print(f"{sum(wrong)} of {LENGTH * len(pairs)} tokens differ: {wrong}")
    assert sum(wrong) <= NOISE * LENGTH * len(pairs)
    said = log.read_text()
    assert said.count("marked: key") == len(pairs)
    print(f"{said.count('Testing retraction')} retractions")
    assert "Testing retraction" in said


def test_a_text_is_found_and_one_without_is_not(engine, mark):
    answers = ask(engine, PROMPTS[:3] * 2, *[{}] * 3, *[{"custom_params": {"wmcore": False}}] * 3)
    results = found(mark, answers)
    assert [one.p_value for one in results[:3]] == [1 / 200] * 3
    assert min(one.p_value for one in results[3:]) > 1 / 200
    assert len({one.shift for one in results[:3]}) > 1


def test_labels_seeds_and_several_texts(engine, mark, reference):
    seeded = [{"sampling_seed": 5}] * 2
    answers = ask(
        engine, [PROMPTS[1]] * 3, *seeded, {"custom_params": {"wmcore_label": "a", "wmcore_shift": 9}},
    )  # fmt: skip
    assert answers[0]["output_ids"] == answers[1]["output_ids"]
    label = Watermark.create("exp", vocab_size=49152, key_length=N, key=mark.key.derive("a"))
    tokens = answers[2]["output_ids"]
    assert reference.differing(PROMPTS[1], tokens, 9, label) <= 1
    assert found(mark, answers[2:])[0].p_value > 1 / 200
    several = ask(engine, [PROMPTS[1]], {"n": 3, "sampling_seed": 5})
    assert len({tuple(one["output_ids"]) for one in several}) == 3
    assert {one.p_value for one in found(mark, several)} == {1 / 200}


def test_a_prompt_from_the_cache(engine, mark, reference):
    one = {"custom_params": {"wmcore_shift": 3}}
    for again in (False, True):
        (answer,) = ask(engine, [PROMPTS[3]], one)
        assert not again or answer["meta_info"]["cached_tokens"] > 50
        assert reference.differing(PROMPTS[3], answer["output_ids"], 3) <= 1


def test_greedy_penalties_stops_and_log_probabilities(engine, mark, reference):
    answers = ask(
        engine, [PROMPTS[0]] * 4, {"temperature": 0.0}, {"repetition_penalty": 1.2, "frequency_penalty": 0.3},
        {"stop": [" the", " of", ",", "."]}, {"custom_params": {"wmcore_shift": 7}}, return_logprob=True,
    )  # fmt: skip
    ids = reference.tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    greedy = reference.model.generate(ids, max_new_tokens=LENGTH, do_sample=False, eos_token_id=[])
    assert answers[0]["output_ids"] == greedy[0, ids.shape[1] :].tolist()
    assert found(mark, answers[1:2])[0].p_value == 1 / 200
    assert answers[2]["meta_info"]["finish_reason"]["type"] == "stop"
    tokens = answers[3]["output_ids"]
    assert reference.differing(PROMPTS[0], tokens, 7) <= 1
    with torch.no_grad():
        logits = reference.model(torch.cat([ids, torch.tensor([tokens])], 1)).logits[0]
    table = logits[ids.shape[1] - 1 : -1].log_softmax(-1)
    given = [one[0] for one in answers[3]["meta_info"]["output_token_logprobs"]]
    wanted = table.gather(1, torch.tensor(tokens)[:, None])[:, 0]
    assert torch.allclose(torch.tensor(given), wanted, atol=1e-3)


def test_a_grammar_is_obeyed(engine, mark):
    schema = json.dumps(
        {
            "type": "object", "required": ["animal", "legs"], "additionalProperties": False,
            "properties": {"animal": {"type": "string", "maxLength": 20}, "legs": {"type": "integer"}},
        }
    )  # fmt: skip
    (one,) = ask(
        engine, ["An animal as JSON:"], {"json_schema": schema, "sampling_seed": 1, "ignore_eos": False}
    )  # fmt: skip
    if one["meta_info"]["finish_reason"]["type"] == "stop":
        assert set(json.loads(one["text"])) == {"animal", "legs"}
    words = ask(engine, [PROMPTS[1]], {"regex": "[a-z ]{400}"})
    assert set(words[0]["text"]) <= set("abcdefghijklmnopqrstuvwxyz ")
    assert found(mark, words)[0].p_value == 1 / 200


def test_bad_requests_are_refused_and_the_engine_lives(engine):
    for bad, message in [
        ({"custom_params": {"wmcore_typo": 1}}, "is no field of wmcore"),
        ({"custom_params": {"wmcore_shift": N}}, "outside 0 to 255"),
        ({"custom_params": {"wmcore": True}, "temperature": 0.0}, "draws no token"),
    ]:
        with pytest.raises(ValueError, match=message):
            ask(engine, [PROMPTS[0]], bad)
    assert len(ask(engine, [PROMPTS[0]], {})[0]["output_ids"]) == LENGTH
