"""On a real device (`make gpu`): what only a device has: torch, streams, graphs. test_backends.py runs there, too."""

import numpy as np
import pytest
import test_backends
import test_cuda_scored
import tiny
from matrices import PAPER, WHOLE_OR_BLOCKS
from test_backends import KEY, make_problem
from test_cuda_sample import DOMAIN_EXP, SECRET, exp_tokens, its_tokens, make_logits

from wmcore import Detector, Key, Watermark, WatermarkError, sampling
from wmcore.kernels import load, resolve
from wmcore.kernels.cuda import device as cuda_device
from wmcore.kernels.cuda.backend import CudaBackend
from wmcore.kernels.cuda.sample import ExpSampler, ItsSampler
from wmcore.kernels.problem import Problem, Resamples, pack

cpu, cuda = load("cpu"), load("cuda")
pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def works():
    """These tests were asked for: without a device they fail."""
    reason = cuda_device.why_not()
    if reason is not None:
        pytest.fail(f"no GPU test can run: {reason}")


@pytest.fixture(scope="module")
def beside(works):
    """The device with tiles beside shared memory, and little memory."""
    device = cuda_device.CupyDevice(0)
    device.shared_bytes, device.memory_bytes, device.block_threads = 64, 1 << 24, 256
    device.measure = lambda: None
    return CudaBackend(device)


@pytest.fixture
def torch(works):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.fail("this torch has no CUDA: install the CUDA build of torch")
    return torch


@pytest.mark.parametrize(("scheme", "blocks"), WHOLE_OR_BLOCKS)
def test_detection_at_full_size(scheme, blocks):
    block_length = 50 if blocks else None
    watermark = Watermark.create(
        scheme, vocab_size=49152, key=Key(bytes(32)), block_length=block_length
    )
    rng = np.random.default_rng(0)
    texts = [rng.zipf(1.3, size=m) % 49152 for m in (200, 199, 50, 300, 200)]
    one, two = (Detector(watermark, backend=name) for name in ("cuda", "cpu"))
    some = np.arange(0, 49152, 16)
    costs = two.engine.matrix(two.costs, some)
    best = some[costs[:, (9 + np.arange(200)) % 256].argmin(axis=0)]
    texts[0] = np.where(rng.random(200) < 0.5, best, texts[0])
    for stop_after in (50, None):
        a, b = (d.detect(texts, resamples=999, seed=1, stop_after=stop_after) for d in (one, two))
        assert [x.backend for x in a] == ["cuda"] * 5
        assert [{**x.to_dict(), "backend": ""} for x in a] == [
            {**x.to_dict(), "backend": ""} for x in b
        ]
    assert resolve("auto") is cuda


def test_memory_does_not_grow_with_resamples(monkeypatch):
    import cupy

    monkeypatch.setattr(cuda_device.CupyDevice, "give_back", lambda self, most=0: None)  # all seen

    problem = make_problem("its-edit", 256, 26214, 49152)
    text = np.random.default_rng(0).integers(0, 49152, size=200)
    packed = pack([text] * 64, None)
    value = np.full(64, -(2**30), np.int32)
    pool, used = cupy.get_default_memory_pool(), []
    for resamples in (4096, 65536):
        pool.free_all_blocks()
        some = Resamples(KEY, 0, resamples)
        cuda.tally(problem, packed, value, np.full(64, 2**40), some, 1)
        used.append(pool.total_bytes())
    assert 0 < used[1] <= max(used[0], cuda_device.device().memory_bytes) * 1.5


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("n_tokens", [1, 255, 257, 49152, 151936])
def test_samplers(torch, kind, n_tokens):
    rng = np.random.default_rng(n_tokens)
    logits = torch.from_numpy(make_logits(rng, 9, n_tokens, 4.0, n_tokens > 1)).cuda()
    logits = logits.to(getattr(torch, kind))
    on_host = logits.float().cpu().numpy()
    rows = rng.integers(0, 2**32, 9)
    device, stream = cuda_device.device(), torch.cuda.current_stream().cuda_stream
    exp = ExpSampler(device, SECRET, DOMAIN_EXP)
    order = rng.permutation(n_tokens).astype(np.int32)
    words = rng.integers(0, 2**32, 50).astype(np.uint32)
    its = ItsSampler(device, order, words)
    for _ in range(2):
        tokens = sampling.on_device(exp, logits, rows, 0.7, stream)
        assert tokens.tolist() == exp_tokens(on_host, 0.7, rows)
        tokens = sampling.on_device(its, logits, rows % 50, 0.7, stream)
        assert tokens.tolist() == its_tokens(on_host, 0.7, order, words[rows % 50])


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_every_16_bit_number(torch, kind):
    """Subnormal numbers too: a compiler that flushes them gives other tokens at a large scale."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).reshape(32, 2048)
    for part in (bits, torch.arange(1024, dtype=torch.int16).repeat(32, 2)):
        logits = part.contiguous().view(getattr(torch, kind))
        stream = torch.cuda.current_stream().cuda_stream
        exp = ExpSampler(cuda_device.device(), SECRET, DOMAIN_EXP)
        for scale in (1.0, 1e-3, 1e6):
            tokens = sampling.on_device(exp, logits.cuda(), np.arange(32), scale, stream)
            assert tokens.tolist() == exp_tokens(logits.float().numpy(), scale, np.arange(32))


@pytest.mark.parametrize("scheme", ["exp", "its"])
def test_the_draw_of_a_watermark(torch, scheme):
    """Views without a copy, other streams, checks; the tokens are those of the same logits on the CPU."""
    watermark = Watermark.create(scheme, vocab_size=3000, key=Key(bytes(32)))
    draw = sampling.watermarked(watermark)
    whole = torch.randn(6, 3, 3100, generator=torch.Generator().manual_seed(0)) * 4
    on_device = whole.cuda()
    rows = np.arange(6) * 7
    expected = draw(whole[:, -1, :3000], rows, 1.3).tolist()
    assert draw(on_device[:, -1, :3000], rows, 1.3).tolist() == expected
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(20):
            found = draw(on_device[:, -1, :3000], rows, 1.3, check=False)
    stream.synchronize()
    assert found.tolist() == expected
    on_device[2] = -torch.inf
    assert draw(on_device[:, -1, :3000], rows, 1.3, check=False)[2] == -1
    with pytest.raises(WatermarkError, match="no token to draw"):
        draw(on_device[:, -1, :3000], rows, 1.3)


def test_a_loop_without_a_wait_and_a_graph(torch):
    watermark = Watermark.create("exp", vocab_size=5000, key=Key(bytes(32)))
    for make in (
        lambda d: ExpSampler(d, watermark.key.words, DOMAIN_EXP),
        lambda d: ItsSampler(d, watermark.key.its_order(5000), watermark.key.its_words(256)),
    ):
        sampler = make(cuda_device.device())
        logits = torch.randn(16, 5000, device="cuda", dtype=torch.bfloat16)
        rows = torch.arange(16, device="cuda")
        out = torch.empty(16, dtype=torch.int64, device="cuda")
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        sampler.reserve(16, stream.cuda_stream)
        with torch.cuda.stream(stream):
            torch.cuda.set_sync_debug_mode("error")
            try:
                for _ in range(10):
                    sampling.on_device(sampler, logits, rows, 1.0, stream.cuda_stream, out)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                sampling.on_device(sampler, logits, rows, 1.0, stream.cuda_stream, out)
        for shift in range(3):
            logits.copy_(torch.randn(16, 5000, device="cuda"))
            rows.copy_(torch.arange(16) + shift)
            graph.replay()
            torch.cuda.synchronize()
            eager = sampling.on_device(
                sampler, logits, rows, 1.0, torch.cuda.current_stream().cuda_stream
            )
            assert out.tolist() == eager.tolist()


def test_generation_on_the_device(torch):
    """A model's text on the device carries the watermark; its tokens come from the fused sampler."""
    from wmcore import generate

    watermark = Watermark.create("exp-edit", vocab_size=300)
    model = tiny.llama(300).float().cuda()
    texts = generate(model, [[5, 6, 7], [8]], watermark, max_new_tokens=60, seed=1, eos=False)
    found = Detector(watermark, backend="cuda").detect([t.tokens for t in texts], resamples=999)
    assert [d.p_value for d in found] == [1 / 1000] * 2


def test_tiles_beside_shared_memory(beside):
    for scheme in PAPER:
        test_backends.test_ranges_batches_and_texts_of_limit_0(beside, scheme)
        test_backends.test_lengths_around_strips(beside, scheme, 300, None)
    scored_alignments(beside)


def scored_alignments(backend):
    """Every kernel of scored.cu."""
    for cost, alignment in test_cuda_scored.KINDS:
        problem = Problem(cost, alignment, 256, 58, 60, 59)
        scored = test_cuda_scored.make([200, 33, 300], bins=32)
        test_cuda_scored.compare(backend, problem, scored, 32, 163)


@pytest.fixture
def no_pool(works):
    """Every array is an allocation of its own: compute-sanitizer cannot see into CuPy's pool."""
    import cupy

    before = cupy.cuda.get_allocator()
    cupy.cuda.set_allocator(None)
    yield
    cupy.cuda.set_allocator(before)


def test_sanitizer_case(no_pool):
    """A short walk through every kernel, for compute-sanitizer."""
    for scheme in PAPER:
        test_backends.test_ranges_batches_and_texts_of_limit_0(cuda, scheme)
        test_backends.test_lengths_around_strips(cuda, scheme, 300, None)
    scored_alignments(cuda)
    test_backends.test_long_prefixes(cuda)
    test_backends.test_costs(cuda, 40)
    device = cuda_device.device()
    import cupy

    logits = cupy.zeros((3, 700), cupy.float32)
    rows, out = cupy.asarray(np.arange(3)), cupy.empty(3, cupy.int64)
    for sampler in (
        ExpSampler(device, SECRET, DOMAIN_EXP),
        ItsSampler(device, np.arange(700), np.arange(5)),
    ):
        sampler(logits, "float32", rows, 1.0, out, cupy.cuda.get_current_stream().ptr)
    assert (cupy.asnumpy(out) >= 0).all()
