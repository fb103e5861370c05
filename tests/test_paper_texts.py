"""Texts of the paper's experiments: what is written, under which name, how often, and what is known of it."""

import dataclasses
import json
import linecache
import os
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")

import tiny_study
import torch
from tiny_study import END, NEWS, V, make, spoken

from wmcore.errors import WatermarkError
from wmcore.generation import generate
from wmcore.key import Key
from wmcore.paper import run
from wmcore.paper.attacks import ATTACKS, attack_of
from wmcore.paper.contract import Trial
from wmcore.paper.methods import METHODS
from wmcore.paper.points import law
from wmcore.paper.prompts import read_prompts
from wmcore.paper.study import model_of, tokenizer_of
from wmcore.paper.testing import TESTS
from wmcore.paper.texts import (
    Text,
    TextSet,
    address,
    is_written,
    load,
    part_path,
    secret_of,
    shift_of,
)
from wmcore.watermark import Watermark

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture
def study(tiny_model, tmp_path):
    return study_of(tiny_model, tmp_path / "study")


def study_of(given, folder, **others):
    return tiny_study.study(*given, folder, **others)


def written(study, texts, count=5):
    make(study, texts=[(texts, count)])
    return load(study, texts, count)


FOUND_BY = {"exp": "exp", "its": "its", "kgw-2": "kgw", "synthid": "synthid"}


@pytest.mark.parametrize("method", FOUND_BY)
def test_a_text_is_found_by_its_own_key_and_by_no_other(study, method):
    sets = TextSet("news", method, new_tokens=30, key_length=40)
    texts = [text.tokens for text in written(study, sets)]
    own = [secret_of(study, sets, i) for i in range(5)]
    assert len(set(own)) == 5
    trial = Trial(V, 40, 199, None, 1)
    found = TESTS[FOUND_BY[method]].p_values(texts, own, trial)
    others = TESTS[FOUND_BY[method]].p_values(texts, own[1:] + own[:1], trial)
    assert np.all(found <= 0.05)
    assert np.median(found) == 0.005
    assert np.median(others) > 0.05  # by chance, three of five at or below: 1e-3


LAWS = [(1.0, 1.0), (0.7, 0.9), (0.5, 1.0)]


@pytest.mark.parametrize(("temperature", "top_p"), LAWS)
@pytest.mark.parametrize("kind", ["news", "instructions"])
@pytest.mark.parametrize("method", ["exp", "its"])
def test_marked_texts_are_those_of_generate(study, method, kind, temperature, top_p):
    sets = TextSet(kind, method, temperature, top_p, new_tokens=12, key_length=10)
    model, tokenizer = model_of(study.model, "cpu")
    prompts = read_prompts(kind, study.sources[kind], tokenizer, 3)
    for text, prompt in zip(written(study, sets, 3), prompts, strict=True):
        key = Key(secret_of(study, sets, text.number))
        mark = Watermark.create(method, vocab_size=V, key_length=10, key=key)
        with pytest.warns(UserWarning, match="key length 10"):
            (same,) = generate(
                model,
                [prompt.tokens],
                mark,
                max_new_tokens=12,
                temperature=temperature,
                top_p=None if top_p == 1 else top_p,
                shifts=shift_of(study, sets, text.number),
                eos=kind == "instructions",
                tokenizer=tokenizer,
            )
        assert text.text == same.text
        assert text.tokens.dtype == np.int64
        if kind == "instructions" and same.tokens[-1] == END:
            assert text.tokens.tolist() == same.tokens[:-1]
        else:
            assert text.tokens.tolist() == same.tokens
            assert len(text.tokens) == 12
        assert len(text.entropy) == len(text.log_probability) == len(text.tokens)


def test_plain_texts_are_those_of_generate(study):
    sets = TextSet("news", "plain", new_tokens=12)
    model, tokenizer = model_of(study.model, "cpu")
    prompts = read_prompts("news", study.sources["news"], tokenizer, 5)
    same = generate(
        model,
        [prompt.tokens for prompt in prompts],
        None,
        max_new_tokens=12,
        seed=study.number(1 << 62, "draws", address(study, sets)),
        eos=False,
    )
    assert [text.tokens.tolist() for text in written(study, sets)] == [one.tokens for one in same]


def test_answers_end_before_the_end_of_text_token_and_news_do_not(tiny_model, tmp_path):
    study = study_of(tiny_model, tmp_path / "study", seed=2)
    answers = written(study, TextSet("instructions", "plain", new_tokens=60), 10)
    lengths = [len(text.tokens) for text in answers]
    assert min(lengths) < 60
    assert not any(END in text.tokens for text in answers)
    news = written(study, TextSet("news", "plain", new_tokens=60), 10)
    assert [len(text.tokens) for text in news] == [60] * 10
    assert any(END in text.tokens for text in news)


def test_an_end_of_text_token_that_only_the_tokenizer_knows_ends_answers(
    tiny_model, tmp_path, monkeypatch
):
    study = study_of(tiny_model, tmp_path / "study", seed=2)
    model, _ = model_of(study.model, "cpu")
    monkeypatch.setattr(model.config, "eos_token_id", None)
    monkeypatch.setattr(model.generation_config, "eos_token_id", None)
    answers = written(study, TextSet("instructions", "plain", new_tokens=60), 10)
    assert min(len(text.tokens) for text in answers) < 60


# Names


CHANGED = {
    "kind": "instructions",
    "method": "its",
    "temperature": 0.9,
    "top_p": 0.9,
    "new_tokens": 31,
    "key_length": 41,
    "attack": "synonyms-50",
}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(TextSet)])
def test_a_set_has_another_name_with_another_value_of_each_field(study, field):
    base = TextSet("news", "exp", 1.0, 1.0, 30, 40, "none")
    other = dataclasses.replace(base, **{field: CHANGED[field]})
    assert address(study, other) != address(study, base)


def test_a_set_has_another_name_with_whatever_else_changes_a_text(tiny_model, tmp_path):
    model, sources = tiny_model
    sets = TextSet("news", "exp")
    lines = Path(sources["news"]).read_text(encoding="utf-8")
    changed = tmp_path / "changed.jsonl"
    changed.write_text(lines.replace("w7 ", "w8 ", 1), encoding="utf-8")
    titled = tmp_path / "titled.jsonl"
    records = [{"title": "w1", **json.loads(line)} for line in lines.splitlines()]
    titled.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    mark = Watermark.create("exp", vocab_size=V, key_length=40, key=Key(bytes(32)))
    mark.save(tmp_path / "mark.json")
    dataclasses.replace(mark, vocab_size=V - 4).save(tmp_path / "smaller.json")
    studies = [
        study_of(tiny_model, tmp_path),
        study_of(tiny_model, tmp_path, seed=2),
        study_of(tiny_model, tmp_path, batch_size=6),
        study_of((model, {"news": str(changed)}), tmp_path),
        study_of((model, {"news": str(titled)}), tmp_path),
        study_of((model, {"news": f"{titled}:title"}), tmp_path),
        study_of(tiny_model, tmp_path, watermark=tmp_path / "mark.json"),
        study_of(tiny_model, tmp_path, watermark=tmp_path / "smaller.json"),
    ]
    assert len({address(study, sets) for study in studies}) == len(studies)


def test_a_set_keeps_its_name_with_whatever_changes_no_text(tiny_model, tmp_path):
    model, sources = tiny_model
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(Path(sources["news"]).read_bytes())
    here = study_of(tiny_model, tmp_path)
    there = study_of((model, {"news": str(copy)}), tmp_path / "elsewhere")
    named = study_of((model, {"news": f"{copy}:text"}), tmp_path)
    moved = study_of((str(shutil.copytree(model, tmp_path / "model")), sources), tmp_path)
    sets = TextSet("news", "exp")
    assert len({address(one, sets) for one in (here, there, named, moved)}) == 1
    for method in ("kgw-2", "synthid", "plain", "human"):
        two = (TextSet("news", method, key_length=n) for n in (40, 50))
        assert len({address(here, one) for one in two}) == 1
    two = (TextSet("news", "human", temperature=t) for t in (0.5, 1.0))
    assert len({address(here, one) for one in two}) == 1


def test_a_model_that_was_trained_anew_has_another_name(tiny_model, tmp_path, monkeypatch):
    model, sources = tiny_model
    copy = Path(shutil.copytree(model, tmp_path / "model"))
    study, again = (study_of((str(copy), sources), tmp_path) for _ in range(2))
    name = address(study, TextSet())
    assert address(again, TextSet()) == name
    assert address(study_of((f"{copy}/", sources), tmp_path), TextSet()) == name
    os.utime(copy / "model.safetensors", ns=(1, 1))
    assert address(study_of((str(copy), sources), tmp_path), TextSet()) == name
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    trained = address(study_of((str(copy), sources), tmp_path), TextSet())
    assert trained != name
    monkeypatch.setattr("wmcore.paper.study._READ_WHOLE", 100)  # then by size and time
    name = address(study_of((str(copy), sources), tmp_path), TextSet())
    os.utime(copy / "model.safetensors", ns=(2, 2))
    assert address(study_of((str(copy), sources), tmp_path), TextSet()) != name


ADDED = """
from wmcore.paper.attacks import ATTACKS
from wmcore.paper.contract import Attack, Method
from wmcore.paper.methods import METHODS

METHODS["mine"] = Method("mine", "mine", None)
ATTACKS["mine"] = Attack("mine", texts=lambda texts, seed: texts)


def attack(texts, seed):
    return texts
"""


def test_what_users_add_is_known_by_its_source(tiny_model, tmp_path, monkeypatch):
    for table in (METHODS, ATTACKS):
        monkeypatch.setitem(table, "mine", None)
    monkeypatch.syspath_prepend(tmp_path)
    sets = [
        TextSet("news", "mine"),
        TextSet("news", "exp", attack="mine"),
        TextSet("news", "exp", attack="added:attack"),
        TextSet("news", "exp"),
    ]
    names = []
    for i in range(2):
        (tmp_path / "added.py").write_text(f"{ADDED}\nVERSION = {10**i}\n", encoding="utf-8")
        sys.modules.pop("added", None)
        attack_of.cache_clear()
        linecache.checkcache()
        study = study_of(tiny_model, tmp_path, modules=("added",))
        study.begin()
        names.append([address(study, one) for one in sets])
    first, second = names
    assert [a == b for a, b in zip(first, second, strict=True)] == [False, False, False, True]
    assert len({*first, *second}) == 7
    del sys.modules["added"]
    attack_of.cache_clear()


def test_a_device_that_is_not_there(tiny_model):
    with pytest.raises(WatermarkError, match=r"--device nowhere: .*; use cpu$"):
        model_of(tiny_model[0], "nowhere")


def test_texts_have_keys_shifts_and_draws_of_their_own(study):
    sets = [TextSet("news", method, t) for method in ("exp", "its") for t in (1.0, 0.7)]
    secrets = {secret_of(study, one, i) for one in sets for i in range(9)}
    assert len(secrets) == 4 * 9
    shifts = [shift_of(study, one, i) for one in sets for i in range(200)]
    assert set(shifts) <= set(range(256))
    assert len(set(shifts)) > 200  # 800 draws of 256 leave out 11 on average
    attacked = dataclasses.replace(sets[0], attack="synonyms-50")
    assert secret_of(study, attacked, 3) == secret_of(study, sets[0], 3)


def test_about_says_what_a_folder_holds_and_no_secret(study):
    sets = TextSet("news", "exp", new_tokens=4)
    written(study, sets)
    folder = part_path(study, sets, 0).parent
    about = (folder / "about.json").read_text(encoding="utf-8")
    assert json.loads(about)["method"] == "exp"
    assert json.loads(about)["source"].endswith(":text")
    assert secret_of(study, sets, 0).hex() not in about


# Parts


def stamps(study):
    """{file: (inode, time of its last change)} of all texts."""
    found = (study.folder / "texts").rglob("*.parquet")
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def test_texts_grow_in_number_and_no_part_is_written_twice(study):
    sets = [TextSet("news", "exp", new_tokens=4), TextSet("news", "human", new_tokens=4)]
    make(study, texts=[(one, 3) for one in sets])
    first, few = stamps(study), [text.tokens.tolist() for text in load(study, sets[0], 3)]
    assert len(first) == 2
    make(study, texts=[(one, 5) for one in sets])  # the part holds five
    assert stamps(study) == first
    make(study, texts=[(one, 12) for one in sets])
    grown = stamps(study)
    assert len(grown) == 6
    assert {path: grown[path] for path in first} == first
    many = [text.tokens.tolist() for text in load(study, sets[0], 12)]
    assert many[:3] == few
    assert [text.number for text in load(study, sets[0], 12)] == list(range(12))


def test_a_source_with_fewer_prompts_gives_fewer_texts(study):
    sets = TextSet("news", "exp", new_tokens=4)
    texts = written(study, sets, 30)
    assert [text.number for text in texts] == list(range(NEWS))
    assert is_written(study, sets, 30)
    before = stamps(study)
    make(study, texts=[(sets, 30)])
    assert stamps(study) == before


def test_texts_of_people_begin_again_under_other_keys(study):
    sets = TextSet("news", "human", new_tokens=20)
    texts = written(study, sets, 40)
    tokenizer = tokenizer_of(study.model)
    prompts = read_prompts("news", study.sources["news"], tokenizer, 100)
    assert len(prompts) == NEWS
    for text in texts:
        assert text.tokens.tolist() == prompts[text.number % NEWS].human[:20]
        assert text.text == spoken(text.tokens)
        assert not len(text.entropy)
        assert not len(text.log_probability)
    assert len({secret_of(study, sets, text.number) for text in texts}) == 40


def test_a_text_is_read_as_it_was_written(study):
    sets = TextSet("news", "exp", new_tokens=8)
    for text in written(study, sets):
        assert text.tokens.dtype == np.int64
        assert text.entropy.dtype == text.log_probability.dtype == np.float32
        assert text.text == spoken(text.tokens)


def test_a_watermark_for_more_logits_than_the_model_has_is_an_error(tiny_model, tmp_path):
    mark = Watermark.create("exp", vocab_size=V + 1, key_length=40, key=Key(bytes(32)))
    mark.save(tmp_path / "mark.json")
    study = study_of(tiny_model, tmp_path / "s", watermark=tmp_path / "mark.json")
    with pytest.raises(WatermarkError, match=rf"vocab_size {V + 1} exceeds the model's {V} logits"):
        written(study, TextSet("news", "exp", new_tokens=4))


def test_texts_of_a_watermark_file_carry_it(tiny_model, tmp_path):
    mark = Watermark.create("its-edit", vocab_size=V - 4, key_length=40, key=Key(bytes(32)))
    mark.save(tmp_path / "mark.json")
    study = study_of(tiny_model, tmp_path / "s", watermark=tmp_path / "mark.json")
    sets = TextSet("news", "its", new_tokens=30, key_length=40)
    texts = [text.tokens for text in written(study, sets)]
    assert max(text.max() for text in texts) < V - 4
    assert {secret_of(study, sets, i) for i in range(9)} == {bytes(32)}
    p = TESTS["its"].p_values(texts, [bytes(32)] * 5, Trial(V - 4, 40, 199, None, 1))
    assert np.median(p) == 0.005


def test_a_study_with_a_watermark_goes_to_other_processes(tiny_model, tmp_path):
    mark = Watermark.create("exp", vocab_size=V, key_length=40, key=Key(bytes(32)))
    mark.save(tmp_path / "mark.json")
    study = study_of(tiny_model, tmp_path / "s", watermark=tmp_path / "mark.json")
    sets = TextSet("news", "exp", key_length=40)
    name = address(study, sets)  # which reads the file
    there = pickle.loads(pickle.dumps(study))
    assert there.mark == mark
    assert address(there, sets) == name


def test_a_published_key_is_refused(tiny_model, tmp_path):
    mark = Watermark.published("its", seed=3, generator="mersenne", vocab_size=V, key_length=9)
    mark.save(tmp_path / "mark.json")
    study = study_of(tiny_model, tmp_path / "s", watermark=tmp_path / "mark.json")
    with pytest.raises(WatermarkError, match="published key, but experiments need one with a sec"):
        address(study, TextSet())


# Damage


def damaged(content, kind):
    """A file's content after an accident."""
    return {
        "empty": b"",
        "cut": content[: len(content) // 2],
        "without its end": content[:-1],
        "other": b"something else",
    }[kind]


@pytest.mark.parametrize("kind", ["empty", "cut", "without its end", "other"])
def test_a_damaged_part_is_an_error_with_its_name_and_a_remedy(tiny_model, tmp_path, kind):
    study = study_of(tiny_model, tmp_path)
    sets = TextSet("news", "human", new_tokens=20)
    make(study, texts=[(sets, 5)])
    path = part_path(study, sets, 0)
    whole = path.read_bytes()
    path.write_bytes(damaged(whole, kind))
    with pytest.raises(WatermarkError, match="delete the file and run again") as caught:
        load(study, sets, 5)
    assert str(path) in str(caught.value)
    path.unlink()
    make(study, texts=[(sets, 5)])
    assert path.read_bytes() == whole


def test_no_flipped_bit_of_the_data_passes_for_a_text(tiny_model, tmp_path):
    """A page of Parquet has a checksum; its footer has none, but cannot change a token."""
    study = study_of(tiny_model, tmp_path)
    sets = TextSet("news", "human", new_tokens=20)
    make(study, texts=[(sets, 5)])
    path = part_path(study, sets, 0)
    whole, right = path.read_bytes(), load(study, sets, 5)
    refused = 0
    for place in range(0, len(whole), 7):
        bad = bytearray(whole)
        bad[place] ^= 1 << place % 8
        # A part is kept once it is read: each is a file of its own.
        other = study_of(tiny_model, tmp_path / str(place))
        copy = part_path(other, sets, 0)
        os.makedirs(copy.parent)
        copy.write_bytes(bad)
        try:
            found = load(other, sets, 5)
        except WatermarkError:
            refused += 1
        else:
            assert [list(map(same, dataclasses.astuple(text))) for text in found] == [
                list(map(same, dataclasses.astuple(text))) for text in right
            ], place
    assert refused > len(whole) / 7 / 2


def same(value):
    return value.tolist() if isinstance(value, np.ndarray) else value


# Laws


def brute_laws(study, sets, text, prompt):
    """log P of each token, and the law's entropy: the whole text at once, and plain NumPy."""
    model, _ = model_of(study.model, "cpu")
    ids = torch.tensor([prompt.tokens + text.tokens.tolist()])
    with torch.inference_mode():
        logits = model(ids).logits[0, len(prompt.tokens) - 1 : -1].numpy()
    for row, token in zip(logits / sets.temperature, text.tokens, strict=True):
        p = np.exp(row - row.max())
        p /= p.sum()
        order = np.argsort(-p)
        before = np.cumsum(p[order]) - p[order]
        p[order[before >= sets.top_p]] = 0
        p /= p.sum()
        yield np.log(p[token]), -sum(q * np.log(q) for q in p if q)


@pytest.mark.parametrize("method", ["exp", "kgw-2"])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9)])
def test_laws_are_those_of_the_model_alone(study, method, temperature, top_p):
    sets = TextSet("news", method, temperature, top_p, new_tokens=12)
    prompts = read_prompts("news", study.sources["news"], tokenizer_of(study.model), 5)
    for text, prompt in zip(written(study, sets), prompts, strict=True):
        log_p, entropy = np.array(list(brute_laws(study, sets, text, prompt))).T
        assert text.log_probability == pytest.approx(log_p, abs=2e-4)
        assert text.entropy == pytest.approx(entropy, abs=2e-4)
        for cut in (5, None):
            found = law(text, cut)
            assert found["entropy"] == pytest.approx(entropy[:cut].mean(), abs=2e-4)
            assert found["nll"] == pytest.approx(-log_p[:cut].mean(), abs=2e-4)
            potential = np.mean([1 - np.exp(one) for one in log_p[:cut]])
            assert found["potential"] == pytest.approx(potential, abs=2e-4)


def test_no_law_is_known_of_a_text_of_no_tokens_or_of_people():
    none = np.zeros(0, np.float32)
    for tokens in (np.zeros(0, np.int64), np.arange(4)):
        found = law(Text(0, tokens, "", none, none), None)
        assert np.isnan(list(found.values())).all()


def test_what_a_piece_took_is_said(study):
    sets = TextSet("news", "exp", new_tokens=4)
    took = run.write(study, run.Piece(sets, 0))
    assert (took["work"], took["name"], took["size"]) == ("write", "exp", 5 * 4)
    assert took["seconds"] > 0
