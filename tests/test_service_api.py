"""The API: what it answers, whom it refuses and how, and what it never says."""

import json
import logging

import pytest
from commands import Letters
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from services import V, client, detect, files, letters_of, text_of, watermark

from wmcore._version import __version__
from wmcore.service import schema
from wmcore.service.access import Tier, new_token
from wmcore.service.app import create_app
from wmcore.service.body import contents_of
from wmcore.service.panel import Panel
from wmcore.service.refusals import Refused
from wmcore.service.settings import Limits, Settings

JSON = {"Content-Type": "application/json"}
NOISE = [(i * i + 7 * i) % V for i in range(60)]


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    """A client of a service with two watermarks, token ids and letters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wmcore.models.load_tokenizer", lambda _: Letters())
        marks = watermark(1), watermark(2)
        folder = tmp_path_factory.mktemp("api")
        limits = Limits(body_bytes=5000, texts=4, tokens=100)
        with client(folder, *marks, tokenizer="letters", limits=limits) as found:
            yield found


@pytest.fixture
def lines(caplog):
    """The lines that the service writes down."""
    caplog.set_level(logging.INFO, "wmcore.service")
    return lambda: [
        json.loads(r.getMessage()) for r in caplog.records if r.name.endswith("service")
    ]


def refusal(answer, status, parameter=None):
    """The error of an answer that has the one shape."""
    assert answer.status_code == status, answer.text
    error = schema.Problem.model_validate_json(answer.text).error
    assert error.parameter == parameter
    assert error.remedy
    return error


def test_texts_and_token_ids_get_the_same_answer(api):
    contents = [text_of(watermark(2)), NOISE, [1, 2, 3]]
    by_ids = detect(api, contents)
    by_text = detect(api, [letters_of(tokens) for tokens in contents], "texts")
    assert by_ids.status_code == 200
    assert by_ids.json() == by_text.json()
    answers = schema.Answers.model_validate_json(by_ids.text)
    found, noise, short = answers.results
    assert (found.verdict, noise.verdict, short.verdict) == ("found", "not found", "too short")
    assert found.p_value <= answers.level == 0.001
    assert (found.watermark, found.key) == ("b", watermark(2).fingerprint)
    assert (found.length, found.windows, noise.span, noise.key) == (60, 1, None, None)
    assert found.span.start < 5 < 55 < found.span.stop
    assert answers.version == __version__
    assert answers.key is None  # there are two
    assert (
        "one in 1,000 texts without any of these 2 watermarks would fit as well" in answers.meaning
    )
    assert "robability" not in by_ids.text.replace("the probabilities of the language model", "")
    panel = Panel({"a": watermark(1), "b": watermark(2)})
    assert [one.p_value for one in panel.answer(contents)] == [r.p_value for r in answers.results]


def test_a_stream_has_the_same_results_one_a_line(api):
    contents = [text_of(watermark(1)), NOISE, [V] * 30]
    stream = api.post("/v1/detect/stream", json={"tokens": contents})
    assert stream.headers["content-type"].startswith("application/x-ndjson")
    lines = [schema.Line.model_validate_json(line) for line in stream.text.splitlines()]
    assert [line.index for line in lines] == [0, 1, 2]
    plain = schema.Answers.model_validate_json(detect(api, contents).text)
    assert [schema.Result(**line.model_dump(exclude={"index"})) for line in lines] == plain.results
    assert lines[2].verdict == "not tested"


def test_a_single_key_is_named_and_the_sentence_says_this_watermark(tmp_path):
    with client(tmp_path, level=0.03) as found:
        answer = detect(found, [NOISE]).json()
    assert answer["key"] == watermark().fingerprint
    assert "about one in 33 texts without this watermark would fit as well" in answer["meaning"]


def test_what_the_detector_is(api):
    info = schema.Info.model_validate_json(api.get("/v1/info").text)
    assert info.keys == [watermark(1).fingerprint, watermark(2).fingerprint]
    assert info.schemes == ["exp-free"]
    assert info.limits == {"body_bytes": 5000, "texts": 4, "tokens": 100, "seconds": 30}
    assert "2307.15593" in info.technique
    assert info.tokenizer
    assert api.get("/healthz").json() == {"status": "ready"}


def test_the_description_names_every_route_and_every_error(api):
    document = api.get("/openapi.json").json()
    assert set(document["paths"]) == {
        *("/v1/detect", "/v1/detect/stream", "/v1/info", "/healthz", "/metrics")
    }
    post = document["paths"]["/v1/detect"]["post"]
    assert {"200", "401", "413", "422", "429", "503"} <= set(post["responses"])
    assert len(post["requestBody"]["content"]["application/json"]["schema"]["oneOf"]) == 2
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    for page in ("/docs", "/redoc", "/v1/detect/"):  # the first two would load foreign scripts
        assert api.get(page).status_code in (404, 405)


SECRET = "swordfish"


@pytest.mark.parametrize(
    ("body", "status", "parameter"),
    [
        (b"", 400, None),
        (b"swordfish", 400, None),
        (b'{"texts": ["swordfish\xff"]}', 400, None),
        (b'{"texts": NaN}', 400, None),
        (b'{"tokens": [[1, Infinity]]}', 400, None),
        (b'{"tokens": [[' + b"9" * 4400 + b"]]}", 400, None),
        (b"[" * 4999, 400, None),
        (b'["swordfish"]', 422, None),
        (b'"swordfish"', 422, None),
        (b"{}", 422, None),
        (b'{"texts": ["a"], "tokens": [[1]]}', 422, None),
        (b'{"swordfish": 1}', 422, None),
        (b'{"texts": ["swordfish"], "texts": ["b"]}', 422, None),
        (b'{"texts": []}', 422, "texts"),
        (b'{"texts": "swordfish"}', 422, "texts"),
        (b'{"tokens": {"0": [1]}}', 422, "tokens"),
        (b'{"texts": ["a", 3]}', 422, "texts[1]"),
        (b'{"texts": ["swordfish \\ud800"]}', 422, "texts[0]"),
        (b'{"tokens": [["swordfish"]]}', 422, "tokens[0]"),
        (b'{"tokens": [[1], [2.0]]}', 422, "tokens[1]"),
        (b'{"tokens": [[true]]}', 422, "tokens[0]"),
        (b'{"tokens": [[-1]]}', 422, "tokens[0]"),
        (b'{"tokens": [[2147483648]]}', 422, "tokens[0]"),
        (b'{"texts": ["a", "a", "a", "a", "a"]}', 413, "texts"),
        (b'{"tokens": [[1' + b",1" * 100 + b"]]}", 413, "tokens[0]"),
        (b'{"texts": ["a", "' + b"a" * 101 + b'"]}', 413, "texts[1]"),
        (b'{"texts": ["' + b"a" * 5000 + b'"]}', 413, None),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_shape(api, body, status, parameter, lines):
    for path in ("/v1/detect", "/v1/detect/stream"):
        answer = api.post(path, content=body, headers=JSON)
        refusal(answer, status, parameter)
        assert SECRET not in answer.text
        (line,) = [one for one in lines() if one["path"] == path]
        assert line["status"] == status
        assert SECRET not in str(lines())


def test_odd_characters_are_only_characters(api):
    texts = ["\0" * 40, "\u202e\ufeff" * 20, "\U0001f600" * 30, "\n"]
    answer = detect(api, texts, "texts")
    assert answer.status_code == 200
    assert [one["length"] for one in answer.json()["results"]] == [40, 40, 30, 1]


@settings(max_examples=60, deadline=None)
@given(
    body=st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
            lambda inner: (
                st.lists(inner, max_size=5)
                | st.dictionaries(st.sampled_from(["texts", "tokens", "x"]), inner, max_size=2)
            ),
            max_leaves=8,
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_a_body_is_texts_or_refused(body):
    contents = refused = None
    try:
        contents = contents_of(body, Limits(texts=4))
    except Refused as error:
        refused = error
    if refused is None:
        assert 0 < len(contents) <= 4
        assert all(isinstance(content, str | list) for content in contents)
    else:
        assert refused.status in (400, 413, 422)
        schema.Problem.model_validate(refused.body())


def test_other_requests_are_refused_in_the_same_shape(api):
    assert refusal(api.get("/v1/detect"), 405).message == "Method Not Allowed"
    refusal(api.get("/nothing"), 404)
    body = b'{"tokens": [[1]]}'
    refusal(api.post("/v1/detect", content=body), 415, "Content-Type")
    text = {"Content-Type": "text/plain"}  # a page of another site may send this without asking
    refusal(api.post("/v1/detect", content=body, headers=text), 415, "Content-Type")
    packed = {**JSON, "Content-Encoding": "gzip"}
    refusal(api.post("/v1/detect", content=body, headers=packed), 415, "Content-Encoding")


def test_the_body_is_measured_as_it_comes(api):
    parts = (b" " * 1000 for _ in range(6))
    refusal(api.post("/v1/detect", content=parts, headers=JSON), 413)


def test_without_a_tokenizer_texts_are_refused(tmp_path):
    with client(tmp_path) as found:
        error = refusal(detect(found, ["a text"], "texts"), 422, "texts")
        assert "tokens" in error.remedy
        assert not found.get("/v1/info").json()["tokenizer"]


def test_a_coarse_tier_hears_verdicts_and_experts_hear_all(tmp_path):
    token, kept = new_token()
    tiers = (Tier("public", coarse=True, answer_after=0.2), Tier("experts", (kept,)))
    contents = [text_of(watermark()), NOISE, [1] * 60]
    with client(tmp_path, tiers=tiers) as found:
        public = detect(found, contents)
        assert public.elapsed.total_seconds() >= 0.2
        results = public.json()["results"]
        assert [set(one) for one in results] == [{"verdict", "error"}] * 3
        assert [one["verdict"] for one in results] == ["found", "not found", "too short"]
        stream = found.post("/v1/detect/stream", json={"tokens": contents})
        first = json.loads(stream.text.splitlines()[0])
        assert first == {"index": 0, "verdict": "found", "error": None}
        expert = detect(found, contents, headers={"Authorization": f"Bearer {token}"}).json()
        assert expert["results"][0]["p_value"] <= 0.001
        for wrong in ("Bearer wmcore_x", "Basic eDp5", f"Token {token}", "Bearer", kept):
            answer = detect(found, contents, headers={"Authorization": wrong})
            assert "not known" in refusal(answer, 401, "Authorization").message
            assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_full_answers_are_for_this_machine_unless_somebody_said_otherwise(tmp_path):
    """Neither a reverse proxy nor another site's page, whose name was turned to 127.0.0.1, brings strangers in."""
    token, kept = new_token()
    tiers = (Tier("open"), Tier("experts", (kept,)))
    with client(tmp_path, tiers=tiers, only_local=True) as found:
        for host in ("localhost:8000", "127.0.0.1:8000", "[::1]:8000", "localhost"):
            assert detect(found, [NOISE], headers={"Host": host}).status_code == 200
        for host in ("evil.example:8000", "localhost.evil.example", "10.0.0.1", "[::2]", "[", ""):
            refusal(detect(found, [NOISE], headers={"Host": host}), 403, "Host")
        for name in ("X-Forwarded-For", "Forwarded", "Via"):
            headers = {"Host": "localhost", name: "10.0.0.1"}
            refusal(detect(found, [NOISE], headers=headers), 403, "Host")
        headers = {"Host": "evil.example", "Authorization": f"Bearer {token}"}
        assert detect(found, [NOISE], headers=headers).status_code == 200


def test_a_visitor_who_sends_too_much_waits(tmp_path):
    with client(tmp_path, tiers=(Tier("open", texts_a_minute=3),)) as found:
        assert detect(found, [NOISE] * 2).status_code == 200
        late = detect(found, [NOISE] * 2)
        assert refusal(late, 429).limit == 3
        assert 15 <= int(late.headers["Retry-After"]) <= 20
        assert detect(found, [NOISE]).status_code == 200


def test_a_fault_says_its_id_and_nothing_else(tmp_path, monkeypatch, lines):
    with client(tmp_path) as found:
        monkeypatch.setattr(Panel, "judge", _fail)
        answer = detect(found, [NOISE], headers={"X-Request-ID": "abc-1"})
        error = refusal(answer, 500)
        assert error.message == "this is a fault of the service, request abc-1"
        stream = found.post("/v1/detect/stream", json={"tokens": [NOISE]})
        refusal(stream, 500)
    assert SECRET not in answer.text + stream.text + str(lines())
    (first, _) = lines()
    assert (first["id"], first["status"]) == ("abc-1", 500)
    assert first["fault"].startswith("RuntimeError at test_service_api.py:")


def test_a_fault_in_the_middle_of_a_stream_is_its_last_line(tmp_path, monkeypatch, lines):
    judge, calls = Panel.judge, []

    def once(self, texts, **options):
        calls.append(1)
        return judge(self, texts, **options) if len(calls) == 1 else _fail(self)

    with client(tmp_path) as found:
        monkeypatch.setattr(Panel, "judge", once)
        stream = found.post("/v1/detect/stream", json={"tokens": [NOISE] * 3})
        monkeypatch.undo()
        assert detect(found, [NOISE]).status_code == 200  # the turn was given back
    first, last = stream.text.splitlines()
    assert json.loads(first)["verdict"] == "not found"
    assert schema.Problem.model_validate_json(last).error.remedy == "tell the operator this id"
    assert SECRET not in stream.text + str(lines())
    assert "fault" in lines()[0]


def _fail(*_, **__):
    raise RuntimeError(SECRET)


def test_a_line_a_request_without_texts_tokens_or_keys(tmp_path, lines):
    token, kept = new_token()
    text = letters_of(text_of(watermark()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wmcore.models.load_tokenizer", lambda _: Letters())
        tiers = (Tier("experts", (kept,)),)
        with client(tmp_path, tokenizer="letters", tiers=tiers) as found:
            headers = {"Authorization": f"Bearer {token}", "X-Request-ID": "a b\n"}
            answer = detect(found, [text, "short"], "texts", headers=headers)
            found.get(f"/{SECRET}?{SECRET}={SECRET}")
    first, second = lines()
    assert first["id"] == answer.headers["X-Request-ID"] != "a b\n"
    assert (first["method"], first["path"], first["status"]) == ("POST", "/v1/detect", 200)
    assert (first["tier"], first["texts"], first["tokens"]) == ("experts", 2, [60, 5])
    assert first["verdicts"] == {"found": 1, "too short": 1}
    assert (second["path"], second["status"], second["tier"]) == ("other", 404, None)
    written = str(lines())
    secret = watermark().key.secret_hex
    for never in (text, token, kept, secret, SECRET):
        assert never not in written
    assert secret not in answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_counts_for_prometheus(tmp_path):
    def counts(found):
        page = found.get("/metrics").text
        lines = (line.rpartition(" ") for line in page.splitlines() if line[0] != "#")
        return {name: float(value) for name, _, value in lines}

    with client(tmp_path, metrics="all") as found:
        detect(found, [text_of(watermark()), NOISE, NOISE])
        detect(found, [])
        page = counts(found)
    of_detect = 'wmcore_requests_total{path="/v1/detect",status="%d",tier="open"}'
    assert page[of_detect % 200] == page[of_detect % 422] == 1
    assert page['wmcore_texts_total{verdict="found"}'] == 1
    assert page['wmcore_texts_total{verdict="not found"}'] == 2
    assert page["wmcore_tokens_total"] == 180
    assert page['wmcore_request_seconds_count{path="/v1/detect"}'] == 2


@pytest.mark.parametrize("metrics", ["local", "off"])
def test_counts_are_not_for_strangers(tmp_path, metrics):
    with client(tmp_path, metrics=metrics) as found:
        refusal(found.get("/metrics"), 403)  # the test client has no address of this machine


def test_counts_are_for_this_machine_by_a_name_of_its_own(tmp_path):
    (path,) = files(tmp_path, watermark())
    with TestClient(create_app(Settings((path,))), client=("127.0.0.1", 5)) as found:
        for host in ("localhost:8000", "[::1]"):
            assert found.get("/metrics", headers={"Host": host}).status_code == 200
        refusal(found.get("/metrics", headers={"Host": "evil.example"}), 403)
        passed_on = {"Host": "localhost", "X-Forwarded-For": "127.0.0.1"}
        refusal(found.get("/metrics", headers=passed_on), 403)
