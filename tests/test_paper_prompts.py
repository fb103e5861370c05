"""Prompts of the paper's experiments: from files of every kind, or by a name of datasets, and what is said if not."""

import json
import sys
from types import SimpleNamespace

import pytest

pytest.importorskip("pyarrow")

import numpy as np
import tiny
from tiny_study import NEWS, QUESTIONS, SHORT, V, words

from wmcore.errors import WatermarkError
from wmcore.models import load_tokenizer
from wmcore.paper.prompts import OPENING, STRETCH, digest, read_prompts, texts


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return load_tokenizer(tiny_model[0])


def long_text(seed, length=OPENING + STRETCH):
    return words(np.random.default_rng(seed).integers(1, V - 1, length))


RECORDS = [{"text": long_text(i), "body": long_text(i + 10), "number": i} for i in range(3)]


def as_lines(path, records):
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")


def as_array(path, records):
    path.write_text(json.dumps(records, indent=1), encoding="utf-8")


def as_parquet(path, records):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(records), path)


FORMS = {"news.jsonl": as_lines, "news.json": as_array, "news.parquet": as_parquet}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("field", ["text", "body"])
def test_files_of_every_kind_and_any_field(tmp_path, tokenizer, name, field):
    FORMS[name](tmp_path / name, RECORDS)
    source = str(tmp_path / name) + ("" if field == "text" else f":{field}")
    found = read_prompts("news", source, tokenizer, 9)
    for prompt, record in zip(found, RECORDS, strict=True):
        coded = tokenizer(record[field])["input_ids"]
        assert prompt.tokens == coded[:OPENING]
        assert prompt.human == coded[OPENING:]
    assert len(read_prompts("news", source, tokenizer, 2)) == 2


def test_a_name_with_a_colon_is_a_name_where_there_is_such_a_file(tmp_path, tokenizer):
    as_lines(tmp_path / "a.jsonl", RECORDS[:1])
    as_lines(tmp_path / "a.jsonl:text", RECORDS)
    assert len(list(texts("news", str(tmp_path / "a.jsonl:text")))) == 3


def test_news_are_those_that_are_long_enough(tiny_model, tokenizer):
    source = tiny_model[1]["news"]
    assert len(list(texts("news", source))) == NEWS + len(SHORT)
    found = read_prompts("news", source, tokenizer, 100)
    assert len(found) == NEWS
    assert all(len(one.tokens) == OPENING and len(one.human) >= STRETCH for one in found)


def test_instructions_are_put_in_the_chat_format(tiny_model, tokenizer):
    source = tiny_model[1]["instructions"]
    found = read_prompts("instructions", source, tokenizer, 100)
    for prompt, text in zip(found, texts("instructions", source), strict=True):
        assert tokenizer.decode(prompt.tokens) == f"w1 {text} w2 w3"
        assert prompt.human == []
    assert len(found) == QUESTIONS


def test_instructions_need_a_chat_template(tiny_model):
    with pytest.raises(WatermarkError, match="the model has no chat template; take an instruct"):
        read_prompts("instructions", tiny_model[1]["instructions"], tiny.words(V), 3)


@pytest.mark.parametrize("name", FORMS)
def test_a_field_that_is_not_there_or_no_text(tmp_path, tokenizer, name):
    path = tmp_path / name
    FORMS[name](path, RECORDS)
    for field in ("title", "number"):
        with pytest.raises(WatermarkError, match=rf"--news {path}:{field}: record 1: .*'?{field}"):
            read_prompts("news", f"{path}:{field}", tokenizer, 3)


def test_a_broken_line_is_named(tmp_path, tokenizer):
    path = tmp_path / "news.jsonl"
    as_lines(path, RECORDS)
    path.write_text(path.read_text(encoding="utf-8") + '\n{"text": ', encoding="utf-8")
    assert len(read_prompts("news", str(path), tokenizer, 3)) == 3
    with pytest.raises(WatermarkError, match=f"--news {path}: record 4: "):
        read_prompts("news", str(path), tokenizer, 4)


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([], "no documents in it"),
        (
            [{"text": long_text(1, OPENING + STRETCH - 1)}],
            "it has no text of at least 230 tokens; give another",
        ),
    ],
)
def test_no_text_is_long_enough(tmp_path, tokenizer, records, said):
    as_lines(tmp_path / "news.jsonl", records)
    with pytest.raises(WatermarkError, match=said):
        read_prompts("news", str(tmp_path / "news.jsonl"), tokenizer, 3)


def test_a_file_that_is_not_there_or_of_another_kind(tmp_path, tokenizer):
    for name in ("none.jsonl", "none.jsonl:body"):
        with pytest.raises(WatermarkError, match=r"--news .*cannot be read \(No such file"):
            digest("news", str(tmp_path / name))
    (tmp_path / "news.pdf").write_text("text\nw1\n", encoding="utf-8")
    with pytest.raises(WatermarkError, match=r"\.pdf is not read"):
        read_prompts("news", str(tmp_path / "news.pdf"), tokenizer, 3)


def test_a_source_is_known_by_its_content_and_field(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        as_lines(tmp_path / name, RECORDS)
    as_lines(tmp_path / "c.jsonl", RECORDS[:2])
    a, b, c = (digest("news", str(tmp_path / f"{name}.jsonl")) for name in "abc")
    assert a == b != c
    assert digest("news", f"{tmp_path / 'a.jsonl'}:text") == a
    assert digest("news", f"{tmp_path / 'a.jsonl'}:body") != a
    assert digest("instructions", str(tmp_path / "a.jsonl")) != a


# datasets: nothing is asked of a network


class Hub:
    """In place of the package datasets."""

    def __init__(self, monkeypatch, answer):
        self.asked = []
        self._answer = answer
        monkeypatch.setitem(
            sys.modules, "datasets", SimpleNamespace(load_dataset=self.load_dataset)
        )

    def load_dataset(self, *names, **settings):
        self.asked.append((names, settings))
        if isinstance(self._answer, Exception):
            raise self._answer
        return iter(self._answer)


@pytest.mark.parametrize(
    ("source", "names", "field"),
    [
        ("datasets:owner/c4", ("owner/c4", None), "text"),
        ("datasets:owner/c4:realnewslike", ("owner/c4", "realnewslike"), "text"),
        ("datasets:owner/c4:realnewslike:body", ("owner/c4", "realnewslike"), "body"),
    ],
)
def test_datasets_by_name(monkeypatch, tokenizer, source, names, field):
    hub = Hub(monkeypatch, RECORDS)
    found = read_prompts("news", source, tokenizer, 2)
    assert [one.tokens for one in found] == [
        tokenizer(record[field])["input_ids"][:OPENING] for record in RECORDS[:2]
    ]
    assert hub.asked == [(names, {"split": "train", "streaming": True})]
    assert digest("news", source) == source


def test_datasets_that_cannot_be_reached(monkeypatch, tokenizer):
    Hub(monkeypatch, ConnectionError("no route to the hub\nat all"))
    with pytest.raises(
        WatermarkError,
        match=r"^datasets:c4: it cannot be read \(no route to the hub at all\); give a file instead$",
    ):
        read_prompts("news", "datasets:c4", tokenizer, 2)


def test_datasets_that_break_off(monkeypatch, tokenizer):
    def broken():
        yield RECORDS[0]
        raise OSError("the line is dead")

    Hub(monkeypatch, broken())
    with pytest.raises(WatermarkError, match=r"it cannot be read \(the line is dead\)"):
        read_prompts("news", "datasets:c4", tokenizer, 2)


@pytest.mark.parametrize("field", ["title", "number"])
def test_datasets_without_the_field(monkeypatch, tokenizer, field):
    Hub(monkeypatch, RECORDS)
    with pytest.raises(
        WatermarkError, match=f"no text in '{field}': name one of text, body, number"
    ):
        read_prompts("news", f"datasets:c4:en:{field}", tokenizer, 2)


def test_the_package_datasets_is_missing(monkeypatch, tokenizer):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(WatermarkError, match=r"datasets is not installed .* pip install datasets"):
        read_prompts("news", "datasets:c4", tokenizer, 2)
