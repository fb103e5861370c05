"""The transformers binding on tiny random models: same tokens as our own loop, same law, clear refusals."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats
from tiny import llama, padded
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria, StoppingCriteriaList
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessorList,
)

from wmcore import WatermarkError, generate
from wmcore.bindings.transformers import WatermarkConfig, WatermarkDetector
from wmcore.checks import require
from wmcore.key import Key
from wmcore.watermark import Watermark

VOCAB = 300
PROMPTS = [[5, 6, 7], [9], [1, 2, 3, 4, 5, 6, 7, 8], [20, 21]]


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def watermark_of(scheme="exp", vocab_size=VOCAB, key_length=64, seed=1):
    key = Key(bytes([seed] * 32))
    return Watermark.create(scheme, vocab_size=vocab_size, key_length=key_length, key=key)


def new_tokens(model, prompts, config, count, **settings):
    inputs = padded(prompts)
    made = model.generate(
        **inputs,
        do_sample=True,
        watermarking_config=config,
        max_new_tokens=count,
        **{"top_k": 0, **settings},
    )
    return made[:, inputs["input_ids"].shape[1] :]


@pytest.mark.parametrize("warp", [{}, {"temperature": 0.7, "top_k": 20}, {"top_p": 0.7}])
@pytest.mark.parametrize("scheme", ["exp", "its-edit"])
def test_tokens_are_those_of_our_own_loop(scheme, warp):
    """Left-padded prompts of unequal length, shifts that wrap around the key."""
    model, mark, shifts = llama(VOCAB), watermark_of(scheme, key_length=9), [0, 8, 3, 5]
    with pytest.warns(UserWarning, match="exceeds the key length 9"):
        made = new_tokens(model, PROMPTS, WatermarkConfig(mark, shifts), 12, **warp)
    with pytest.warns(UserWarning, match="exceeds the key length 9"):
        ours = generate(model, PROMPTS, mark, shifts=shifts, max_new_tokens=12, **warp)
    assert made.tolist() == [one.tokens for one in ours]


def test_logits_beyond_the_vocabulary_and_saved_settings():
    model, mark = llama(VOCAB), watermark_of(vocab_size=11)
    config = WatermarkConfig(mark, 3)
    made = new_tokens(model, PROMPTS, config, 20)
    assert made.max() < 11
    ours = generate(model, PROMPTS, mark, shifts=3, max_new_tokens=20)
    assert made.tolist() == [one.tokens for one in ours]
    model.generation_config.watermarking_config = (
        config  # copied by generate, never its secret written
    )
    again = model.generate(**padded(PROMPTS), do_sample=True, max_new_tokens=20, top_k=0)
    assert again[:, 8:].tolist() == made.tolist()
    for text in (repr(config), json.dumps(dict(config)), str(model.generation_config)):
        assert mark.key.secret_hex not in text
    assert mark.fingerprint in repr(config)
    with pytest.raises(WatermarkError, match="does not hold the watermark's key"):
        WatermarkConfig.from_dict(dict(config))


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        (None, None),
        (np.array([1, 2]), [1, 2]),
        (range(2), [0, 1]),
        (torch.tensor([1]), [1]),
        (np.uint8(3), 3),
        ((np.int8(1), 2), [1, 2]),
    ],
)
def test_shifts_of_any_kind_are_stored_plain(given, plain):
    config = WatermarkConfig(watermark_of(), given)
    assert json.loads(config.to_json_string())["shift"] == config.shift == plain
    assert str(GenerationConfig(watermarking_config=config))


def test_a_model_folder_saved_with_a_watermark_loads_without_it(tmp_path):
    """The file must not hold the key; what loads must not watermark in another way either."""
    model, mark = llama(VOCAB), watermark_of()
    model.generation_config.watermarking_config = WatermarkConfig(mark, [1, 2])
    with pytest.warns(UserWarning, match="the watermark is not saved with the generation config"):
        model.save_pretrained(tmp_path)
    text = (tmp_path / "generation_config.json").read_text()
    assert mark.key.secret_hex not in text
    assert "shift" not in text
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.generation_config.watermarking_config is None
    again = new_tokens(loaded.double(), PROMPTS[:2], WatermarkConfig(mark, [1, 2]), 5)
    made = model.generate(**padded(PROMPTS[:2]), do_sample=True, max_new_tokens=5, top_k=0)
    assert again.tolist() == made[:, 3:].tolist()


def test_showing_a_configuration_does_not_warn(recwarn):
    model = llama(VOCAB)
    model.generation_config.watermarking_config = WatermarkConfig(watermark_of())
    repr(model.generation_config)
    model.generation_config.to_json_string()
    assert not [w for w in recwarn if "watermark" in str(w.message)]


@pytest.mark.parametrize("scheme", ["exp", "exp-edit", "its", "its-edit"])
def test_what_generate_wrote_is_found(scheme):
    """Texts end early and are padded; the detector has the shape of transformers' own."""
    model = llama(VOCAB, eos_token_id=list(range(1, 5)))
    mark = watermark_of(scheme, key_length=100)
    torch.manual_seed(1)
    inputs, count = [[7]] * 12, 60
    made = new_tokens(model, inputs, WatermarkConfig(mark), count, temperature=2.0)
    plain = new_tokens(model, inputs, None, count, temperature=2.0)
    assert len({tuple(row) for row in made.tolist()}) > 8  # shifts differ
    detector = WatermarkDetector(mark, pad_token_id=0, resamples=99, seed=1)
    found = detector(made, return_dict=True)
    ends = [next((i for i, t in enumerate(r) if 1 <= t < 5), count - 1) for r in made.tolist()]
    assert found.num_tokens_scored.tolist() == [end + 1 for end in ends]
    long = found.num_tokens_scored > 30
    assert long.sum() >= 3
    assert found.p_value[long].tolist() == [0.01] * long.sum()
    assert found.prediction[long].all()
    assert (found.confidence == 1 - found.p_value).all()
    assert not detector(plain, p_threshold=0.01).all()
    torch.manual_seed(1)
    again = new_tokens(model, inputs, WatermarkConfig(mark), count, temperature=2.0)
    assert again.tolist() == made.tolist()


def test_detector_reports_bad_rows_and_takes_lists():
    detector = WatermarkDetector(WatermarkConfig(watermark_of()), resamples=9, pad_token_id=0)
    found = detector([[0, 5, 6, 0, 0], [1, 999], [0, 0]], return_dict=True)
    assert found.num_tokens_scored.tolist() == [2, 2, 0]
    assert found.error[0] is None
    assert "outside the vocabulary" in found.error[1]
    assert np.isnan(found.p_value[1:]).all()
    assert not found.prediction[1:].any()
    assert detector(np.array([[5, 6]])).dtype == bool


def test_repeated_texts_streamers_and_stopping():
    class Stop(StoppingCriteria):
        def __call__(self, input_ids, scores, **_):
            return torch.full((input_ids.shape[0],), input_ids.shape[1] >= 13)

    class Streamer:
        def __init__(self):
            self.seen = []

        def put(self, value):
            self.seen += value.flatten().tolist()

        def end(self):
            self.ended = True

    model, mark, streamer = llama(VOCAB), watermark_of(), Streamer()
    config = WatermarkConfig(mark, [4, 5, 6])
    made = new_tokens(
        model, [[7, 8, 9]], config, 50, num_return_sequences=3, stopping_criteria=[Stop()]
    )
    ours = generate(model, [[7, 8, 9]] * 3, mark, shifts=[4, 5, 6], max_new_tokens=10)
    assert made.tolist() == [one.tokens for one in ours]
    stops = StoppingCriteriaList([Stop()])
    config = WatermarkConfig(mark, 4)
    new_tokens(model, [[7, 8, 9]], config, 50, streamer=streamer, stopping_criteria=stops)
    assert streamer.seen == [7, 8, 9, *ours[0].tokens]


def test_assistant_models_write_the_same_text():
    """Assisted decoding asks for earlier positions again: draws depend on the position alone."""
    model, mark = llama(VOCAB), watermark_of()
    assistant = llama(VOCAB, rms_norm_eps=1e-3)
    settings = {"assistant_model": assistant, "temperature": 0.8}
    made = new_tokens(model, [[7, 8, 9]], WatermarkConfig(mark, 4), 30, **settings)
    ours = generate(model, [[7, 8, 9]], mark, shifts=4, max_new_tokens=30, temperature=0.8)
    assert made[0].tolist() == ours[0].tokens


def test_other_searches_are_refused_not_unwatermarked():
    model, config = llama(VOCAB), WatermarkConfig(watermark_of())
    inputs = padded(PROMPTS)
    settings = {"watermarking_config": config, "max_new_tokens": 3}
    for change, message in [
        ({"do_sample": False}, "do_sample=False cannot be watermarked"),
        ({"do_sample": True, "num_beams": 2}, "num_beams 2 cannot be watermarked"),
        ({"num_beams": 2}, "num_beams 2 cannot be watermarked"),
    ]:
        with pytest.raises(WatermarkError, match=message):
            model.generate(**inputs, **settings, **change)
    chosen = GenerationConfig(do_sample=True, watermarking_config=config)
    with pytest.raises(WatermarkError, match="continuous batching cannot be watermarked"):
        model._get_logits_processor(chosen)  # as continuous batching calls it
    processor = config.construct_processor(VOCAB, "cpu")
    kept = ContinuousBatchingLogitsProcessorList([processor])
    assert list(kept.logits_processor) == [processor]  # not dropped without an error
    processor(inputs["input_ids"], torch.zeros(4, VOCAB))
    with pytest.raises(WatermarkError, match="scores has 3 rows, but 4 texts were begun"):
        processor(inputs["input_ids"][:3], torch.zeros(3, VOCAB))


def test_bad_settings_are_named():
    mark = watermark_of()
    for shift, message in [
        (64, "shift is 64, but must be a whole number from 0 to 63"),
        ([0, -1], "shift is -1"),
        (0.5, "shift is 0.5"),
        (True, "shift is True"),
        ("1", "shift is '1'"),
    ]:
        with pytest.raises(WatermarkError, match=message):
            WatermarkConfig(mark, shift)
    with pytest.raises(TypeError, match="watermark is a str"):
        WatermarkConfig("file.json")
    with pytest.raises(WatermarkError, match="vocab_size 300 exceeds the model's 200 logits"):
        new_tokens(llama(200), PROMPTS, WatermarkConfig(mark), 2)
    with pytest.raises(WatermarkError, match="2 given for 4 texts"):
        new_tokens(llama(VOCAB), PROMPTS, WatermarkConfig(mark, [1, 2]), 2)
    with pytest.raises(WatermarkError, match=r"numpy is version .* at least 99 .*: run this"):
        require("numpy", "run this", "99", "100")
    with pytest.raises(WatermarkError, match="package no-such-thing is not installed: run this"):
        require("no-such-thing", "run this", "1", "2")


def test_the_order_of_processors():
    """The watermark sees warped scores: with top_k=5 the drawn token is one of five."""
    seen = []

    class Spy(LogitsProcessor):
        def __call__(self, input_ids, scores):
            seen.append(scores.topk(5).indices)
            return scores

    model = llama(VOCAB)
    made = new_tokens(
        model, PROMPTS, WatermarkConfig(watermark_of()), 20, top_k=5, logits_processor=[Spy()]
    )
    for i, top in enumerate(seen):
        assert all(made[b, i] in top[b] for b in range(len(PROMPTS)))


@pytest.mark.parametrize("scheme", ["exp", "its"])
def test_pairs_of_tokens_follow_the_model(scheme):
    """Four keys, 3,000 texts each that share no key row, top-p as warper: counts are multinomial with the law
    that plain float64 softmax gives; the chi-square p-value is below 1e-5 once in 100,000 such tests."""
    n_tokens, texts, warp = 8, 3000, {"temperature": 1.5, "top_p": 0.9}
    model, prompt = llama(n_tokens), [1, 2]
    counts = np.zeros((n_tokens, n_tokens))
    for seed in range(4):
        mark = watermark_of(scheme, n_tokens, 2 * texts, seed)
        shifts = (np.arange(texts) * 2).tolist()
        made = new_tokens(model, [prompt] * texts, WatermarkConfig(mark, shifts), 2, **warp)
        np.add.at(counts, tuple(made.numpy().T), 1)
    first = law(model, prompt, **warp)
    second = [law(model, [*prompt, a], **warp) for a in range(n_tokens)]
    expected = (first[:, None] * np.array(second)).ravel() * counts.sum()
    counts = counts.ravel()
    assert counts[expected == 0].sum() == 0
    rare = expected < 5
    seen = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    keep = wanted > 0
    assert keep.sum() > 5
    assert stats.chisquare(seen[keep], wanted[keep]).pvalue > 1e-5


def law(model, ids, temperature, top_p):
    with torch.no_grad():
        scores = model(torch.tensor([ids])).logits[0, -1].double().numpy() / temperature
    p = np.exp(scores - scores.max())
    p /= p.sum()
    order = np.argsort(-p)
    before = np.cumsum(p[order]) - p[order]
    p[order[before >= top_p]] = 0
    return p / p.sum()


def test_wmcore_detect_finds_it(tmp_path):
    """The command, in a process of its own, from the saved watermark and the saved tokens."""
    mark = watermark_of(key_length=100)
    mark.save(tmp_path / "mark.json")
    torch.manual_seed(2)
    model = llama(VOCAB)
    made = new_tokens(model, [[7]] * 3, WatermarkConfig(mark), 60, temperature=2.0).tolist()
    plain = np.random.default_rng(3).integers(0, VOCAB, (3, 60)).tolist()
    lines = "".join(json.dumps({"tokens": row}) + "\n" for row in made + plain)
    (tmp_path / "made.jsonl").write_text(lines)
    command = [
        sys.executable,
        "-m",
        "wmcore",
        "detect",
        "-w",
        "mark.json",
        "--tokens-field",
        "tokens",
    ]
    command += ["--json", "--resamples", "99", "--seed", "1", "made.jsonl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    p_values = [json.loads(line)["p_value"] for line in done.stdout.splitlines()]
    assert p_values[:3] == [0.01] * 3
    assert min(p_values[3:]) > 0.01


def test_wrong_shapes_are_said():
    detector = WatermarkDetector(watermark_of())
    for texts, message in (
        ("text", "input_ids is one string"),
        ({"input_ids": [[1, 2]]}, r"tokenizer\(texts\)\['input_ids'\]"),
        ([1, 2, 3], "input_ids is one text of token ids"),
        (torch.tensor([1, 2, 3]), "input_ids is one text of token ids"),
    ):
        with pytest.raises(TypeError, match=message):
            detector(texts)
    found = detector([[1, 2, 3], "words", {"input_ids": [1]}], return_dict=True)
    assert found.error[0] is None
    assert "tokenizer" in found.error[1]
    assert "maps names to values" in found.error[2]
    with pytest.raises(TypeError, match=r"use Watermark\.load\(path\)"):
        WatermarkDetector("mark.json")


def test_a_bare_watermark_is_no_watermarking_config():
    with pytest.raises(TypeError, match=r"give wmcore\.bindings\.transformers\.WatermarkConfig"):
        new_tokens(llama(VOCAB), PROMPTS, watermark_of(), 3)
