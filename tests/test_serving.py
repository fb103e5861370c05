"""What the bindings for servers share: wishes, refusals, first rows, forced rows, and what is counted and logged."""

import logging

import numpy as np
import pytest
import torch

from wmcore import Watermark, WatermarkError, sampling
from wmcore.bindings import _serving
from wmcore.bindings._serving import Sampling, Service, Wish
from wmcore.key import Key, PublishedKey

VOCAB, WIDTH, N = 60, 64, 40


@pytest.fixture
def mark():
    return Watermark.create("exp", vocab_size=VOCAB, key_length=N, key=Key(bytes(range(32))))


@pytest.fixture
def service(mark):
    return Service(mark, "tests.wmcore")


def test_a_wish_is_read_from_its_own_fields_alone():
    assert Wish.read(None) == Wish.read({"other": 1, "_wmcore_drawn_shift": 3}) == Wish()
    assert Wish.read({"wmcore": 1, "wmcore_label": "a", "wmcore_shift": 3}) == Wish(True, "a", 3)
    assert Wish.read({"wmcore": 0}) == Wish(False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"wmcore": "yes"}, "wmcore is 'yes'"),
        ({"wmcore": 2}, "wmcore is 2"),
        ({"wmcore_label": 3}, "wmcore_label is a int"),
        ({"wmcore_label": "\ud800"}, "half a surrogate pair"),
        ({"wmcore_shift": True}, "wmcore_shift True is not a whole number"),
        ({"wmcore_shift": "3"}, "wmcore_shift '3' is not a whole number"),
        ({"wmcore_typo": 1}, "'wmcore_typo' is no field of wmcore"),
        ({"WMCORE": False}, "'WMCORE' is no field of wmcore"),
    ],
)
def test_a_wish_that_cannot_be_meant_is_refused(fields, message):
    with pytest.raises(WatermarkError, match=message):
        Wish.read(fields)


def test_what_cannot_be_honoured_is_refused_and_counted(mark, service):
    strict = Service(mark, "tests.wmcore", required=True)
    greedy = Sampling(temperature=0.0)
    for one, wish, settings, message in [
        (service, Wish(shift=N), Sampling(), "wmcore_shift 40 is outside 0 to 39"),
        (service, Wish(shift=-1), Sampling(), "wmcore_shift -1 is outside"),
        (service, Wish(shift=10**5000), Sampling(), "wmcore_shift a int that cannot be shown"),
        (service, Wish(True), greedy, "temperature 0 draws no token"),
        (strict, Wish(), greedy, "temperature 0 draws no token"),
        (strict, Wish(False), Sampling(), "this server watermarks every request"),
    ]:
        before = one.counts["refused"]
        with pytest.raises(WatermarkError, match=message):
            one.admit(wish, settings)
        assert one.counts["refused"] == before + 1
    with pytest.raises(WatermarkError, match="is no field of wmcore"):
        strict.read({"wmcore_typo": 1})
    assert strict.counts["refused"] == 3
    assert strict.read({"wmcore_shift": 1}) == Wish(shift=1)
    assert service.admit(Wish(), Sampling())
    assert not service.admit(Wish(), greedy)
    assert not service.admit(Wish(False), Sampling())
    published = Watermark.published(
        "exp", seed=1, generator="mersenne", vocab_size=VOCAB, key_length=N
    )
    assert isinstance(published.key, PublishedKey)
    with pytest.raises(WatermarkError):
        Service(published, "tests.wmcore").admit(Wish(label="tenant"), Sampling())


def test_what_is_not_drawn_is_not_marked(mark, service):
    """Beam search picks tokens by their probabilities: like a temperature of 0, at any temperature."""
    beams = Sampling(otherwise="beam search")
    assert (beams.undrawn, Sampling(temperature=0.0).undrawn) == ("beam search", "greedy")
    assert Sampling().undrawn == ""
    assert service.open(Wish(), beams) is None
    assert service.counts == {"beam search": 1}
    strict = Service(mark, "tests.wmcore", required=True)
    for one, wish in ((service, Wish(True)), (strict, Wish())):
        with pytest.raises(WatermarkError, match="beam search draws no token"):
            one.admit(wish, beams)


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p", "repetition"])
def test_what_is_not_a_number_draws_nothing(mark, service, name):
    """vLLM lets some through: a row of NaN, which no key could mark."""
    settings = Sampling(**{name: float("nan")})
    assert service.open(Wish(), settings) is None
    assert service.open_admitted({"wmcore_shift": N}, settings) is None
    assert service.counts == {"a setting that is not a number": 2, "overruled": 1}
    with pytest.raises(WatermarkError, match="a setting that is not a number draws no token"):
        Service(mark, "tests.wmcore", required=True).admit(Wish(), settings)


def test_what_can_no_longer_be_refused_gets_the_servers_own_mark(mark, caplog):
    strict = Service(mark, "tests.wmcore", required=True)
    for fields in ({"wmcore": "yes"}, {"wmcore": False}, {"wmcore_shift": N, "wmcore_label": "a"}):
        stream = strict.open_admitted(fields, Sampling(), seed=3)
        assert stream.watermark == mark
        assert stream.shift == strict.first_row(Wish(), 3, None)
    assert strict.open_admitted(None, Sampling(temperature=0.0)) is None
    assert strict.open_admitted({"wmcore_shift": 5}, Sampling()).shift == 5
    assert strict.counts == {"overruled": 4, "marked": 4, "greedy": 1}
    assert sum("came past its check" in message for message in caplog.messages) == 4


def test_a_server_without_a_watermark_refuses_who_asks_for_one():
    for wish in (Wish(True), Wish(label="a"), Wish(shift=3)):
        with pytest.raises(WatermarkError, match="start it with WMCORE_VLLM_WATERMARK naming"):
            _serving.admitted(None, "vllm", wish, Sampling())
    for wish in (Wish(), Wish(False), Wish(False, label="a")):
        assert not _serving.admitted(None, "vllm", wish, Sampling())


def test_the_environment_sets_a_service_up(mark, tmp_path, monkeypatch, caplog):
    file, needed = _serving.variable("sglang"), "WMCORE_SGLANG_REQUIRED"
    assert _serving.installed("sglang", "tests.wmcore") is None
    monkeypatch.setenv(needed, "1")
    with pytest.raises(WatermarkError, match=f"{needed} is 1, but {file} names no watermark file"):
        _serving.installed("sglang", "tests.wmcore")
    mark.save(tmp_path / "mark.json")
    monkeypatch.setenv(file, str(tmp_path / "mark.json"))
    caplog.set_level(logging.INFO, "tests.wmcore")
    made = _serving.installed("sglang", "tests.wmcore")
    about = f"key {mark.fingerprint}, scheme exp, {N} rows; what would go unmarked is refused"
    assert caplog.messages == [f"wmcore: this process marks with {about}"]
    assert made.required
    assert made.watermark == mark
    assert _serving.installed("sglang", "tests.wmcore") is made  # one set of counts
    monkeypatch.setenv(needed, "yes")
    with pytest.raises(WatermarkError, match=f"{needed} is 'yes', but must be 0 or 1"):
        _serving.installed("sglang", "tests.wmcore")
    monkeypatch.delenv(needed)
    monkeypatch.setenv("WMCORE_SGLANG_WATERMAK", "mark.json")
    with pytest.raises(
        WatermarkError, match=f"WATERMAK is no variable of wmcore: use {needed} or {file}"
    ):
        _serving.installed("sglang", "tests.wmcore")
    monkeypatch.delenv("WMCORE_SGLANG_WATERMAK")
    for nothing in ("", " "):  # as a shell writes a variable that was not set
        monkeypatch.setenv(file, nothing)
        with pytest.raises(WatermarkError, match=f"{file} is empty"):
            _serving.installed("sglang", "tests.wmcore")


def test_each_file_keeps_its_service(mark, tmp_path):
    """With its counts, however many there are."""
    paths = [str(tmp_path / f"{i}.json") for i in range(20)]
    for path in paths:
        mark.save(path)
    first = [_serving.opened(path, "tests.wmcore", True) for path in paths]
    again = [_serving.opened(path, "tests.wmcore", True) for path in paths]
    assert all(a is b for a, b in zip(first, again, strict=True))


def test_first_rows(service):
    """Given, else of the seed, else of the lot, else random; each of the last three reaches all rows."""
    assert service.first_row(Wish(shift=7), 3, "lot") == 7
    assert service.first_row(Wish(), 3, "lot") == service.first_row(Wish(), 3, None)
    by_seed = [service.first_row(Wish(), seed, None) for seed in range(1000)]
    by_lot = [service.first_row(Wish(), None, str(i)) for i in range(1000)]
    at_random = [service.first_row(Wish(), None, None) for _ in range(1000)]
    assert by_lot == [service.first_row(Wish(), None, str(i)) for i in range(1000)]
    # A row is missed by 1,000 uniform draws once in 2.5e9 such tests.
    for rows in (by_seed, by_lot, at_random):
        assert set(rows) == set(range(N))


def test_one_line_a_request_proves_what_was_applied(service, mark, caplog):
    caplog.set_level(logging.INFO, "tests.wmcore")
    service.open(Wish(label="acme", shift=5), Sampling(), name="r1")
    service.open(Wish(False), Sampling(), name="r2")
    service.open(Wish(), Sampling(temperature=0.0), name="r3")
    assert service.open(Wish(shift=5), Sampling(), resumed=True).shift == 5
    derived = Watermark.create("exp", vocab_size=VOCAB, key_length=N, key=mark.key.derive("acme"))
    assert caplog.messages == [
        f"wmcore: request r1 marked: key {derived.fingerprint}, scheme exp, shift hash"
        f" {_serving.shift_hash(derived, 5)}",
        "wmcore: request r2 not marked: off",
        "wmcore: request r3 not marked: greedy",
    ]
    assert service.counts == {"marked": 1, "off": 1, "greedy": 1}
    secrets = (mark.key.secret_hex, derived.key.secret_hex, "acme")
    assert not any(secret in caplog.text for secret in secrets)
    hashes = {_serving.shift_hash(watermark, s) for watermark in (mark, derived) for s in range(N)}
    assert len(hashes) == 2 * N


def test_forced_rows_are_the_keys_and_the_others_are_untouched(service, mark):
    logits = torch.from_numpy(np.random.default_rng(1).normal(0, 2, (5, WIDTH)).astype(np.float32))
    settings = [Sampling(), Sampling(temperature=0.7, top_p=0.9), Sampling(top_k=3)]
    wishes = [Wish(shift=0), Wish(label="acme", shift=39), Wish(shift=20)]
    streams = [service.open(w, s) for w, s in zip(wishes, settings, strict=True)]
    before = logits.clone()
    rows, positions = [4, 0, 2], [0, 1, 100]
    _serving.force(logits, rows, streams, positions)
    assert torch.equal(logits[[1, 3]], before[[1, 3]])
    for row, stream, position in zip(rows, streams, positions, strict=True):
        one = stream.settings
        columns = [torch.tensor([v]) for v in (one.temperature, one.top_k, one.top_p, one.min_p)]
        x = _serving.truncated(before[[row], :VOCAB], *columns)
        key_row = np.array([(stream.shift + position) % N])
        token = int(sampling.watermarked(stream.watermark)(x, key_row, 1.0))
        assert logits[row].isfinite().nonzero().flatten().tolist() == [token]
        assert logits[row, token] == before[row, token]


def test_a_top_k_beyond_all_numbers_keeps_all_tokens(service):
    """vLLM lets any through, and an error in a row would end its engine."""
    logits = torch.from_numpy(np.random.default_rng(1).normal(0, 2, (2, WIDTH)).astype(np.float32))
    logits[1] = logits[0]
    settings = [Sampling(), Sampling(top_k=2**63)]
    _serving.force(logits, [0, 1], [service.open(Wish(shift=3), s) for s in settings], [0, 0])
    assert torch.equal(logits[0], logits[1])


def test_more_tenants_than_are_remembered(service):
    """Each has its own key's token, also where a batch has more keys than the draws that are kept."""
    count = 300
    streams = [service.open(Wish(label=str(i), shift=0), Sampling()) for i in range(count)]
    logits = torch.from_numpy(
        np.random.default_rng(1).normal(0, 2, (count, WIDTH)).astype(np.float32)
    )
    before = logits.clone()
    _serving.force(logits, range(count), streams, [0] * count)
    for i, stream in enumerate(streams):
        token = int(
            sampling.watermarked(stream.watermark)(before[[i], :VOCAB], np.zeros(1, int), 1.0)
        )
        assert logits[i].isfinite().nonzero().flatten().tolist() == [token]


def test_what_goes_unmarked_is_counted_and_said_once(service, caplog):
    """A row without a distribution is left to the server, and a text beyond the key is named."""
    stream = service.open(Wish(shift=0), Sampling())
    logits = torch.full((1, WIDTH), -torch.inf)
    for position in range(3):
        _serving.force(logits, [0], [stream], [position])
    assert not logits.isfinite().any()
    _serving.force(torch.full((1, WIDTH), torch.nan), [0], [stream], [3])
    assert service.counts["unmarked tokens"] == 4
    assert service.counts["texts with unmarked tokens"] == 1
    for position in (N - 1, N, N + 1):
        _serving.force(torch.zeros(1, WIDTH), [0], [stream], [position])
    assert service.counts["key used again"] == 1
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 2


@pytest.mark.parametrize("width", [VOCAB - 1, VOCAB + 4])
def test_an_its_key_draws_from_its_own_vocabulary_alone(width):
    """A row of another width would be read out of bounds."""
    mark = Watermark.create("its", vocab_size=VOCAB, key_length=N)
    for draw, x in (
        (sampling.watermarked(mark), torch.zeros(1, width)),
        (sampling.on_arrays(mark), np.zeros((1, width), np.float32)),
    ):
        with pytest.raises(ValueError, match=f"{width} columns, but the its key has 60 tokens"):
            draw(x, np.zeros(1, np.int64), 1.0)


def test_a_model_with_too_few_logits_is_refused(service):
    service.check_vocabulary(VOCAB, "HERE")
    service.check_vocabulary(None, "HERE")
    with pytest.raises(WatermarkError, match="HERE: the watermark's vocab_size 60 exceeds"):
        service.check_vocabulary(VOCAB - 1, "HERE")
