"""`wmcore derive`, and keys that come from the environment."""

import json
import os
import stat
from pathlib import Path

import pytest
from commands import V, one_line

from wmcore import Watermark

SECRET = "0123456789abcdef" * 4
KEYGEN = ("keygen", "--scheme", "exp", "--vocab-size", V)


def test_derive_writes_the_watermark_of_a_label(wm, mark):
    derive = ("derive", "-w", mark, "--label", "caf\u00e9 7", "-o", "tenant.json")
    code, out, err = wm(*derive)
    master, made = Watermark.load(mark), Watermark.load("tenant.json")
    assert (code, out) == (0, "")
    assert made.key == master.key.derive("caf\u00e9 7")
    assert repr(made).replace(made.fingerprint, "") == repr(master).replace(master.fingerprint, "")
    assert made.tokenizer == master.tokenizer
    assert stat.S_IMODE(os.stat("tenant.json").st_mode) == 0o600
    assert err == (
        f"wmcore: tenant.json: key {made.fingerprint}, derived from key {master.fingerprint}\n"
    )

    one_line(wm(*derive), r"tenant\.json: the file exists; choose another or add --force")
    one_line(wm(*derive[:-1], mark), r"mark\.json: the file exists")
    one_line(wm(*derive[:-1], "-"), "a secret is only written to a file")
    one_line(wm(*derive[:3], "--label", "", "-o", "x.json"), "'--label': it is empty")
    assert wm(*derive[:3], "--label", "other", "-o", "tenant.json", "--force")[0] == 0
    assert Watermark.load("tenant.json").key == master.key.derive("other")


def test_a_published_key_has_no_tenants(wm):
    Watermark.published("exp", seed=3, generator="torch", vocab_size=V).save("published.json")
    one_line(
        wm("derive", "-w", "published.json", "--label", "a", "-o", "x.json"),
        "label 'a' asks for a sub-key, which a published key does not have",
    )
    assert not os.path.exists("x.json")


def test_keygen_leaves_the_secret_in_the_environment(wm, monkeypatch):
    keygen = (*KEYGEN, "--key-from-env", "OUR_KEY", "-o", "mark.json")
    one_line(wm(*keygen), r"--key-from-env OUR_KEY: the variable is not set: .*openssl rand -hex 3")
    monkeypatch.setenv("OUR_KEY", "secret")
    one_line(wm(*keygen), "--key-from-env OUR_KEY is not 64 hexadecimal digits")
    assert not os.path.exists("mark.json")
    monkeypatch.setenv("OUR_KEY", SECRET)
    code, out, err = wm(*keygen)
    assert code == 0
    assert SECRET not in Path("mark.json").read_text() + out + err
    assert Watermark.load("mark.json").key.secret_hex == SECRET
    assert json.loads(Path("mark.json").read_text())["key"]["name"] == "OUR_KEY"
    monkeypatch.delenv("OUR_KEY")
    one_line(wm("derive", "-w", "mark.json", "--label", "a", "-o", "x.json"), "'OUR_KEY'")


def test_the_environment_names_the_watermark_file(wm, mark, monkeypatch):
    Path("in.jsonl").write_text('{"tokens": [1, 2]}\n')
    detect = ("detect", "--tokens-field", "tokens", "--resamples", 9, "in.jsonl")
    one_line(wm(*detect), "Missing option '--watermark'.*WMCORE_WATERMARK")
    monkeypatch.setenv("WMCORE_WATERMARK", str(mark))
    code, out, _ = wm(*detect)
    assert code == 0
    assert Watermark.load(mark).fingerprint in out
    one_line(wm(*detect, "-w", "other.json"), r"other\.json cannot be read")


@pytest.mark.parametrize(
    ("options", "tokenizer"),
    [
        (("--vocab-size", V, "--tokenizer", "letters"), "letters"),
        (("--model", "m"), "m"),
        (("--model", "m", "--tokenizer", "letters"), "letters"),
        (("--vocab-size", V), None),
    ],
)
def test_keygen_names_the_tokenizer(wm, monkeypatch, options, tokenizer):
    monkeypatch.setattr("wmcore.models.vocab_size_of", lambda _: V)
    assert wm("keygen", *options, "-o", "new.json")[0] == 0
    made = Watermark.load("new.json")
    assert (made.tokenizer, made.vocab_size) == (tokenizer, V)
