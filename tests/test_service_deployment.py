"""The blocks of docs/service.md, "Deployment": they name what exists, and what can be run is run before a real service.

systemd-analyze, nginx and caddy are the machine's own; without one its tests are skipped.
"""

import json
import re
import shlex
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest
import typer
from served import plain, served, watermark

from wmcore.cli.main import app

ROOT = Path(__file__).resolve().parent.parent
CHAPTER = (ROOT / "docs/service.md").read_text(encoding="utf-8").partition("\n## Deployment\n")[2]
BLOCKS = dict(re.findall(r"^```(\w+)\n(.*?)^```$", CHAPTER, re.MULTILINE | re.DOTALL))
SERVICE = """
[tiers.public]
coarse = true
texts_a_minute = 40
"""


def needs(tool):
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")


def options_of_serve():
    """{option: whether it takes a value} of the command."""
    command = typer.main.get_command(app).commands["serve"]
    return {
        name: not one.is_flag for one in command.params for name in (*one.opts, *one.secondary_opts)
    }


@pytest.mark.parametrize(
    ("block", "line"), [("console", r" wmcore serve (.*)"), ("ini", r"/wmcore serve (.*)")]
)
def test_the_command_has_these_options(block, line):
    words = shlex.split(re.search(line, BLOCKS[block])[1])
    options = options_of_serve()
    while words:
        name = words.pop(0)
        if options[name]:
            assert not words.pop(0).startswith("-")


def test_the_container_is_run_as_its_file_says():
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    (user,) = re.findall(r"useradd .*--uid (\d+)", text)
    (cache,) = re.findall(r"NUMBA_CACHE_DIR=(\S+)", text)
    run = BLOCKS["console"]
    assert f"uid={user},mode=0400" in run
    assert f":{cache} " in run
    target = re.search(r"--secret \w+,target=([^,]+),", run)[1]
    assert f"serve -w {target} " in run


@needs("systemd-analyze")
def test_systemd_finds_nothing_wrong(tmp_path):
    unit = tmp_path / "wmcore.service"
    text = BLOCKS["ini"]
    assert "/opt/wmcore/bin/wmcore" in text
    unit.write_text(text.replace("/opt/wmcore/bin/wmcore", shutil.which("true")))
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    unit.write_text(text.replace("ProtectSystem=", "ProtectSystems="))
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60
    )
    assert "ProtectSystems" in done.stderr  # or the test above says nothing


@pytest.fixture
def service(tmp_path):
    """A service for strangers: verdicts alone, counted by address."""
    mark = watermark(tmp_path)
    config = tmp_path / "service.toml"
    config.write_text(SERVICE)
    with served(tmp_path, "-w", mark, "--config", config) as (_, address, _):
        yield address


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def proxy(command, folder, address):
    """A client of a proxy that runs, and what the proxy says at its end."""
    said = folder / "proxy.log"
    with said.open("w") as file:
        process = subprocess.Popen(command, cwd=folder, stderr=file, stdout=file)
        try:
            with httpx2.Client(base_url=address, verify=False, timeout=60) as client:
                for _ in range(100):
                    assert process.poll() is None, said.read_text()
                    try:
                        client.get("/healthz")
                        break
                    except httpx2.TransportError:
                        time.sleep(0.1)
                yield client, said
        finally:
            process.terminate()
            process.wait(30)


def check(client):
    """What holds behind every proxy."""
    assert "Does this text carry our watermark?" in client.get("/").text
    answer = client.post("/", data={"text": plain(60)})
    assert "Watermark not found" in answer.text
    assert "content-security-policy" in answer.headers
    assert client.get("/metrics").status_code == 404
    assert client.post("/v1/detect", json={"texts": ["a" * 1_050_000]}).status_code == 413
    with suppress(httpx2.TransportError):  # a proxy may close before all is sent
        assert client.post("/v1/detect", json={"texts": ["a" * 1_200_000]}).status_code == 413
    lines = []
    texts = [plain(30), *[plain(9000)] * 8]
    with client.stream("POST", "/v1/detect/stream", json={"texts": texts}) as answer:
        for line in answer.iter_lines():
            lines.append((json.loads(line)["index"], time.monotonic()))
    assert [index for index, _ in lines] == list(range(9))
    assert lines[-1][1] - lines[0][1] > 0.2  # each as it was ready


def forwarded(client):
    """Statuses of requests that claim to come from many places."""
    spoofed = ({"X-Forwarded-For": f"192.0.2.{i}"} for i in range(8))
    body = {"texts": ["A few words."] * 5}
    return [client.post("/v1/detect", json=body, headers=one).status_code for one in spoofed]


@pytest.mark.slow
@needs("nginx")
@needs("openssl")
def test_nginx(service, tmp_path):
    port = free_port()
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=check.example.org", "-keyout", "key.pem", "-out", "cert.pem"),
        ],
        check=True,
        cwd=tmp_path,
        capture_output=True,
    )
    block = BLOCKS["nginx"].replace("http://127.0.0.1:8000", service)
    block = block.replace("listen 443", f"listen 127.0.0.1:{port}")
    block = re.sub(r"/etc/letsencrypt/\S+/fullchain.pem", f"{tmp_path}/cert.pem", block)
    block = re.sub(r"/etc/letsencrypt/\S+/privkey.pem", f"{tmp_path}/key.pem", block)
    paths = "".join(
        f"{name}_temp_path {name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = tmp_path / "nginx.conf"
    file.write_text(
        f"daemon off; pid nginx.pid; error_log stderr warn; events {{}}\n"
        f"http {{ access_log off; {paths}\n{block} }}"
    )
    command = ["nginx", "-p", str(tmp_path), "-c", str(file), "-e", "stderr"]
    assert subprocess.run([*command, "-t"], capture_output=True, timeout=30).returncode == 0
    with proxy(command, tmp_path, f"https://127.0.0.1:{port}") as (client, said):
        assert client.get("/healthz").headers["strict-transport-security"] == "max-age=31536000"
        check(client)
        clearer = client.post("/v1/detect", json={"texts": ["a" * 1_050_000]})
        assert clearer.json()["error"]["limit"] == 1_000_000  # the service's own words
        assert set(forwarded(client)) == {200, 429}
        codes = [client.get("/healthz").status_code for _ in range(40)]
        assert 429 in codes
        assert "buffered to a temporary file" not in said.read_text()


@pytest.mark.slow
@needs("caddy")
def test_caddy(service, tmp_path):
    port = free_port()
    block = BLOCKS["caddyfile"].replace("127.0.0.1:8000", service.removeprefix("http://"))
    block = block.replace("check.example.org {", f"http://127.0.0.1:{port} {{")
    (tmp_path / "Caddyfile").write_text(f"{{\n\tadmin off\n}}\n{block}")
    command = ["caddy", "run", "--adapter", "caddyfile", "--config", "Caddyfile"]
    with proxy(command, tmp_path, f"http://127.0.0.1:{port}") as (client, _):
        check(client)
        assert set(forwarded(client)) == {200, 429}
