"""`wmcore.bindings.llama_cpp` on a real llama.cpp with a real model (make llamacpp)."""

import itertools
import json
import pickle
import sys

import numpy as np
import pytest
from llama_cpp_reference import explained

from wmcore import Detector, Watermark, WatermarkError
from wmcore.key import Key
from wmcore.models import packaged_file

pytestmark = [pytest.mark.llamacpp, pytest.mark.timeout(900)]

VOCAB, N = 49152, 256
MARK = Watermark.create("exp", vocab_size=VOCAB, key_length=N, key=Key(bytes(range(32))))
PLAIN = {"temp": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
USUAL = {"temp": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
"""llama_cpp's defaults."""
PROMPTS = [
    "The harbour was quiet that morning, and",
    "Dear editor, I write to complain about",
    "To bake a loaf of bread, first",
    "In the year 1848, a young engineer",
    "Our neighbours keep bees, which",
]


def load(**options):
    from wmcore.bindings.llama_cpp import Llama

    defaults = {"watermark": MARK, "n_threads": 1, "n_threads_batch": 1, "verbose": False}
    return Llama(str(packaged_file()), **{**defaults, **options})


@pytest.fixture(scope="module")
def loaded():
    return load(n_ctx=512, logits_all=True)


@pytest.fixture
def llm(loaded):
    """The model as it was loaded, whatever the test before did with it."""
    loaded.service.counts.clear()
    loaded.set_cache(None)
    loaded.draft_model = None
    loaded.reset()
    return loaded


def detected(tokens, mark=MARK):
    return Detector(mark).detect([tokens], resamples=199)[0].p_value


def tokens_of(llm, text):
    return llm.tokenize(text.encode(), add_bos=False)


def text_of(answer):
    return answer["choices"][0]["text"]


def start_of(llm, prompt):
    return len(llm.tokenize(prompt.encode(), add_bos=False, special=True))


def made(llm, prompt, n, **settings):
    """The first n tokens of generate(), from nothing: a prompt read in other batches gives other last digits."""
    llm.reset()
    tokens = llm.tokenize(prompt.encode(), add_bos=False)
    stream = llm.generate(tokens, **settings)
    return list(itertools.islice(stream, n))


def test_no_torch_is_needed(llm):
    with llm.marking(wmcore_shift=1):
        llm(PROMPTS[0], max_tokens=4)
    assert "torch" not in sys.modules


@pytest.mark.parametrize(
    "settings",
    [
        PLAIN,
        USUAL,
        {**PLAIN, "temp": 1.4, "top_k": 20},
        {**PLAIN, "top_p": 0.8},
        {**PLAIN, "min_p": 0.2},
        {**USUAL, "repeat_penalty": 1.3},
    ],
    ids=str,
)
def test_each_token_is_the_one_that_the_key_draws(llm, settings):
    for shift, prompt in [(3, PROMPTS[0]), (N - 5, PROMPTS[1])]:
        with llm.marking(wmcore_shift=shift):
            made(llm, prompt, 40, **settings)
        right, all_of_them = explained(llm, start_of(llm, prompt), MARK, shift, **settings)
        assert all_of_them >= 39
        assert right == all_of_them
    assert llm.service.counts == {"marked": 2}


def test_a_negative_temperature_is_one_without_truncation(llm):
    with llm.marking(wmcore_shift=9):
        made(llm, PROMPTS[2], 30, temp=-1.0)
    assert explained(llm, start_of(llm, PROMPTS[2]), MARK, 9, **PLAIN) == (29, 29)


@pytest.mark.parametrize("scheme", ["its", "published"])
def test_other_keys_draw_too(scheme):
    if scheme == "its":
        mark = Watermark.create("its", vocab_size=VOCAB, key=Key(bytes(range(32))))
    else:
        mark = Watermark.published(
            "exp", seed=3, generator="mersenne", vocab_size=VOCAB, key_length=40
        )
    llm = load(n_ctx=128, logits_all=True, watermark=mark)
    with llm.marking(wmcore_shift=5):
        made(llm, PROMPTS[0], 30, **USUAL)
    assert explained(llm, start_of(llm, PROMPTS[0]), mark, 5, **USUAL) == (29, 29)


def test_a_smaller_vocabulary_is_never_left():
    mark = Watermark.create("exp", vocab_size=3000, key=Key(bytes(range(32))))
    llm = load(n_ctx=128, logits_all=True, watermark=mark)
    with llm.marking(wmcore_shift=0):
        tokens = made(llm, PROMPTS[0], 30, **PLAIN)
    assert max(tokens) < 3000
    assert explained(llm, start_of(llm, PROMPTS[0]), mark, 0, **PLAIN) == (29, 29)


def test_a_watermark_of_another_model_is_refused():
    for size, message in [
        (VOCAB + 1, r"vocab_size 49153 exceeds the model's 49152 logits"),
        (2, r"end-of-text token 2 is outside the watermark's vocab_size 2"),
    ]:
        with pytest.raises(WatermarkError, match=message):
            load(watermark=Watermark.create("exp", vocab_size=size, key=Key(bytes(32))))


def test_twenty_texts_are_found(llm):
    found = missed = 0
    for i in range(20):
        answer = llm(PROMPTS[i % 5], max_tokens=80, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
        found += detected(tokens_of(llm, text_of(answer))) <= 0.01
    assert llm.service.counts == {"marked": 20}
    with llm.marking(wmcore=False):
        for i in range(10):
            answer = llm(PROMPTS[i % 5], max_tokens=80)
            missed += detected(tokens_of(llm, text_of(answer))) > 0.01
    assert found == 20
    assert missed >= 8  # fewer have chance 1.1e-4
    assert llm.service.counts == {"marked": 20, "off": 10}


def test_labels_shifts_and_seeds(llm):
    def write(max_tokens=25, **options):
        llm.reset()
        return text_of(llm(PROMPTS[0], max_tokens=max_tokens, temperature=1.0, **options))

    with llm.marking(wmcore_label="acme"):
        texts = [tokens_of(llm, write(60)) for _ in range(4)]
    acme = Watermark.create("exp", vocab_size=VOCAB, key=MARK.key.derive("acme"))
    assert max(detected(tokens, acme) for tokens in texts) <= 0.01
    assert sum(detected(tokens) <= 0.01 for tokens in texts) <= 1  # more have chance 6e-4
    assert write(seed=5) == write(seed=5) != write(seed=6)
    assert write() != write()
    for random in (-1, 0xFFFFFFFF):
        assert write(seed=random) != write(seed=random)
    with llm.marking(wmcore_shift=7):
        assert write(seed=5) == write(seed=6) == write()
    with llm.marking(wmcore_shift=N), pytest.raises(WatermarkError, match="outside 0 to 255"):
        write()
    wrong = llm.marking(wmcore="yes")
    with pytest.raises(WatermarkError, match="'yes', but must be true or false"), wrong:
        pass


def test_a_seeded_model_repeats_itself_but_no_row():
    texts = []
    for _ in range(2):
        llm = load(n_ctx=128, seed=42)
        texts.append([text_of(llm(PROMPTS[0], max_tokens=20, temperature=1.0)) for _ in range(2)])
    assert texts[0] == texts[1]
    assert texts[0][0] != texts[0][1]


def test_streams_keep_what_they_were_asked_with(llm):
    with llm.marking(wmcore_shift=11):
        whole = text_of(llm(PROMPTS[0], max_tokens=40))
        llm.reset()
        stream = llm(PROMPTS[0], max_tokens=40, stream=True)
        chat = llm.create_chat_completion(
            [{"role": "user", "content": "Tell me a story."}], max_tokens=40, stream=True
        )
    assert "".join(map(text_of, stream)) == whole
    llm.reset()
    pieces = [c["choices"][0]["delta"].get("content", "") for c in chat]
    llm.reset()
    with llm.marking(wmcore_shift=11):
        again = llm.create_chat_completion(
            [{"role": "user", "content": "Tell me a story."}], max_tokens=40
        )
    assert "".join(pieces) == again["choices"][0]["message"]["content"]
    stream = llm(PROMPTS[0], max_tokens=40, stream=True)
    next(stream)
    stream.close()
    assert llm.service.counts == {"marked": 5}


def test_grammars_hold(llm):
    import llama_cpp

    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
    }
    for seed in range(4):
        answer = llm.create_chat_completion(
            [{"role": "user", "content": "Invent a person, in JSON."}],
            response_format={"type": "json_object", "schema": schema},
            max_tokens=100,
            temperature=1.0,
            seed=seed,
        )
        if answer["choices"][0]["finish_reason"] == "stop":
            made_up = json.loads(answer["choices"][0]["message"]["content"])
            assert set(made_up) == {"name", "age"}
    grammar = llama_cpp.LlamaGrammar.from_string(
        'root ::= ("yes" | "no" | "perhaps")', verbose=False
    )
    answers = {
        text_of(llm("Is it so? ", grammar=grammar, temperature=1.5, seed=s)) for s in range(12)
    }
    assert answers <= {"yes", "no", "perhaps"}
    assert len(answers) > 1
    assert llm.service.counts == {"marked": 16}


def test_biases_processors_and_stops_hold(llm):
    import llama_cpp

    start = start_of(llm, PROMPTS[0])
    (comma,) = tokens_of(llm, ",")
    with llm.marking(wmcore_shift=2):
        plain = text_of(llm(PROMPTS[0], max_tokens=60))
        assert "," in plain
        llm.reset()
        biased = text_of(llm(PROMPTS[0], max_tokens=60, logit_bias={str(comma): -100.0}))
        assert comma not in llm.input_ids[start : llm.n_tokens].tolist()
        seen = []

        def halved(ids, scores):
            seen.append(len(ids))
            return scores / 2

        processors = llama_cpp.LogitsProcessorList([halved])
        made(llm, PROMPTS[0], 30, logits_processor=processors, **PLAIN)
        assert seen == list(range(start, start + 30))
        assert explained(llm, start, MARK, 2, **{**PLAIN, "temp": 2.0}) == (29, 29)
        llm.reset()
        stopped = text_of(llm(PROMPTS[0], max_tokens=60, stop=[","]))
    assert biased != plain
    assert stopped == plain[: plain.index(",")]
    assert "unmarked tokens" not in llm.service.counts


def test_caches_and_states_hold(llm):
    import llama_cpp

    prompt = "Once upon a time there was a kingdom by the sea. " * 6
    longer = prompt + "Its king"
    llm.set_cache(llama_cpp.LlamaRAMCache(capacity_bytes=1 << 30))
    for shift, text in enumerate([prompt, longer, prompt]):
        with llm.marking(wmcore_shift=shift):
            llm(text, max_tokens=25, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
        right, all_of_them = explained(llm, start_of(llm, text), MARK, shift, **PLAIN)
        assert right == all_of_them > 5
    llm.set_cache(None)
    state = llm.save_state()
    with llm.marking(wmcore_shift=4):
        llm.reset()
        llm.load_state(state)
        llm(prompt, max_tokens=20, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
    right, all_of_them = explained(llm, start_of(llm, prompt), MARK, 4, **PLAIN)
    assert right == all_of_them > 5


def test_tokens_that_were_guessed_take_their_own_rows(llm):
    """Prompt lookup: guesses are kept and thrown away, and no row is lost or used twice."""
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

    prompt = "one two three four five six seven eight " * 8
    settings = {**PLAIN, "temp": 0.6}
    with llm.marking(wmcore_shift=20):
        guesses = []

        class Guesser(LlamaPromptLookupDecoding):
            def __call__(self, input_ids, **options):
                found = super().__call__(input_ids, **options)
                guesses.append((len(input_ids), len(found)))
                return found

        llm.draft_model = Guesser(num_pred_tokens=6)
        tokens = made(llm, prompt, 80, **settings)
    llm.n_tokens = start_of(llm, prompt) + 79  # what follows are guesses that no one has looked at
    assert llm.input_ids[: llm.n_tokens].tolist()[-79:] == tokens[:79]
    steps = len(guesses)
    assert 0 < steps < 79  # guesses were kept
    kept = [b[0] - a[0] for a, b in itertools.pairwise(guesses)]
    assert any(k <= n for k, (_, n) in zip(kept, guesses, strict=False))  # and thrown away
    right, all_of_them = explained(llm, start_of(llm, prompt), MARK, 20, **settings)
    assert right == all_of_them == 79


def test_what_cannot_be_marked_is_refused_or_counted(llm):
    for options, why in [
        ({"temperature": 0.0}, "greedy"),
        ({"mirostat_mode": 1}, "mirostat"),
        ({"mirostat_mode": 2}, "mirostat"),
    ]:
        llm.service.counts.clear()
        llm(PROMPTS[0], max_tokens=3, **options)
        assert llm.service.counts == {why: 1}
        for how in (llm.marking(wmcore=True), required(llm)):
            with how, pytest.raises(WatermarkError, match="so the text cannot be watermarked"):
                llm(PROMPTS[0], max_tokens=3, **options)
    refused = pytest.raises(WatermarkError, match="watermarks every request")
    with required(llm), llm.marking(wmcore=False), refused:
        llm(PROMPTS[0], max_tokens=3)


class required:
    """Inside, a Llama refuses what would go unmarked."""

    def __init__(self, llm):
        self.llm = llm

    def __enter__(self):
        self.llm.service.required = True

    def __exit__(self, *error):
        self.llm.service.required = False


def test_a_token_without_a_text_is_refused(llm):
    llm._sampler = None
    llm.eval(tokens_of(llm, PROMPTS[0]))
    with pytest.raises(WatermarkError, match="outside a text"):
        llm.sample()
    with llm.marking(wmcore=False):
        assert 0 <= llm.sample() < VOCAB
    assert llm.sample(temp=0.0) == int(np.argmax(llm.scores[llm.n_tokens - 1]))


def test_a_fault_inside_the_draw_ends_the_text(llm, monkeypatch):
    from wmcore.bindings import _serving

    def broken(mark):
        raise MemoryError("no room")

    monkeypatch.setattr(_serving, "_array_draw", broken)
    with pytest.raises(MemoryError, match="no room"):
        llm(PROMPTS[0], max_tokens=3)
    with pytest.raises(MemoryError, match="no room"):
        list(llm(PROMPTS[0], max_tokens=3, stream=True))


def test_a_text_longer_than_the_key_is_counted():
    mark = Watermark.create("exp", vocab_size=VOCAB, key_length=10, key=Key(bytes(range(32))))
    llm = load(n_ctx=128, watermark=mark)
    llm(PROMPTS[0], max_tokens=10)
    assert llm.service.counts == {"marked": 1}
    made(llm, PROMPTS[0], 12)
    assert llm.service.counts == {"marked": 2, "key used again": 1}


def test_a_pickled_model_keeps_its_watermark(tmp_path):
    path = tmp_path / "mark.json"
    MARK.save(path)
    llm = load(n_ctx=128, watermark=path, required=True)
    with llm.marking(wmcore_shift=3):
        first = made(llm, PROMPTS[0], 10)
    again = pickle.loads(pickle.dumps(llm))
    with again.marking(wmcore_shift=3):
        assert made(again, PROMPTS[0], 10) == first
    assert again.service.required
