"""The page over HTTP: forms of both kinds, headers, tiers, and what is said where there is no answer."""

import html
import re

import numpy as np
import pytest
import sample_pages
from fastapi.testclient import TestClient

from wmcore.service.access import Tier, new_token
from wmcore.service.app import create_app
from wmcore.service.page import content_security_policy
from wmcore.service.panel import Panel
from wmcore.service.settings import Limits, Settings

TOKEN, HASH = new_token()
PUBLIC = Tier("public", texts_a_minute=6, coarse=True)
EXPERTS = Tier("experts", tokens=(HASH,))
LIMITS = Limits(body_bytes=20_000, tokens=400)


@pytest.fixture(scope="module")
def panel():
    one = {"one": sample_pages.watermark()}
    return Panel(one, threads=1, tokenizer=sample_pages.Words(), most_tokens=LIMITS.tokens)


@pytest.fixture
def client(panel):
    """Of a service with a coarse public tier and experts."""
    settings = Settings(("one.json",), tiers=(PUBLIC, EXPERTS), limits=LIMITS, operator="A & B")
    with TestClient(create_app(settings, panel), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def marked():
    return sample_pages.text_of(
        sample_pages.marked(sample_pages.watermark(), np.random.default_rng(7))
    )


def heading(answer):
    """(title of the result or problem, its first sentence)."""
    found = re.search(r"autofocus>(.*?)</h2>\s*<p>(.*?)</p>", answer.text, re.DOTALL)
    return tuple(html.unescape(part) for part in found.groups())


def box(answer):
    """The text in the box."""
    return html.unescape(re.search(r"<textarea[^>]*>\n(.*?)</textarea>", answer.text, re.DOTALL)[1])


def test_the_form(client):
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "by <bdi>A &amp; B</bdi>" in answer.text
    assert 'name="token"' in answer.text
    assert "Up to 400 tokens, about 300 English words" in answer.text


def test_headers(client, marked):
    for answer in (client.get("/"), client.post("/", data={"text": marked}), client.post("/")):
        assert answer.headers["content-security-policy"] == content_security_policy()
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert "set-cookie" not in answer.headers


def test_both_kinds_of_form_and_a_file_say_the_same(client, marked):
    none = ("", b"", "application/octet-stream")  # what a browser sends where no file is chosen
    file = ("a.txt", b"\xef\xbb\xbf" + marked.encode(), "text/plain")
    posted = [
        {"data": {"text": marked}},
        {"data": {"text": marked}, "files": {"file": none}},
        {"data": {"text": "not this"}, "files": {"file": file}},
    ]
    for form in posted:
        form["data"]["token"] = TOKEN
        answer = client.post("/", **form)
        assert answer.status_code == 200
        assert heading(answer)[0] == "Watermark found"
        assert box(answer) == marked
        assert len(re.findall(r'<i class="f[1-6]', answer.text)) > 40
        assert TOKEN not in answer.text


def test_the_public_gets_a_verdict_and_no_more(client, marked):
    answer = client.post("/", data={"text": marked})
    assert heading(answer)[0] == "Watermark found"
    said = answer.text[answer.text.index('<section class="result') : answer.text.index("<form")]
    assert not re.search(r"p = |<dl>|<i class", said)


def test_lines_of_the_box_end_as_they_were_pasted(panel):
    """A browser sends every end of a line as \\r\\n."""
    seen = []

    class Desk(sample_pages.Words):
        def __call__(self, text, **rest):
            seen.extend([text] if isinstance(text, str) else text)
            return super().__call__(text, **rest)

    panel = Panel({"one": sample_pages.watermark()}, threads=1, tokenizer=Desk())
    with TestClient(create_app(Settings(("one.json",)), panel)) as client:
        client.post("/", data={"text": "Tell\r\n\r\nTell"})
        client.post("/", files={"file": ("a.txt", b"Tell\r\nnine")})
    assert {"Tell\n\nTell", "Tell\nnine"} <= set(seen)
    assert not any("\r" in text for text in seen)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x03\x04\x00\x00", "The file is binary data, not text: it contains a zero byte"),
        (
            "Grüße".encode("latin-1"),
            "The file is not UTF-8: byte 0xfc at offset 2: convert it to UTF-8",
        ),
    ],
)
def test_a_file_that_is_no_text(client, content, said):
    answer = client.post("/", data={"text": "kept"}, files={"file": ("letter.docx", content)})
    assert answer.status_code == 422
    assert heading(answer) == ("Nothing to test", f"{said}: choose a file of plain text.")
    assert box(answer) == "kept"


@pytest.mark.parametrize("text", ["", " \n "])
def test_no_text(client, text):
    answer = client.post("/", data={"text": text})
    assert answer.status_code == 422
    assert heading(answer) == ("Nothing to test", "There is no text: paste one, or choose a file.")


def test_a_text_of_too_many_tokens_is_kept(client):
    text = "Tell " * 401
    answer = client.post("/", data={"text": text})
    assert answer.status_code == 413
    title, sentence = heading(answer)
    assert title == "Too much text"
    assert "401" in sentence
    assert "400" in sentence
    assert sentence.endswith(": send it in parts.")
    assert box(answer) == text


def test_a_body_over_the_limit(client):
    answer = client.post("/", data={"text": "a" * 20_001})
    assert answer.status_code == 413
    title, sentence = heading(answer)
    assert title == "Too much text"
    assert "20,000 bytes" in sentence


def test_too_many_requests(client):
    codes = [client.post("/", data={"text": "Tell"}).status_code for _ in range(7)]
    assert codes == [200] * 6 + [429]
    answer = client.post("/", data={"text": "Tell"})
    assert int(answer.headers["retry-after"]) > 0
    assert heading(answer)[0] == "Too many requests"
    assert heading(answer)[1].startswith("More than 6 texts in a minute: ask again in")
    assert client.post("/", data={"text": "Tell", "token": TOKEN}).status_code == 200


def test_a_wrong_token(client):
    answer = client.post("/", data={"text": "Tell", "token": "wmcore_wrong"})
    assert answer.status_code == 401
    assert heading(answer)[0] == "No access"
    assert "Authorization" not in heading(answer)[1]
    assert "wmcore_wrong" not in answer.text
    assert box(answer) == "Tell"


def test_what_is_for_this_machine_alone_is_not_for_a_page_of_another_name(panel):
    app = create_app(Settings(("one.json",), only_local=True), panel)
    for host, status in [("localhost", 200), ("evil.example", 403)]:
        with TestClient(app, base_url=f"http://{host}:8000") as client:
            answer = client.post("/", data={"text": "Tell"})
            assert answer.status_code == status
    assert heading(answer)[0] == "No access"
    assert box(answer) == "Tell"


def test_without_an_open_tier_a_token_is_needed(panel):
    settings = Settings(("one.json",), tiers=(EXPERTS,))
    with TestClient(create_app(settings, panel)) as client:
        assert client.get("/").status_code == 200
        assert client.post("/", data={"text": "Tell"}).status_code == 401
        assert client.post("/", data={"text": "Tell", "token": TOKEN}).status_code == 200


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b"nothing of the kind"),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--",
        ),
        ("application/x-www-form-urlencoded", b"&".join(b"a%d=1" % i for i in range(20))),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="text"; filename="a"\r\n\r\n1\r\n--x--\r\n',
        ),
    ],
)
def test_a_broken_form(client, kind, body):
    answer = client.post("/", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 400
    assert heading(answer)[1].startswith("The form is broken: load the page again")


@pytest.mark.parametrize(
    "charset", ["utf-16", "utf-7", "unicode_escape", "punycode", "undefined", "a\0b"]
)
def test_a_form_is_utf_8_whatever_its_header_says(client, charset):
    body = b'--x\r\nContent-Disposition: form-data; name="text"\r\n\r\n%b\r\n--x--\r\n'
    kind = {"Content-Type": f"multipart/form-data; boundary=x; charset={charset}"}
    text = "Grüße \\ud800 +2AA- from-here"
    answer = client.post("/", content=body % text.encode(), headers=kind)
    assert answer.status_code == 200
    assert box(answer) == text
    answer = client.post("/", content=body % text.encode("latin-1"), headers=kind)
    assert answer.status_code == 422
    assert heading(answer)[1] == "The form is not UTF-8: send its fields in UTF-8."
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    for broken in (b"text=Gr%FC%DFe", "text=Grüße".encode("latin-1"), b"text=%ED%A0%80"):
        assert client.post("/", content=broken, headers=kind).status_code == 422
    assert box(client.post("/", content=b"text=Gr%C3%BC+%2B&file=", headers=kind)) == "Grü +"


@pytest.mark.parametrize("where", ["desk.Desk.answers", "page.answered"])
def test_a_fault_is_a_page_with_an_id(client, monkeypatch, where):
    def fail(*_, **__):
        raise RuntimeError("swordfish")

    monkeypatch.setattr(f"wmcore.service.{where}", fail)
    answer = client.post("/", data={"text": "Tell"}, headers={"X-Request-ID": "abc"})
    assert answer.status_code == 500
    said = "This is a fault of the service, request abc: tell the operator this id."
    assert heading(answer) == ("No answer", said)
    assert box(answer) == "Tell"
    assert "swordfish" not in answer.text


def test_no_form_at_all(client):
    answer = client.post("/", json={"texts": ["Tell"]})
    assert answer.status_code == 415
    assert heading(answer)[0] == "No answer"


def test_the_links_of_the_page_lead_somewhere(client):
    for link in re.findall(r'href="([^"#]+)"', client.get("/").text):
        assert client.get(f"/{link}").status_code == 200, link


def test_a_page_is_no_part_of_the_api(client):
    assert "/" not in client.get("/openapi.json").json()["paths"]
