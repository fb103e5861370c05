"""An OpenAI-compatible server as an audit asks it: what is sent, what is read, and what goes wrong."""

import json
import re
import time
from threading import Thread

import pytest
from audit_server import serving
from audits import LENGTH, PROMPTS, Pairs, Server, audited, faults, verdicts, watermark

from wmcore.audit.endpoint import Endpoint, EndpointWriter
from wmcore.audit.writers import Sampling
from wmcore.detect import Detector
from wmcore.errors import WatermarkError

OFF = {"vllm_xargs": {"wmcore": False}}


def test_a_sound_server_is_good_and_gets_what_was_asked_for(monkeypatch):
    monkeypatch.setenv("KEY_OF_MINE", "secret words")
    mark = watermark()
    with serving(Server(mark)) as server:
        on = Endpoint(server.url, "m", "KEY_OF_MINE", body={"return_token_ids": True})
        off = Endpoint(server.url, "m", "KEY_OF_MINE", body=OFF)
        writer = EndpointWriter(on, off, Sampling(LENGTH, 0.9, 40, 0.95, chat=True))
        done = audited(writer, Detector(mark, tokenizer=Pairs(), threads=1), texts=6, answers=4)
    assert done.verdict == "good"
    assert verdicts(done)["round trip"] == "good"  # the token ids were given
    assert done.counts["unmarked"] == 10
    assert done.counts["false_alarms"] == 0
    assert len(server.seen) == 20
    path, body, key = server.seen[0]
    assert path == "/v1/chat/completions"
    assert key == "Bearer secret words"
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": body["messages"][0]["content"]}],
        "max_tokens": LENGTH,
        "temperature": 0.9,
        "top_k": 40,
        "top_p": 0.95,
        "return_token_ids": True,
    }
    assert body["messages"][0]["content"] in PROMPTS
    assert "secret words" not in json.dumps(done.to_dict())
    assert done.writer["unmarked_fields"] == OFF


@pytest.mark.parametrize("fault", ["dropped", "cannot switch off", "fixed shift"])
def test_a_faulty_server_is_bad(fault):
    mark = watermark()
    with serving(Server(mark, fault)) as server:
        writer = EndpointWriter(
            Endpoint(server.url), Endpoint(server.url, body=OFF), Sampling(LENGTH)
        )
        done = audited(writer, Detector(mark, tokenizer=Pairs(), threads=1), texts=6, answers=4)
    assert done.verdict == "bad"
    assert faults(done) == {
        {
            "dropped": "no watermark of this key",
            "cannot switch off": "unmarked texts are marked",
            "fixed shift": "fixed shift",
        }[fault]
    }
    assert server.seen[0][0] == "/v1/completions"
    assert server.seen[0][1].keys() == {"prompt", "max_tokens", "temperature"}


@pytest.mark.parametrize("chat", [False, True])
def test_token_ids_among_the_log_probabilities(chat):
    mark = watermark()
    with serving(Server(mark)) as server:
        writer = EndpointWriter(
            Endpoint(server.url, body={"logprobs": True}), None, Sampling(LENGTH, chat=chat)
        )
        (made,) = writer.write(PROMPTS, [0], marked=True)
        assert made.tokens == Pairs()(made.text)["input_ids"]
        assert made.drawn == LENGTH
        assert not writer.unmarks
        with pytest.raises(WatermarkError, match="unmarked"):
            writer.write(PROMPTS, [0], marked=False)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((400, '{"error": "unknown\nfield"}'), r'answers 400: \{"error": "unknown field"\}'),
        ((302, ""), "answers 302"),  # with the API key it goes nowhere else
        ((200, "<html>"), "no answer"),
        ((200, "[1]"), "no JSON object"),
        ((200, "{}"), "no text in choices"),
        ((200, '{"choices": [{"message": {"content": null}}]}'), "no string"),
        (
            (200, '{"choices": [{"message": {"content": "", "reasoning": "hm"}}]}'),
            "reasoning alone",
        ),
        ((200, "[" * 100_000), "no answer"),
        ((None, "no HTTP\r\n\r\n"), "no answer"),
        ((401, '{"error": "wrong key: secret words"}'), r"401: .*wrong key: \(the API key\)"),
    ],
)
def test_what_is_no_answer_says_why(answer, said, monkeypatch):
    monkeypatch.setenv("KEY_OF_MINE", "secret words")
    with serving(answer=answer) as server:
        writer = EndpointWriter(Endpoint(server.url, key_env="KEY_OF_MINE"), None, Sampling(5))
        made = writer.write(PROMPTS, [3, 4], marked=True)
    assert [one.prompt for one in made] == [3, 4]
    for one in made:
        assert one.text is None
        assert re.search(said, str(one.error)), one.error


def test_an_address_or_key_that_cannot_be_used_is_refused(monkeypatch):
    for url in ("127.0.0.1:8000", "file:///etc/passwd", "http://"):
        with pytest.raises(WatermarkError, match="url"):
            Endpoint(url)
    with pytest.raises(WatermarkError, match="has a '\\?' or '#'"):
        Endpoint("http://127.0.0.1/v1?key=secret")
    with pytest.raises(WatermarkError, match="environment"):
        Endpoint("http://me:secret@127.0.0.1/v1")
    monkeypatch.delenv("KEY_OF_MINE", raising=False)
    with pytest.raises(WatermarkError, match="KEY_OF_MINE is not set"):
        Endpoint("http://127.0.0.1:9/v1", key_env="KEY_OF_MINE").post("completions", {})
    for key in ("secret\nwords", "secret\u2026"):
        monkeypatch.setenv("KEY_OF_MINE", key)
        with pytest.raises(WatermarkError, match="characters that no API key has") as raised:
            Endpoint("http://127.0.0.1:9/v1", key_env="KEY_OF_MINE").post("completions", {})
        assert "secret" not in str(raised.value)
    with pytest.raises(WatermarkError, match="gives no answer"):
        Endpoint("http://127.0.0.1:9/v1").post("completions", {})


@pytest.mark.parametrize(
    "logprobs", [{"content": [1]}, {"tokens": [5]}, {"tokens": ["token_id:x"]}]
)
def test_log_probabilities_of_another_kind_are_no_token_ids(logprobs):
    answer = {"choices": [{"text": "a", "logprobs": logprobs}]}
    with serving(answer=(200, json.dumps(answer))) as server:
        (made,) = EndpointWriter(Endpoint(server.url), None, Sampling(5)).write(
            PROMPTS, [0], marked=True
        )
    assert (made.text, made.tokens, made.error) == ("a", None, None)


def test_an_answer_that_drips_is_given_up():
    with serving(answer=(200, " " * 500), drip=0.02) as server:
        began = time.monotonic()
        with pytest.raises(WatermarkError, match="timed out"):
            Endpoint(server.url, timeout=0.2).post("completions", {})
        assert time.monotonic() - began < 5  # all of it takes 10 s


def test_an_interrupt_waits_for_no_answer(monkeypatch):
    """The threads that wait for answers are daemons: they do not hold up the interpreter's end."""
    seen = []
    start = Thread.start
    monkeypatch.setattr(Thread, "start", lambda self: (seen.append(self.daemon), start(self))[1])
    with serving(answer=(200, "{}")) as server:
        seen.clear()
        EndpointWriter(Endpoint(server.url), None, Sampling(5), 2).write(
            PROMPTS, [0, 1, 2], marked=True
        )
        assert seen[:2] == [True, True]


def test_what_a_worker_raises_is_raised():
    writer = EndpointWriter(Endpoint("http://127.0.0.1:9/v1"), None, Sampling(5))
    with pytest.raises(IndexError):
        writer.write(PROMPTS, [10**6], marked=True)
