"""SGLang itself, on the CPU, with the packaged SmolLM2 (`make sglang`): every token against the key.

One engine marks every request; its prompts come in chunks that ride along with running requests, batches overlap, and
requests are retracted every few steps. Another marks those that name the logit processor; a third is asked over HTTP.
`Reference` says what the tokens must be. Float noise between SGLang's kernels and transformers' may turn a draw that is
all but a tie: of the tokens compared here, at most one in a hundred may differ.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import smollm2
import torch

from wmcore import Detector, Watermark, sampling
from wmcore.bindings import sglang as binding
from wmcore.truncate import JOINT, truncated

pytestmark = pytest.mark.sglang

LENGTH, N = 60, 256
NOISE = 0.01
LONG = "Here is a list of words: " + ", ".join(f"word{i}" for i in range(40)) + ". And so"
PROMPTS = ["The capital of France is", "Once upon a time", "My favourite dish is", LONG]
SETTINGS = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.3, "top_p": 0.9},
    {"top_k": 50},
    {"min_p": 0.05},
    {"temperature": 0.8, "top_k": 30, "top_p": 0.9, "min_p": 0.02},
]
ENGINE = {
    "device": "cpu", "dtype": "float32", "attention_backend": "torch_native",
    "mem_fraction_static": 0.2, "max_total_tokens": 4096, "max_running_requests": 16,
    "context_length": 1024, "disable_cuda_graph": True, "chunked_prefill_size": 64,
    "enable_mixed_chunk": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def mark(tmp_path_factory):
    made = Watermark.create("exp", vocab_size=49152, key_length=N)
    path = tmp_path_factory.mktemp("sglang") / "mark.json"
    made.save(path)
    os.environ[binding.ENVIRONMENT] = str(path)
    os.environ["SGLANG_TEST_RETRACT"] = "1"
    os.environ["SGLANG_TEST_RETRACT_INTERVAL"] = "7"
    return made


@pytest.fixture(scope="module")
def reference(mark):
    return Reference(mark)


class Reference:
    """The model in transformers, which reads each text once: what the key draws at each of its places."""

    def __init__(self, mark):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.mark = mark
        self.model = AutoModelForCausalLM.from_pretrained(smollm2.folder(), dtype=torch.float32)
        self.tokenizer = AutoTokenizer.from_pretrained(smollm2.folder())

    def differing(self, prompt, tokens, shift, mark=None, **settings):
        """How many of a text's tokens are not those that the key draws."""
        mark = mark or self.mark
        before = self.tokenizer(prompt).input_ids
        with torch.no_grad():
            logits = self.model(torch.tensor([before + tokens])).logits[0, len(before) - 1 : -1]
        one = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | settings
        limits = [torch.full((len(tokens),), value) for value in one.values()]
        rows = (shift + np.arange(len(tokens))) % N
        drawn = sampling.watermarked(mark)(truncated(logits, *limits, order=JOINT), rows, 1.0)
        return int((drawn != torch.tensor(tokens)).sum())


@pytest.fixture(scope="module")
def engine(mark):
    import sglang

    made = sglang.Engine(model_path=str(smollm2.folder()), sampling_backend="wmcore", **ENGINE)
    yield made
    made.shutdown()


def ask(engine, prompts, *many, **more):
    """The answers to prompts, each with its own sampling parameters."""
    params = [{"temperature": 1.0, "max_new_tokens": LENGTH, "ignore_eos": True} | o for o in many]
    return engine.generate(prompts, params if len(params) > 1 else params[0], **more)


def found(mark, answers):
    return Detector(mark).detect([one["output_ids"] for one in answers], resamples=199)


def test_every_token_is_the_keys(engine, reference):
    pairs = [(prompt, one) for prompt in PROMPTS for one in SETTINGS]
    asked = [one | {"custom_params": {"wmcore_shift": 11 * i}} for i, (_, one) in enumerate(pairs)]
    answers = ask(engine, [prompt for prompt, _ in pairs], *asked)
    wrong = [
        reference.differing(prompt, answer["output_ids"], 11 * i, **one)
        for i, ((prompt, one), answer) in enumerate(zip(pairs, answers, strict=True))
    ]
    print(f"{sum(wrong)} of {LENGTH * len(pairs)} tokens differ: {wrong}")
    assert sum(wrong) <= NOISE * LENGTH * len(pairs)


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


def test_greedy_penalties_stops_and_log_probabilities(engine, mark, reference):
    answers = ask(
        engine, [PROMPTS[0]] * 4, {"temperature": 0.0}, {"repetition_penalty": 1.2, "frequency_penalty": 0.3},
        {"stop": [" the"]}, {"custom_params": {"wmcore_shift": 7}}, return_logprob=True,
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


def test_the_processor(mark, reference):
    import sglang

    made = sglang.Engine(
        model_path=str(smollm2.folder()), enable_custom_logit_processor=True, **ENGINE
    )
    try:
        name = binding.WatermarkLogitProcessor.to_str()
        pairs = [(prompt, one) for prompt in PROMPTS[1:] for one in SETTINGS]
        asked = [
            one | {"custom_params": {"wmcore_shift": 11 * i}} for i, (_, one) in enumerate(pairs)
        ]
        names = [name] * len(pairs) + [None] * 3
        answers = ask(
            made, [prompt for prompt, _ in pairs] + PROMPTS[:3], *asked, *[{}] * 3,
            custom_logit_processor=names,
        )  # fmt: skip
        wrong = [
            reference.differing(prompt, answer["output_ids"], 11 * i, **one)
            for i, ((prompt, one), answer) in enumerate(zip(pairs, answers, strict=False))
        ]
        print(f"{sum(wrong)} of {LENGTH * len(pairs)} tokens differ: {wrong}")
        assert sum(wrong) <= NOISE * LENGTH * len(pairs)
        assert min(one.p_value for one in found(mark, answers[-3:])) > 1 / 200
        with pytest.raises(ValueError, match="only requests that name"):
            ask(made, [PROMPTS[0]], {"custom_params": {"wmcore": True}})
        with pytest.raises(ValueError, match="outside 0 to 255"):
            ask(
                made, [PROMPTS[0]], {"custom_params": {"wmcore_shift": N}}, custom_logit_processor=name
            )  # fmt: skip
    finally:
        made.shutdown()


def test_over_http(mark, reference, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = []
    for option, value in (ENGINE | {"model_path": smollm2.folder(), "port": port}).items():
        options += [f"--{option.replace('_', '-')}", *([] if value is True else [str(value)])]
    command = [sys.executable, "-m", "sglang.launch_server", "--sampling-backend", "wmcore"]
    log = (tmp_path / "log").open("w+")
    server = subprocess.Popen([*command, *options], stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(300):
            try:
                post(port, "/generate", {"text": "a", "sampling_params": {"max_new_tokens": 1}})
                break
            except OSError:
                time.sleep(1)
        body = {"model": "x", "prompt": PROMPTS[1], "max_tokens": LENGTH, "temperature": 1.0}
        streamed = post(
            port, "/v1/completions", body | {"stream": True, "custom_params": {"wmcore_shift": 5}}
        )
        parts = [json.loads(p[6:]) for p in streamed.splitlines() if p.startswith("data: {")]
        text = "".join(part["choices"][0]["text"] for part in parts)
        whole = post(port, "/v1/completions", body | {"custom_params": {"wmcore_shift": 5}})
        assert json.loads(whole)["choices"][0]["text"] == text
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(port, "/v1/completions", body | {"custom_params": {"wmcore_typo": 1}})
        assert refused.value.code == 400
        assert "is no field of wmcore" in refused.value.read().decode()
        log.seek(0)
        assert f"marked: key {mark.fingerprint}, scheme exp, shift hash" in log.read()
    finally:
        os.killpg(server.pid, 15)
        server.wait(60)


def post(port, path, body):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=300) as answer:
        return answer.read().decode()


def test_a_server_that_could_not_write_does_not_start(mark):
    import sglang

    with pytest.raises(ValueError, match="nothing would write a watermark"):
        sglang.Engine(model_path=str(smollm2.folder()), **ENGINE)
