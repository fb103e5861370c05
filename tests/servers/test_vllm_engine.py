"""vLLM itself, in this process on the CPU, with the packaged SmolLM2 (`make vllm`): every token against the key.

Most requests go through one engine in one batch, so that each has the others for neighbours. `Reference` says what
their tokens must be. Float noise between vLLM's kernels and transformers' may turn a draw that is all but a tie: of the
tokens compared here, at most one in a thousand may differ.
"""

import json
import logging
import os
import re

import pytest

from wmcore import Detector, Watermark, generate
from wmcore.bindings import _serving
from wmcore.bindings import vllm as binding

pytestmark = pytest.mark.vllm

LENGTH = 120
NOISE = 1e-3
PHRASE = "[a-z ]{400}"
ANIMAL = {
    "type": "object",
    "properties": {"animal": {"type": "string"}, "legs": {"type": "integer"}},
    "required": ["animal", "legs"],
    "additionalProperties": False,
}
SETTINGS = {
    "plain": {},
    "cold": {"temperature": 0.7},
    "hot": {"temperature": 1.3},
    "top-p": {"top_p": 0.9},
    "top-k": {"top_k": 50},
    "min-p": {"min_p": 0.05},
    "top-k and top-p": {"top_k": 40, "top_p": 0.8},
    "all truncations": {"temperature": 0.8, "top_k": 30, "top_p": 0.9, "min_p": 0.02},
    "repetition": {"repetition_penalty": 1.2},
    "frequency": {"frequency_penalty": 0.5},
    "presence": {"presence_penalty": 0.8},
    "all penalties": {
        "repetition_penalty": 1.1, "frequency_penalty": 0.3, "presence_penalty": 0.3, "top_p": 0.95,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def reference(folder):
    from vllm_reference import Reference

    return Reference(folder)


@pytest.fixture(scope="module")
def mark(tmp_path_factory):
    """Of the server: named in the environment before vLLM starts."""
    path = tmp_path_factory.mktemp("vllm") / "mark.json"
    made = Watermark.create(vocab_size=49152)
    made.save(path)
    os.environ |= {
        binding.ENVIRONMENT: str(path),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
    }
    return made


@pytest.fixture(scope="module")
def lines():
    """What the plugin logs. (A handler of its own would be gone when an engine sets vLLM's loggers up.)"""
    seen = []

    def see(record):
        seen.append(record.getMessage())
        return True

    logger = logging.getLogger("vllm.wmcore")
    logger.addFilter(see)
    yield seen
    logger.removeFilter(see)


def started(folder, **settings):
    from vllm import LLM

    defaults = {"max_model_len": 1024, "max_num_seqs": 64}
    return LLM(
        str(folder), dtype="float32", enforce_eager=True, distributed_executor_backend="uni",
        **defaults | settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def engine(folder, mark):
    return started(folder)


def params(**settings):
    from vllm import SamplingParams

    return SamplingParams(**{"max_tokens": LENGTH, "ignore_eos": True} | settings)


def run(engine, asked):
    """asked: name -> (prompt ids, SamplingParams). Name -> outputs of vLLM, all in one batch."""
    made = engine.generate(
        [{"prompt_token_ids": ids} for ids, _ in asked.values()],
        [one for _, one in asked.values()],
        use_tqdm=False,
    )
    return dict(zip(asked, made, strict=True))


def row(mark, seed):
    return _serving.Service(mark, "tests").first_row(_serving.Wish(), seed, None)


@pytest.fixture(scope="module")
def batch(engine, reference, lines):
    """Every kind of request at once. Name -> (prompt ids, SamplingParams, vLLM's output)."""
    from vllm.sampling_params import StructuredOutputsParams
    from vllm_reference import PROMPTS

    ids = [reference.encode(text) for text in PROMPTS]
    asked = {}
    for i, prompt in enumerate(ids):
        asked[f"marked {i}"] = prompt, params()
        asked[f"off {i}"] = prompt, params(extra_args={"wmcore": False})
    for i in range(4):
        asked[f"label {i}"] = ids[i], params(extra_args={"wmcore_label": "acme"})
    for i in range(12):
        asked[f"shift {i}"] = ids[i], params(extra_args={"wmcore_shift": 20 * i})
    for i, (name, how) in enumerate(SETTINGS.items()):
        asked[name] = ids[i], params(seed=i, **how)
    asked["seed again"] = ids[0], params(seed=0)
    asked["greedy"] = ids[0], params(temperature=0.0)
    asked["three"] = ids[0], params(n=3, max_tokens=60)
    asked["three with a seed"] = ids[0], params(n=3, seed=5, max_tokens=60)
    asked["three with a shift"] = (
        ids[0],
        params(n=3, extra_args={"wmcore_shift": 9}, max_tokens=60),
    )
    asked["logprobs"] = ids[1], params(seed=1, logprobs=3, prompt_logprobs=1, max_tokens=40)
    asked["stop"] = ids[2], params(seed=2, stop=["e"])
    asked["least"] = ids[3], params(seed=3, ignore_eos=False, min_tokens=40, logit_bias={2: 9.0})
    asked["bad words"] = ids[4], params(seed=4, bad_words=["the", ",", "and"])
    asked["bias"] = ids[5], params(seed=5, logit_bias={28: 3.0, 30: -100.0})
    asked["allowed"] = ids[6], params(seed=6, allowed_token_ids=list(range(200, 900)))
    for i, (name, how) in enumerate(
        {"json": {"json": ANIMAL}, "regex": {"regex": PHRASE}, "choice": {"choice": ["red", "blue"]}}.items()
    ):  # fmt: skip
        grammar = StructuredOutputsParams(**how)
        asked[name] = ids[i], params(seed=i, structured_outputs=grammar, ignore_eos=False)
    lines.clear()
    made = run(engine, asked)
    return {name: (*asked[name], made[name]) for name in asked}


def tokens(batch, kind):
    return [
        list(one.token_ids)
        for name, (_, _, made) in batch.items()
        if re.fullmatch(rf"{kind}( \d+)?", name)
        for one in made.outputs
    ]


def found(mark, texts):
    return [one.p_value <= 0.01 for one in Detector(mark).detect(texts, resamples=199, seed=1)]


def test_texts_are_found_and_those_switched_off_in_the_same_batch_are_not(batch, mark):
    marked, off = found(mark, tokens(batch, "marked")), found(mark, tokens(batch, "off"))
    print(f"found: marked {sum(marked)} of {len(marked)}, off {sum(off)} of {len(off)}")
    assert marked == [True] * 20
    assert sum(off) <= 2  # more by chance once in a thousand


def test_a_label_has_its_own_key(batch, mark):
    texts = tokens(batch, "label")
    derived = Watermark.create(vocab_size=49152, key=mark.key.derive("acme"))
    assert found(derived, texts) == [True] * 4
    assert found(mark, texts) == [False] * 4


def test_a_text_at_a_shift_is_the_one_that_wmcore_writes(batch, mark, reference):
    """The first difference ends the comparison of a text: what follows has another beginning."""
    cases = [batch[f"shift {i}"] for i in range(12)]
    ours = generate(
        reference.model, [prompt for prompt, _, _ in cases], mark, max_new_tokens=LENGTH, eos=False,
        shifts=[20 * i for i in range(12)], progress=False,
    )  # fmt: skip
    differ = [
        list(made.outputs[0].token_ids) != one.tokens
        for (_, _, made), one in zip(cases, ours, strict=True)
    ]
    print(f"texts that differ from wmcore.generate: {sum(differ)} of 12")
    assert sum(differ) <= 1


def test_one_row_explains_every_token_of_every_setting(batch, mark, reference):
    from vllm_reference import Request

    texts, compared, wrong = [], 0, 0
    for i, (name, how) in enumerate(SETTINGS.items()):
        prompt, _, made = batch[name]
        output = list(made.outputs[0].token_ids)
        bad = reference.differing(mark, row(mark, i), prompt, output, Request(**how))
        texts.append(output)
        compared, wrong = compared + len(output), wrong + len(bad)
        assert len(bad) <= 1, name
        other = reference.differing(mark, row(mark, i) + 1, prompt, output, Request(**how))
        assert len(other) > len(output) / 4, name
    print(f"tokens that differ from the key's draw: {wrong} of {compared}")
    assert wrong <= NOISE * compared + 1
    print(f"found: {dict(zip(SETTINGS, found(mark, texts), strict=True))}")
    assert found(mark, texts[:1]) == [True]


def test_what_vllm_forbids_or_favours_stays_so_and_the_draw_is_of_what_is_left(
    batch, mark, reference
):
    from vllm_reference import Request

    words = [reference.encode(a + b) for a in ("", " ") for b in ("the", ",", "and")]
    single = [ids[0] for ids in words]
    assert all(len(ids) == 1 for ids in words)
    for name, seed, how in [
        ("bad words", 4, Request(banned=single)),
        ("bias", 5, Request(bias={28: 3.0, 30: -100.0})),
        ("allowed", 6, Request(allowed=list(range(200, 900)))),
        ("logprobs", 1, Request()),
        ("stop", 2, Request()),
    ]:
        prompt, _, made = batch[name]
        output = list(made.outputs[0].token_ids)
        assert len(reference.differing(mark, row(mark, seed), prompt, output, how)) <= 1, name
    assert not set(single) & set(batch["bad words"][2].outputs[0].token_ids)
    assert set(batch["allowed"][2].outputs[0].token_ids) <= set(range(200, 900))
    (stopped,) = batch["stop"][2].outputs
    assert stopped.finish_reason == "stop"
    assert stopped.stop_reason == "e"
    assert "e" not in stopped.text
    prompt, _, made = batch["least"]
    output = list(made.outputs[0].token_ids)
    first, rest = output[:40], output[40:]
    assert len(reference.differing(mark, row(mark, 3), prompt, first, Request(banned=[2]))) <= 1
    assert rest[-1] == 2  # so biased, the end comes soon once it may
    whole = reference.differing(mark, row(mark, 3), prompt, output, Request(bias={2: 9.0}))
    assert not [i for i in whole if i >= 40]


def test_structured_output_conforms_and_is_drawn_by_the_key(batch, mark, reference):
    from vllm_reference import Request

    (made,) = batch["json"][2].outputs
    assert made.finish_reason == "length" or set(json.loads(made.text)) == {"animal", "legs"}
    assert batch["choice"][2].outputs[0].text in ("red", "blue")
    prompt, _, made = batch["regex"]
    output = list(made.outputs[0].token_ids)
    assert re.fullmatch("[a-z ]{1,400}", made.outputs[0].text)
    assert found(mark, [output]) == [True]
    pieces = [reference.tokenizer.decode([token]) for token in range(49152)]
    fits = [token for token, text in enumerate(pieces) if re.fullmatch("[a-z ]+", text)]
    within = output[
        : len(output) // 2
    ]  # far from the end of the expression, where long pieces fit no more
    wrong = reference.differing(mark, row(mark, 1), prompt, within, Request(allowed=fits))
    print(f"grammar: {len(wrong)} of {len(within)} tokens differ")
    assert len(wrong) <= 1


def test_seeds_repeat_and_several_texts_differ_but_with_a_shift(batch, mark):
    assert tokens(batch, "plain") == tokens(batch, "seed again")
    for name, distinct in [("three", 3), ("three with a seed", 3), ("three with a shift", 1)]:
        texts = tokens(batch, name)
        assert len({tuple(text) for text in texts}) == distinct, name
        assert found(mark, texts) == [True] * 3, name


def test_logprobs_are_the_models_own(batch, reference):
    from vllm_reference import Request

    prompt, _, made = batch["logprobs"]
    (one,) = made.outputs
    raw = reference.logits(prompt, list(one.token_ids), Request()).log_softmax(-1)
    for i, (token, seen) in enumerate(zip(one.token_ids, one.logprobs, strict=True)):
        assert seen[token].logprob == pytest.approx(raw[i, token].item(), abs=1e-3)
    assert len(made.prompt_logprobs) == len(prompt)


def test_greedy_text_is_the_models_and_unmarked(batch, mark, reference):
    from vllm_reference import Request

    prompt, _, made = batch["greedy"]
    output = list(made.outputs[0].token_ids)
    best = reference.logits(prompt, output, Request()).argmax(-1).tolist()
    assert sum(a != b for a, b in zip(best, output, strict=True)) <= 1
    assert found(mark, [output]) == [False]


def test_each_request_has_one_line_and_it_holds_no_secret(batch, mark, lines):
    texts = sum(len(made.outputs) for _, _, made in batch.values())
    about = [line for line in lines if line.startswith("wmcore: request")]
    assert len(about) == texts
    assert sum("not marked: off" in line for line in about) == 20
    assert sum("not marked: greedy" in line for line in about) == 1
    assert sum(f"marked: key {mark.fingerprint}, scheme" in line for line in about) == texts - 25
    for i in range(12):
        assert any(line.endswith(_serving.shift_hash(mark, 20 * i)) for line in about)
    secrets = (mark.key.secret_hex, mark.key.derive("acme").secret_hex, "acme")
    assert not [line for line in about if any(secret in line for secret in secrets)]


def test_a_prefix_from_the_cache_gives_the_same_text(engine, reference, mark):
    prompt = reference.encode(" ".join(f"Line {i} of a long beginning." for i in range(60)))
    asked = {"once": (prompt, params(extra_args={"wmcore_shift": 77}, max_tokens=60))}
    first, second = run(engine, asked)["once"], run(engine, asked)["once"]
    assert first.num_cached_tokens == 0
    assert second.num_cached_tokens >= 256
    output = list(second.outputs[0].token_ids)
    assert output == list(first.outputs[0].token_ids)
    assert len(reference.differing(mark, 77, prompt, output)) <= 1


def refused(message):
    """vLLM answers a request with an error of this class with status 400."""
    from vllm.exceptions import VLLMValidationError

    return pytest.raises(VLLMValidationError, match=re.escape(message))


def test_what_may_not_be_served_is_refused_before_the_engine(engine, reference, monkeypatch):
    prompt = reference.encode("A short one")
    bad = [
        ({"extra_args": {"wmcore": "yes"}}, "wmcore is 'yes'"),
        ({"extra_args": {"wmcore_typo": 1}}, "'wmcore_typo' is no field of wmcore"),
        ({"extra_args": {"wmcore_shift": 256}}, "wmcore_shift 256 is outside 0 to 255"),
        ({"extra_args": {"wmcore": True}, "temperature": 0.0}, "temperature 0 draws no token"),
    ]
    for how, message in bad:
        with refused(message):
            run(engine, {"bad": (prompt, params(**how))})
    monkeypatch.setenv("WMCORE_VLLM_REQUIRED", "1")
    for how, message in [
        ({"extra_args": {"wmcore": False}}, "this server watermarks every request"),
        ({"temperature": 0.0}, "temperature 0 draws no token"),
    ]:
        with refused(message):
            run(engine, {"bad": (prompt, params(**how))})
    beams = beam_search(temperature=1.0)
    with refused("beam search draws no token"):
        engine.beam_search([{"prompt_token_ids": prompt}], beams)
    monkeypatch.delenv("WMCORE_VLLM_REQUIRED")
    monkeypatch.delenv(binding.ENVIRONMENT)
    with refused("no watermark is set up on this server"):
        run(engine, {"bad": (prompt, params(extra_args={"wmcore": True}))})
    monkeypatch.undo()
    served = run(engine, {"good": (prompt, params(max_tokens=3))})  # the engine lives
    assert len(served["good"].outputs[0].token_ids) == 3


def beam_search(**settings):
    from vllm.sampling_params import BeamSearchParams

    return BeamSearchParams(beam_width=2, max_tokens=4, **settings)


def test_beam_search_is_unmarked_and_said_so(engine, reference, lines):
    lines.clear()
    prompt = reference.encode("A short one")
    engine.beam_search([{"prompt_token_ids": prompt}], beam_search(temperature=1.0))
    assert lines
    assert set(lines) == {"wmcore: request not marked: beam search"}


def test_what_comes_past_the_check_does_not_end_the_engine(engine, reference, mark, monkeypatch):
    """Another front end may not ask our check: then the server's own mark is written."""
    monkeypatch.setattr(
        engine.llm_engine.input_processor, "validate_logits_processors_params", lambda _: None
    )
    prompt = reference.encode("A short one")
    asked = {"bad": (prompt, params(extra_args={"wmcore": False, "wmcore_typo": 1}))}
    output = list(run(engine, asked)["bad"].outputs[0].token_ids)
    assert found(mark, [output]) == [True]


def test_a_top_k_beyond_int64_does_not_end_the_engine(engine, reference, mark):
    """vLLM lets it through and takes it for all tokens."""
    asked = {"wide": (reference.encode("A short one"), params(top_k=2**63))}
    output = list(run(engine, asked)["wide"].outputs[0].token_ids)
    assert found(mark, [output]) == [True]


def test_speculation_on_the_v1_runner_is_refused_at_the_start(folder, mark, monkeypatch):
    """There vLLM makes no plugin: what we refuse is what would be unmarked."""
    import torch
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.sample.logits_processor import build_logitsprocs

    drafts = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3}
    with pytest.raises(ValueError, match="speculative decoding the V1 model runner leaves"):
        started(folder, speculative_config=drafts)
    args = EngineArgs(str(folder), dtype="float32", speculative_config=drafts)
    monkeypatch.delenv(binding.ENVIRONMENT)
    config = args.create_engine_config()
    made = build_logitsprocs(config, torch.device("cpu"), False, False)
    assert not [one for one in made.all if isinstance(one, binding._Processor)]


def test_without_the_guard_every_request_is_refused(engine, reference, monkeypatch):
    """As where VLLM_PLUGINS leaves wmcore out."""
    from vllm.config import VllmConfig

    monkeypatch.setattr(VllmConfig, "__post_init__", VllmConfig.__post_init__.__wrapped__)
    with refused("name wmcore in VLLM_PLUGINS"):
        run(engine, {"one": (reference.encode("A"), params())})


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_tiny_cache_and_short_chunks(
    asynchronous, engine, folder, lines, reference, mark, monkeypatch
):
    """Prompts longer than a chunk, and a cache that cannot hold all texts: they are preempted and computed again.

    None has a seed: a text keeps the row that was drawn for it. With asynchronous scheduling, which vLLM switches off
    on a CPU and which works there, `output` holds -1 for what is still on its way.
    """
    from vllm.platforms import current_platform
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm_reference import Request

    platform = type(current_platform)
    # The first engine of this process has done that, and it cannot be done twice.
    monkeypatch.setattr(platform, "register_triton_kernel_overrides", lambda *_: None)
    update = platform.check_and_update_config

    def scheduled(config):
        update(config)
        config.scheduler_config.async_scheduling = asynchronous

    monkeypatch.setattr(platform, "check_and_update_config", staticmethod(scheduled))
    preempted, placeholders = [], []
    preempt, apply = Scheduler._preempt_request, binding._Processor.apply

    def preempt_request(self, request, *more, **also):
        preempted.append(request.request_id)
        return preempt(self, request, *more, **also)

    def applied(self, logits, ctx=None):
        placeholders.append(sum(-1 in one.output for one in self._texts.values()))
        return apply(self, logits, ctx)

    monkeypatch.setattr(Scheduler, "_preempt_request", preempt_request)
    monkeypatch.setattr(binding.WatermarkLogitsProcessor, "apply", applied)
    small = started(
        folder, max_num_seqs=16, max_model_len=512, max_num_batched_tokens=32, block_size=32,
        num_gpu_blocks_override=24, enable_prefix_caching=False,
    )  # fmt: skip
    long = [reference.encode(f"{i}. " + "A long beginning of some text. " * 8) for i in range(10)]
    assert all(len(ids) > 32 for ids in long)
    asked = {}
    for i, ids in enumerate(long):
        penalty = 1.05 if i == 0 and not asynchronous else 1.0
        asked[f"{i}"] = ids, params(max_tokens=80, repetition_penalty=penalty)
    if (
        not asynchronous
    ):  # one call's texts share their parameters, and then a text's own list is not kept
        asked["shared"] = (long[0], params(max_tokens=80, n=3))
    lines.clear()
    made = run(small, asked)
    texts = [(name, list(one.token_ids)) for name, v in made.items() for one in v.outputs]
    print(f"preemptions: {len(preempted)}, placeholders: {sum(placeholders)}")
    assert len(preempted) >= 3
    assert (sum(placeholders) > 0) == asynchronous
    assert len(lines) == len(texts)  # one for each text, however often it came
    hashes = {_serving.shift_hash(mark, shift): shift for shift in range(mark.key_length)}
    rows = {hashes[line.split()[-1]] for line in lines}
    assert found(mark, [output for _, output in texts]) == [True] * len(texts)
    wrong = 0
    for name, output in texts:
        (one,) = Detector(mark).detect([output], resamples=19, seed=1)
        assert one.shift in rows
        prompt, asked_for = asked[name]
        request = Request(repetition_penalty=asked_for.repetition_penalty)
        wrong += len(reference.differing(mark, one.shift, prompt, output, request))
    print(f"tokens that differ from the key's draw: {wrong} of {80 * len(texts)}")
    assert wrong <= NOISE * 80 * len(texts)
