"""The TensorRT-LLM and Dynamo processors on stubs made from the documented signatures. Neither server was run.

`Engine` plays what TensorRT-LLM's PyTorch backend does around logits processors, as its sources say: one call a row in
place, a history that lags by one token under the overlap scheduler, a call for each chunk of a prompt, requests that
come and go. Its sampler follows the row that is left. Each served token must be the one that the key draws from the
request's own logits.
"""

import importlib.util
import inspect
import pickle
import sys
import types
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from peers import dynamo

from wmcore import Detector, Watermark, WatermarkError, sampling
from wmcore.bindings import _serving, trtllm
from wmcore.bindings.trtllm import (
    BatchedWatermarkLogitsProcessor,
    DynamoWatermarkLogitsProcessor,
    WatermarkLogitsProcessor,
    marked,
)
from wmcore.key import Key
from wmcore.truncate import truncated

VOCAB, WIDTH, N, END = 60, 64, 40, 2


@dataclass(kw_only=True)
class Params:
    """The documented fields of TensorRT-LLM's SamplingParams that matter here, with their defaults."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    n: int = 1
    best_of: int | None = None
    use_beam_search: bool = False
    bad: object = None
    bad_token_ids: list | None = None
    embedding_bias: object = None
    min_tokens: int | None = None
    no_repeat_ngram_size: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    top_p_decay: float | None = None
    guided_decoding: object = None
    lookahead_config: object = None
    beam_width_array: list | None = None
    thinking_token_budget: int | None = None
    logits_processor: object = None
    apply_batched_logits_processor: bool = False

    def __post_init__(self):
        self.best_of = self.best_of or self.n


@pytest.fixture
def mark():
    return Watermark.create("exp", vocab_size=VOCAB, key_length=N, key=Key(bytes(range(32))))


@pytest.fixture
def path(mark, tmp_path):
    mark.save(tmp_path / "mark.json")
    return tmp_path / "mark.json"


def logits_of(history):
    """A tiny "model": logits float32 [WIDTH] that depend on the last token and the length."""
    rng = np.random.default_rng([len(history), history[-1]])
    return torch.from_numpy(rng.normal(0, 2, WIDTH).astype(np.float32))


@dataclass
class Request:
    name: int
    params: Params
    prompt: list
    chunks: int = 1
    output: list = field(default_factory=list)
    steps: int = 0

    def processors(self):
        mine = self.params.logits_processor
        return mine if isinstance(mine, list) else [mine]


class Engine:
    """Steps of a batch; see the module. hides: how many last tokens histories lack, once there are any."""

    def __init__(self, *, hides=0, dtype=torch.float32):
        self.hides, self.dtype = hides, dtype

    def shown(self, request):
        # A token of the step before is on the device alone; of the first step there is nothing to hide.
        return request.prompt + request.output[: max(0, len(request.output) - self.hides)]

    def prefill(self, request):
        for _ in range(request.chunks - 1):  # these rows are thrown away
            row = torch.from_numpy(np.random.default_rng(request.name).normal(size=WIDTH))
            self.process(request, row.to(self.dtype))

    def process(self, request, row):
        for one in request.processors():
            assert 4 <= len(inspect.signature(one).parameters) <= 5  # as TensorRT-LLM asserts
            assert one(request.name, row.view(1, 1, -1), [self.shown(request)], None, None) is None
        return row

    def step(self, requests):
        for request in requests:
            if request.steps == 0:
                self.prefill(request)
            request.steps += 1
            row = self.process(request, logits_of(request.prompt + request.output).to(self.dtype))
            request.output.append(int(row.float().softmax(-1).multinomial(1)))


def expected(mark, params, prompt, shift, count, dtype=torch.float32):
    """What the watermark draws: the reference that knows nothing of servers."""
    output = []
    settings = trtllm._settings(params)
    columns = [
        torch.tensor([getattr(settings, k)]) for k in ("temperature", "top_k", "top_p", "min_p")
    ]
    for position in range(count):
        row = logits_of(prompt + output).to(dtype).float()[:VOCAB]
        key_row = np.array([(shift + position) % mark.key_length])
        output.append(int(sampling.watermarked(mark)(truncated(row[None], *columns), key_row, 1.0)))
    return output


def shift_of(request):
    """The row that a processor without shift or seed takes for a request."""
    writer = request.processors()[-1]._writer
    lot = f"{writer._lot} {request.name}"
    return writer.service().first_row(writer.wish, writer.seed, lot)


SETTINGS = [
    {"temperature": 1.0},
    {"temperature": 0.6, "top_k": 5},
    {"top_p": 0.7},
    {"top_k": 20, "temperature": 1.3, "top_p": 0.9, "min_p": 0.05},
    {"temperature": 0.9, "seed": 3, "repetition_penalty": 1.0, "min_tokens": 0, "bad": []},
]


@pytest.mark.parametrize("hides", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_served_token_is_the_keys(mark, path, hides, dtype):
    """Requests that come and go, with their own settings, labels, shifts and prompts in chunks."""
    rng = np.random.default_rng(1)
    engine, active, done = Engine(hides=hides, dtype=dtype), [], []
    for step in range(60):
        if step < 40 and rng.random() < 0.4:
            name = 100 + len(active) + len(done)
            params = Params(**SETTINGS[name % len(SETTINGS)])
            label = "tenant" if name % 3 == 0 else None
            shift = 39 if name % 4 == 0 else None
            prompt = rng.integers(0, VOCAB, rng.integers(1, 6)).tolist()
            params = marked(params, path, label=label, shift=shift)
            active.append(Request(name, params, prompt, chunks=1 + name % 3))
            active[-1].label, active[-1].shift = label, shift
        engine.step([active[i] for i in rng.permutation(len(active))])
        done += [one for one in active if len(one.output) == 20]
        active = [one for one in active if len(one.output) < 20]
    assert len(done) > 8
    for one in done:
        key = mark if one.label is None else replace(mark, key=mark.key.derive(one.label))
        first = shift_of(one) if one.shift is None else one.shift
        # Each chunk but the last takes a row that no token has.
        first += one.chunks - 1
        assert one.output == expected(key, one.params, one.prompt, first, 20, dtype), one
    counts = done[0].processors()[0].counts
    assert counts["marked"] == len(done) + len(active)
    assert counts["unmarked tokens"] == 0


def test_ranks_draw_the_same_and_requests_differ(path):
    """Each rank unpickles its own; many prompts of one call share the parameters."""
    params = marked(Params(temperature=1.0), path)
    ranks = [pickle.loads(pickle.dumps(params)) for _ in range(2)]
    texts = []
    for rank in ranks:
        requests = [Request(name, rank, [5, 7]) for name in range(30)]
        for _ in range(8):
            Engine().step(requests)
        texts.append([one.output for one in requests])
    assert texts[0] == texts[1]
    # 30 of 40 rows: all but certainly more than 12 distinct ones.
    assert len({tuple(one) for one in texts[0]}) > 12
    others = [Request(name, marked(Params(temperature=1.0), path), [5, 7]) for name in range(30)]
    assert [shift_of(Request(i, params, [1])) for i in range(30)] != [shift_of(r) for r in others]


def test_seeds_repeat_a_text(path):
    made = []
    for name in (3, 8):
        request = Request(name, marked(Params(temperature=1.0, seed=11), path), [1])
        for _ in range(10):
            Engine().step([request])
        made.append(request.output)
    assert made[0] == made[1]


def test_no_secret_is_pickled(mark, path):
    key = mark.key.secret_hex
    dynamos = DynamoWatermarkLogitsProcessor(path, Params(temperature=1.0), end_id=END, label="a")
    for one in (
        WatermarkLogitsProcessor(path, Params(temperature=1.0), label="tenant"),
        BatchedWatermarkLogitsProcessor(path, Params(temperature=1.0)),
        dynamos,
    ):
        used = one._writer
        used.write([1], [logits_of([3])], [[3]])
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            carried = pickle.dumps(one, protocol)
            assert bytes.fromhex(key) not in carried
            assert key.encode() not in carried
            assert str(path).encode() in carried
            assert len(carried) < 2000
        assert not pickle.loads(pickle.dumps(one))._writer._texts
    with pytest.raises(WatermarkError, match="its key would go with them: save it"):
        marked(Params(temperature=1.0), mark)


def test_a_rank_with_another_file_is_refused(mark, path):
    params = marked(Params(temperature=1.0), path)
    path.unlink()
    replace(mark, key=Key(bytes(32))).save(path)
    _serving.opened.cache_clear()  # as in another process
    rank = pickle.loads(pickle.dumps(params)).logits_processor
    with pytest.raises(WatermarkError, match="but the processor was made with key"):
        rank(1, logits_of([1]).view(1, 1, -1), [[1]], None, None)
    path.unlink()
    _serving.opened.cache_clear()
    with pytest.raises(WatermarkError):
        rank(1, logits_of([1]).view(1, 1, -1), [[1]], None, None)


@pytest.mark.parametrize(
    "greedy",
    [
        {},
        {"min_p": 0.0},
        {"temperature": 0.0},
        {"temperature": 1.0, "top_k": 1},
        {"temperature": 1.0, "top_p": 0.0},
        {"temperature": 1.0, "min_p": 1.0},
    ],
)
def test_greedy_requests_are_refused(path, greedy):
    with pytest.raises(WatermarkError, match="the request is greedy"):
        marked(Params(**greedy), path)


@pytest.mark.parametrize(
    "late",
    [
        {"guided_decoding": object()},
        {"bad": "word"},
        {"bad_token_ids": [3]},
        {"embedding_bias": torch.zeros(4)},
        {"min_tokens": 1},
        {"no_repeat_ngram_size": 3},
        {"repetition_penalty": 1.1},
        {"presence_penalty": 0.5},
        {"frequency_penalty": -0.5},
        {"top_p_decay": 0.9},
        {"lookahead_config": object()},
        {"use_beam_search": True},
        {"beam_width_array": [1, 2]},
        {"thinking_token_budget": 9},
    ],
)
def test_what_acts_after_processors_is_refused(path, late):
    params = Params(temperature=1.0, **late)
    before = _serving.opened(str(path), trtllm.LOGGER, True).counts
    name = next(iter(late))
    for make in (
        lambda: marked(params, path),
        lambda: BatchedWatermarkLogitsProcessor(path, params),
        lambda: DynamoWatermarkLogitsProcessor(path, params, end_id=END),
    ):
        refused = before["refused"]
        with pytest.raises(WatermarkError, match=f"{name} is set, but acts after"):
            make()
        assert before["refused"] == refused + 1


def test_bad_wishes_are_refused(path):
    params = Params(temperature=1.0)
    for bad, message in [
        ({"shift": N}, "wmcore_shift 40 is outside 0 to 39"),
        ({"shift": 1.5}, "wmcore_shift 1.5 is not a whole number"),
        ({"label": 3}, "wmcore_label is a int"),
    ]:
        with pytest.raises(WatermarkError, match=message):
            marked(params, path, **bad)
    for several in ({"n": 2}, {"best_of": 2}):
        with pytest.raises(WatermarkError, match="n is 2 with a shift or seed"):
            marked(Params(temperature=1.0, **several), path, shift=3)
        with pytest.raises(WatermarkError, match="n is 2 with a shift or seed"):
            marked(Params(temperature=1.0, seed=1, **several), path)
        marked(Params(temperature=1.0, **several), path)
        with pytest.raises(WatermarkError, match="n is 2, but Dynamo's interface is for 1"):
            DynamoWatermarkLogitsProcessor(path, Params(temperature=1.0, **several), end_id=END)
    with pytest.raises(WatermarkError, match="marked already"):
        marked(marked(params, path), path)
    for end in (-1, VOCAB):
        with pytest.raises(WatermarkError, match=r"end_id .* is outside 0 to 59"):
            DynamoWatermarkLogitsProcessor(path, params, end_id=end)


def test_the_parameters_given_are_left_as_they_were(path):
    params = Params(temperature=1.0, logits_processor=max)
    made = marked(params, path)
    assert made.logits_processor[0] is max
    assert isinstance(made.logits_processor[1], WatermarkLogitsProcessor)
    assert params == Params(temperature=1.0, logits_processor=max)


def test_rows_that_cannot_be_one_texts_are_refused(path):
    params = Params(temperature=1.0)
    one = WatermarkLogitsProcessor(path, params)
    with pytest.raises(WatermarkError, match=r"logits \(2, 1, 64\) are of several beams"):
        one(1, torch.zeros(2, 1, WIDTH), [[1], [1]], None, None)
    with pytest.raises(WatermarkError, match="vocab_size 60 exceeds the model's 59 logits"):
        one(1, torch.zeros(1, 1, VOCAB - 1), [[1]], None, None)
    batched = BatchedWatermarkLogitsProcessor(path, params)
    with pytest.raises(WatermarkError, match="of several beams"):
        batched([1], [torch.zeros(1, 2, WIDTH)], [[[1], [1]]], None, [None])


def test_the_batched_form_draws_what_each_request_would(mark, path):
    settings = {"temperature": 0.8, "top_p": 0.9}
    batched = BatchedWatermarkLogitsProcessor(path, Params(**settings), label="a")
    key = replace(mark, key=mark.key.derive("a"))
    rank = pickle.loads(pickle.dumps(batched))
    rng = np.random.default_rng(2)
    requests = [Request(i, Params(**settings), [i, 4]) for i in range(6)]
    for _ in range(10):
        chosen = [requests[i] for i in rng.permutation(6)[: rng.integers(1, 7)]]
        names = [one.name for one in chosen]
        histories = [[one.prompt + one.output] for one in chosen]
        rows = [logits_of(h).view(1, 1, -1).half() for (h,) in histories]
        again = [row.clone() for row in rows]
        assert batched(names, rows, histories, None, [None] * len(rows)) is None
        rank(names, again, histories, None, [None] * len(rows))
        for one, row, other in zip(chosen, rows, again, strict=True):
            assert torch.equal(row, other)
            one.output.append(int(row.argmax()))
    for one in requests:
        lot = f"{batched._writer._lot} {one.name}"
        shift = batched._writer.service().first_row(_serving.Wish(), None, lot)
        count = len(one.output)
        assert count > 2
        assert one.output == expected(key, one.params, one.prompt, shift, count, torch.float16)
    batched([], [], [], None, [])


def test_batched_requests_have_the_processors_settings(path):
    batched = BatchedWatermarkLogitsProcessor(path, Params(temperature=0.8))
    params = Params(temperature=0.8, top_k=0)
    made = batched.marked(params)
    assert made.apply_batched_logits_processor
    assert not params.apply_batched_logits_processor
    with pytest.raises(WatermarkError, match="differs from the batched processor's"):
        batched.marked(Params(temperature=0.9))
    with pytest.raises(WatermarkError, match="min_tokens is set"):
        batched.marked(Params(temperature=0.8, min_tokens=3))
    with pytest.raises(WatermarkError, match="seed 5 does not reach a batched processor"):
        batched.marked(Params(temperature=0.8, seed=5))
    with pytest.raises(WatermarkError, match="seed 5 does not reach a batched processor"):
        BatchedWatermarkLogitsProcessor(path, Params(temperature=0.8, seed=5))


def test_work_is_done_on_the_given_stream(path, monkeypatch):
    """All that touches logits happens inside the stream's context."""
    events = []

    class Inside(nullcontext):
        def __enter__(self):
            events.append("in")

        def __exit__(self, *rest):
            events.append("out")

    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda pointer: ("stream", pointer))
    monkeypatch.setattr(torch.cuda, "stream", lambda s: events.append(s) or Inside())
    drawn = trtllm.force
    monkeypatch.setattr(trtllm, "force", lambda *a, **k: events.append("draw") or drawn(*a, **k))
    params = Params(temperature=1.0)
    WatermarkLogitsProcessor(path, params)(1, logits_of([1]).view(1, 1, -1), [[1]], 77, None)
    assert events == [("stream", 77), "in", "draw", "out"]
    events.clear()
    rows = [logits_of([1]).view(1, 1, -1)]
    BatchedWatermarkLogitsProcessor(path, params)([1], rows, [[[1]]], 78, [None])
    assert events == [("stream", 78), "in", "draw", "out"]


@pytest.mark.parametrize("hides", [0, 1])
def test_tokens_that_were_not_drawn_are_counted(path, hides, caplog):
    """Speculative decoding, where the row that is left is not looked at; and one token without a call."""
    request = Request(1, marked(Params(temperature=1.0), path, shift=0), [1])
    counts = request.processors()[0].counts
    engine = Engine(hides=hides)
    for _ in range(10):
        engine.step([request])
        request.output[-1] = (request.output[-1] + 1) % VOCAB
    engine.step([request])
    # The last one or two are not seen yet, and a changed token can be the other of the latest two.
    assert 8 <= counts["unmarked tokens"] <= 10
    assert counts["texts with unmarked tokens"] == 1
    assert caplog.text.count("the server wrote a token that the key did not draw") == 1

    again = Request(2, request.params, [1])
    for _ in range(5):
        engine.step([again])
    before = counts["unmarked tokens"]
    again.output.append((again.output[-1] + 1) % VOCAB)  # of a recomputed prompt: no call
    for _ in range(5):
        engine.step([again])
    assert counts["unmarked tokens"] == before + 1
    again.output += [7, 8, 9]
    engine.step([again])
    engine.step([again])
    assert before + 3 <= counts["unmarked tokens"] <= before + 5


def test_rows_without_a_distribution_are_left_and_counted(path):
    one = WatermarkLogitsProcessor(path, Params(temperature=1.0))
    for bad in (torch.full((1, 1, WIDTH), -torch.inf), torch.full((1, 1, WIDTH), torch.nan)):
        row = bad.clone()
        one(1, row, [[1]], None, None)
        assert torch.equal(row, bad) or bool(row.isnan().all())
    assert one.counts["unmarked tokens"] == 2


def test_a_text_longer_than_the_key_is_named(path, caplog):
    request = Request(1, marked(Params(temperature=1.0), path, shift=0), [1])
    for _ in range(N + 1):
        Engine().step([request])
    assert request.processors()[0].counts["key used again"] == 1
    assert "make a longer key" in caplog.text


def test_texts_that_ended_are_forgotten(path, monkeypatch):
    monkeypatch.setattr(trtllm, "MOST_TEXTS", 3)
    params = marked(Params(temperature=1.0), path)
    running = Request(0, params, [1])
    for name in range(1, 20):
        Engine().step([running, Request(name, params, [1])])
    assert list(params.logits_processor._writer._texts) == [18, 0, 19]
    assert params.logits_processor._writer._texts[0].drawn == 19


def test_one_line_a_request_proves_what_was_applied(mark, path, caplog):
    caplog.set_level("INFO", trtllm.LOGGER)
    request = Request(31, marked(Params(temperature=1.0), path, label="acme", shift=4), [1])
    for _ in range(3):
        Engine().step([request])
    key = replace(mark, key=mark.key.derive("acme"))
    assert [message for message in caplog.messages if "request" in message] == [
        f"wmcore: request 31 marked: key {key.fingerprint}, scheme exp, shift hash"
        f" {_serving.shift_hash(key, 4)}"
    ]


def test_texts_are_found(mark, path):
    params = marked(Params(temperature=1.5), path)
    requests = [Request(name, params, [name]) for name in range(3)]
    for _ in range(35):
        Engine(hides=1).step(requests)
    for one, found in zip(
        requests, Detector(mark).detect([r.output for r in requests], resamples=199), strict=True
    ):
        assert found.p_value == 1 / 200
        assert found.shift == shift_of(one)


# Dynamo


def a_stub_adapter(processor):
    """What Dynamo's adapter does: one row, and errors are swallowed."""

    def call(req_ids, logits, ids, stream_ptr, client_id=None):
        try:
            processor(ids[0], logits[0, 0, :])
        except Exception as error:
            print(error)

    return call


def the_real_adapter(processor):
    """Dynamo's own file, with stubs for the two classes it imports."""
    file = dynamo()
    if file is None:
        pytest.skip("WMCORE_DYNAMO names no unpacked wheel")
    stubs = {
        "tensorrt_llm": {},
        "tensorrt_llm.sampling_params": {"LogitsProcessor": object},
        "dynamo": {},
        "dynamo.logits_processing": {"BaseLogitsProcessor": object},
    }
    kept = {name: sys.modules.get(name) for name in stubs}
    try:
        for name, names in stubs.items():
            sys.modules[name] = types.ModuleType(name)
            vars(sys.modules[name]).update(names)
        spec = importlib.util.spec_from_file_location("dynamo_adapter", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        for name, old in kept.items():
            sys.modules.pop(name) if old is None else sys.modules.update({name: old})
    (adapter,) = module.create_trtllm_adapters([processor])
    return adapter


@pytest.mark.parametrize("adapt", [a_stub_adapter, the_real_adapter])
@pytest.mark.parametrize("hides", [0, 1])
def test_dynamo_writes_the_keys_tokens(mark, path, adapt, hides):
    params = Params(temperature=0.9, top_k=30)
    processor = DynamoWatermarkLogitsProcessor(path, params, end_id=END, shift=38)
    adapter = adapt(pickle.loads(pickle.dumps(processor)))
    request = Request(5, replace(params, logits_processor=adapter), [3, 1])
    for _ in range(30):
        Engine(hides=hides).step([request])
    assert request.output == expected(mark, params, request.prompt, 38, 30)
    assert processor.counts["unmarked tokens"] == 0
    assert processor.counts["ended"] == 0


@pytest.mark.parametrize("adapt", [a_stub_adapter, the_real_adapter])
def test_dynamo_ends_a_text_that_it_cannot_mark(path, adapt, monkeypatch, caplog):
    """The adapter swallows errors and serves the row as it is: it holds the end alone."""
    processor = DynamoWatermarkLogitsProcessor(path, Params(temperature=0.9), end_id=END)
    adapter = adapt(processor)
    request = Request(5, Params(temperature=0.9, logits_processor=adapter), [3, 1])
    for _ in range(3):
        Engine().step([request])

    def fails(*rest, **more):
        raise RuntimeError("no memory")

    with monkeypatch.context() as broken:
        broken.setattr(trtllm, "force", fails)
        for _ in range(2):
            Engine().step([request])
    assert request.output[3:] == [END, END]
    assert processor.counts["ended"] == 2
    assert "wmcore: a text is ended, unfinished: no memory" in caplog.text
    short = torch.zeros(1, 1, VOCAB - 1)
    adapter(5, short, [[3, 1]], None)
    assert short[0, 0].isfinite().nonzero().flatten().tolist() == [END]
    path.unlink()
    _serving.opened.cache_clear()
    Engine().step([request])
    assert request.output[5:] == [END]
