"""SGLang's OpenAI server on the CPU with our sampler (`make sglang`): streamed, whole, refused; the line in its log."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
import smollm2
from sglang_reference import ENGINE, LENGTH, PROMPTS, mark

__all__ = ["mark"]  # a fixture
pytestmark = pytest.mark.sglang


def test_over_http(mark, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = []
    for option, value in (ENGINE | {"model_path": smollm2.folder(), "port": port}).items():
        options += [f"--{option.replace('_', '-')}", *([] if value is True else [str(value)])]
    command = [sys.executable, "-m", "sglang.launch_server", "--sampling-backend", "wmcore"]
    log = (tmp_path / "log").open("w+")
    server = subprocess.Popen([*command, *options], stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(300):
            try:
                post(port, "/generate", {"text": "a", "sampling_params": {"max_new_tokens": 1}})
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "log").read_text()[-2000:]
                time.sleep(1)
        body = {"model": "x", "prompt": PROMPTS[1], "max_tokens": LENGTH, "temperature": 1.0}
        streamed = post(
            port, "/v1/completions", body | {"stream": True, "custom_params": {"wmcore_shift": 5}}
        )
        parts = [json.loads(p[6:]) for p in streamed.splitlines() if p.startswith("data: {")]
        text = "".join(part["choices"][0]["text"] for part in parts)
        whole = post(port, "/v1/completions", body | {"custom_params": {"wmcore_shift": 5}})
        assert json.loads(whole)["choices"][0]["text"] == text
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(port, "/v1/completions", body | {"custom_params": {"wmcore_typo": 1}})
        assert refused.value.code == 400
        assert "is no field of wmcore" in refused.value.read().decode()
        log.seek(0)
        assert f"marked: key {mark.fingerprint}, scheme exp, shift hash" in log.read()
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(60)


def post(port, path, body):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=300) as answer:
        return answer.read().decode()
