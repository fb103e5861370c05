"""The SGLang sampler and logit processor: on stubs, and on a wheel's own files where WMCORE_SGLANG names one.

Batches are replayed as SGLang's scheduler makes them: requests are prefilled in batches of their own, which are merged
into the running one, filtered out of it, retracted, and prefilled again; their lists of tokens lag. Each request's
tokens must be those that the watermark draws from its own logits. `tests/servers/test_sglang_engine.py` runs SGLang.
"""

import json
import logging
import sys
import types
import weakref
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import sglang_stubs as stubs
import torch
from peers import sglang_wheel

from wmcore import Detector, WatermarkError, sampling
from wmcore.bindings import _serving
from wmcore.bindings import sglang as binding
from wmcore.key import Key
from wmcore.truncate import JOINT, truncated
from wmcore.watermark import Watermark

VOCAB, WIDTH, N = 60, 64, 40
WHEELS = [None, *filter(None, [sglang_wheel()])]


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """A server's watermark, named in the environment."""
    made = Watermark.create("exp", vocab_size=VOCAB, key_length=N, key=Key(bytes(range(32))))
    made.save(tmp_path / "mark.json")
    monkeypatch.setenv(binding.ENVIRONMENT, str(tmp_path / "mark.json"))
    return made


@pytest.fixture(params=WHEELS, ids=lambda wheel: "wheel" if wheel else "stubs")
def sglang(request):
    """Starts SGLang's parts with a sampling backend, with our plugin loaded as its loader does."""

    def start(backend="wmcore", resolved=None):
        forget()
        plugins = stubs.load(backend, resolved, request.param)
        if plugins is None:
            binding.register()
            stubs.HookRegistry.apply_hooks()
        else:
            plugins.entry_points = lambda group: ENTRY if group == "sglang.srt.plugins" else ()
            plugins.hook_registry.HookRegistry.reset()
            plugins.load_plugins()
        return types.SimpleNamespace(
            info=sys.modules["sglang.srt.sampling.sampling_batch_info"],
            sampler=sys.modules["sglang.srt.layers.sampler"],
            args=sys.modules["sglang.srt.runtime_context"].get_server_args(),
        )

    yield start
    forget()
    stubs.forget()


def forget():
    vars(binding).pop("WatermarkLogitProcessor", None)
    binding._batch_class.cache_clear()
    binding._sampler_class.cache_clear()


class Entry:
    name, value, dist = "wmcore", "wmcore.bindings.sglang:register", None

    def load(self):
        return binding.register


ENTRY = (Entry(),)


def logits_of(history):
    """A tiny "model": logits float32 [WIDTH] that depend on the last token and the length."""
    rng = np.random.default_rng([len(history), history[-1]])
    return torch.from_numpy(rng.normal(0, 2, WIDTH).astype(np.float32))


def wanted_token(mark, params, logits, at, shift):
    """What the watermark draws: the reference that knows nothing of batches."""
    top_k = 0 if params.top_k == stubs.ALL_TOKENS else params.top_k
    limits = [torch.tensor([v]) for v in (params.temperature, top_k, params.top_p, params.min_p)]
    x = truncated(logits[None, :VOCAB], *limits, order=JOINT)
    return int(sampling.watermarked(mark)(x, np.array([(shift + at) % N]), 1.0))


def shift_of(request):
    params = request.sampling_params
    wish = _serving.Wish.read(params.custom_params)
    seed = params.sampling_seed if params.n == 1 else None
    return binding._service().first_row(wish, seed, request.rid)


SETTINGS = [
    {},
    {"temperature": 0.6, "top_k": 5, "sampling_seed": 3},
    {"custom_params": {"wmcore_shift": 39}, "top_p": 0.7, "temperature": 1.3},
    {"custom_params": {"wmcore": True, "wmcore_shift": 3, "other": 1}, "min_p": 0.1},
    {"custom_params": {"wmcore": 0}},
    {"temperature": 0.0},
    {"custom_params": {"wmcore_label": "tenant"}, "n": 2, "sampling_seed": 5},
    {"top_k": 7, "top_p": 0.8, "min_p": 0.05},
]


class Scheduler:
    """The scheduler's part: prefill, merge, filter, retract. Each row's token is checked as it is drawn."""

    def __init__(self, server, mark, seed, processor=None):
        self.server, self.mark, self.processor = server, mark, processor
        self.rng = np.random.default_rng(seed)
        self.sampler = server.sampler.create_sampler()
        self.running, self.info, self.waiting, self.made = [], None, [], 0
        self.late = []
        """Tokens that the requests' own lists do not have yet."""

    def new(self, **settings):
        prompt = self.rng.integers(0, VOCAB, self.rng.integers(2, 6)).tolist()
        params = stubs.Params(**settings)
        one = request(f"request {self.made}", prompt, params, self.processor)
        self.made += 1
        self.waiting.append(one)
        return one

    def prefill(self, chunk=False):
        """A batch of all who wait, merged into the running one; or the first half of their prompts."""
        batch, self.waiting = self.waiting, self.waiting if chunk else []
        for one in batch:
            total = len(one.origin_input_ids) + len(one.tokens)
            one.kv.kv_committed_len = 1 if chunk else total
        made = self.server.info.SamplingBatchInfo.from_schedule_batch(self.batch(batch), WIDTH)
        tokens = self.sample(batch, made)
        if chunk:
            return
        self.arrive(batch, tokens)
        if self.running:
            self.info.merge_batch(made)
        else:
            self.info = made
        self.running = self.running + batch

    def decode(self):
        for one in self.running:
            one.kv.kv_committed_len += 1
        self.arrive(self.running, self.sample(self.running, self.info))

    def batch(self, reqs):
        return types.SimpleNamespace(reqs=reqs, device="cpu")

    def keep(self, indices):
        self.running = [self.running[i] for i in indices]
        if indices:
            self.info.filter_batch(indices, torch.tensor(indices))

    def sample(self, reqs, info):
        logits = torch.stack([logits_of([*one.origin_input_ids, *one.tokens]) for one in reqs])
        for one, row in zip(reqs, logits, strict=True):
            one.logits = row.clone()
        out = types.SimpleNamespace(next_token_logits=logits)
        tokens = self.sampler(out, info.copy_for_forward(), True, None, None, None)
        self.table = getattr(out, "next_token_logprobs", None)
        return tokens.tolist()

    def arrive(self, reqs, tokens):
        """The request's own list gets a token one step later, as with overlapping batches."""
        for one, token in self.late:
            one.output_ids.append(token)
        self.late = list(zip(reqs, tokens, strict=True))
        for one, token in self.late:
            self.check(one, token)
            one.tokens.append(token)

    def check(self, one, token):
        params = one.sampling_params
        fields = params.custom_params or {}
        if params.top_k == 1:
            assert token == int(one.logits.argmax())
        elif fields.get("wmcore", True):
            mark = self.mark
            if label := fields.get("wmcore_label"):
                mark = Watermark.create(
                    "exp", vocab_size=VOCAB, key_length=N, key=mark.key.derive(label)
                )
            at = len(one.tokens)
            assert token == wanted_token(mark, params, one.logits, at, shift_of(one))


def request(rid, prompt, params, processor=None):
    """A request as SGLang makes it: whoever names a processor can be seen by it."""
    one = stubs.Req(rid, prompt, params, processor)
    one.tokens = []
    if processor is not None and isinstance(params.custom_params, dict):
        params.custom_params = params.custom_params | {"__req__": weakref.proxy(one)}
    return one


def replay(scheduler, steps=60):
    texts = []
    for _ in range(steps):
        for _ in range(scheduler.rng.integers(0, 3) if len(scheduler.running) < 8 else 0):
            settings = SETTINGS[scheduler.made % len(SETTINGS)]
            if scheduler.processor:
                settings = settings | {"custom_params": settings.get("custom_params") or {}}
            texts.append(scheduler.new(**settings))
        if scheduler.waiting:
            if scheduler.rng.random() < 0.3:
                scheduler.prefill(chunk=True)
            scheduler.prefill()
        if scheduler.running:
            scheduler.decode()
        stay = [i for i in range(len(scheduler.running)) if scheduler.rng.random() > 0.1]
        gone = [one for i, one in enumerate(scheduler.running) if i not in stay]
        if len(stay) < len(scheduler.running):
            scheduler.keep(stay)
        scheduler.waiting += [one for one in gone if scheduler.rng.random() < 0.4]  # retracted
    return texts


@pytest.mark.parametrize("seed", range(3))
def test_the_sampler_replays_a_scheduler(sglang, mark, seed, caplog):
    caplog.set_level(logging.INFO)
    scheduler = Scheduler(sglang(), mark, seed)
    texts = replay(scheduler)
    assert scheduler.made > 20
    assert max(len(one.tokens) for one in texts) > 10
    lines = [r.getMessage() for r in caplog.records if r.name == "sglang.wmcore"]
    lines = [line for line in lines if "wmcore: request" in line]
    unmarked = [line for line in lines if "not marked" in line]
    assert len(lines) == len(texts)  # retraction and chunks add none
    assert len(unmarked) == sum(i % len(SETTINGS) in (4, 5) for i in range(len(texts)))


@pytest.mark.parametrize("seed", range(3))
def test_the_processor_replays_a_scheduler(sglang, mark, seed):
    server = sglang(backend="pytorch")
    scheduler = Scheduler(server, mark, seed, binding.WatermarkLogitProcessor.to_str())
    assert not isinstance(scheduler.sampler, binding._Sampler)
    texts = replay(scheduler)
    assert scheduler.made > 20
    assert max(len(one.tokens) for one in texts) > 10


def test_both_at_once_are_one(sglang, mark):
    scheduler = Scheduler(sglang(), mark, 1, binding.WatermarkLogitProcessor.to_str())
    replay(scheduler, 20)


def test_the_sampler_survives_another_backend(sglang, mark):
    """SGLang takes "pytorch" on a CPU and in its deterministic mode, whatever was asked for."""
    scheduler = Scheduler(sglang(resolved="pytorch"), mark, 2)
    assert isinstance(scheduler.sampler, binding._Sampler)
    replay(scheduler, 20)


def test_the_text_of_a_request_is_found(sglang, mark):
    scheduler = Scheduler(sglang(), mark, 1)
    texts = [scheduler.new() for _ in range(2)]
    scheduler.prefill()
    for _ in range(34):
        scheduler.decode()
    for one, found in zip(
        texts, Detector(mark).detect([one.tokens for one in texts], resamples=199), strict=True
    ):
        assert found.p_value == 1 / 200
        assert found.shift == shift_of(one)
    assert len({shift_of(one) for one in texts}) == 2


def test_log_probabilities_stay_those_of_the_model(sglang, mark):
    scheduler = Scheduler(sglang(), mark, 1)
    one = scheduler.new(temperature=0.7, top_k=5)
    scheduler.prefill()
    assert torch.allclose(scheduler.table[0], (one.logits / 0.7).log_softmax(-1), atol=1e-5)


def test_a_row_without_a_distribution_is_left_and_counted(sglang, mark):
    server = sglang(backend="pytorch")
    processor = binding.WatermarkLogitProcessor()
    one = request("a", [1], stubs.Params(custom_params={}), "x")
    one.kv.kv_committed_len = 1
    logits = torch.full((1, WIDTH), -torch.inf)
    before = binding._service().counts["unmarked tokens"]
    assert torch.equal(processor(logits.clone(), [one.sampling_params.custom_params]), logits)
    assert binding._service().counts["unmarked tokens"] == before + 1
    logits[0, 7] = -3.0  # what a grammar allows
    after = processor(logits.clone(), [one.sampling_params.custom_params])
    assert torch.equal(after, logits)
    assert server.args.sampling_backend == "pytorch"


def test_the_processor_sees_its_requests_or_refuses(sglang, mark):
    sglang(backend="pytorch")
    processor = binding.WatermarkLogitProcessor()
    with pytest.raises(WatermarkError, match="custom_params has to be a dict"):
        processor(torch.zeros(1, WIDTH), [None])
    with pytest.raises(WatermarkError, match="custom_params has to be a dict"):
        processor(torch.zeros(1, WIDTH))
    one = request("a", [1], stubs.Params(custom_params={}), "x")
    logits = torch.randn(3, WIDTH)
    twice = [one.sampling_params.custom_params] * 3
    assert torch.equal(processor(logits.clone(), twice), logits)
    assert "speculative decoding" in one.to_finish.message
    assert one.to_finish.status_code == 400


def test_a_processor_sees_a_request_that_has_no_custom_params(sglang, mark):
    server = sglang(backend="pytorch")
    params = stubs.Params()
    params.verify(WIDTH)
    one = request("a", [1], params, binding.WatermarkLogitProcessor.to_str())
    one.kv.kv_committed_len = 1
    logits = torch.randn(1, WIDTH)
    token = wanted_token(mark, params, logits[0], 0, shift_of(one))
    forced = binding.WatermarkLogitProcessor()(logits, [params.custom_params])
    assert forced[0].isfinite().nonzero().flatten().tolist() == [token]
    assert server.args.sampling_backend == "pytorch"


def test_the_processors_text_form_is_its_name(sglang, mark):
    """No key, no code of ours: what the server's own copy of wmcore is asked for."""
    sglang(backend="pytorch")
    text = binding.WatermarkLogitProcessor.to_str()
    base = import_module("sglang.srt.sampling.custom_logit_processor").CustomLogitProcessor
    assert isinstance(base.from_str(text), binding.WatermarkLogitProcessor)
    if text.startswith("{"):  # dill's bytes
        text = bytes.fromhex(json.loads(text)["callable"])
        assert (b"wmcore.bindings.sglang" in text, len(text) < 90) == (True, True)


@pytest.mark.skipif(WHEELS == [None], reason="WMCORE_SGLANG names no unpacked SGLang wheel")
def test_sampling_masks_know_the_token_that_the_key_drew(mark):
    """SGLang's own mask of what top-k and top-p left, for requests that want it, in a batch with others."""
    forget()
    stubs.load("wmcore", None, WHEELS[-1])
    sampler, batch = binding._sampler_class()(), binding._batch_class()
    assert Path(sys.modules["sglang.srt.layers.sampler"].__file__).is_relative_to(WHEELS[-1])
    settings = [{"top_k": 5, "top_p": 0.9}, {}, {"temperature": 0.0}, {"top_k": 3}]
    reqs = [request(f"{i}", [1, i], stubs.Params(**one)) for i, one in enumerate(settings)]
    for one in reqs:
        one.kv.kv_committed_len, one.return_sampling_mask = 2, one.rid != "1"
    info = batch.from_schedule_batch(types.SimpleNamespace(reqs=reqs, device="cpu"), WIDTH)
    logits = torch.stack([logits_of([1, i]) for i in range(4)])
    out = types.SimpleNamespace(next_token_logits=logits.clone())
    tokens = sampler(out, info, False, None, None, None).tolist()
    drawn = [
        wanted_token(mark, one.sampling_params, row, 0, shift_of(one))
        for one, row in zip(reqs, logits, strict=True)
    ]
    assert tokens == [*drawn[:2], int(logits[2].argmax()), drawn[3]]
    masks = out.sampling_mask_output
    assert masks.statuses.tolist() == [0, 0, 0]
    assert masks.lengths.tolist()[1:] == [1, 3]
    for row, token, count in zip(
        masks.token_ids, [tokens[0], *tokens[2:]], masks.lengths, strict=True
    ):
        assert token in row[:count].tolist()
    for said, i in zip(masks.selected_logprobs.tolist(), (0, 2, 3), strict=True):
        top_k, top_p = settings[i].get("top_k", 1), settings[i].get("top_p", 1.0)
        limits = [torch.tensor([v]) for v in (1.0, top_k, top_p, 0.0)]
        left = truncated(logits[i : i + 1], *limits, order=JOINT).log_softmax(-1)
        assert said == pytest.approx(float(left[0, tokens[i]]), abs=1e-5)
    stubs.forget()
    forget()


def ended(server, settings, processor=None, seed=1):
    """What a request that reaches the scheduler unchecked ends with, or None."""
    made = request("a", [1, 2], stubs.Params(**settings), processor)
    made.kv.kv_committed_len = 2
    batch = types.SimpleNamespace(reqs=[made], device="cpu")
    info = server.info.SamplingBatchInfo.from_schedule_batch(batch, WIDTH)
    out = types.SimpleNamespace(next_token_logits=torch.randn(1, WIDTH))
    server.sampler.create_sampler()(out, info, False, None, None, None)
    return made.to_finish and made.to_finish.message


BAD = [
    ({"wmcore": "yes"}, {}, "wmcore is 'yes'"),
    ({"wmcore_label": 3}, {}, "wmcore_label is a int"),
    ({"wmcore_shift": N}, {}, "wmcore_shift 40 is outside 0 to 39"),
    ({"wmcore_typo": 1}, {}, "'wmcore_typo' is no field of wmcore"),
    ({"wmcore": 1}, {"temperature": 0.0}, "temperature 0 draws no token"),
    ({"wmcore": 1}, {"beam_width": 2}, "beam search draws no token"),
]


@pytest.mark.parametrize(("fields", "more", "message"), BAD, ids=[m for *_, m in BAD])
def test_bad_requests_are_refused_at_the_door_and_behind_it(sglang, mark, fields, more, message):
    settings = {"custom_params": fields, **more}
    server = sglang()
    with pytest.raises(ValueError, match=message):
        stubs.Params(**settings).verify(WIDTH)
    assert_matches(ended(server, settings), message)
    server = sglang(backend="pytorch")
    name = binding.WatermarkLogitProcessor.to_str()
    assert_matches(ended(server, settings, name), message)


def assert_matches(text, pattern):
    with pytest.raises(ValueError, match=pattern):
        raise ValueError(text)


def test_good_requests_pass(sglang, mark):
    server = sglang()
    for settings in [*SETTINGS, {"beam_width": 2}]:
        stubs.Params(**settings).verify(WIDTH)
        assert ended(server, settings) is None
    with pytest.raises(WatermarkError, match="vocab_size 60 exceeds the model's 59 logits"):
        stubs.Params().verify(59)


def test_required(sglang, mark, monkeypatch):
    monkeypatch.setenv("WMCORE_SGLANG_REQUIRED", "1")
    server = sglang()
    for settings in ({"custom_params": {"wmcore": False}}, {"temperature": 0.0}):
        with pytest.raises(WatermarkError):
            stubs.Params(**settings).verify(WIDTH)
        assert ended(server, settings)
    server = sglang(backend="pytorch")
    assert "only requests that name" in ended(server, {})


def test_where_only_processors_write_the_rest_is_refused_if_it_asks(sglang, mark):
    server = sglang(backend="pytorch")
    assert ended(server, {}) is None
    for fields in ({"wmcore": True}, {"wmcore_label": "tenant"}, {"wmcore_shift": 3}):
        assert "only requests that name" in ended(server, {"custom_params": fields})
    assert ended(server, {"custom_params": {"wmcore": False, "wmcore_label": "tenant"}}) is None


def test_a_watermark_file_that_is_not_there_stops_the_server(mark, monkeypatch):
    """SGLang logs what a plugin raises and goes on, so the check of its arguments raises it again."""
    monkeypatch.setenv(binding.ENVIRONMENT, "nowhere.json")
    stubs.load("pytorch", None, None)
    with pytest.raises(WatermarkError, match=r"nowhere\.json"):
        binding.register()
    stubs.HookRegistry.apply_hooks()
    args = sys.modules["sglang.srt.runtime_context"].get_server_args()
    with pytest.raises(WatermarkError, match=r"nowhere\.json"):
        args.check_server_args()
    forget()
    stubs.forget()


def test_nothing_happens_without_a_watermark(sglang, monkeypatch):
    monkeypatch.delenv(binding.ENVIRONMENT, raising=False)
    server = sglang(backend="pytorch")
    assert not issubclass(server.info.SamplingBatchInfo, binding._Batch)
    assert "wmcore" not in server.sampler._CUSTOM_SAMPLER_FACTORIES
    for fields in (None, {}, {"other": 1}, {"wmcore": False}):
        stubs.Params(custom_params=fields).verify(WIDTH)
    with pytest.raises(WatermarkError, match="wmcore: no watermark is set up on this server"):
        stubs.Params(custom_params={"wmcore": True}).verify(WIDTH)
    name = binding.WatermarkLogitProcessor.to_str()
    assert "no watermark is set up" in ended(server, {"custom_params": {}}, name)
    assert ended(server, {"custom_params": {"wmcore": False}}, name) is None


def test_a_server_that_could_not_write_does_not_start(sglang, mark):
    def check(**settings):
        for name, value in settings.items():
            setattr(args, name, value)
        args.check_server_args()

    args = sglang().args
    check()
    with pytest.raises(WatermarkError, match="--speculative-algorithm EAGLE takes tokens past"):
        check(speculative_algorithm="EAGLE")
    with pytest.raises(WatermarkError, match="nothing would write a watermark"):
        check(sampling_backend="pytorch", speculative_algorithm=None)
    check(enable_custom_logit_processor=True)
    with pytest.raises(WatermarkError, match="--dllm-algorithm"):
        check(dllm_algorithm="x")
    sys.modules["sglang.srt.hardware_backend.mlx.runtime"].use_mlx = lambda: True
    with pytest.raises(WatermarkError, match="MLX runner"):
        check(dllm_algorithm=None)


def test_rows_of_nobody_are_an_error(sglang, mark):
    """Another plugin may have put its own class in the place of ours."""
    server = sglang()
    scheduler = Scheduler(server, mark, 1)
    scheduler.new()
    scheduler.prefill()
    scheduler.info.wmcore_requests = None
    with pytest.raises(WatermarkError, match="does not say whose its 1 rows are"):
        scheduler.decode()


def test_a_batch_keeps_no_request_alive(sglang, mark):
    scheduler = Scheduler(sglang(), mark, 1)
    watched = weakref.ref(scheduler.new())
    scheduler.prefill()
    scheduler.running, scheduler.late = [], []
    assert watched() is None


def test_the_entry_point_is_declared():
    text = (Path(__file__).parent.parent / "setup.py").read_text(encoding="utf-8")
    target = "wmcore.bindings.sglang:register"
    assert f'"sglang.srt.plugins": ["wmcore = {target}"]' in text
    module, name = target.split(":")
    assert callable(getattr(import_module(module), name))
