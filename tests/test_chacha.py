"""ChaCha against published vectors (draft-strombergson-chacha-test-vectors, RFC 8439) and its twin."""

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmcore.kernels.cpu.chacha import keystream

ZERO = bytes(32)
ONES = b"\xff" * 32
COUNTING = bytes(range(32))

# key, 64-bit counter, 64-bit nonce, rounds, the block
PUBLISHED = [
    (
        ZERO,
        0,
        (0, 0),
        8,
        "3e00ef2f895f40d67f5bb8e81f09a5a12c840ec3ce9a7f3b181be188ef711a1e"
        "984ce172b9216f419f445367456d5619314a42a3da86b001387bfdb80e0cfe42",
    ),
    (
        ZERO,
        0,
        (0, 0),
        12,
        "9bf49a6a0755f953811fce125f2683d50429c3bb49e074147e0089a52eae155f"
        "0564f879d27ae3c02ce82834acfa8c793a629f2ca0de6919610be82f411326be",
    ),
    (
        ZERO,
        0,
        (0, 0),
        20,
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586",
    ),
    (
        ONES,
        0,
        (0xFFFFFFFF, 0xFFFFFFFF),
        8,
        "e163bbf8c9a739d18925ee8362dad2cdc973df05225afb2aa26396f2a9849a4a"
        "445e0547d31c1623c537df4ba85c70a9884a35bcbf3dfab077e98b0f68135f54",
    ),
    (
        COUNTING,
        1 | 0x09000000 << 32,
        (0x4A000000, 0),
        20,
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e",
    ),
]


def stream(key, counter, nonce, rounds, n_blocks=16):
    out = np.empty((16, n_blocks), np.uint32)
    keystream(np.frombuffer(key, "<u4"), counter, *nonce, rounds, out)
    return out


@pytest.mark.parametrize(("key", "counter", "nonce", "rounds", "block"), PUBLISHED)
def test_published_vectors(key, counter, nonce, rounds, block):
    assert stream(key, counter, nonce, rounds)[:, 0].astype("<u4").tobytes().hex() == block


@settings(max_examples=30, deadline=None)
@given(
    key=st.binary(min_size=32, max_size=32),
    counter=st.integers(0, 2**32 - 64),
    high=st.integers(0, 2**31 - 1),
    nonce=st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    rounds=st.sampled_from([8, 12, 20]),
)
def test_every_lane_equals_the_twin(key, counter, high, nonce, rounds):
    out = stream(key, counter | high << 32, nonce, rounds, 32)
    words = np.frombuffer(key, "<u4")
    for lane in range(32):
        expected = naive.chacha_block(words, (counter + lane) | high << 32, *nonce, rounds)
        assert out[:, lane].tolist() == expected
