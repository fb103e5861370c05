"""What a call takes of a device: no launch too long, no more memory than there is, and the same counts all the same."""

import numpy as np
import pytest
from cuda_shim.device import ShimDevice
from test_backends import KEY, VOCAB, cpu, make_problem, null

from wmcore.kernels.constants import NOTHING
from wmcore.kernels.cuda import backend
from wmcore.kernels.cuda.backend import CudaBackend
from wmcore.kernels.cuda.device import pack as pack_bytes
from wmcore.kernels.cuda.groups import Bounds, Group, split
from wmcore.kernels.problem import CostTable, Resamples, pack


def test_no_launch_is_longer_than_the_device_allows():
    """Fewer resamples and fewer texts a launch, with the same counts."""
    texts = [np.random.default_rng(i).integers(0, 40, size=20 + i) for i in range(5)]
    for scheme in ("exp-edit", "exp"):
        problem = make_problem(scheme, 40, 300)
        packed = pack(texts, None)
        value = np.sort(null(problem, packed, 0, 96))[:, 40]
        limit = np.full(5, 99)
        some = Resamples(KEY, 0, 96)
        whole, short = ShimDevice(), ShimDevice(launch_cells=32 * 2500.0)
        expected = CudaBackend(whole).tally(problem, packed, value, limit, some, 1)
        found = CudaBackend(short).tally(problem, packed, value, limit, some, 1)
        assert np.array_equal(found, expected)
        assert expected[0].min() > 0
        assert short.launched.count("hits") > whole.launched.count("hits") == 1
        one = CudaBackend(short).null_values(problem, packed, 2, some, 1)
        assert np.array_equal(one, CudaBackend(whole).null_values(problem, packed, 2, some, 1))
        assert short.launched.count("null_values") > 1


class Full(ShimDevice):
    """A device with `left` bytes for scratch."""

    def __init__(self, left):
        super().__init__()
        self.left, self.given = left, []

    def measure(self):
        self.memory_bytes = 1 << 16

    def give_back(self, most=None):
        self.given.append(most)

    def full(self, shape, value, dtype):
        if np.prod(shape) * np.dtype(dtype).itemsize > self.left:
            raise MemoryError("no memory left")
        return super().full(shape, value, dtype)


def test_a_call_that_finds_no_memory_takes_less(monkeypatch):
    monkeypatch.setattr(backend, "LEAST_SCRATCH", 1 << 13)
    problem, packed = make_problem("exp", 40, 0), pack([np.arange(30)] * 3, None)
    some = Resamples(KEY, 0, 640)
    value, limit = np.full(3, -(2**30), np.int32), np.full(3, 99)
    device = Full(300)
    hits, used = CudaBackend(device).tally(problem, packed, value, limit, some, 1)
    assert hits.tolist() == [0] * 3
    assert used.tolist() == [640] * 3
    assert device.given[-1] is None  # in the end, too, and all of it before another try
    assert 0 in device.given
    with pytest.raises(MemoryError):
        CudaBackend(Full(50)).tally(problem, packed, value, limit, some, 1)


def test_ranks_are_drawn_where_they_have_room_if_memory_grows_meanwhile():
    """Other threads measure it, too: what was made for little memory is not used as if there had been more."""

    class Growing(ShimDevice):
        def launch(self, name, *rest, **more):
            self.memory_bytes = 1 << 22
            super().launch(name, *rest, **more)

        def full(self, *what):
            self.memory_bytes = 1 << 22
            return super().full(*what)

    problem, packed = make_problem("its", 5, vocab_size=5000), pack([np.arange(20)], None)
    some = Resamples(KEY, 0, 96)
    device = Growing(memory=1 << 15)
    values = CudaBackend(device).null_values(problem, packed, 0, some, 1)
    assert np.array_equal([values], null(problem, packed, 0, 96))


def test_parts_of_a_group_are_as_small_as_asked_for():
    most = 4.0
    group = Group(make_problem("exp", 5), np.arange(5), Bounds(0, 0, 0, 0, 0, np.arange(5)))
    for cells in ([0.1, 3.95, 3.9, 0.0, 0.1], [9.0, 1.0, 1.0, 9.0, 9.0], [0.0] * 5, [4.0] * 5):
        parts = split(group, np.array(cells), most)
        assert np.concatenate([part.members for part in parts]).tolist() == list(range(5))
        for part in parts:
            assert len(part.members) == 1 or sum(cells[i] for i in part.members) <= most
            assert part.bounds.level.tolist() == part.members.tolist()


def test_several_arrays_travel_as_one():
    arrays = [
        np.arange(3),
        np.empty(0, np.uint8),
        np.arange(300, dtype=np.int16)[::2],
        np.ones((2, 2)),
    ]
    packed, places = pack_bytes(arrays)
    assert all(at % 256 == 0 for at in places)
    for at, values in zip(places, arrays, strict=True):
        there = packed[at : at + values.nbytes].view(values.dtype).reshape(values.shape)
        assert np.array_equal(there, values)


@pytest.mark.parametrize("scheme", ["exp", "exp-edit", "its-edit"])
def test_a_call_sends_once(scheme):
    """Texts for all calls that are made about them in turn, and in each call all else that it needs, in one piece."""
    texts = [np.arange(m) % VOCAB for m in (9, 50, 12, 8)]
    problem, packed = make_problem(scheme, 40, 300), pack(texts, None)
    device = ShimDevice()
    there = CudaBackend(device)
    table = CostTable(cpu.exp_costs(KEY, np.arange(VOCAB), 40, 1), packed.distinct)
    there.observe(problem, packed, table, np.full(4, NOTHING, np.int32), 1)
    assert device.sent == 2
    some, limit = Resamples(KEY, 0, 64), np.full(4, 99)
    value = np.array([x.min() for x in null(problem, packed, 0, 64)])
    device.sent = 0
    hits, _ = there.tally(problem, packed, value, limit, some, 1)
    assert hits.tolist() == [1] * 4
    assert device.sent == 1
    there.null_values(problem, packed, 2, some, 1)
    assert device.sent == 2
    assert there.tally(problem, packed, value, limit * 0, some, 1)[1].tolist() == [0] * 4
    assert device.sent == 2
