"""Tiny random models for the tests of bindings, in float64 so that batches differ in no rounding."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def llama(vocab_size, **settings):
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        **{
            "num_hidden_layers": 2,
            "max_position_embeddings": 512,
            "eos_token_id": None,
            "bos_token_id": None,
            "pad_token_id": 0,
            **settings,
        },
    )
    return LlamaForCausalLM(config).double().eval()


def padded(prompts):
    """(input_ids, attention_mask), padded on the left with token 0."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return {"input_ids": ids, "attention_mask": mask}


def words(vocab_size, begin=None):
    """A tokenizer whose token i is the word "w<i>"; `begin` is put before each text that asks for special tokens."""
    vocabulary = {f"w{i}": i for i in range(vocab_size)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if begin is not None:
        name = f"w{begin}"
        inner.post_processor = processors.TemplateProcessing(
            f"{name} $A", special_tokens=[(name, begin)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="w0")
