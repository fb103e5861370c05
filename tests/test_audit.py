"""Audits of sound set-ups and of broken ones: what is broken must not be called good."""

import json
from dataclasses import replace

import pytest
from audits import PROMPTS, Pairs, Server, V, audited, faults, verdicts, watermark

from wmcore.audit.chance import ERROR, SHARE, TESTS
from wmcore.audit.result import NEEDED, Audit, Check
from wmcore.audit.run import Settings, audit
from wmcore.audit.writers import GivenTexts, Written
from wmcore.detect import Detector
from wmcore.errors import WatermarkError
from wmcore.versions import versions
from wmcore.watermark import Watermark


def numbers(done, name):
    return {check.name: check.numbers for check in done.checks}[name]


def test_a_sound_set_up_is_good():
    done = audited(Server(watermark()), other_keys=1, curves=2)
    assert done.verdict == "good"
    assert set(verdicts(done).values()) == {"good"}
    assert not done.diagnoses
    assert done.counts["found"] == done.counts["marked"] == 20
    assert done.counts["false_alarms"] == done.counts["failed"] == 0
    assert done.counts["other_keys"] == 12
    needed = numbers(done, "tokens needed")
    assert 3 <= needed["median"] <= 40


def test_the_audit_is_json_and_holds_neither_texts_nor_the_key():
    server = Server(watermark())
    done = audited(server, texts=5, answers=5, curves=1)
    text = json.dumps(done.to_dict())
    read = json.loads(text)
    assert read["format"] == "wmcore.audit"
    assert read["verdict"] == done.verdict
    assert [check["name"] for check in read["checks"]] == [check.name for check in done.checks]
    assert read["fingerprint"] == server.mark.fingerprint
    assert read["versions"] == versions()
    assert (
        read.keys() - {"format", "format_version", "verdict"} == Audit.__dataclass_fields__.keys()
    )
    assert server.mark.key.secret_hex not in text
    assert len(read["rows"]) == 20
    assert "text" not in read["rows"][0]
    assert read["rows"][0]["until"] <= read["rows"][0]["tokens"] == 80
    assert all(row["prompt"] is not None and row["p_value"] is not None for row in read["rows"])
    kept = audited(server, texts=1, answers=0, keep_texts=True)
    assert len(kept.rows[0].to_dict()["text"]) == 80


@pytest.mark.parametrize(
    ("fault", "check", "diagnosis"),
    [
        ("dropped", "found", "no watermark of this key"),
        ("other key", "found", "no watermark of this key"),
        ("drawn again", "found", "weak watermark"),
        ("fixed shift", "shifts", "fixed shift"),
        ("few shifts", "shifts", "fixed shift"),
        ("shift of the prompt", "shifts", "fixed shift"),
        ("cannot switch off", "false alarms", "unmarked texts are marked"),
    ],
)
def test_a_fault_is_seen_and_named(fault, check, diagnosis):
    done = audited(Server(watermark(), fault))
    assert done.verdict == "bad"
    assert [name for name, verdict in verdicts(done).items() if verdict == "bad"] == [check]
    assert faults(done) == {diagnosis}


@pytest.mark.parametrize("fault", ["fixed shift", "few shifts", "shift of the prompt"])
def test_a_fixed_shift_is_seen_without_unmarked_texts(fault):
    done = audited(Server(watermark(), fault, unmarks=False))
    assert done.verdict == "bad"
    assert verdicts(done)["shifts"] == "bad"


def test_one_server_of_two_without_watermark_is_not_good():
    done = audited(Server(watermark(), "half dropped"))
    assert done.verdict == "cannot tell"
    assert faults(done) == {"some requests unmarked"}
    # Nor where so few are unmarked that enough texts are found.
    done = audited(Server(watermark(), "half dropped"), need=0.4)
    assert verdicts(done)["found"] == "cannot tell"
    assert faults(done) == {"some requests unmarked"}


def test_greedy_decoding():
    server = Server(watermark(), temperature=0.0)
    done = audited(server)
    assert done.verdict == "bad"
    assert [one.fault for one in done.diagnoses] == ["greedy decoding"]
    assert done.diagnoses[0].sure
    server.describe = lambda: {"kind": "stub", "temperature": None}
    done = audited(server)
    assert {one.fault: one.sure for one in done.diagnoses}["greedy decoding"] is False


def test_wrong_tokenizer_with_drawn_tokens():
    server = Server(watermark())
    done = audited(server, Detector(server.mark, tokenizer=Pairs(turn=5), threads=1))
    assert done.verdict == "bad"
    assert verdicts(done)["round trip"] == verdicts(done)["found"] == "bad"
    assert faults(done) == {"wrong tokenizer"}
    assert numbers(done, "round trip")["found_as_drawn"] == 20
    assert numbers(done, "round trip")["found_as_read"] == 0


def test_wrong_tokenizer_where_tokens_are_not_known():
    """The round trip cannot tell; that nothing is found is bad all the same."""
    server = Server(watermark(), knows_tokens=False)
    done = audited(server, Detector(server.mark, tokenizer=Pairs(turn=5), threads=1))
    assert done.verdict == "bad"
    assert verdicts(done)["round trip"] == "cannot tell"
    assert "another tokenizer" in done.diagnoses[0].words


def test_a_tokenizer_that_makes_more_tokens_of_a_text_than_were_drawn():
    class Twice(Pairs):
        def __call__(self, text, add_special_tokens=False):
            return {"input_ids": [t for t in super().__call__(text)["input_ids"] for _ in "12"]}

        def decode(self, tokens, skip_special_tokens=False):
            return super().decode(tokens[::2])

    server = Server(watermark(), knows_tokens=False)
    done = audited(server, Detector(server.mark, tokenizer=Twice(), threads=1))
    assert verdicts(done)["round trip"] == "bad"
    assert "wrong tokenizer" in faults(done)


def test_a_server_that_counts_hidden_tokens_is_not_called_bad():
    server = Server(watermark(), knows_tokens=False)
    whole = server.write

    def write(prompts, places, *, marked):
        return [replace(one, drawn=300) for one in whole(prompts, places, marked=marked)]

    server.write = write
    done = audited(server)
    assert done.verdict == "good"
    assert numbers(done, "round trip")["drawn_per_read"] == 300 / 80


def test_a_tokenizer_that_loses_text():
    class Deaf(Pairs):
        def decode(self, tokens, skip_special_tokens=False):
            return "?" * len(tokens)

    server = Server(watermark(), knows_tokens=False)
    done = audited(server, Detector(server.mark, tokenizer=Deaf(), threads=1))
    assert verdicts(done)["round trip"] == "bad"


def test_tokens_beyond_the_watermarks_vocabulary():
    server = Server(watermark())
    small = Detector(replace(server.mark, vocab_size=300), tokenizer=Pairs(), threads=1)
    done = audited(server, small)
    assert done.verdict == "bad"
    assert verdicts(done)["vocabulary"] == verdicts(done)["found"] == "bad"
    assert "wrong tokenizer" in faults(done)
    assert all(row.error is not None for row in done.rows if row.p_value is None)


def test_a_watermark_for_more_tokens_than_the_tokenizer_has():
    server = Server(watermark())
    large = Detector(replace(server.mark, vocab_size=2 * V), tokenizer=Pairs(), threads=1)
    assert verdicts(audited(server, large))["vocabulary"] == "cannot tell"


def test_answers_too_short_to_tell():
    server = Server(watermark(), temperature=0.3, length=10)
    done = audited(server)
    assert done.verdict in ("cannot tell", "bad")
    assert "answers too short" in faults(done)


def test_few_texts_never_pass():
    assert audited(Server(watermark()), texts=2, answers=0).verdict == "cannot tell"


def test_low_entropy_is_called_weak_and_not_a_fault_of_the_shift():
    done = audited(Server(watermark(), temperature=0.25))
    assert done.verdict != "good"
    assert faults(done) & {"weak watermark", "no watermark of this key"}
    assert verdicts(done)["shifts"] != "bad"
    assert verdicts(done)["false alarms"] == "good"


@pytest.mark.slow
def test_inverse_transform_sampling_and_short_keys():
    assert audited(Server(watermark("its", key_length=64))).verdict == "good"
    fixed = audited(Server(watermark("its", key_length=64), "fixed shift"))
    assert verdicts(fixed)["shifts"] == "bad"


def test_texts_that_fail_are_said():
    server = Server(watermark())
    whole = server.write

    def write(prompts, places, *, marked):
        made = whole(prompts, places, marked=marked)
        lost = [replace(one, text=None, tokens=None, error="busy") for one in made[:fails]]
        return [*lost, *made[fails:]]

    server.write = write
    for fails, verdict in [(2, "good"), (3, "cannot tell")]:  # of 20
        done = audited(server)
        assert verdicts(done)["written"] == done.verdict == verdict
        assert done.counts["failed"] == 2 * fails
        assert done.rows[0].error == "busy"
        assert f"{2 * fails} of 40 texts were not written: busy" in done.checks[0].words
    server.write = lambda prompts, places, marked: [
        Written(place, None, error="busy") for place in places
    ]
    with pytest.raises(WatermarkError, match="no text was written: busy"):
        audited(server)


def test_unmarked_texts_of_others_are_tested():
    server = Server(watermark(), unmarks=False)
    detector = Detector(server.mark, tokenizer=Pairs(), threads=1)
    texts = [one.text for one in Server(watermark()).write(PROMPTS, range(6), marked=False)]
    own = [one.text for one in server.write(PROMPTS, range(6), marked=True)]
    settings = Settings(texts=6, answers=0, other_keys=0, curves=0)
    good = audit(detector, server, PROMPTS, settings=settings, unmarked=texts)
    assert numbers(good, "false alarms")["unmarked"] == 6
    assert good.verdict == "good"
    bad = audit(detector, server, PROMPTS, settings=settings, unmarked=[*texts, own[0]])
    assert verdicts(bad)["false alarms"] == "bad"


def test_given_texts_need_neither_prompts_nor_tokens():
    server = Server(watermark())
    made = server.write(PROMPTS, range(12), marked=True)
    given = GivenTexts("a file", [Written(None, one.text) for one in made])
    done = audit(
        Detector(server.mark, tokenizer=Pairs(), threads=1),
        given,
        PROMPTS,
        settings=Settings(other_keys=1, curves=1),
    )
    assert done.verdict == "good"
    assert done.writer == {"kind": "texts", "name": "a file"}


def test_a_detector_without_tokenizer_is_refused():
    server = Server(watermark())
    with pytest.raises(WatermarkError, match="tokenizer"):
        audited(server, Detector(server.mark, threads=1))
    with pytest.raises(WatermarkError, match="prompts"):
        audit(Detector(server.mark, tokenizer=Pairs()), server, [])


@pytest.mark.slow
def test_a_key_without_a_proven_bound():
    """Its p-values end at 1 / 2,000: an unmarked text that is found is tested again, with resamples enough to tell."""
    mark = Watermark.published("exp", seed=9, generator="mersenne", vocab_size=V, key_length=64)
    good = audited(Server(mark), texts=6, answers=5)
    assert min(row.p_value for row in good.rows) > 1e-4
    assert good.verdict == "good"
    assert numbers(good, "shifts")["located"] == 6  # one for each prompt
    assert verdicts(audited(Server(mark, "fixed shift"), texts=6))["shifts"] == "bad"
    bad = audited(Server(mark, "cannot switch off"), texts=4, answers=1)
    assert verdicts(bad)["false alarms"] == "bad"
    assert numbers(bad, "false alarms")["least_p"] <= SHARE / 5


@pytest.mark.slow
def test_a_published_its_key_has_no_other_keys():
    mark = Watermark.published("its", seed=9, generator="torch", vocab_size=V, key_length=64)
    done = audited(Server(mark), other_keys=2)
    assert done.verdict == "good"
    assert done.counts["other_keys"] == 0


def test_the_error_is_shared_out():
    assert pytest.approx(ERROR) == SHARE * TESTS


@pytest.mark.parametrize("name", NEEDED)
def test_an_audit_is_as_good_as_what_it_needs(name):
    def whole(verdicts):
        checks = tuple(Check(one, verdict, "", {}) for one, verdict in verdicts.items())
        empty = {"watermark": {}, "detector": {}, "writer": {}, "counts": {}}
        empty["versions"] = {}
        words = dict.fromkeys(("began", "ended", "version", "technique", "fingerprint"), "")
        return Audit(
            **words, **empty, level=0.001, error=ERROR, checks=checks, diagnoses=(), rows=()
        ).verdict

    good = {**dict.fromkeys(NEEDED, "good"), "round trip": "cannot tell"}
    assert whole(good) == "good"
    assert whole({**good, name: "cannot tell"}) == "cannot tell"
    assert whole({**good, name: "bad"}) == "bad"
    assert whole({**good, "round trip": "bad"}) == "bad"
    del good[name]
    assert whole(good) == "cannot tell"
