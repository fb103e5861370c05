"""Set-ups that are broken in part, or hardly say anything: none of them may be called good."""

from dataclasses import replace

import pytest
from audits import Server, audited, faults, verdicts, watermark


def changed(server, change):
    """The server with its answers changed: change(place in the batch, Written, unmarked twin)."""
    whole = server.write

    def write(prompts, places, *, marked):
        made = whole(prompts, places, marked=marked)
        plain = whole(prompts, places, marked=False)
        return [
            change(i, one, other) for i, (one, other) in enumerate(zip(made, plain, strict=True))
        ]

    server.write = write
    return server


def cached(server):
    """The server with one answer for each prompt, marked or not."""
    whole, memory = server.write, {}

    def write(prompts, places, *, marked):
        made = whole(prompts, places, marked=marked)
        return [memory.setdefault((one.prompt, marked), one) for one in made]

    server.write = write
    return server


def cut(one, length):
    return replace(one, text=one.text[:length], tokens=one.tokens[:length], drawn=length)


@pytest.mark.parametrize("length", [0, 3])
def test_texts_too_short_to_find_count_as_texts(length):
    """Seven of 28 are found, all that are long enough."""
    server = changed(Server(watermark()), lambda i, one, _: one if i % 4 == 0 else cut(one, length))
    done = audited(server, texts=20)
    assert done.verdict == verdicts(done)["found"] == "cannot tell"
    assert "answers too short" in faults(done)


def test_half_of_the_requests_fail():
    def change(i, one, _):
        return one if i % 2 else replace(one, text=None, tokens=None, error="busy")

    done = audited(changed(Server(watermark()), change))
    assert done.verdict == verdicts(done)["written"] == "cannot tell"


@pytest.mark.parametrize("fault", ["", "shift of the prompt"])
def test_answers_that_repeat_are_not_good_where_no_p_is_bounded(fault):
    """From a cache, or from a shift that is the prompt's, with a scheme whose p does not reach 1e-6."""
    server = Server(watermark("its", key_length=64), fault)
    if not fault:
        server = cached(server)
    done = audited(server, texts=20)
    assert verdicts(done)["found"] == "good"
    assert done.verdict == verdicts(done)["shifts"] == "cannot tell"
    assert "fixed shift" in faults(done)


@pytest.mark.parametrize(
    ("scheme", "rows"), [("its", 64), pytest.param("exp", 256, marks=pytest.mark.slow)]
)
def test_one_server_of_six_without_watermark_is_not_good(scheme, rows):
    server = changed(
        Server(watermark(scheme, key_length=rows)), lambda i, one, plain: one if i % 6 else plain
    )
    done = audited(server, texts=20, answers=12)
    assert done.verdict == verdicts(done)["found"] == "cannot tell"
    assert faults(done) == {"some requests unmarked"}


def test_short_answers_with_hidden_tokens_are_no_other_tokenizer():
    server = changed(
        Server(watermark(), temperature=0.3, knows_tokens=False),
        lambda i, one, _: replace(one, text=one.text[:8], drawn=300),
    )
    done = audited(server)
    assert verdicts(done)["round trip"] == "cannot tell"
    assert "wrong tokenizer" not in faults(done)
