"""vLLM's OpenAI server as a process of its own, on the CPU, with the packaged SmolLM2 (`make vllm`)."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from wmcore import Detector, Watermark
from wmcore.bindings import _serving
from wmcore.bindings import vllm as binding

pytestmark = pytest.mark.vllm

LENGTH = 60
START = 400
"""Seconds that a server may take until it answers."""


@pytest.fixture(scope="module")
def reference(folder):
    from vllm_reference import Reference

    return Reference(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A watermark and its file."""
    path = tmp_path_factory.mktemp("http") / "mark.json"
    mark = Watermark.create(vocab_size=49152)
    mark.save(path)
    return mark, path


def process(folder, log, *options, **environment):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("VLLM_", "WMCORE_"))}
    cpu = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
    }
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(folder), "--served-model-name", "smollm2", "--dtype", "float32"),
            *("--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "16", *options),
        ],
        env=inherited | cpu | environment,
        stdout=log,
        stderr=subprocess.STDOUT,
    )


class Server:
    """A server that answers; `log` is what it prints."""

    def __init__(self, port, log):
        self.address, self.log = f"http://127.0.0.1:{port}", log

    def open(self, path, body=None):
        data = None if body is None else json.dumps({"model": "smollm2"} | body).encode()
        headers = {"Content-Type": "application/json"}
        return urllib.request.urlopen(
            urllib.request.Request(self.address + path, data, headers), timeout=300
        )

    def post(self, path, **body):
        """Status and answer."""
        try:
            with self.open(path, body) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def complete(self, prompt, **body):
        """(prompt ids, token ids) of each choice of a completion."""
        more = {"max_tokens": LENGTH, "ignore_eos": True, "return_token_ids": True}
        status, answer = self.post("/v1/completions", prompt=prompt, **(more | body))
        assert status == 200, answer
        return [(one["prompt_token_ids"], one["token_ids"]) for one in answer["choices"]]

    def refusal(self, path="/v1/completions", **body):
        """The message of a request that is answered with 400."""
        prompt = {"prompt": "A"} if path == "/v1/completions" else {}
        status, answer = self.post(path, max_tokens=2, **prompt, **body)
        assert status == 400, answer
        return answer["error"]["message"]


@contextlib.contextmanager
def serving(folder, tmp_path_factory, *options, **environment):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as sink:
        running = process(folder, sink, "--port", str(port), *options, **environment)
        try:
            server = Server(port, log)
            end = time.monotonic() + START
            while True:
                assert running.poll() is None, log.read_text(errors="replace")[-5000:]
                assert time.monotonic() < end, "the server does not answer"
                with contextlib.suppress(OSError), server.open("/health"):
                    break
                time.sleep(1)
            yield server
        finally:
            running.terminate()
            try:
                running.wait(60)
            except subprocess.TimeoutExpired:
                running.kill()


@pytest.fixture(scope="module")
def server(folder, made, tmp_path_factory):
    with serving(folder, tmp_path_factory, **{binding.ENVIRONMENT: str(made[1])}) as one:
        yield one


def test_twelve_at_once_are_what_their_keys_dictate(server, made, reference):
    """Rows given, seeds, a tenant and requests that are off, all in flight together."""
    from vllm_reference import PROMPTS, Request

    mark = made[0]
    tenant = Watermark.create(vocab_size=49152, key=mark.key.derive("acme"))
    row = _serving.Service(mark, "tests").first_row
    asked = []
    for i in range(4):
        asked.append((mark, 50 * i, {"vllm_xargs": {"wmcore": True, "wmcore_shift": 50 * i}}))
        asked.append((mark, row(_serving.Wish(), i, None), {"seed": i, "top_p": 0.9}))
        xargs = {"wmcore_label": "acme", "wmcore_shift": 7}
        asked.append((tenant, 7, {"vllm_xargs": xargs, "temperature": 0.8}))
    asked.append((None, 0, {"vllm_xargs": {"wmcore": False}}))
    with ThreadPoolExecutor(len(asked)) as pool:
        one = lambda job: server.complete(job[0], **job[1][2])[0]  # noqa: E731
        answers = list(pool.map(one, zip(PROMPTS, asked, strict=False)))
    for (key, shift, how), (prompt, output) in zip(asked, answers, strict=True):
        assert len(output) == LENGTH
        if key is None:
            (found,) = Detector(mark).detect([output], resamples=199, seed=1)
            assert found.p_value > 0.01
            continue
        request = Request(**{k: v for k, v in how.items() if k in ("top_p", "temperature")})
        assert len(reference.differing(key, shift, prompt, output, request)) <= 1


def streamed(server, path, **body):
    """Text and token ids of a stream."""
    text, ids = "", []
    more = {"stream": True, "max_tokens": LENGTH, "return_token_ids": True, "ignore_eos": True}
    with server.open(path, more | body) as answer:
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            for one in json.loads(line[6:])["choices"]:
                text += one.get("text") or one.get("delta", {}).get("content") or ""
                ids += one.get("token_ids") or []
    return text, ids


def test_streams_are_the_texts_that_come_whole(server, made, reference):
    wish = {"vllm_xargs": {"wmcore_shift": 11}}
    ((prompt, whole),) = server.complete("The sea", **wish)
    text, ids = streamed(server, "/v1/completions", prompt="The sea", **wish)
    assert ids == whole
    assert text == reference.tokenizer.decode(whole, skip_special_tokens=True)
    assert len(reference.differing(made[0], 11, prompt, ids)) <= 1


def test_chats_are_marked_streamed_or_not(server, made, reference):
    body = {
        "messages": [{"role": "user", "content": "Describe a lighthouse."}],
        "vllm_xargs": {"wmcore_shift": 200},
    }
    status, answer = server.post(
        "/v1/chat/completions", max_tokens=LENGTH, return_token_ids=True, ignore_eos=True, **body
    )
    assert status == 200
    output = answer["choices"][0]["token_ids"]
    assert len(reference.differing(made[0], 200, answer["prompt_token_ids"], output)) <= 1
    assert streamed(server, "/v1/chat/completions", **body)[1] == output


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"vllm_xargs": {"wmcore": "yes"}}, "wmcore is 'yes', but must be true or false (1 or 0)"),
        ({"vllm_xargs": {"wmcore_typo": 1}}, "'wmcore_typo' is no field of wmcore"),
        ({"vllm_xargs": {"wmcore_shift": 256}}, "wmcore_shift 256 is outside 0 to 255"),
        ({"vllm_xargs": {"wmcore_label": 3}}, "wmcore_label is a int, but must be a string"),
        ({"vllm_xargs": {"wmcore": True}, "temperature": 0}, "temperature 0 draws no token"),
    ],
)
def test_what_cannot_be_meant_is_a_bad_request(server, body, message):
    assert message in server.refusal(**body)
    chat = {"messages": [{"role": "user", "content": "A"}]}
    assert message in server.refusal("/v1/chat/completions", **chat, **body)


def test_the_servers_log_says_what_was_applied(server, made):
    """After the requests above: one line each, which the key's holder can check, and no secret."""
    mark = made[0]
    server.complete("The log", vllm_xargs={"wmcore_shift": 123})
    server.complete("The log", vllm_xargs={"wmcore": False})
    server.complete("The log", temperature=0)
    text = server.log.read_text(errors="replace")
    proof = f"wmcore: request marked: key {mark.fingerprint}, scheme {mark.scheme}, shift hash "
    assert text.count(proof + _serving.shift_hash(mark, 123)) == 1
    assert "wmcore: request not marked: off" in text
    assert "wmcore: request not marked: greedy" in text
    assert "wmcore: request refused: 'wmcore_typo'" in text
    assert mark.key.secret_hex not in text
    assert mark.key.derive("acme").secret_hex not in text


def test_a_server_that_must_mark_refuses_what_would_go_unmarked(
    folder, made, reference, tmp_path_factory
):
    environment = {binding.ENVIRONMENT: str(made[1]), "WMCORE_VLLM_REQUIRED": "1"}
    with serving(folder, tmp_path_factory, **environment) as server:
        off = {"vllm_xargs": {"wmcore": False}}
        assert "this server watermarks every request" in server.refusal(**off)
        assert "temperature 0 draws no token" in server.refusal(temperature=0)
        beams = {"use_beam_search": True, "n": 2, "temperature": 1.0}
        assert "beam search draws no token" in server.refusal(**beams)
        ((prompt, output),) = server.complete("The sea", seed=3)
        row = _serving.Service(made[0], "tests").first_row(_serving.Wish(), 3, None)
        assert len(reference.differing(made[0], row, prompt, output)) <= 1


def test_a_server_without_a_watermark_is_idle(folder, tmp_path_factory):
    with serving(folder, tmp_path_factory) as server:
        ((_, one),) = server.complete("The sea", seed=3)
        assert server.complete("The sea", seed=3, vllm_xargs={"wmcore": False})[0][1] == one
        for xargs in ({"wmcore": True}, {"wmcore_label": "acme"}, {"wmcore_shift": 3}):
            assert "no watermark is set up on this server" in server.refusal(vllm_xargs=xargs)
        assert "wmcore: request marked" not in server.log.read_text(errors="replace")


def test_a_server_that_speculates_without_us_does_not_start(folder, made, tmp_path):
    drafts = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3}
    with (tmp_path / "log").open("wb") as sink:
        options = ("--port", "0", "--speculative-config", json.dumps(drafts))
        running = process(folder, sink, *options, **{binding.ENVIRONMENT: str(made[1])})
        try:
            assert running.wait(START) != 0
        finally:
            running.kill()
    assert "the V1 model runner leaves logits processors out" in (tmp_path / "log").read_text()
