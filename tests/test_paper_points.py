"""Points of the paper's experiments: what a test sees of a text, what it says, and that it is asked once."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("pyarrow")

import tiny_study
from tiny_study import NEWS, V, make, spoken

from wmcore.detect import Detector
from wmcore.errors import WatermarkError
from wmcore.key import Key
from wmcore.paper import testing
from wmcore.paper.attacks import ATTACKS
from wmcore.paper.contract import Attack, Test
from wmcore.paper.points import (
    STOP_AFTER,
    Point,
    evaluate,
    is_done,
    merged,
    point_path,
    point_under,
    received,
    rows_of,
    trial_of,
)
from wmcore.paper.testing import TESTS
from wmcore.paper.texts import TextSet, load, secret_of
from wmcore.schemes import SCHEMES
from wmcore.watermark import Watermark

pytestmark = pytest.mark.usefixtures("one_torch_thread")

EXP = TextSet("news", "exp", new_tokens=24, key_length=30)
ITS = TextSet("news", "its", new_tokens=24, key_length=30)
PEOPLE = TextSet("news", "human", new_tokens=24, key_length=30)


@pytest.fixture(scope="module")
def texts(tiny_model, tmp_path_factory):
    """A study in which texts are written, to be tested in other folders."""
    study = study_of(tiny_model, tmp_path_factory.mktemp("written"))
    make(study, texts=[(EXP, 10), (ITS, 5), (PEOPLE, 10)])
    return study


@pytest.fixture
def study(tiny_model, texts, tmp_path):
    """One with these texts and without tests."""
    (tmp_path / "texts").symlink_to(texts.folder / "texts")
    return study_of(tiny_model, tmp_path)


def study_of(given, folder, **others):
    return tiny_study.study(*given, folder, **others)


def rows_made(study, point):
    evaluate(study, point)
    return rows_of(study, point)


# What a test sees


def test_texts_are_edited_then_written_out_then_read_again_then_cut(study, monkeypatch):
    seen = []

    def edit(tokens, rate, vocab_size, rng):
        seen.append((tokens.tolist(), rate, vocab_size))
        return np.concatenate([[7, 0, tiny_study.END], tokens[::-1]])  # two that vanish

    monkeypatch.setitem(ATTACKS, "turned", Attack("turned", tokens=edit))
    point = Point(EXP, "exp", 10, "turned", 0.3)
    for text in load(study, EXP, 5):
        found = received(study, point, text)
        assert seen.pop() == (text.tokens.tolist(), 0.3, V)
        assert found.dtype == np.int64
        left = spoken([7, *text.tokens[::-1]]).split()[:10]
        assert [f"w{token}" for token in found] == left
        whole = received(study, Point(EXP, "exp", 10), text)
        assert [f"w{token}" for token in whole] == spoken(text.tokens).split()[:10]


def test_texts_that_an_attack_made_are_read_as_they_are(study):
    (text,) = load(study, EXP, 1)
    shorter = replace(text, text="w3 w4 nonsense w5")
    point = Point(replace(EXP, attack="synonyms-50"), "exp", 3)
    assert received(study, point, shorter).tolist() == [3, 4, 0]


@pytest.mark.parametrize(("edit", "longer"), [("substitute", 0), ("insert", 1), ("delete", -1)])
def test_edits_are_those_of_the_table(study, edit, longer):
    for text in load(study, EXP, 5):
        found = received(study, Point(EXP, "exp", None, edit, 0.5), text).tolist()
        vanished = len(text.tokens) + longer * (len(text.tokens) // 2) - len(found)
        assert 0 <= vanished <= 6
        assert found != received(study, Point(EXP, "exp"), text).tolist()


def test_edits_are_the_same_for_every_test_and_cut_and_differ_between_texts(study):
    one, two = load(study, EXP, 2)
    point = Point(EXP, "exp", 20, "substitute", 0.5)
    first = received(study, point, one).tolist()
    for other in ("exp-edit", "exp-free", "kgw"):
        assert received(study, replace(point, test=other), one).tolist() == first
    assert received(study, replace(point, resamples=1, cut=9), one).tolist() == first[:9]
    alike = replace(two, tokens=one.tokens, text=one.text)
    assert received(study, point, alike).tolist() != first
    assert received(study, replace(point, rate=0.55), one).tolist() != first
    # Of lower temperatures the edits of text 1 are others only because its tokens are.
    cooler = replace(point, texts=replace(EXP, temperature=0.5))
    assert received(study, cooler, one).tolist() == first


def test_another_seed_makes_other_edits(tiny_model, study, tmp_path):
    (text,) = load(study, EXP, 1)
    point = Point(EXP, "exp", 20, "substitute", 0.5)
    other = study_of(tiny_model, tmp_path / "other", seed=2)
    assert received(study, point, text).tolist() != received(other, point, text).tolist()


@pytest.mark.parametrize(
    "point",
    [
        Point(replace(EXP, attack="synonyms-50"), "exp", 5, "substitute", 0.5),
        Point(EXP, "exp", 5, "synonyms-50"),
    ],
)
def test_what_would_be_tested_without_its_edit_is_an_error(study, point):
    (text,) = load(study, EXP, 1)
    with pytest.raises(ValueError, match="tokens as written alone are edited"):
        received(study, point, text)


# What it says


POINTS = [
    Point(EXP, "exp", 16, resamples=99, count=5),
    Point(EXP, "exp-edit", 16, resamples=99, count=5),
    Point(EXP, "exp-edit", 16, options=(("gap", 1.5),), resamples=99, count=5),
    Point(EXP, "exp", 16, options=(("block_length", 6),), resamples=99, count=5),
    Point(EXP, "exp-free", None, "delete", 0.5, resamples=499, count=5),
    Point(EXP, "exp-local", 16, resamples=99, count=5),
    Point(ITS, "its", 16, resamples=99, count=5),
    Point(ITS, "its-edit", 16, resamples=99, count=5),
    Point(ITS, "its-free", 16, resamples=99, count=5),
    Point(PEOPLE, "exp", 16, resamples=499, count=10),
    Point(PEOPLE, "its-edit", 16, resamples=499, count=10),
]


@pytest.mark.parametrize("point", POINTS, ids=lambda p: f"{p.test}-{p.texts.method}")
def test_p_is_that_of_a_detector_with_the_key_of_the_text(study, point):
    rows = rows_made(study, point)
    assert [row["text"] for row in rows] == list(range(point.count))
    settings = {"gap": SCHEMES[point.test].published_gap, **dict(point.options)}
    if point.test.endswith(("free", "local")):
        del settings["gap"]
    for text, row in zip(load(study, point.texts, point.count), rows, strict=True):
        mark = Watermark.create(
            point.test,
            vocab_size=V,
            key_length=30,
            key=Key(secret_of(study, point.texts, text.number)),
        )
        tokens = received(study, point, text)
        (found,) = Detector(mark, **settings).detect(
            [tokens],
            resamples=point.resamples,
            stop_after=STOP_AFTER,
            seed=study.number(1 << 62, "resamples"),
        )
        assert row["p"] == found.p_value
        assert row["tokens"] == len(tokens)
        assert row["written"] == len(text.tokens)
        assert (row["cut"], row["rate"]) == (point.cut, point.rate)
        assert (row["test"], row["method"]) == (point.test, point.texts.method)


@pytest.mark.parametrize(
    "point",
    [
        Point(EXP, "exp", 5, options=(("block_length", 10),), resamples=99, count=3),
        Point(PEOPLE, "synthid", 4, resamples=99, count=3),
        Point(PEOPLE, "kgw", 1, resamples=99, count=3),
        Point(PEOPLE, "exp", 0, resamples=99, count=3),
        Point(PEOPLE, "kgw", 0, resamples=99, count=3),
    ],
)
def test_a_text_that_is_too_short_has_no_p(study, point):
    rows = rows_made(study, point)
    assert len(rows) == 3
    assert np.isnan([row["p"] for row in rows]).all()


def test_one_empty_text_among_others_has_no_p_and_the_others_have_theirs(study, monkeypatch):
    def empties(tokens, rate, vocab_size, rng):
        return tokens[: 0 if tokens[0] == first else None]

    first = load(study, EXP, 2)[1].tokens[0]
    monkeypatch.setitem(ATTACKS, "emptied", Attack("emptied", tokens=empties))
    usual = rows_made(study, Point(EXP, "exp", 16, resamples=99, count=5))
    rows = rows_made(study, Point(EXP, "exp", 16, "emptied", resamples=99, count=5))
    empty = [row["tokens"] == 0 for row in rows]
    assert empty[1]
    assert not all(empty)
    assert [np.isnan(row["p"]) for row in rows] == empty
    some = [i for i in range(5) if not empty[i]]
    assert [rows[i]["p"] for i in some] == [usual[i]["p"] for i in some]


def test_people_are_tested_for_keys_of_the_length_that_was_asked_for(study):
    two = [Point(replace(PEOPLE, key_length=n), "exp", 16, resamples=99) for n in (30, 60)]
    assert point_path(study, two[0]) != point_path(study, two[1])
    assert [trial_of(study, point).key_length for point in two] == [30, 60]


CHANGED = {
    "texts": replace(EXP, temperature=0.9),
    "test": "exp-free",
    "cut": 17,
    "edit": "delete",
    "rate": 0.1,
    "options": (("gap", 1.0),),
    "resamples": 199,
}


@pytest.mark.parametrize("field", CHANGED)
def test_a_point_has_a_file_of_its_own_with_another_value_of_each_field(study, field):
    base = Point(EXP, "exp", 16, "none", 0.0, (), 99)
    other = replace(base, **{field: CHANGED[field]})
    assert set(CHANGED) == set(Point.__dataclass_fields__) - {"count"}
    assert point_path(study, other) != point_path(study, base)
    assert other != base
    assert point_path(study, replace(base, count=3)) == point_path(study, base)


def test_points_asked_for_twice_are_made_for_the_larger_count():
    few, many = (Point(EXP, "exp", 16, count=n) for n in (5, 9))
    other = Point(EXP, "its", 16, count=7)
    for points in ([few, many, other], [many, few, other]):
        assert [(one.test, one.count) for one in merged(points)] == [("exp", 9), ("its", 7)]


# That it is asked once


@pytest.fixture
def counted(monkeypatch):
    """A test that says p = 1 / (1 + length), and of how many texts it was asked."""
    asked = []

    def p_values(texts, secrets, trial):
        asked.append(len(texts))
        return np.array([1 / (1 + len(text)) for text in texts])

    monkeypatch.setitem(TESTS, "counted", Test("counted", "exp", p_values))
    return asked


def test_a_point_is_made_once_and_grows(study, counted):
    point = Point(EXP, "counted", 16, count=4)
    assert not is_done(study, point)
    few = rows_made(study, point)
    assert is_done(study, point)
    assert counted == [4]
    assert rows_made(study, point) == few
    assert counted == [4]
    assert rows_of(study, replace(point, count=2)) == few[:2]
    assert not is_done(study, replace(point, count=9))
    many = rows_made(study, replace(point, count=9))
    assert counted == [4, 5]
    assert [row["text"] for row in many] == list(range(9))
    assert many[:4] == few
    assert is_done(study, replace(point, count=9))


def test_a_point_that_grew_is_one_that_was_made_at_once(tiny_model, texts, study, tmp_path):
    point = Point(EXP, "exp", 16, resamples=99, count=10)
    rows_made(study, replace(point, count=3))
    grown = rows_made(study, point)
    assert grown == rows_made(texts, point)
    assert point_path(study, point).read_bytes() == point_path(texts, point).read_bytes()


def test_a_point_of_a_source_that_ends_is_done(tiny_model, tmp_path, counted):
    study = study_of(tiny_model, tmp_path)
    point = Point(TextSet("news", "exp", new_tokens=4), "counted", 4, count=30)
    assert not is_done(study, point)
    make(study, points=[point])
    assert len(rows_of(study, point)) == NEWS
    assert is_done(study, point)


@pytest.mark.parametrize("cut", [0, 0.5, -1])
def test_a_damaged_file_of_rows_is_an_error_with_its_name_and_a_remedy(study, counted, cut):
    point = Point(EXP, "counted", 16, count=4)
    rows_made(study, point)
    path = point_path(study, point)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * len(whole)) if cut >= 0 else -1])
    for ask in (is_done, rows_of, evaluate):
        with pytest.raises(WatermarkError, match="delete the file and run the") as caught:
            ask(study, point)
        assert str(path) in str(caught.value)
    path.unlink()
    assert len(rows_made(study, point)) == 4


def test_no_flipped_bit_of_the_data_passes_for_a_p_value(study):
    point = Point(EXP, "exp", 16, resamples=99, count=5)
    right = rows_made(study, point)
    path = point_path(study, point)
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 13):
        bad = bytearray(whole)
        bad[place] ^= 1 << place % 8
        path.write_bytes(bad)
        try:
            found = rows_of(study, point)
        except WatermarkError:
            refused += 1
        else:
            assert repr(found) == repr(right), place
    assert refused > len(whole) / 13 / 3


# Under a watermark file


@pytest.fixture
def marked(tiny_model, tmp_path):
    """A study of an exp watermark with fewer tokens than the model has logits."""
    mark = Watermark.create("exp-edit", vocab_size=V - 4, key_length=40, key=Key(bytes(32)))
    mark.save(tmp_path / "mark.json")
    return study_of(tiny_model, tmp_path, watermark=tmp_path / "mark.json")


def test_under_a_watermark_its_sampler_and_key_length_alone_are_left(study, marked):
    exp, its = Point(EXP, "exp-edit", 16), Point(ITS, "its", 16)
    assert point_under(study, exp) == exp
    assert point_under(study, its) == its
    assert point_under(marked, exp) == replace(exp, texts=replace(EXP, key_length=40))
    assert point_under(marked, its) is None
    for test, left in {"exp": True, "its": False, "its-free": False, "kgw": True}.items():
        people = point_under(marked, Point(PEOPLE, test, 16))
        assert (people is not None) == left
        assert not left or people.texts.key_length == 40
    green = Point(TextSet("news", "kgw-2"), "kgw", 16)
    assert point_under(marked, green).texts.method == "kgw-2"


def test_a_watermark_says_how_many_tokens_its_own_texts_have_and_the_model_of_others(marked):
    sizes = {test: trial_of(marked, Point(PEOPLE, test)).vocab_size for test in TESTS}
    ours = {test for test in TESTS if TESTS[test].family == "exp"}
    assert sizes == {test: V - 4 if test in ours else V for test in testing.TESTS}
