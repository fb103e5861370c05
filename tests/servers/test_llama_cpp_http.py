"""llama_cpp's OpenAI-compatible server as ``python -m wmcore.bindings.llama_cpp`` starts it (make llamacpp)."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from wmcore import Detector, Watermark
from wmcore.key import Key
from wmcore.models import packaged_file

pytestmark = [pytest.mark.llamacpp, pytest.mark.timeout(900)]

MARK = Watermark.create("exp", vocab_size=49152, key=Key(bytes(range(32))))
STORY = {"prompt": "The harbour was quiet that morning, and", "max_tokens": 100, "temperature": 1.0}
CHAT = {
    "messages": [{"role": "user", "content": "Tell me a story about a harbour."}],
    "max_tokens": 100,
    "temperature": 1.0,
}


class Server:
    """A server that runs, with what it has logged so far."""

    def __init__(self, port, log):
        self.address, self._log = f"http://127.0.0.1:{port}/v1/", log

    def log(self):
        return self._log.read_text()

    def post(self, path, body):
        """The answer: an object, or the text of a stream."""
        request = urllib.request.Request(
            self.address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            text = answer.read().decode()
        return text if body.get("stream") else json.loads(text)


def command(*options):
    model = ("--model", str(packaged_file()), "--n_ctx", "512", "--n_threads", "1")
    return [sys.executable, "-m", "wmcore.bindings.llama_cpp", *model, *options]


@contextlib.contextmanager
def serving(folder, **environment):
    mark = folder / "mark.json"
    MARK.save(mark)
    log = folder / "log"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "WMCORE_LLAMA_CPP_WATERMARK": str(mark), **environment}
    with log.open("wb") as out:
        options = ("--port", str(port), "--n_threads_batch", "1")
        process = subprocess.Popen(command(*options), env=environment, stdout=out, stderr=out)
    try:
        server = Server(port, log)
        for _ in range(240):
            assert process.poll() is None, server.log()
            with contextlib.suppress(OSError):
                urllib.request.urlopen(server.address + "models", timeout=10).close()
                break
            time.sleep(0.5)
        else:
            raise AssertionError(server.log())
        yield server
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server")) as one:
        yield one


@pytest.fixture(scope="module")
def p_value():
    import llama_cpp

    vocabulary = llama_cpp.Llama(str(packaged_file()), vocab_only=True, verbose=False)

    def tested(text):
        tokens = vocabulary.tokenize(text.encode(), add_bos=False)
        return Detector(MARK).detect([tokens], resamples=199)[0].p_value

    return tested


def chunks(stream):
    """The objects of a stream of server-sent events."""
    lines = [line[6:] for line in stream.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line)["choices"][0] for line in lines[:-1]]


def test_completions_chats_and_streams_are_found(server, p_value):
    whole = server.post("completions", STORY)["choices"][0]["text"]
    streamed = chunks(server.post("completions", {**STORY, "stream": True}))
    chat = server.post("chat/completions", CHAT)["choices"][0]["message"]["content"]
    talked = chunks(server.post("chat/completions", {**CHAT, "stream": True}))
    texts = [
        whole,
        "".join(c["text"] for c in streamed),
        chat,
        "".join(c["delta"].get("content") or "" for c in talked),
    ]
    assert len(set(texts)) == 4
    assert [p_value(text) for text in texts] == [0.005] * 4
    assert server.log().count("request marked: key 945ff93b, scheme exp, shift hash ") == 4


def test_a_seed_repeats_and_our_fields_are_not_heard(server, p_value):
    def write(**more):
        # Else the prompt is still there, its last token is read again alone, and logits differ in the last digits.
        server.post("completions", {"prompt": "Something else", "max_tokens": 1})
        return server.post("completions", {**STORY, **more})["choices"][0]["text"]

    assert write(seed=5) == write(seed=5) != write(seed=6)
    assert p_value(write(wmcore=False)) == 0.005


def test_what_goes_unmarked_is_logged(server):
    server.post("completions", {**STORY, "temperature": 0.0, "max_tokens": 3})
    server.post("completions", {**STORY, "mirostat_mode": 2, "max_tokens": 3})
    assert "request not marked: greedy" in server.log()
    assert "request not marked: mirostat" in server.log()


def test_a_server_that_must_mark_refuses(tmp_path, p_value):
    with serving(tmp_path, WMCORE_LLAMA_CPP_REQUIRED="1") as server:
        with pytest.raises(urllib.error.HTTPError) as refused:
            server.post("completions", {**STORY, "temperature": 0.0})
        assert "temperature 0 draws no token" in json.load(refused.value)["error"]["message"]
        assert p_value(server.post("completions", STORY)["choices"][0]["text"]) == 0.005


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "WMCORE_LLAMA_CPP_WATERMARK names no watermark file"),
        ({"WMCORE_LLAMA_CPP_WATERMARK": "missing.json"}, "missing.json"),
    ],
)
def test_no_server_starts_without_a_watermark(environment, message):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("WMCORE_")}
    done = subprocess.run(
        command(), env={**clean, **environment}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert done.stderr.startswith("wmcore: ")
    assert message in done.stderr
