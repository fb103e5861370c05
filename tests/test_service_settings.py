"""How the service is set, who may ask, and how much."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from services import files, watermark

from wmcore import WatermarkError
from wmcore.service.access import Gate, Tier, hashed, new_token
from wmcore.service.refusals import Refused
from wmcore.service.settings import Limits, Settings, for_host, is_local, settings_of

HASH = "sha256:" + "a" * 64
TIERS = f"""
[tiers.public]
coarse = true
texts_a_minute = 20
answer_after = 0.5
[tiers.experts]
tokens = ["{HASH}"]
"""


def read(folder, text, options=None, limits=None):
    path = folder / "service.toml"
    path.write_text(text)
    return settings_of(str(path), options or {}, limits or {})


def test_a_file_overruled_by_options(tmp_path):
    (a, b) = files(tmp_path, watermark(1), watermark(2))
    text = f'watermarks = ["a.json"]\nlevel = 0.01\n[limits]\ntexts = 3\ntokens = 5\n{TIERS}'
    found = read(tmp_path, text, {"level": None, "metrics": "off"}, {"tokens": 7, "texts": None})
    assert found.watermarks == (a,)  # named from where the file is
    assert (found.level, found.metrics) == (0.01, "off")
    assert found.limits == Limits(texts=3, tokens=7)
    public = Tier("public", (), 20, True, 0.5)
    assert found.tiers == (public, Tier("experts", (HASH,)))
    assert not found.open_in_full
    found = read(tmp_path, text, {"watermarks": [str(tmp_path)]})
    assert found.watermarks == (a, b)
    assert Settings.from_json(found.to_json()) == found


def test_without_a_file_one_tier_is_open(tmp_path):
    files(tmp_path, watermark())
    found = settings_of(None, {"watermarks": [str(tmp_path)]}, {})
    assert [tier.name for tier in found.tiers] == ["open"]
    assert found.open_in_full
    assert found.names == {"a": found.watermarks[0]}
    assert Settings.from_json(found.to_json()) == found


def test_the_configuration_in_the_documents(tmp_path):
    page = Path(__file__).resolve().parent.parent / "docs/service.md"
    (text,) = re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "keys").mkdir()
    paths = files(tmp_path / "keys", watermark())
    found = read(tmp_path, text)
    assert found.watermarks == paths
    public, experts = found.tiers
    assert (public.open, public.coarse, public.texts_a_minute) == (True, True, 20)
    assert not experts.open
    assert not found.open_in_full


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("level = ", "cannot be read as TOML"),
        ("levels = 3", "settings has 'levels', which is not known: use some of .*level, limits"),
        ("watermarks = 3", "watermarks must be a list of files and folders"),
        ("", "no watermark is given: give -w FILE"),
        ("level = 2", "level is 2, but must be a number from 0 to 1"),
        ('metrics = "some"', "metrics is 'some', but must be one of local, all, off"),
        ("threads = 0", "threads is 0, but must be a whole number from 1"),
        ("tokenizer = 3", "tokenizer is 3, but must be a string"),
        ("limits = 3", r"limits must be a table: write \[limits\]"),
        ("[limits]\ntexts = 0", "limits.texts is 0, but must be a whole number from 1"),
        ("[limits]\nseconds = nan", "limits.seconds is nan, but must be a number"),
        ("[limits]\nbytes = 1", "limits has 'bytes', which is not known"),
        ("tiers.a = 1", r"tiers.a must be a table"),
        ("[tiers.a]\n[tiers.b]", "tiers a and b have no tokens, but one open tier"),
        ("[tiers.a]\ntokens = []", "tiers.a.tokens must be a list of hashes"),
        ("[tiers.a]\nrate = 1", "tiers.a has 'rate', which is not known"),
        ("[tiers.a]\ncoarse = 1", "tiers.a.coarse is 1, but must be True or False"),
        ("[tiers.a]\ntexts_a_minute = 0", "tiers.a.texts_a_minute is 0, but"),
        ("[tiers.a]\nanswer_after = -1", "tiers.a.answer_after is -1, but"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    given = {} if "watermarks" in text or not text else {"watermarks": [str(tmp_path / "a.json")]}
    files(tmp_path, watermark())
    with pytest.raises(WatermarkError, match=message) as error:
        read(tmp_path, text, given)
    assert "service.toml" in str(error.value)


def test_a_token_in_place_of_its_hash_is_not_shown(tmp_path):
    token, _ = new_token()
    files(tmp_path, watermark())
    with pytest.raises(WatermarkError, match=r"tiers\.a\.tokens\[0\] is no hash") as error:
        read(tmp_path, f'watermarks = ["a.json"]\n[tiers.a]\ntokens = ["{token}"]')
    assert token not in str(error.value)


def test_a_token_of_two_tiers_is_refused():
    with pytest.raises(
        WatermarkError, match=r"tiers\.b\.tokens has a hash that stands in tiers\.a"
    ):
        Settings(("a.json",), tiers=(Tier("a", (HASH,)), Tier("b", (hashed("x"), HASH))))


def test_two_watermarks_of_one_name(tmp_path):
    (tmp_path / "x").mkdir()
    paths = files(tmp_path, watermark()) + files(tmp_path / "x", watermark(2))
    with pytest.raises(WatermarkError, match="both be called 'a': rename one"):
        _ = Settings(paths).names


def test_full_answers_for_everybody_must_be_asked_for():
    full = Settings(("a.json",))
    coarse = Settings(("a.json",), tiers=(Tier("public", coarse=True), Tier("x", (HASH,))))
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        assert for_host(full, host, False) == replace(full, only_local=True)
        assert for_host(full, host, True) == full
        assert for_host(coarse, host, False) == coarse
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""):
        assert for_host(coarse, host, False) == coarse
        assert for_host(full, host, True) == full
        with pytest.raises(WatermarkError, match="or say --open-to-all"):
            for_host(full, host, False)
    assert is_local("::ffff:127.0.0.1")
    assert not is_local(None)


def test_a_token_has_256_bits_and_its_hash_is_what_the_gate_keeps():
    token, kept = new_token()
    assert re.fullmatch(r"wmcore_[A-Za-z0-9_-]{43}", token)
    assert kept == hashed(token)
    assert re.fullmatch("sha256:[0-9a-f]{64}", kept)
    assert new_token()[0] != token
    tiers = [Tier("public"), Tier("experts", (HASH, kept)), Tier("staff", (hashed("other"),))]
    gate = Gate(tiers)
    assert gate.admit(token, None).tier.name == "experts"
    assert gate.admit("other", None).tier.name == "staff"
    assert gate.admit(None, "10.0.0.1").tier.name == "public"
    for wrong in ("", kept, token[:-1], "\ud800", "é"):
        with pytest.raises(Refused) as error:
            gate.admit(wrong, None)
        assert error.value.status == 401
        assert "Bearer" in error.value.headers["WWW-Authenticate"]
    with pytest.raises(Refused, match="a token is needed"):
        Gate(tiers[1:]).admit(None, "10.0.0.1")


def test_texts_a_minute():
    now = [0.0]
    gate = Gate([Tier("public", texts_a_minute=6)], clock=lambda: now[0])

    def seconds_to_wait(texts, address="10.0.0.1"):
        try:
            gate.count(gate.admit(None, address), texts)
        except Refused as error:
            return error.status, int(error.headers.get("Retry-After", 0))
        return None

    assert [seconds_to_wait(n) for n in (1, 4, 1)] == [None] * 3
    assert seconds_to_wait(2) == (429, 20)  # a text every ten seconds
    now[0] = 9.9
    assert seconds_to_wait(1) == (429, 1)
    now[0] = 10.1  # what was refused costs nothing
    assert seconds_to_wait(1) is None
    assert seconds_to_wait(6, "10.0.0.2") is None
    assert seconds_to_wait(7, "10.0.0.3") == (413, 0)
    now[0] = 1e6
    assert seconds_to_wait(6) is None
    assert seconds_to_wait(1) == (429, 10)
    assert seconds_to_wait(6, "2001:db8:1:2::1") is None
    assert seconds_to_wait(1, "2001:db8:1:2:ffff::1") == (429, 10)  # of the same network
    assert seconds_to_wait(6, "2001:db8:1:3::1") is None
    assert seconds_to_wait(6, "::ffff:10.0.0.4") is None  # IPv4, to a socket that takes both
    assert seconds_to_wait(6, "::ffff:10.0.0.5") is None
    assert seconds_to_wait(1, "10.0.0.5") == (429, 10)


def test_the_rates_of_no_more_clients_are_remembered_than_fit(monkeypatch):
    monkeypatch.setattr("wmcore.service.access._CLIENTS", 3)
    gate = Gate([Tier("public", texts_a_minute=1)], clock=lambda: 0.0)
    for last in range(5):
        gate.count(gate.admit(None, f"10.0.0.{last}"), 1)
    gate.count(gate.admit(None, "10.0.0.0"), 1)  # forgotten
    with pytest.raises(Refused):
        gate.count(gate.admit(None, "10.0.0.4"), 1)
