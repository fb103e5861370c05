"""Models as proxies: what they say is the definition's, whatever the length; learning with a model; the command."""

import json
import pickle
import re

import numpy as np
import pytest
import tiny
import torch
from commands import V, one_line, rows
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from wmcore import Detector, Watermark, WatermarkError
from wmcore.learned_scores import LearnedScores, ProxyScores, TokenScores, default_scores
from wmcore.learning import learn_scores
from wmcore.proxy import TEMPERATURE, ModelProxy, as_proxy, log_probabilities

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def model():
    return tiny.llama(V, bos_token_id=1)


def next_law(model, before, warpers=()):
    """log P of each token after `before`, by one call of its own."""
    with torch.inference_mode():
        logits = model(torch.tensor([before])).logits[:, -1]
    return LogitsProcessorList(warpers)(None, logits).log_softmax(-1)[0].double().numpy()


def text(length, seed=0):
    return np.random.default_rng(seed).integers(0, V, length)


def test_z_is_the_log_probability_after_the_begin_of_text_token(model):
    tokens = text(20)
    z = ModelProxy(model)(tokens)
    warm = [TemperatureLogitsWarper(TEMPERATURE)]
    for i, token in enumerate(tokens):
        assert z[i] == pytest.approx(next_law(model, [1, *tokens[:i]], warm)[token], abs=1e-5)


def test_without_a_begin_of_text_token_the_end_of_text_token_stands_in_front():
    tokens = text(5)
    one = ModelProxy(tiny.llama(V, bos_token_id=None, eos_token_id=[7, 8]))(tokens)
    assert one == pytest.approx(ModelProxy(tiny.llama(V, bos_token_id=7))(tokens))


def test_without_any_the_first_token_is_as_likely_as_any_other():
    model = tiny.llama(V)
    tokens = text(6)
    z = ModelProxy(model)(tokens)
    assert z[0] == -np.log(V)
    warm = [TemperatureLogitsWarper(TEMPERATURE)]
    for i in range(1, 6):
        assert z[i] == pytest.approx(
            next_law(model, tokens[:i].tolist(), warm)[tokens[i]], abs=1e-5
        )
    assert ModelProxy(model)(tokens[:1]).tolist() == [-np.log(V)]


@pytest.mark.parametrize("length", [1, 7, 8, 9, 11, 12, 13, 16, 17, 40])
@pytest.mark.parametrize("begin", [None, 1])
def test_long_texts_are_read_in_windows_that_overlap_by_half(length, begin):
    """Of 8 tokens: the model never sees more, and a token beyond the first window has 4 to 8 before it."""
    model = tiny.llama(V, bos_token_id=begin)
    tokens = text(length, seed=length)
    z = ModelProxy(model, window=8)(tokens)
    assert len(z) == length
    warm = [TemperatureLogitsWarper(TEMPERATURE)]
    front = [] if begin is None else [begin]
    whole = [*front, *tokens.tolist()]
    for i, token in enumerate(tokens):
        at = i + len(front)
        if at == 0:
            continue
        # The first window holds 8; each further one 4 old tokens and those before the 4 that it adds.
        start = 0 if at <= 8 else (at - 9) // 4 * 4 + 5
        found = next_law(model, whole[start:at], warm)[token]
        assert z[i] == pytest.approx(found, abs=1e-5), i


def test_a_window_is_at_most_what_the_model_takes():
    small = tiny.llama(V, bos_token_id=1, max_position_embeddings=8)
    tokens = text(40)
    assert (ModelProxy(small)(tokens) == ModelProxy(small, window=8)(tokens)).all()


def test_a_text_is_read_alone(model):
    """The same bits, whatever else is tested."""
    texts = [text(m, seed=m) for m in (3, 30, 30, 70)]
    alone = [ModelProxy(model)(one) for one in texts]
    mark = Watermark.create("exp", vocab_size=V, key_length=20)
    batch = Detector(mark, proxy=model)
    batch.detect(texts, resamples=9)
    for one, z in zip(texts, alone, strict=True):
        assert (ModelProxy(model)(one) == z).all()
        bins = Detector(mark, proxy=model).engine.pack([one]).bins
        assert (batch.engine.pack([*texts, one]).bins[-len(one) :] == bins).all()


def test_the_law_is_that_of_transformers_warpers(model):
    """With top-p, p is the probability of the law that generate draws from."""
    before, tokens = [5, 6], text(12)
    warpers = [TemperatureLogitsWarper(0.5), TopPLogitsWarper(0.8)]
    found = log_probabilities(model, before, tokens.tolist(), 0.5, 0.8)
    kept = 0
    for i, token in enumerate(tokens):
        law = next_law(model, [*before, *tokens[:i]], warpers)
        if np.isfinite(law[token]):
            assert found[i] == pytest.approx(law[token], abs=1e-4)
            kept += 1
        else:  # as if it were kept
            best = law.argmax()
            plain = next_law(model, [*before, *tokens[:i]], warpers[:1])
            assert found[i] == pytest.approx(law[best] + plain[token] - plain[best], abs=1e-4)
    drawn = [int(next_law(model, before, warpers).argmax())]
    assert log_probabilities(model, before, drawn, 0.5, 0.8)[0] == pytest.approx(
        next_law(model, before, warpers).max(), abs=1e-4
    )


def test_what_is_no_proxy(model):
    with pytest.raises(WatermarkError, match="model is a Linear, but must be a causal language"):
        as_proxy(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="proxy is a float"):
        as_proxy(0.5)
    mark = Watermark.create("exp", vocab_size=2 * V, key_length=20)
    found = Detector(mark, proxy=model).detect([[1, 2, V], [1, 2, 3]], resamples=9)
    assert found[0].error == (
        f"token {V} is outside the proxy's vocabulary of {V} tokens: use a model of the tokenizer that the text is "
        "made of"
    )
    assert found[1].error is None


def test_a_detector_with_a_proxy_is_pickled(model):
    detector = Detector(Watermark.create("exp", vocab_size=V, key_length=20), proxy=model)
    again = pickle.loads(pickle.dumps(detector))
    assert again.detect([text(9)], seed=1) == detector.detect([text(9)], seed=1)


# learning


@pytest.mark.parametrize("by", ["proxy", "tokens"])
def test_scores_are_learnt_from_a_model(model, by):
    prompts = [[i, i + 1] for i in range(20)]
    options = {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 40, "seed": 1, "by": by}
    scores = learn_scores(model, tiny.words(V), prompts, name="tiny", **options)
    assert isinstance(scores, {"proxy": ProxyScores, "tokens": TokenScores}[by])
    assert scores.origin.texts == 20
    assert scores.origin.tokens == 800
    assert (scores.origin.model, scores.origin.temperature, scores.origin.top_p) == (
        "tiny",
        0.7,
        0.9,
    )
    assert scores.name == learn_scores(model, tiny.words(V), prompts, name="tiny", **options).name
    assert len(scores.probabilities) > 5
    proxy = {"proxy": model} if by == "proxy" else {}
    mark = Watermark.create("exp", vocab_size=V, key_length=20)
    (found,) = Detector(mark, score=scores, **proxy).detect([text(15)])
    assert found.error is None


def test_prompts_that_cannot_be_used_are_left_out(model):
    prompts = ["w3 w4", [V + 5], *([[i, 2] for i in range(10)]), "w5"]
    scores = learn_scores(
        model, tiny.words(V), prompts, by="tokens", max_new_tokens=50, batch_size=4, seed=1
    )
    assert scores.origin.texts == 12


# the command


@pytest.fixture
def named(monkeypatch, letters, model):
    """The tiny model in place of a real one, whatever its name."""
    monkeypatch.setattr("wmcore.models.load_model", lambda _: (model, tiny.words(V)))


@pytest.fixture
def exp_mark(wm, tmp_path):
    assert wm("keygen", "--scheme", "exp", "--vocab-size", V, "-o", "exp.json")[0] == 0
    with open("in.jsonl", "w") as file:
        for m in (1, 9, 30):
            file.write(json.dumps({"tokens": text(m).tolist()}) + "\n")
    return tmp_path / "exp.json"


LEARN = ("learn-scores", "--prompts", "prompts.jsonl", "--max-new-tokens", 40, "--seed", 1)
DETECT = ("detect", "-w", "exp.json", "--tokens-field", "tokens", "--json", "--seed", 1, "in.jsonl")


def test_the_command_learns_and_detects(wm, named, exp_mark, model):
    with open("prompts.jsonl", "w") as file:
        file.writelines(json.dumps({"prompt": f"w{i} w{i + 1}"}) + "\n" for i in range(20))
    warm = ("--temperature", 0.7, "--top-p", 0.9)
    code, out, err = wm(*LEARN, *warm, "-o", "scores.json")
    assert (code, out) == (0, "")
    assert err == "wmcore: scores.json: scores by proxy, from 20 texts of 800 tokens\n"
    assert wm(*LEARN, "--by", "tokens", "-o", "tokens.json")[0] == 0
    assert LearnedScores.load("scores.json").origin.model == "smollm2"

    texts = [text(m) for m in (1, 9, 30)]
    mark = Watermark.load("exp.json")
    for options, given in (
        (("--proxy", "tiny"), {"proxy": model}),
        (("--proxy", "tiny", "--score", "scores.json"), {"proxy": model, "score": "scores.json"}),
        (("--score", "tokens.json"), {"score": "tokens.json"}),
        (
            ("--score", "mixture", "--scheme", "exp-local"),
            {"score": "mixture", "scheme": "exp-local"},
        ),
    ):
        code, out, err = wm(*DETECT, *options)
        assert code == 0
        scheme = given.get("scheme", "exp-free")
        assert re.fullmatch(rf"wmcore: tested as {scheme}, gap [0-9.]+, score .+\n", err)
        expected = Detector(mark, **given).detect(texts, seed=1)
        assert [row["p_value"] for row in rows(out)] == [one.p_value for one in expected]
    assert len({json.dumps(rows(wm(*DETECT, *o)[1])) for o in ((), ("--score", "log"))}) == 2


def test_mistakes_of_the_command(wm, named, exp_mark):
    with open("prompts.jsonl", "w") as file:
        file.write(json.dumps({"prompt": "w1 w2"}) + "\n")
    one_line(wm(*LEARN, "-o", "scores.txt"), r"--output scores.txt: .*end it in \.json")
    one_line(wm(*LEARN, "-o", "s.json", "--by", "words"), "by is 'words': use one of proxy, tokens")
    one_line(
        wm(*LEARN, "-o", "s.json", "--by", "tokens", "--proxy", "x"), "--proxy is for scores by"
    )
    one_line(wm(*LEARN, "-o", "s.json"), "have 40 tokens, but 500 are needed")
    one_line(wm(*LEARN, "-o", "s.json", "--chat"), "--chat: model smollm2 has no chat format")
    one_line(
        wm(*LEARN, "-o", "s.json", "--temperature", 0), "temperature is 0, but must be above it"
    )
    one_line(wm(*DETECT, "--score", "none.json"), "none.json cannot be read .*learn-scores")
    one_line(wm(*DETECT, "--score", "exp.json"), "exp.json is damaged or not of learnt scores")
    one_line(wm(*DETECT, "--score", "odd"), "score 'odd' is not known for exp: use one of log")
    one_line(
        wm(*DETECT, "--proxy", "tiny", "--scheme", "exp"), "leave it out, or use a scheme with"
    )
    one_line(wm(*DETECT, "--proxy", "tiny", "--score", "log"), "score is not by a proxy")
    default_scores().save("default.json")
    one_line(wm(*DETECT, "--score", "default.json"), "or detect --proxy, such as 'smollm2'")


@pytest.mark.slow
@pytest.mark.model
def test_the_packaged_model_reads_a_text():
    mark = Watermark.create("exp", vocab_size=49_152, tokenizer="smollm2")
    detector = Detector(mark, proxy="smollm2", tokenizer="smollm2")
    found = detector.detect(["The capital of France is Paris.", "Xylophone zebra quartz."], seed=1)
    assert all(one.error is None for one in found)
    tokens = np.array(detector.tokenizer("The capital of France is Paris.")["input_ids"])
    bins = detector.engine.pack([tokens]).bins.astype(int)
    assert bins[-2] > bins[0]  # Paris was to be expected, and The was not
