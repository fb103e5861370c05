"""The experiments' attacks: token edits as published, round trips, rewriting, synonyms."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import MarianConfig, MarianMTModel, MarianTokenizer

from wmcore.errors import WatermarkError
from wmcore.generation import Generation
from wmcore.paper import edits, rewrite, synonyms, translate, wordnet

# Token edits: old tokens are 1000 and up, new ones 0 to 9, so that every edit can be seen.

EDITS = [edits.substitution, edits.insertion, edits.deletion, edits.mixture]


@given(st.integers(0, 300), st.floats(0, 1), st.integers(0, 2**31))
def test_edits_are_as_many_as_published(m, rate, seed):
    text = np.arange(1000, 1000 + m)
    count = int(rate * m)
    rng = np.random.default_rng(seed)
    changed = edits.substitution(text, rate, 10, rng)
    assert changed.shape == (m,)
    assert np.sum(changed < 10) == count
    assert np.array_equal(changed[changed >= 10], text[changed >= 10])
    longer = edits.insertion(text, rate, 10, rng)
    assert longer.shape == (m + count,)
    assert np.array_equal(longer[longer >= 10], text)
    shorter = edits.deletion(text, rate, 10, rng)
    assert shorter.shape == (m - count,)
    assert np.isin(shorter, text).all()


def test_the_mixture_deletes_inserts_and_substitutes_in_this_order():
    text, rng = np.arange(1000, 1100), np.random.default_rng(1)
    expected = text
    for edit in (edits.deletion, edits.insertion, edits.substitution):
        expected = edit(expected, 0.25, 10, rng)
    assert expected.size == 100 - 25 + 18
    assert np.array_equal(edits.mixture(text, 0.75, 10, np.random.default_rng(1)), expected)


@pytest.mark.parametrize("edit", EDITS)
def test_edits_repeat_by_generator_and_keep_what_they_were_given(edit):
    text = np.arange(1000, 1070)
    one, two, other = (edit(text, 0.3, 10, np.random.default_rng(s)) for s in (1, 1, 2))
    assert one.dtype == np.int64
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)
    assert np.array_equal(text, np.arange(1000, 1070))
    with pytest.raises(WatermarkError, match=r"rate is 1\.5"):
        edit(text, 1.5, 10, np.random.default_rng(1))


# Round trips, by tiny random Marians.

LINES = [
    "the court said that the dog was found",
    "a farm in the snow",
    "he came and she left .",
] * 5


def marian(folder: Path, seed: int) -> str:
    """A random MarianMT model with a tokenizer of its own, saved; its sentences end by themselves."""
    folder.mkdir()
    for side in ("source", "target"):
        prefix = str(folder / side)
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(LINES),
            model_prefix=prefix,
            vocab_size=60,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        Path(f"{prefix}.model").rename(f"{prefix}.spm")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    found = [pieces.id_to_piece(i) for i in range(pieces.get_piece_size())]
    words = ["</s>", "<unk>", *(p for p in found if p not in ("</s>", "<unk>", "<s>")), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    files = (str(folder / name) for name in ("source.spm", "target.spm", "vocab.json"))
    MarianTokenizer(*files).save_pretrained(folder)
    pad = len(words) - 1
    torch.manual_seed(seed)
    config = MarianConfig(
        vocab_size=len(words),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=512,
        init_std=0.8,
        pad_token_id=pad,
        decoder_start_token_id=pad,
        eos_token_id=0,
        forced_eos_token_id=0,
    )
    model = MarianMTModel(config).double()  # so that padding differs in no rounding that matters
    model.final_logits_bias[0, 0] = 1.5  # the end of a sentence
    model.generation_config.update(
        num_beams=3, max_length=512, bad_words_ids=[[pad]], no_repeat_ngram_size=2
    )
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("marian")
    return marian(folder / "there", 1), marian(folder / "back", 2)


def by_hand(name, sentence):
    """One sentence through a model, with nothing of ours."""
    tokenizer = MarianTokenizer.from_pretrained(name)
    model = MarianMTModel.from_pretrained(name).eval()
    ids = tokenizer([sentence], return_tensors="pt")
    width = math.ceil(ids.input_ids.shape[1] / 16) * 16
    made = model.generate(**ids, max_new_tokens=2 * width + 16, max_length=None)
    return tokenizer.decode(made[0], skip_special_tokens=True)


def test_a_round_trip_goes_through_both_models_sentence_by_sentence(pair):
    there, back = pair
    sentences = ["The dog was found!", 'She said "a farm."', "he came"]
    one, two, three = (by_hand(back, by_hand(there, sentence)) for sentence in sentences)
    assert len({one, two, three, *sentences}) == 6
    text = f"{sentences[0]} {sentences[1]}\n\n{sentences[2]}"
    assert translate.round_trip(there, back, batch_size=1)([text], 0) == [f"{one} {two}\n\n{three}"]


def test_round_trips_keep_the_order_whatever_the_batches(pair):
    """Sentences of many lengths, so that batches, which go by length, are out of order."""
    texts = [
        "the snow.",
        "",
        "a farm in the snow and the dog was found. he came",
        " \n",
        "she left",
    ]
    texts += [" ".join(line.split()[:n]) for line in LINES[:2] for n in (2, 4)]
    made = translate.round_trip(*pair, batch_size=4)(texts, 0)
    assert made[1] == ""
    assert made[3] == " \n"
    assert made == translate.round_trip(*pair, batch_size=4)(texts, 7)
    assert made == translate.round_trip(*pair, batch_size=1)(texts, 0)
    assert len(set(made)) > 6
    assert translate.round_trip(*pair)([], 0) == []


def test_a_translation_model_that_does_not_load_says_why(pair, tmp_path, monkeypatch):
    for there, back in [(str(tmp_path), pair[1]), (pair[0], str(tmp_path))]:
        attack = translate.round_trip(there, back)
        with pytest.raises(WatermarkError, match=r"cannot load it \(.+\); give the folder of a M"):
            attack(["text"], 0)
    with pytest.raises(WatermarkError, match="batch_size is 0"):
        translate.round_trip(*pair, batch_size=0)
    monkeypatch.setattr(translate, "find_spec", lambda name: None)
    with pytest.raises(WatermarkError, match=r"pip install 'wmcore-lm\[paper\]'"):
        translate.round_trip("a name", "another")(["text"], 0)


# Rewriting, by a tiny random model of words.

TEMPLATE = (
    "w1 {% for m in messages %}{{ m['role'] }} {{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %} w2 {% endif %}"
)


@pytest.fixture(scope="module")
def chatting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    tiny.llama(50, max_position_embeddings=128).save_pretrained(folder)
    tokenizer = tiny.words(50, begin=3)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_rewritten_texts_are_long_as_their_own_and_repeat_by_seed(chatting):
    texts = ["w5 w6 w7", "", "w8", " \n"]
    attack = rewrite.rewriter(chatting)
    one, two, other = (attack(texts, seed) for seed in (1, 1, 2))
    assert one == two
    assert one[0] != other[0]
    assert [len(text.split()) for text in one] == [4 + 16, 0, 2 + 16, 0]
    assert one[3] == " \n"
    assert attack(["", " "], 1) == ["", " "]


def test_the_model_is_asked_through_its_chat_template(chatting, monkeypatch):
    seen = {}

    def generate(model, prompts, watermark, **settings):
        seen.update(settings, prompts=prompts, watermark=watermark)
        return [Generation(prompt, "", [], None) for prompt in prompts]

    monkeypatch.setattr(rewrite, "generate", generate)
    assert rewrite.rewriter(chatting, temperature=0.5, top_p=0.8)(["w5 w6"], 4) == [""]
    asked = f"user {rewrite.PROMPT}".split().index("{}")
    (prompt,) = seen["prompts"]
    assert [place for place, token in enumerate(prompt) if token] == [
        0,
        *range(asked + 1, asked + 4),
    ]
    assert [token for token in prompt if token] == [
        1,
        5,
        6,
        2,
    ]  # begins once, ends with the answer's start
    assert seen["watermark"] is None
    assert (seen["temperature"], seen["top_p"], seen["seed"]) == (0.5, 0.8, 4)


def test_what_cannot_be_rewritten_says_why(chatting, tmp_path):
    with pytest.raises(WatermarkError, match=r"text 1 cannot be rewritten: .* 128 positions"):
        rewrite.rewriter(chatting)(["", "w5 " * 100], 1)
    tiny.llama(50).save_pretrained(tmp_path)
    tiny.words(50).save_pretrained(tmp_path)
    with pytest.raises(WatermarkError, match=r"has no chat template.*instruct model"):
        rewrite.rewriter(str(tmp_path))(["w5"], 1)
    with pytest.raises(WatermarkError, match="top_p is 2"):
        rewrite.rewriter(chatting, top_p=2)


# Synonyms, from a tiny dictionary in WordNet's format.

SYNSETS = {
    "noun": [
        ["house", "dwelling", "domestic_animal"],
        ["house", "firm"],
        ["child", "kid", "tot"],
        ["kid", "child"],
        ["study"],
        ["quarry", "prey"],
        ["Turkey", "Anatolia"],
        ["will", "volition"],
    ],
    "verb": [["say", "tell", "state"], ["stop", "halt", "cease"], ["study", "learn", "con"]],
    "adj": [["happy(p)", "glad", "Ok"], ["quick"]],
    "adv": [["quickly", "rapidly"]],
}
EXCEPTIONS = {
    "noun": {"children": "child"},
    "verb": {
        **{"said": "say", "told": "tell", "stopped": "stop", "stopping": "stop"},
        **{"studied": "study"},
        **{"conned": "con", "conning": "con"},
    },
}
SEEN = {"study%2": 9, "study%1": 4, "house%1": 5, "say%2": 8}


def dictionary(folder: Path, counts: str = "cntlist.rev") -> Path:
    """SYNSETS as WordNet's files; a word's first synset here is its most frequent."""
    for part, synsets in SYNSETS.items():
        data, offsets = b"  1 A licence.  \n", {}
        for words in synsets:
            offset = f"{len(data):08d}"
            for word in words:
                offsets.setdefault(word.partition("(")[0].lower(), []).append(offset)
            listed = " ".join(f"{word} 0" for word in words)
            data += f"{offset} 00 {part[0]} {len(words):02x} {listed} 000 | gloss  \n".encode()
        (folder / f"data.{part}").write_bytes(data)
        lines = ["  1 A licence.  "]
        for lemma, its in sorted(offsets.items()):
            lines.append(f"{lemma} {part[0]} {len(its)} 2 @ ~ {len(its)} 0 {' '.join(its)}  ")
        (folder / f"index.{part}").write_text("\n".join(lines) + "\n")
        listed = [f"{form} {base}\n" for form, base in EXCEPTIONS.get(part, {}).items()]
        (folder / f"{part}.exc").write_text("".join(listed))
    seen = [f"{key}:00:00:: 1 {count}\n" for key, count in SEEN.items()]
    (folder / counts).write_text("".join(seen))
    return folder


@pytest.fixture
def folder(tmp_path):
    return dictionary(tmp_path)


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("house", ["dwelling"]),
        ("houses", ["dwellings"]),
        ("child", ["kid", "tot"]),
        ("children", ["kids", "tots"]),
        ("kids", ["children", "tots"]),
        ("quarry", ["prey"]),
        ("prey", ["quarry"]),
        ("preys", ["quarries"]),
        ("say", ["tell", "state"]),
        ("said", ["stated"]),  # "told" is irregular
        ("saying", ["telling", "stating"]),
        ("says", ["tells", "states"]),
        ("halted", ["stopped", "ceased"]),
        ("halting", ["stopping", "ceasing"]),
        ("study", ["learn", "con"]),  # the verb was seen more often
        ("studied", ["learned", "conned"]),
        ("learned", ["studied", "conned"]),
        ("happy", ["glad"]),
        ("quickly", ["rapidly"]),
        ("quick", []),
        ("turkey", []),
        ("unknown", []),
    ],
)
def test_synonyms_have_the_form_of_the_word(folder, word, found):
    assert list(wordnet.WordNet(folder).synonyms(word)) == found


def test_counts_may_be_in_the_index_of_senses_and_exceptions_missing(tmp_path):
    read = wordnet.WordNet(dictionary(tmp_path, counts="index.sense"))
    assert read.synonyms("study") == ("learn", "con")
    for path in [*tmp_path.glob("*.exc"), tmp_path / "index.sense"]:
        path.unlink()
    read = wordnet.WordNet(tmp_path)
    assert read.synonyms("study") == ()  # now a noun
    assert read.synonyms("children") == ()
    assert read.synonyms("halted") == ("stoped", "ceased")


TEXT = 'Houses --  HOUSE, house-boat. "Quickly," said the house\'s child, quickly.\nPrey will say Turkey.'


def test_all_replaceable_words_are_replaced_and_nothing_else(folder):
    """Turkey and HOUSE are names, "will" is grammar, compounds and possessives stay."""
    attack = synonyms.synonyms(1.0, folder)
    assert attack(["", "the 12 of it", TEXT, "Say quarry"], 3)[:2] == ["", "the 12 of it"]
    seen = {attack([TEXT], seed)[0] for seed in range(40)}
    assert seen == {
        f'Dwellings --  HOUSE, house-boat. "Rapidly," stated the house\'s {child}, rapidly.\nQuarry will {say} Turkey.'
        for child in ("kid", "tot")
        for say in ("tell", "state")
    }


def test_the_rate_counts_words_and_the_seed_draws_them(folder):
    text = "quickly house prey happy quickly house prey happy, " * 5
    for rate in (0, 0.25, 0.5, 1):
        (changed,) = synonyms.synonyms(rate, folder)([text], 1)
        pairs = list(zip(text.split(), changed.split(), strict=True))
        assert sum(a != b for a, b in pairs) == round(rate * 40)
    attack = synonyms.synonyms(0.5, folder)
    assert attack([text], 1) == attack([text], 1)
    assert attack(["other", text], 1)[1:] == attack([text], 1)
    assert attack([text], 1) != attack([text], 2)


def test_places_are_drawn_evenly(folder):
    """2,000 seeds, 2 of 8 words: each is changed 500 times, within 5 standard errors of a binomial count."""
    text = "quickly house prey happy " * 2
    attack = synonyms.synonyms(0.25, folder)
    changed = np.zeros(8)
    for seed in range(2000):
        pairs = zip(text.split(), attack([text], seed)[0].split(), strict=True)
        changed += [a != b for a, b in pairs]
    assert np.all(np.abs(changed - 500) < 5 * np.sqrt(2000 * 0.25 * 0.75))


def test_the_dictionary_is_looked_for(folder, tmp_path_factory, monkeypatch):
    wordnet.wordnet.cache_clear()
    monkeypatch.setenv("WORDNET", str(folder))
    assert synonyms.synonyms(1.0)(["a house"], 1) == ["a dwelling"]
    wordnet.wordnet.cache_clear()
    monkeypatch.delenv("WORDNET")
    monkeypatch.setattr(wordnet, "DEBIAN", str(folder / "none"))
    monkeypatch.setattr(wordnet.Path, "home", lambda: folder / "none")
    data = tmp_path_factory.mktemp("nltk")
    (data / "corpora" / "wordnet").mkdir(parents=True)
    dictionary(data / "corpora" / "wordnet")
    monkeypatch.setenv("NLTK_DATA", str(data))
    assert synonyms.synonyms(1.0)(["a house"], 1) == ["a dwelling"]
    wordnet.wordnet.cache_clear()
    monkeypatch.delenv("NLTK_DATA")
    with pytest.raises(WatermarkError, match=r"wordnet-base.*environment variable WORDNET"):
        synonyms.synonyms(1.0)(["a house"], 1)


def test_a_dictionary_that_cannot_be_read_says_why(folder):
    with pytest.raises(WatermarkError, match=r"No such file.*data\.noun and index\.noun"):
        synonyms.synonyms(1.0, folder / "none")(["a house"], 1)
    data = folder / "data.noun"
    data.write_bytes(data.read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(WatermarkError, match=r"data\.noun does not fit its index"):
        wordnet.WordNet(folder).synonyms("prey")
    with pytest.raises(WatermarkError, match="rate is 2"):
        synonyms.synonyms(2)


@pytest.mark.skipif(not Path(wordnet.DEBIAN).is_dir(), reason="wordnet-base is not installed")
def test_the_real_dictionary():
    read = wordnet.WordNet(Path(wordnet.DEBIAN))
    assert read.synonyms("began") == ("started", "commenced")
    assert set(read.synonyms("cars")) >= {"autos", "automobiles"}
    assert read.synonyms("said") == ("stated",)
    assert "youngsters" in read.synonyms("children")
