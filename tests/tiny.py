"""Tiny random models for the tests of bindings, in float64 so that batches differ in no rounding."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def llama(vocab_size, **settings):
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        **{"eos_token_id": None, "bos_token_id": None, "pad_token_id": 0, **settings},
    )
    return LlamaForCausalLM(config).double().eval()


def padded(prompts):
    """(input_ids, attention_mask), padded on the left with token 0."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return {"input_ids": ids, "attention_mask": mask}
