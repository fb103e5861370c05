"""Strategies of Python values: numbers of every kind, and things that may be a text of token ids."""

import array
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

WIDTHS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
FLOATS = ["float16", "float32", "float64", "longdouble"]


class Huge(int):
    """A number of more digits than Python prints; hypothesis must print it."""

    def __repr__(self):
        return "Huge(...)"


class Raises:
    """An array of somebody else's that fails when it is looked at."""

    def __init__(self, error):
        self.error = error

    def __array__(self, dtype=None, copy=None):
        raise self.error


class Wraps:
    """An array of somebody else's that hands out one of NumPy's."""

    def __init__(self, inner):
        self.inner = inner

    def __array__(self, dtype=None, copy=None):
        return self.inner


def _one_of(choices):
    """Strategy: one of these values, which need not be hashable."""
    return st.integers(0, len(choices) - 1).map(choices.__getitem__)


def numpy_scalars():
    """NumPy integers and floats of every width, at their limits too."""
    whole = [np.dtype(w).type(v) for w in WIDTHS for v in (0, 1, 7, 100, np.iinfo(w).max)]
    real = [np.dtype(w).type(v) for w in FLOATS for v in (0, 0.5, 3, 1e4, math.nan, math.inf)]
    return _one_of([*whole, *real, np.bool_(True), np.int64(-1), np.complex64(1)])


def odd_values():
    """Anything but a sensible number."""
    from_torch = _torch_values()
    return _one_of(
        [
            *(
                None,
                True,
                False,
                "",
                "1",
                "x\ny\x1b[31m",
                b"1",
                [],
                [1],
                {},
                (),
                object(),
                print,
                int,
            ),
            *(math.nan, math.inf, -math.inf, 1j, Decimal(3), Decimal("nan"), Fraction(7, 2)),
            *(
                Fraction(8),
                2**31,
                2**32,
                2**63,
                2**64,
                10**400,
                -(10**400),
                -1,
                -0.0,
                1e308,
                5e-324,
            ),
            *(
                Huge(10**5000),
                "x" * 1000,
                list(range(3000)),
                np.zeros((9, 9)),
                Raises(RuntimeError()),
            ),
            *(np.array(3), np.array([3]), np.array([]), np.ma.masked, np.datetime64("NaT")),
            *from_torch,
        ]
    )


def _torch_values():
    import torch

    return [torch.tensor(3), torch.tensor([3]), torch.tensor(2.5), torch.tensor([])]


def numbers():
    """A number, sensible or not."""
    small = st.integers(-2, 40) | st.floats(0, 4)
    return small | small | numpy_scalars() | odd_values() | st.integers() | st.floats()


def good_texts(vocab_size, longest=24):
    """A list of token ids that can be tested."""
    return st.lists(st.integers(0, vocab_size - 1), min_size=1, max_size=longest)


@st.composite
def dressed(draw, ids):
    """Token ids as another kind of sequence, which must give the same result."""
    width = draw(st.sampled_from([w for w in WIDTHS if max(ids) <= np.iinfo(w).max]))
    return _DRESSES[draw(st.sampled_from(sorted(_DRESSES)))](np.array(ids, width))


def _tensor(ids):
    import torch

    return torch.from_numpy(ids.copy())


def _read_only(ids):
    ids.flags.writeable = False
    return ids


_DRESSES = {
    "list": lambda ids: ids.tolist(),
    "tuple": lambda ids: tuple(ids.tolist()),
    "array": lambda ids: ids,
    "list of NumPy numbers": list,
    "every second": lambda ids: np.repeat(ids, 2)[::2],
    "backwards": lambda ids: ids[::-1].copy()[::-1],
    "other byte order": lambda ids: ids.astype(ids.dtype.newbyteorder(">")),
    "read only": _read_only,
    "subclass": lambda ids: ids.view(Kind),
    "somebody else's": lambda ids: Wraps(ids),
    "array module": lambda ids: array.array("q", ids.tolist()),
    "buffer": memoryview,
    "tensor": _tensor,
    "column of a tensor": lambda ids: _tensor(np.stack([ids, ids], 1))[:, 0],
    "list of tensors": lambda ids: list(_tensor(ids)),
}


class Kind(np.ndarray):
    """A subclass of arrays that changes nothing."""


@st.composite
def bad_texts(draw, vocab_size):
    """Things that are no text of token ids."""
    import torch
    from torch.masked import masked_tensor

    ids = np.array(draw(good_texts(vocab_size)))
    mask = np.zeros(len(ids), bool)
    mask[draw(st.integers(0, len(ids) - 1))] = True
    masked = np.ma.array(ids, mask=mask)
    tensor = torch.from_numpy(ids)
    name = draw(st.sampled_from(sorted(_BAD)))
    return name, _BAD[name](ids, vocab_size, masked, tensor, masked_tensor)


_BAD = {
    "masked": lambda ids, v, masked, *_: masked,
    "masked, nothing masked": lambda ids, *_: np.ma.array(ids),
    "masked inside": lambda ids, v, masked, *_: Wraps(masked),
    "masked torch": lambda ids, v, m, t, mt: mt(t, t >= 0),
    "masked constant": lambda ids, *_: [*ids.tolist(), np.ma.masked],
    "floats": lambda ids, *_: ids.astype(float),
    "halves": lambda ids, *_: ids.astype(np.float16),
    "complex": lambda ids, *_: ids.astype(complex),
    "truth": lambda ids, *_: ids > 2,
    "truth in a list": lambda ids, *_: [True, *ids.tolist()],
    "NumPy truth in a tuple": lambda ids, *_: (*ids.tolist(), np.True_),
    "times": lambda ids, *_: ids.astype("M8[s]"),
    "durations": lambda ids, *_: ids.astype("m8[s]"),
    "digits": lambda ids, *_: ids.astype(str),
    "digits in bytes": lambda ids, *_: ids.astype(bytes),
    "digits in a list": lambda ids, *_: [str(i) for i in ids],
    "objects": lambda ids, *_: np.array([object()] * len(ids), object),
    "none inside": lambda ids, *_: [*ids.tolist(), None],
    "not a number inside": lambda ids, *_: [*ids.tolist(), math.nan],
    "records": lambda ids, *_: np.zeros(3, [("a", "i4")]),
    "two dimensions": lambda ids, *_: ids[None],
    "no dimension": lambda ids, *_: np.array(ids[0]),
    "ragged": lambda ids, *_: [ids.tolist(), [1]],
    "matrix": lambda ids, *_: np.asmatrix(ids),
    "negative": lambda ids, *_: -1 - ids,
    "beyond": lambda ids, v, *_: ids + v,
    "beyond in few bits": lambda ids, *_: [*ids.tolist(), np.uint8(255)],
    "beyond 63 bits": lambda ids, *_: np.array([2**63 + 1], np.uint64),
    "beyond 64 bits": lambda ids, *_: [*ids.tolist(), 2**64 + 1],
    "beyond all bits": lambda ids, *_: [10**400],
    "wraps": lambda ids, *_: [2**32 + 1, 2**62],
    "empty": lambda *_: [],
    "empty floats": lambda *_: np.empty(0),
    "none": lambda *_: None,
    "number": lambda *_: 3.5,
    "string": lambda *_: "a text",
    "half of a pair": lambda *_: "\ud800",
    "bytes": lambda *_: b"abc",
    "more bytes": lambda *_: bytearray(b"abc"),
    "set": lambda ids, *_: set(ids.tolist()),
    "dict": lambda ids, *_: dict.fromkeys(ids.tolist()),
    "generator": lambda ids, *_: (i for i in ids.tolist()),
    "float tensor": lambda ids, v, m, t, *_: t.double(),
    "bfloat16 tensor": lambda ids, v, m, t, *_: t.bfloat16(),
    "truth tensor": lambda ids, v, m, t, *_: t > 0,
    "sparse tensor": lambda ids, v, m, t, *_: t.to_sparse(),
    "tensor without data": lambda ids, v, m, t, *_: t.to("meta"),
    "scalar tensor": lambda ids, v, m, t, *_: t[0],
    "broken": lambda *_: Raises(RuntimeError("first line\nsecond line")),
    "out of memory": lambda *_: Raises(MemoryError()),
    "class": lambda *_: int,
    "beyond, and very long": lambda ids, v, *_: np.full(1_000_000, v),
}
"""From token ids, the vocabulary's size, a masked array, a tensor and torch's way to mask one."""
