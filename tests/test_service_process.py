"""`wmcore serve` as a process: ports, signals, load, workers, and what the command refuses."""

import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from commands import one_line
from served import served
from services import files, text_of, watermark
from tiny import words

from wmcore.service.access import hashed

SLOW = list(range(128)) * 15
"""A text that takes a while."""


def address_of(url):
    """(host, port)"""
    return "127.0.0.1", int(url.rpartition(":")[2])


def detect(address, contents, name="tokens"):
    return httpx2.post(f"{address}/v1/detect", json={name: contents}, timeout=100)


@pytest.mark.timeout(200)
def test_texts_limits_load_and_a_graceful_stop(tmp_path):
    mark = watermark()
    words(128).backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    (path,) = files(tmp_path, mark, tokenizer=tmp_path / "tokenizer.json")
    with served(tmp_path, "-w", path, "--waiting", 1, "--body-bytes", 200_000) as (
        process,
        address,
        lines,
    ):
        text = " ".join(f"w{i}" for i in text_of(mark))
        (result,) = detect(address, [text], "texts").json()["results"]
        assert (result["verdict"], result["length"]) == ("found", 60)
        assert text[result["span"]["char_start"] :].startswith("w")

        # bodies over the limit: what is sent is read before the connection ends, so that the answer is, too
        head = b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        chunk = b"186a0\r\n" + b" " * 100_000 + b"\r\n"
        for stated, parts in (
            (b"Transfer-Encoding: chunked", [chunk] * 40 + [b"0\r\n\r\n"]),
            (b"Content-Length: 4000000", [b" " * 100_000] * 40),
            (b"Content-Length: 99000000", []),
        ):
            with socket.create_connection(address_of(address), timeout=20) as sender:
                sender.sendall(head + stated + b"\r\n\r\n")
                for part in parts:
                    sender.sendall(part)
                assert sender.recv(100).startswith(b"HTTP/1.1 413 ")
        with socket.create_connection(address_of(address), timeout=20) as sender:
            sender.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
            with pytest.raises(ConnectionError):  # not for ever, though
                sender.sendall(chunk * 300)

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: detect(address, [SLOW] * 8), range(8)))
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 429}
        assert all("Retry-After" in one.headers for one in answers if one.status_code == 429)

        with ThreadPoolExecutor(1) as pool:
            last = pool.submit(detect, address, [SLOW] * 8)
            time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            assert last.result().status_code == 200
        assert process.wait(60) in (0, -signal.SIGTERM)
        with pytest.raises(httpx2.ConnectError):
            detect(address, [SLOW])
        assert {line["status"] for line in lines()} == {200, 413, 429}
        assert text not in str(lines())


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_several_workers_answer_and_count_together(tmp_path):
    files(tmp_path, watermark(1), watermark(2))
    with served(tmp_path, "-w", tmp_path, "--workers", 2) as (process, address, lines):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if children.exists():
            assert len(children.read_text().split()) >= 2
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: detect(address, [text_of(watermark(2))]), range(12)))
        assert {one.json()["results"][0]["watermark"] for one in answers} == {"b"}
        assert len({one.text for one in answers}) == 1
        page = httpx2.get(f"{address}/metrics").text
        assert re.search(r'wmcore_texts_total\{verdict="found"\} 12\.0', page)
        assert sum(line["path"] == "/v1/detect" for line in lines()) == 12

        (tmp_path / "b.json").unlink()
        watermark(3).save(tmp_path / "b.json")
        process.send_signal(signal.SIGHUP)  # new workers read the new key
        deadline = time.monotonic() + 200
        found = []
        while found[-20:] != [watermark(3).fingerprint] * 20:
            assert time.monotonic() < deadline
            answer = detect(address, [text_of(watermark(3))])
            assert answer.status_code == 200  # all the while
            found.append(answer.json()["results"][0]["key"])
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)


def test_what_the_command_refuses(wm, tmp_path):
    (path,) = files(tmp_path, watermark())
    one_line(wm("serve"), "no watermark is given: give -w FILE")
    one_line(wm("serve", "-w", "nothing.json"), "nothing.json")
    one_line(wm("serve", "-w", path, "--host", "0.0.0.0"), "or say --open-to-all")
    one_line(
        wm("serve", "-w", path, "--host", "nowhere.invalid", "--open-to-all"), "not an address"
    )
    one_line(wm("serve", "-w", path, "--level", 2), "level is 2")
    one_line(wm("serve", "-w", path, "--level", 1e-9), "level is 1e-09, but must be at least 2e-06")
    one_line(wm("serve", "-w", path, "--scheme", "its"), "tests text of the sampler")
    one_line(wm("serve", "--config", "none.toml"), "--config none.toml: it cannot be read as TOML")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        one_line(wm("serve", "-w", path, "--port", port), f"--port {port}: cannot be listened on")


def test_threads_of_several_workers_are_those_of_the_configuration_if_it_has_them(
    wm, tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr("wmcore.cli.serve._run", lambda settings, *_: seen.append(settings.threads))
    monkeypatch.setattr("wmcore.kernels.cpu.threads.available", lambda: 8)
    config = tmp_path / "service.toml"
    files(tmp_path, watermark())
    for line in ("", "threads = 5"):
        config.write_text(f"watermarks = ['.']\n{line}\n")
        wm("serve", "--config", config, "--port", 0)
        wm("serve", "--config", config, "--port", 0, "--workers", 2)
    assert seen == [None, 4, 5, 5]


def test_a_new_token_comes_with_its_hash(wm):
    code, out, err = wm("serve", "--new-token")
    assert code == 0
    token, kept = re.fullmatch(r"token: (\S+)\nhash:  (\S+)\n", out).groups()
    assert hashed(token) == kept
    assert token not in err


def test_a_package_that_is_missing_is_named(wm, tmp_path, monkeypatch):
    (path,) = files(tmp_path, watermark())
    monkeypatch.setattr("wmcore.cli.serve.PACKAGES", {"no-such-package": "1"})
    one_line(wm("serve", "-w", path), r"no-such-package is not installed: run pip install 'wmcore-")
