"""The vLLM processor against stubs of its two interfaces, and against the interface files of wheels where given.

Stubs hold what the interfaces document: V1 replays batch updates (removed, added, moved), V2 slots and positions.
Each request's tokens must be those that the watermark draws from its own logits, whatever the batch does.
"""

import ast
import enum
import importlib
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
import vllm_stubs
from peers import wheels

from wmcore import Detector, WatermarkError, sampling
from wmcore.bindings import _serving
from wmcore.bindings import vllm as binding
from wmcore.key import Key
from wmcore.truncate import penalised, truncated
from wmcore.watermark import Watermark

VOCAB, WIDTH, N = 60, 64, 40


@dataclass
class Params:
    """The fields of SamplingParams that matter here."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    extra_args: dict | None = None
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    max_tokens: int | None = 16
    detokenize: bool = True
    logprobs: int | None = None


class Direction(enum.Enum):
    UNIDIRECTIONAL = enum.auto()
    SWAP = enum.auto()


@dataclass
class Update:
    batch_size: int
    removed: list = field(default_factory=list)
    added: list = field(default_factory=list)
    moved: list = field(default_factory=list)


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """A server's watermark, named in the environment."""
    made = Watermark.create("exp", vocab_size=VOCAB, key_length=N, key=Key(bytes(range(32))))
    made.save(tmp_path / "mark.json")
    monkeypatch.setenv(binding.ENVIRONMENT, str(tmp_path / "mark.json"))
    return made


def config(size=WIDTH):
    model = types.SimpleNamespace(get_vocab_size=lambda: size)
    return types.SimpleNamespace(model_config=model)


def v1():
    return binding._Processor(config(), torch.device("cpu"), False)


def row_of(params):
    """The key row of a request with a seed or a shift of its own."""
    wish = _serving.Wish.read(params.extra_args)
    return binding._service().first_row(wish, params.seed, None)


def logits_of(history):
    """A tiny "model": logits float32 [WIDTH] that depend on the last token and the length."""
    rng = np.random.default_rng([len(history), history[-1]])
    return torch.from_numpy(rng.normal(0, 2, WIDTH).astype(np.float32))


def wanted_token(mark, params, prompt, output, shift):
    """What the watermark draws: the reference that knows nothing of batches."""
    row = logits_of(prompt + output)[:VOCAB]
    row = penalised(
        row, prompt, output, repetition=params.repetition_penalty,
        frequency=params.frequency_penalty, presence=params.presence_penalty,
    )  # fmt: skip
    one = [
        torch.tensor([v]) for v in (params.temperature, params.top_k, params.top_p, params.min_p)
    ]
    x = truncated(row[None], *one)
    key_row = np.array([(shift + len(output)) % mark.key_length])
    return int(sampling.watermarked(mark)(x, key_row, 1.0))


def only(row):
    """The single token that a forced row allows, or None."""
    finite = torch.isfinite(row).nonzero().flatten()
    return int(finite[0]) if len(finite) == 1 else None


SETTINGS = [
    {"seed": 1},
    {"seed": 2, "temperature": 0.6, "top_k": 5},
    {"extra_args": {"wmcore_shift": 39}, "top_p": 0.7, "temperature": 1.3},
    {"extra_args": {"wmcore": True, "wmcore_shift": 3}, "min_p": 0.1},
    {"seed": 5, "extra_args": {"wmcore": 0}},
    {"temperature": 0.0},
    {"seed": 7, "extra_args": {"wmcore_label": "tenant"}},
    {"seed": 8, "repetition_penalty": 1.3, "frequency_penalty": 0.5, "presence_penalty": 0.2},
]


def marked(settings):
    return settings.get("temperature", 1) > 0 and (settings.get("extra_args") or {}).get(
        "wmcore", 1
    )


class Server:
    """Requests that come, go and move, for 60 steps; the tokens of each are checked at each step."""

    def __init__(self, mark, seed):
        self.mark, self.rng = mark, np.random.default_rng(seed)
        self.rows, self.made = [], 0

    def new(self):
        settings = SETTINGS[self.made % len(SETTINGS)]
        self.made += 1
        prompt = self.rng.integers(0, VOCAB, self.rng.integers(1, 6)).tolist()
        return types.SimpleNamespace(params=Params(**settings), prompt=prompt, output=[])

    def key(self, one):
        label = (one.params.extra_args or {}).get("wmcore_label")
        if label is None:
            return self.mark
        return Watermark.create(
            "exp", vocab_size=VOCAB, key_length=N, key=self.mark.key.derive(label)
        )

    def check(self, one, row, before):
        """The row's token; appended to the request."""
        settings = vars(one.params)
        if marked(settings):
            shift = row_of(one.params)
            token = only(row)
            assert token == wanted_token(self.key(one), one.params, one.prompt, one.output, shift)
        else:
            assert torch.equal(row, before)
            token = int(before[:VOCAB].argmax())
        return token


@pytest.mark.parametrize("seed", range(3))
def test_v1_replays_batch_updates(mark, seed):
    server, processor = Server(mark, seed), v1()
    assert not processor.is_argmax_invariant()
    rows: list = []
    for _ in range(60):
        update = Update(0)
        for index in sorted(
            server.rng.permutation(len(rows))[: server.rng.integers(0, 2)].tolist()
        ):
            update.removed.append(index)
            rows[index] = None
        free = [i for i, one in enumerate(rows) if one is None]
        for _ in range(server.rng.integers(0, 3)):
            index = free.pop(0) if free else len(rows)
            if index == len(rows):
                rows.append(None)
            rows[index] = server.new()
            one = rows[index]
            update.added.append((index, one.params, one.prompt, one.output))
        while None in rows:  # the last request fills the hole, as vLLM condenses
            last = len(rows) - 1
            if rows[last] is None:
                rows.pop()
                continue
            hole = rows.index(None)
            rows[hole] = rows.pop()
            update.moved.append((last, hole, Direction.UNIDIRECTIONAL))
        if len(rows) > 1 and server.rng.random() < 0.5:
            i, j = server.rng.choice(len(rows), 2, replace=False).tolist()
            rows[i], rows[j] = rows[j], rows[i]
            update.moved.append((i, j, Direction.SWAP))
        update.batch_size = len(rows)
        changed = update.removed or update.added or update.moved
        processor.update_state(update if changed else None)
        if not rows:
            continue
        before = torch.stack([logits_of(one.prompt + one.output) for one in rows])
        after = processor.apply(before.clone())
        for i, one in enumerate(rows):
            one.output.append(server.check(one, after[i], before[i]))
    assert server.made > 20


def states(slots, size=WIDTH):
    return types.SimpleNamespace(
        device=torch.device("cpu"), max_num_reqs=slots, vocab_size=size,
        prompt_len=types.SimpleNamespace(gpu=torch.zeros(slots, dtype=torch.int32)),
    )  # fmt: skip


def context(slots, positions, **more):
    mapping = torch.tensor(slots, dtype=torch.int32)
    return types.SimpleNamespace(
        expanded_idx_mapping=mapping,
        idx_mapping=mapping.unique(),
        idx_mapping_np=np.unique(slots).astype(np.int32),
        pos=torch.tensor(positions),
        **more,
    )


@pytest.mark.parametrize("seed", range(3))
def test_v2_slots_positions_and_preemption(mark, seed):
    """Rows in any order; slots are recycled; a preempted request enters another slot with its tokens."""
    server = Server(mark, seed)
    shared = states(6)
    processor = binding._Processor(config(), shared)
    slots: dict = {}
    for _ in range(60):
        for slot in [s for s in slots if server.rng.random() < 0.1]:
            one = slots.pop(slot)
            if server.rng.random() < 0.5:  # preempted: again, in a free slot
                fresh = next(s for s in range(6) if s not in slots)
                slots[fresh] = one
                shared.prompt_len.gpu[fresh] = len(one.prompt)
                assert processor.add_request(fresh, one.params) == bool(marked(vars(one.params)))
        if len(slots) < 6:
            slot = next(s for s in range(6) if s not in slots)
            slots[slot] = one = server.new()
            shared.prompt_len.gpu[slot] = len(one.prompt)
            assert processor.add_request(slot, one.params) == bool(marked(vars(one.params)))
        processor.apply_staged_writes()
        order = server.rng.permutation(list(slots)).tolist()
        pos = [len(slots[s].prompt) + len(slots[s].output) - 1 for s in order]
        before = torch.stack([logits_of(slots[s].prompt + slots[s].output) for s in order])
        # V2 has applied penalties by then.
        for i, s in enumerate(order):
            one = slots[s]
            before[i, :VOCAB] = penalised(
                before[i, :VOCAB], one.prompt, one.output,
                repetition=one.params.repetition_penalty,
                frequency=one.params.frequency_penalty, presence=one.params.presence_penalty,
            )  # fmt: skip
        after = processor.apply(before.clone(), context(order, pos))
        for i, s in enumerate(order):
            slots[s].output.append(server.check(slots[s], after[i], before[i]))


def test_v2_speculative_rows_have_their_own_positions(mark):
    shared = states(3)
    processor = binding._Processor(config(), shared)
    params = Params(seed=4)
    shared.prompt_len.gpu[2] = 5
    processor.add_request(2, params)
    logits = torch.from_numpy(np.random.default_rng(1).normal(size=(3, WIDTH)).astype(np.float32))
    after = processor.apply(logits.clone(), context([2, 2, 2], [4, 5, 6]))
    rows = (row_of(params) + np.arange(3)) % N
    drawn = sampling.watermarked(mark)(logits[:, :VOCAB], rows, 1.0)
    assert [only(row) for row in after] == drawn.tolist()


def test_masked_tokens_stay_masked(mark):
    """A grammar's -inf is never revived, and a row without any token is left as it is."""
    processor = v1()
    processor.update_state(Update(2, added=[(i, Params(seed=i), [1], []) for i in range(2)]))
    logits = torch.full((2, WIDTH), -torch.inf)
    logits[0, 7] = -3.0
    assert only(processor.apply(logits.clone())[0]) == 7
    assert torch.equal(processor.apply(logits.clone())[1], logits[1])
    logits[1] = torch.nan
    processor.apply(logits)


def test_the_text_of_a_request_is_found(mark):
    """Without a seed the shift is drawn, and kept with the parameters."""
    processor, output, params = v1(), [], Params()
    processor.update_state(Update(1, added=[(0, params, [3], output)]))
    for _ in range(35):
        output.append(only(processor.apply(logits_of([3, *output])[None])[0]))
    (found,) = Detector(mark).detect([output], resamples=199)
    assert found.p_value == 1 / 200
    assert found.shift == processor._texts[0].stream.shift


def test_a_text_that_comes_again_keeps_its_row_and_its_line(mark, caplog):
    """V1 takes a request out and adds it again when it was preempted or had to wait, before its first token as well.
    The texts of one call may share their parameters; their lists of tokens are their own."""
    caplog.set_level("INFO", "vllm.wmcore")
    processor, shared, outputs = v1(), Params(), [[], [], []]
    added = [(i, shared, [3], output) for i, output in enumerate(outputs)]
    processor.update_state(Update(3, added=added))
    streams = [processor._texts[i].stream for i in range(3)]
    # Not their rows: those are drawn, and two of 64 may be equal.
    assert len({id(stream) for stream in streams}) == 3
    for number in (0, 1, 5):
        for output in outputs:
            output[:] = [1] * number
        processor.update_state(Update(3, removed=[0, 1, 2]))
        assert not processor._texts
        processor.update_state(Update(3, added=added[::-1]))
        assert [processor._texts[i].stream for i in range(3)] == streams
    # With asynchronous scheduling what comes again has its tokens in another list.
    last = processor._texts[2].stream
    processor.update_state(Update(3, removed=[2], added=[(2, shared, [3], [1, 1])]))
    assert processor._texts[2].stream is last
    off, nothing = Params(extra_args={"wmcore": False}), []
    for _ in range(2):
        processor.update_state(Update(4, added=[(3, off, [3], nothing)]))
    assert 3 not in processor._texts
    assert [message.split(":")[1] for message in caplog.messages if "request" in message] == [
        *[" request marked"] * 3,
        " request not marked",
    ]


def test_placeholders_of_asynchronous_scheduling(mark):
    """Then `output` ends with -1 for a token that is still on its way: it counts as a position, and where a request
    has penalties, vLLM puts the true token in its place before it calls us."""
    plain, penalty = Params(seed=1), Params(seed=2, repetition_penalty=1.5)
    outputs: list = [[], []]
    processor = v1()
    added = [(i, one, [3], outputs[i]) for i, one in enumerate((plain, penalty))]
    processor.update_state(Update(2, added=added))
    made: list = [[], []]
    for _ in range(20):
        outputs[1][:] = made[1]
        logits = torch.stack([logits_of([3, *one]) for one in made])
        after = processor.apply(logits)
        for i, one in enumerate((plain, penalty)):
            token = only(after[i])
            assert token == wanted_token(mark, one, [3], made[i], row_of(one))
            made[i].append(token)
            outputs[i].append(-1)


def test_what_comes_past_the_check_is_marked_and_does_not_end_the_engine(mark, monkeypatch):
    """A front end that does not ask `validate_params` (another program than vLLM's own)."""
    monkeypatch.setenv("WMCORE_VLLM_REQUIRED", "1")
    wrong = ({"wmcore": "yes"}, {"wmcore_shift": N}, {"wmcore_typo": 1}, {"wmcore": False})
    processor = v1()
    added = [(i, Params(extra_args=extra), [1], []) for i, extra in enumerate(wrong)]
    added.append((4, Params(temperature=0.0), [1], []))
    processor.update_state(Update(5, added=added))
    assert sorted(processor._texts) == [0, 1, 2, 3]
    assert all(only(row) is not None for row in processor.apply(torch.zeros(5, WIDTH))[:4])
    assert processor._service.counts == {"overruled": 5, "marked": 4, "greedy": 1}


def test_beam_search_drops_the_draw_and_is_not_called_marked(mark, monkeypatch):
    step = Params(max_tokens=1, detokenize=False, logprobs=4)
    binding._Processor.validate_params(step)
    processor = v1()
    processor.update_state(Update(1, added=[(0, step, [1], [])]))
    assert not processor._texts
    assert processor._service.counts["beam search"] == 1
    wanted = Params(max_tokens=1, detokenize=False, logprobs=4, extra_args={"wmcore": True})
    with pytest.raises(WatermarkError, match="beam search draws no token"):
        binding._Processor.validate_params(wanted)
    monkeypatch.setenv("WMCORE_VLLM_REQUIRED", "1")
    with pytest.raises(WatermarkError, match="beam search draws no token"):
        binding._Processor.validate_params(step)


class Config:
    """Of vLLM, as far as the guard looks."""

    def __init__(self, **fields):
        self.speculative_config = self.watermark_config = None
        self.use_v2_model_runner = False
        vars(self).update(fields)
        self.__post_init__()

    def __post_init__(self):
        self.checked = True


def test_what_would_leave_the_processor_out_does_not_start(mark, monkeypatch):
    """The hook wraps vLLM's own check of its configuration, once."""
    own = type("VllmConfig", (Config,), {"__post_init__": Config.__post_init__})
    monkeypatch.setitem(sys.modules, "vllm", types.ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.config", types.SimpleNamespace(VllmConfig=own))
    with pytest.raises(WatermarkError, match="name wmcore in VLLM_PLUGINS"):
        binding._Processor.validate_params(Params())
    binding.guard()
    hook = own.__post_init__
    binding.guard()
    assert own.__post_init__ is hook
    binding._Processor.validate_params(Params())
    drafts, synthetic = (
        types.SimpleNamespace(rejection_sample_method=how) for how in ("standard", "synthetic")
    )
    assert own().checked
    assert own(speculative_config=drafts, use_v2_model_runner=True).checked
    for fields, message in [
        ({"speculative_config": drafts}, "the V1 model runner leaves logits processors out"),
        ({"speculative_config": synthetic, "use_v2_model_runner": True}, "synthetic rejection"),
        ({"watermark_config": "gumbel"}, "vLLM's own watermark and this one"),
    ]:
        with pytest.raises(WatermarkError, match=message):
            own(**fields)
    monkeypatch.delenv(binding.ENVIRONMENT)
    assert own(speculative_config=drafts).checked
    binding._Processor.validate_params(Params())


def test_rows_drawn_without_a_seed(mark):
    """Requests that share their parameters (one call, n texts) differ; ranks that share an instance id agree."""

    def drawn(instance, replica=0, second=False):
        settings = config()
        settings.instance_id = instance
        settings.parallel_config = types.SimpleNamespace(data_parallel_rank=replica)
        shared = Params()
        if second:
            lengths = types.SimpleNamespace(np=np.full(40, 3), gpu=None)
            slots = types.SimpleNamespace(vocab_size=WIDTH, prompt_len=lengths, prefill_len=lengths)
            processor = binding._Processor(settings, slots)
            for slot in range(40):
                processor.add_request(slot, shared)
            last = processor._texts[39].stream.shift
            slots.prefill_len = types.SimpleNamespace(np=np.full(40, 4))
            processor.add_request(0, shared)  # preempted with a token: the row that was kept
            assert processor._texts.pop(0).stream.shift == last
            return [one.stream.shift for one in processor._texts.values()]
        processor = binding._Processor(settings, torch.device("cpu"), False)
        processor.update_state(Update(40, added=[(i, shared, [1], []) for i in range(40)]))
        return [one.stream.shift for one in processor._texts.values()]

    assert len(set(drawn("a"))) > 10
    assert drawn("a") == drawn("a")
    assert len(set(drawn("a", second=True))) > 10
    assert drawn("a", second=True) == drawn("a")[1:]
    assert drawn("a") != drawn("b")
    assert drawn("a") != drawn("a", replica=1)
    assert drawn("") != drawn("")


def test_nothing_happens_without_a_watermark(monkeypatch):
    monkeypatch.delenv(binding.ENVIRONMENT, raising=False)
    processor = v1()
    assert processor.is_argmax_invariant()
    processor.update_state(Update(1, added=[(0, Params(), [1], [])]))
    logits = torch.randn(1, WIDTH)
    assert processor.apply(logits) is logits
    second = binding._Processor(config(), states(2))
    assert second.add_request(0, Params()) is False
    assert second.apply(logits, context([0], [3])) is logits
    for extra in (None, {}, {"other": 1}, {"wmcore": False}):
        binding._Processor.validate_params(Params(extra_args=extra))
    with pytest.raises(WatermarkError, match="wmcore: no watermark is set up on this server"):
        binding._Processor.validate_params(Params(extra_args={"wmcore": True}))


def test_bad_requests_and_servers_are_named(mark):
    for extra, message in [
        ({"wmcore": "yes"}, "wmcore is 'yes'"),
        ({"wmcore_label": 3}, "wmcore_label is a int"),
        ({"wmcore_label": "\ud800"}, "wmcore_label holds half a surrogate pair"),
        ({"wmcore_shift": N}, "wmcore_shift 40 is outside 0 to 39"),
        ({"wmcore_shift": 1.5}, "wmcore_shift 1.5 is not a whole number"),
        (
            {"wmcore_typo": 1},
            "'wmcore_typo' is no field of wmcore: use one of wmcore, wmcore_label, wmcore_shift",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            binding._Processor.validate_params(Params(extra_args=extra))
    binding._Processor.validate_params(Params(extra_args=SETTINGS[6]["extra_args"]))
    with pytest.raises(WatermarkError, match="vocab_size 60 exceeds the model's 59 logits"):
        binding._Processor(config(59), torch.device("cpu"), False)
    with pytest.raises(WatermarkError, match="vocab_size 60 exceeds the model's 59 logits"):
        binding._Processor(config(), states(1, 59))


def test_the_entry_point_is_declared():
    text = (Path(__file__).parent.parent / "setup.py").read_text(encoding="utf-8")
    target = "wmcore.bindings.vllm:WatermarkLogitsProcessor"
    assert f'"vllm.logits_processors": ["wmcore = {target}"]' in text
    module, name = target.split(":")
    assert isinstance(getattr(importlib.import_module(module), name), type)
    assert '"vllm.general_plugins": ["wmcore = wmcore.bindings.vllm:guard"]' in text


def test_the_class_needs_no_vllm_and_takes_the_bases_there_are(monkeypatch):
    for name in binding._INTERFACES:
        monkeypatch.setitem(sys.modules, name, None)
    assert binding._processor_class().__mro__[1:] == (binding._Processor, object)
    base = type("LogitsProcessor", (), {})
    stub = types.SimpleNamespace(LogitsProcessor=base)
    monkeypatch.setitem(sys.modules, binding._INTERFACES[0], stub)
    assert issubclass(binding._processor_class(), base)


@pytest.mark.parametrize("root", wheels() or [None], ids=str)
def test_with_the_interface_files_of_wheels(root, mark):
    """vLLM's own loaders take the class, in both runners, and its own dataclasses carry the calls. Not a server."""
    if root is None:
        pytest.skip("WMCORE_VLLM names no unpacked vLLM wheel")
    settings = ast.parse((root / "vllm/config/vllm.py").read_text(encoding="utf-8"))
    (settings,) = (n for n in settings.body if getattr(n, "name", "") == "VllmConfig")
    names = {getattr(n, "name", None) or getattr(n, "target", n) for n in settings.body}
    words = {getattr(n, "id", n) for n in names}
    assert {"__post_init__", "speculative_config"} <= words  # what the guard holds on to
    vllm_stubs.load(root)
    try:
        two = root / "vllm/v1/worker/gpu/sample/logits_processor"
        vars(binding).pop("WatermarkLogitsProcessor", None)
        from vllm.v1.sample.logits_processor import interface

        sys.modules["vllm.v1.sample.logits_processor"].LogitsProcessor = interface.LogitsProcessor
        made = binding.WatermarkLogitsProcessor
        assert issubclass(made, interface.LogitsProcessor)
        first = made(config(), torch.device("cpu"), False)
        output: list = []
        update = interface.BatchUpdate(
            batch_size=2, removed=[], added=[(0, Params(seed=1), [5], output)],
            moved=[(0, 1, interface.MoveDirectionality.SWAP)],
        )  # fmt: skip
        first.update_state(update)
        logits = torch.stack([logits_of([5])] * 2)
        after = first.apply(logits.clone())
        assert torch.equal(after[0], logits[0])
        token = only(after[1])
        assert token == wanted_token(mark, Params(seed=1), [5], [], row_of(Params(seed=1)))
        if not two.exists():
            return
        from vllm.v1.worker.gpu.sample import logits_processor as v2

        name = "wmcore.bindings.vllm:WatermarkLogitsProcessor"
        (loaded,) = v2.loader._load_v2_logitsprocs_by_fqcns([name])
        assert loaded is made
        fields = dict.fromkeys(v2.LogitsProcRequestState.__dataclass_fields__) | vars(states(3))
        fields["prompt_len"].gpu[2] = 1
        second = loaded(config(), v2.LogitsProcRequestState(**fields))
        assert second.add_request(2, Params(seed=1)) is True
        where = dict.fromkeys(v2.LogitsContext.__dataclass_fields__) | vars(context([0, 2], [0, 0]))
        after = second.apply(logits.clone(), v2.LogitsContext(**where))
        assert (only(after[0]), only(after[1])) == (None, token)
        binding.guard()
        check = v2.build_custom_logits_processors_params_validator([made])
        with pytest.raises(ValueError, match="wmcore_shift"):
            check(Params(extra_args={"wmcore_shift": -1}))
    finally:
        vars(binding).pop("WatermarkLogitsProcessor", None)
        vllm_stubs.forget()
