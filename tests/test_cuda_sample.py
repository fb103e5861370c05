"""The CUDA samplers, compiled for the host, draw the CPU samplers' tokens, from any logits."""

import gc
import threading
import weakref

import numpy as np
import pytest
from cuda_shim.device import ShimDevice
from hypothesis import given, settings
from hypothesis import strategies as st

from wmcore.kernels.constants import DOMAIN_EXP
from wmcore.kernels.cpu import sample
from wmcore.kernels.cuda.sample import ExpSampler, ItsSampler

SECRET = np.arange(8, dtype=np.uint32) * np.uint32(0x9E3779B9)
EXTREME_WORDS = [0, 1, 2, 2**31 - 1, 2**31, 3037000499, 3037000500, 2**32 - 2, 2**32 - 1]
ROWS = [0, 1, 2, 3, 255, 2**31, 2**32 - 1]


@pytest.fixture(scope="module")
def device():
    return ShimDevice(processors=3)


def make_logits(rng, rows, n_tokens, scale, holes):
    with np.errstate(over="ignore"):
        logits = (rng.normal(0, 1, (rows, n_tokens)) * scale).astype(np.float32)
    if holes:
        logits[rng.random(logits.shape) < 0.3] = -np.inf
        logits[rng.random(logits.shape) < 0.1] = np.nan
        logits[0] = -np.inf
        logits[1, n_tokens // 2] = np.inf
        logits[2] = np.nan
    return logits


def exp_tokens(logits, scale, rows):
    out = np.full(len(rows), -7, np.int64)
    logits = np.ascontiguousarray(logits)
    sample.exp_sample(logits, np.float32(scale), SECRET, DOMAIN_EXP, np.asarray(rows), out)
    return out.tolist()


def its_tokens(logits, scale, order, words):
    out = np.full(len(words), -7, np.int64)
    sample.its_sample(np.ascontiguousarray(logits), np.float32(scale), order, words, out)
    return out.tolist()


def draw(sampler, logits, scale, rows, kind="float32"):
    out = np.full(len(rows), -7, np.int64)
    sampler(logits, kind, np.asarray(rows, np.int64), scale, out, 0)
    return out.tolist()


@given(
    n_tokens=st.sampled_from([1, 2, 15, 16, 17, 255, 256, 257, 511, 1023, 1024, 1025, 3000, 9000]),
    scale=st.sampled_from([0.0, 1.0, 5.0, 30.0, 1e4, 3e38]),
    inverse=st.floats(0.1, 10),
    holes=st.booleans(),
    count=st.integers(3, 40),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=120, deadline=None)
def test_tokens_are_the_cpus(device, n_tokens, scale, inverse, holes, count, seed):
    rng = np.random.default_rng(seed)
    logits = make_logits(rng, count, n_tokens, scale, holes)
    rows = rng.choice(ROWS, count)
    exp = ExpSampler(device, SECRET, DOMAIN_EXP)
    assert draw(exp, logits, inverse, rows) == exp_tokens(logits, inverse, rows)
    order = rng.permutation(n_tokens).astype(np.int32)
    words = np.array(EXTREME_WORDS, np.uint32)
    places = rng.integers(0, len(words), count)
    its = ItsSampler(device, order, words)
    assert draw(its, logits, inverse, places) == its_tokens(logits, inverse, order, words[places])


@pytest.mark.parametrize("n_tokens", [151_936, 262_144])
def test_its_over_large_vocabularies(device, n_tokens):
    """More runs of 256 ranks than a block has threads, the last one cut or whole."""
    rng = np.random.default_rng(n_tokens)
    logits = make_logits(rng, 3, n_tokens, 3.0, False)
    order, words = rng.permutation(n_tokens).astype(np.int32), np.array(EXTREME_WORDS, np.uint32)
    its = ItsSampler(device, order, words)
    for rows in ([0, 3, 8], [1, 5, 6]):
        assert draw(its, logits, 1.0, rows) == its_tokens(logits, 1.0, order, words[rows])


def test_its_sums_that_fill_a_word(device):
    """Runs of 256 weights of which each has the greatest low 24 bits that there are."""
    n_tokens, words = 2048, np.arange(64, dtype=np.uint32) * np.uint32(2**26)
    x = np.concatenate([[0], np.linspace(-1.4, -1.38, 4095)]).astype(np.float32)
    weights = np.empty(4096, np.int32)
    sample.its_weights(x, 0, 4096, np.float32(1), weights)
    low = weights & (2**28 - 1)  # with more than 24 bits of it, too
    fullest = x[np.argmax(low)]
    assert 256 * int(low.max()) > 2**36 - 2**22
    logits = np.full((64, n_tokens), fullest, np.float32)
    logits[:, 1000] = 0
    order = np.random.default_rng(5).permutation(n_tokens).astype(np.int32)
    tokens = draw(ItsSampler(device, order, words), logits, 1.0, range(64))
    assert tokens == its_tokens(logits, 1.0, order, words)


def test_a_vocabulary_beyond_shared_memory_is_refused():
    device = ShimDevice(shared_bytes=1024)
    with pytest.raises(
        ValueError, match=r'40000 tokens needs 1336 bytes .* has 1024: use backend="cpu"'
    ):
        ItsSampler(device, *its_numbers(40_000))


def test_equal_scores_go_to_the_lowest_token(device):
    """Numbers so large that a Gumbel number changes none of them: only the order decides."""
    logits = np.full((4, 5000), -3e30, np.float32)
    logits[1, 4999] = logits[1, 700] = logits[1, 4100] = 1e30
    logits[2, 3] = logits[2, 2] = 1e30
    exp = ExpSampler(device, SECRET, DOMAIN_EXP)
    assert draw(exp, logits, 1.0, range(4)) == [0, 700, 2, 0]


def test_a_call_leaves_nothing_behind(device):
    """Scratch is zero again after every call, also for rows without a token, so the next call starts afresh."""
    rng = np.random.default_rng(4)
    order, words = rng.permutation(3000).astype(np.int32), np.array(EXTREME_WORDS, np.uint32)
    samplers = ExpSampler(device, SECRET, DOMAIN_EXP), ItsSampler(device, order, words)
    many = make_logits(rng, 9, 3000, 3.0, True)
    fresh = {}
    for sampler in samplers:
        first = draw(sampler, many, 1.0, range(9))
        fresh[sampler] = draw(sampler, many[4:], 1.0, range(5))
        assert draw(sampler, many, 1.0, range(9)) == first
        draw(
            sampler, many, 1.0, [0, 1, 2, 2**40, -1, 5, 6, 7, 8]
        )  # its: two rows that there are not
        (scratch,) = sampler._scratch.values()
        assert not any(device.to_host(array).any() for array in scratch[1])
    assert fresh[samplers[0]] == exp_tokens(many[4:], 1.0, range(5))


def test_no_allocation_after_the_first_call(device):
    exp = ExpSampler(device, SECRET, DOMAIN_EXP)
    logits = np.zeros((5, 300), np.float32)
    draw(exp, logits, 1.0, range(5))
    room = exp._scratch[0]
    draw(exp, logits[:3], 1.0, range(3))
    assert exp._scratch[0] is room
    draw(exp, np.zeros((300, 2), np.float32), 1.0, range(300))
    assert exp._scratch[0][0] == 512


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_every_16_bit_number(device, kind):
    torch = pytest.importorskip("torch")
    bits = np.arange(65536, dtype=np.uint16).view(np.int16).reshape(32, 2048)
    logits = torch.from_numpy(bits).view(getattr(torch, kind)).float().numpy()
    exp = ExpSampler(device, SECRET, DOMAIN_EXP)
    for scale in (1.0, 1e-3, 1e30):
        expected = exp_tokens(logits, scale, range(32))
        assert draw(exp, bits, scale, range(32), kind) == expected
    order = np.arange(2048, dtype=np.int32)[::-1].copy()
    words = np.arange(32, dtype=np.uint32) * np.uint32(2**27)
    expected = its_tokens(logits, 1.0, order, words)
    assert draw(ItsSampler(device, order, words), bits, 1.0, range(32), kind) == expected


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "float64"])
def test_torch_tensors_by_dlpack(device, kind):
    """What `wmcore.sampling` does with a CUDA tensor, on tensors of the CPU: views, slices, any float type."""
    torch = pytest.importorskip("torch")
    from wmcore.sampling import on_device

    rng = np.random.default_rng(7)
    whole = torch.from_numpy(rng.normal(0, 4, (6, 3, 700))).to(getattr(torch, kind))
    exp = ExpSampler(device, SECRET, DOMAIN_EXP)
    for logits in (whole[:, -1], whole[:, -1, :600], whole[::2, 0], whole[:, 0, ::2], whole[:0, 0]):
        rows = np.arange(len(logits)) + 3
        tokens = on_device(exp, logits, rows, 0.7, 0)
        assert tokens.tolist() == exp_tokens(logits.float().numpy(), 0.7, rows)
        out = torch.full((len(logits),), -7)
        assert on_device(exp, logits, torch.from_numpy(rows), 0.7, 0, out) is out
        assert out.tolist() == tokens.tolist()


def test_what_the_kernels_could_not_read_is_refused_or_made_readable(device):
    torch = pytest.importorskip("torch")
    from wmcore.sampling import on_device

    logits = torch.from_numpy(np.random.default_rng(3).normal(0, 3, (5, 300)).astype(np.float32))
    exp = ExpSampler(device, SECRET, DOMAIN_EXP)
    for rows in (torch.arange(10)[::2], torch.arange(0, 10, 2, dtype=torch.int32)):
        tokens = on_device(exp, logits, rows, 1.0, 0)
        assert tokens.tolist() == exp_tokens(logits.numpy(), 1.0, np.arange(0, 10, 2))
    with pytest.raises(ValueError, match="rows has 4 numbers, but logits has 5 rows"):
        on_device(exp, logits, np.arange(4), 1.0, 0)
    for out in (torch.empty(5), torch.empty(4, dtype=torch.int64), torch.arange(10)[::2]):
        with pytest.raises(ValueError, match="out must be a contiguous int64 tensor of 5"):
            on_device(exp, logits, np.arange(5), 1.0, 0, out)
    its = ItsSampler(device, np.arange(299), np.arange(5))
    with pytest.raises(ValueError, match="logits has 300 columns, but the key's order has 299"):
        on_device(its, logits, np.arange(5), 1.0, 0)


def test_scratch_that_was_outgrown_is_kept_for_graphs(device):
    exp = ExpSampler(device, SECRET, DOMAIN_EXP)
    draw(exp, np.zeros((5, 2), np.float32), 1.0, range(5))
    before = exp._scratch[0][1]
    draw(exp, np.zeros((300, 2), np.float32), 1.0, range(300))
    assert any(held is before for held in exp._outgrown)


def test_reserved_scratch_is_what_a_call_uses(device):
    """As before the capture of a CUDA graph, on the stream of the capture."""
    for sampler in (ExpSampler(device, SECRET, DOMAIN_EXP), ItsSampler(device, *its_numbers(30))):
        sampler.reserve(300, 0)
        room = sampler._scratch[0]
        draw(sampler, np.zeros((300, 30), np.float32), 1.0, np.zeros(300))
        assert sampler._scratch[0] is room


def its_numbers(n_tokens):
    return np.arange(n_tokens, dtype=np.int32), np.array(EXTREME_WORDS, np.uint32)


@pytest.mark.parametrize("scheme", ["exp", "its"])
def test_two_threads_on_one_stream(scheme):
    """A second call that comes between the launches of a first one spoils neither's tokens."""
    inside, done = threading.Event(), threading.Event()

    class Slow(ShimDevice):
        def launch(self, name, *rest, **more):
            if threading.current_thread() is not threading.main_thread() or inside.is_set():
                return super().launch(name, *rest, **more)
            super().launch(name, *rest, **more)
            inside.set()
            done.wait(1)  # the other thread's whole call, if nothing keeps it out

    rng = np.random.default_rng(2)
    device = Slow(processors=3)
    logits = [make_logits(rng, 5, 3000, 3.0, False) for _ in range(2)]
    order, words = rng.permutation(3000).astype(np.int32), np.array(EXTREME_WORDS, np.uint32)
    sampler = (
        ExpSampler(device, SECRET, DOMAIN_EXP)
        if scheme == "exp"
        else ItsSampler(device, order, words)
    )
    found = {}

    def other():
        inside.wait()
        found[1] = draw(sampler, logits[1], 1.0, range(5))
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    found[0] = draw(sampler, logits[0], 1.0, range(5))
    thread.join()
    for i in range(2):
        expected = (
            exp_tokens(logits[i], 1.0, range(5))
            if scheme == "exp"
            else its_tokens(logits[i], 1.0, order, words[:5])
        )
        assert found[i] == expected


def test_a_row_that_the_key_does_not_have_gives_no_token(device):
    order, words = its_numbers(30)
    logits = np.zeros((4, 30), np.float32)
    rows = [0, -1, len(words), 2**40]
    tokens = draw(ItsSampler(device, order, words), logits, 1.0, rows)
    assert tokens[0] >= 0
    assert tokens[1:] == [-1, -1, -1]


@pytest.mark.parametrize("kind", [ExpSampler, ItsSampler])
def test_a_key_is_freed_after_all_that_reads_it(kind):
    """A sampler may be gone before the device has read its key."""
    events = []

    class Device(ShimDevice):
        def kept(self, values):
            made = super().kept(values)
            weakref.finalize(made, events.append, "freed")
            return made

        def wait(self):
            events.append("waited")

    sampler = kind(Device(), *((SECRET, DOMAIN_EXP) if kind is ExpSampler else its_numbers(30)))
    assert not events
    del sampler
    gc.collect()
    assert events[0] == "waited"
    assert set(events[1:]) == {"freed"}


def test_too_many_rows_for_a_launch(device):
    exp = ExpSampler(device, SECRET, DOMAIN_EXP)
    with pytest.raises(ValueError, match="logits has 65536 rows"):
        draw(exp, np.zeros((65536, 1), np.float32), 1.0, np.zeros(65536))
