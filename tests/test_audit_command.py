"""``wmcore audit``: a tiny model, a file of texts, a server; its exit codes."""

import json

import pytest
import tiny
from audit_server import serving
from audits import PROMPTS, Pairs, Server
from commands import one_line

from wmcore.audit.given import read_texts
from wmcore.watermark import Watermark

V = 64
SMALL = ("--texts-count", 5, "--answers", 3, "--max-new-tokens", 50, "--seed", 1)


@pytest.fixture
def model(tmp_path, one_torch_thread):
    """The folder of a tiny model, with prompts and a watermark beside it."""
    folder = tmp_path / "model"
    tiny.llama(V).save_pretrained(folder)
    tiny.words(V).save_pretrained(folder)
    with open(tmp_path / "prompts.jsonl", "w") as file:
        for i in range(6):
            file.write(json.dumps({"prompt": f"w{i} w{2 * i + 1} w7"}) + "\n")
    Watermark.create("exp", vocab_size=V, tokenizer=str(folder)).save(tmp_path / "mark.json")
    return folder


def test_a_model_here(wm, model):
    given = ("audit", "-w", "mark.json", "--model", model, "--prompts", "prompts.jsonl", *SMALL)
    code, out, _err = wm(*given)
    lines = out.splitlines()
    assert code == 0, out
    assert [line[:11].strip() for line in lines] == ["good"] * 8
    assert lines[1].startswith("good        found: 8 of 8 marked texts")
    assert lines[-1].startswith("good        in all (watermark ")

    code, out, _err = wm(*given, "--json")
    done = json.loads(out)
    assert code == 0
    assert done["verdict"] == "good"
    assert done["writer"]["name"] == done["watermark"]["tokenizer"] == model.name
    assert done["detector"]["tokenizer"] == model.name
    assert str(model.parent) not in out
    assert done["counts"]["marked"] == done["counts"]["unmarked"] == 8
    assert done["checks"][3]["numbers"]["known"] == 8

    # The detector takes another tokenizer: the file of one whose words have other numbers.
    other = tiny.words(V)
    vocabulary = {f"w{i}": (i + 9) % V for i in range(V)}
    state = json.loads(other.backend_tokenizer.to_str())
    state["model"]["vocab"] = vocabulary
    (model.parent / "tokenizer.json").write_text(json.dumps(state))
    code, out, _err = wm(*given, "--tokenizer", model.parent / "tokenizer.json")
    assert code == 1
    assert "\nbad         round trip:" in out
    assert (
        "\nbad         vocabulary: the detector's tokenizer reads the texts as other tokens" in out
    )
    assert "\nsure        wrong tokenizer:" in out


def test_a_model_with_other_logits(wm, model, tmp_path):
    Watermark.create("exp", vocab_size=V - 4, tokenizer=str(model)).save(tmp_path / "few.json")
    given = ("audit", "-w", "few.json", "--model", model, "--prompts", "prompts.jsonl", *SMALL)
    code, out, _err = wm(*given)
    assert code == 1
    assert (
        "\nbad         vocabulary: the model has 64 logits, but the watermark was made for 60"
        in out
    )


@pytest.fixture
def pairs(monkeypatch, tmp_path):
    """The made-up language behind the command, and its watermark."""
    monkeypatch.setattr("wmcore.models.load_tokenizer", lambda _: Pairs())
    mark = Watermark.create("exp", vocab_size=512, tokenizer="pairs")
    mark.save(tmp_path / "mark.json")
    return mark


def test_texts_written_before(wm, pairs, tmp_path):
    server = Server(pairs)

    def lines(fault=""):
        server.fault = fault
        for marked, count in [(True, 8), (False, 4)]:
            for one in server.write(PROMPTS, range(count), marked=marked):
                record = {"text": one.text, "prompt": PROMPTS[one.prompt], "tokens": one.tokens}
                yield json.dumps({**record, "watermarked": marked}) + "\n"

    # A line separator of Unicode ends no record.
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"text": "a\u2028b\x85"}, ensure_ascii=False), encoding="utf-8")
    assert read_texts(str(path)).marked[0].text == "a\u2028b\x85"
    path.write_text("".join(lines()))
    code, out, _err = wm("audit", "-w", "mark.json", "--texts", path, "--json", "--with-texts")
    done = json.loads(out)
    assert code == 0
    assert done["counts"]["marked"] == 8
    assert done["counts"]["unmarked"] == 4
    assert len(done["rows"][0]["text"]) == 80
    path.write_text("".join(lines("dropped")))
    code, out, _err = wm("audit", "-w", "mark.json", "--texts", path)
    assert code == 1
    assert "\nfits        no watermark of this key:" in out
    path.write_text("".join(list(lines())[:2]))
    assert wm("audit", "-w", "mark.json", "--texts", path)[0] == 3


def test_a_server(wm, pairs):
    with serving(Server(pairs)) as server:
        given = ("audit", "-w", "mark.json", "--url", server.url, *SMALL)
        code, out, _err = wm(*given, "--off-fields", '{"vllm_xargs": {"wmcore": false}}')
        assert code == 0, out
        assert "0 of 8 unmarked texts are found" in out
        # Without a way to switch it off, ordinary text of the package is tested.
        code, out, _err = wm(*given)
        assert code == 0, out
        assert "0 of 16 unmarked texts are found" in out
        (own,) = server.writer.write(PROMPTS, [0], marked=True)
        with open("human.txt", "w", encoding="utf-8") as file:
            file.write(own.text)
        code, out, _err = wm(*given, "--unmarked", "human.txt")
        assert code == 1
        assert "1 of 1 unmarked texts are found" in out


def test_bad_usage(wm, pairs, tmp_path):
    start = ("audit", "-w", "mark.json")
    one_line(wm(*start), "give one of --model, --url and --texts")
    one_line(wm(*start, "--url", "x", "--texts", "y"), "give one of")
    one_line(wm(*start, "--url", "nowhere"), "must be the address")
    one_line(wm(*start, "--texts", "none.jsonl"), "No such file")
    one_line(wm(*start, "--texts", "none.jsonl", "--off-url", "http://x/v1"), "--off-url is for")
    address = ("--url", "http://127.0.0.1:9/v1")
    one_line(wm(*start, *address, "--fields", "[1]"), "--fields .*: no JSON object")
    one_line(wm(*start, *address, "--level", 0.5), "level is 0.5")
    for text in ('{"text": 5}', "no JSON", '{"text": "a", "tokens": ["b"]}', '{"prompt": "a"}'):
        (tmp_path / "t.jsonl").write_text(f"\n{text}\n")
        one_line(wm(*start, "--texts", "t.jsonl"), "line 2 must be an object")
    (tmp_path / "t.jsonl").write_text("")
    one_line(wm(*start, "--texts", "t.jsonl"), "there are no marked texts")
