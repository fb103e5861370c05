"""Tiny random models of many architectures, for the tests of how a model is stepped."""

import pytest
import torch
import transformers

VOCAB = 211

_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "max_position_embeddings": 128,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": None,
}
_GPT = {
    "vocab_size": VOCAB,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    "initializer_range": 0.3,
    "eos_token_id": None,
    "bos_token_id": None,
}
_EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}
_STATE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "state_size": 8,
    "num_hidden_layers": 2,
    "initializer_range": 0.3,
}
_NEO = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_layers": 2,
    "attention_types": [[["global", "local"], 1]],
    "num_heads": 4,
    "window_size": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
_BLOOM = {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 2, "n_head": 4}
_BART = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
    "init_std": 0.3,
}
_JAMBA = {
    "num_hidden_layers": 4,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "use_mamba_kernels": False,
    "mamba_d_state": 4,
    "mamba_dt_rank": 4,
}
_DELTA = {
    "shared_expert_intermediate_size": 16,
    "head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_HEADS = {"head_dim": 8}
_WINDOW = {"head_dim": 8, "sliding_window": 4}

PADDED = {
    "Llama": _SIZES,
    "Mistral": _SIZES | {"sliding_window": 4},
    "Qwen2": _SIZES,
    "Qwen3": _SIZES | _HEADS,
    "Gemma": _SIZES | _HEADS,
    "Gemma2": _SIZES | _WINDOW | {"query_pre_attn_scalar": 8},
    "Gemma3Text": _SIZES | _WINDOW | {"query_pre_attn_scalar": 8, "num_hidden_layers": 6},
    "Phi": _SIZES,
    "Phi3": _SIZES,
    "StableLm": _SIZES,
    "Cohere": _SIZES,
    "Olmo2": _SIZES,
    "Starcoder2": _SIZES | {"sliding_window": 4},
    "Glm": _SIZES | _HEADS,
    "GPT2": _GPT,
    "GPTNeo": _NEO,
    "GPTNeoX": _SIZES,
    "GPTJ": _GPT | {"rotary_dim": 4},
    "CodeGen": _GPT | {"rotary_dim": 4},
    "GPTBigCode": _GPT,
    "OPT": _SIZES | {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.3},
    "BioGpt": _SIZES,
    "Bloom": _BLOOM | {"initializer_range": 0.3},
    "Falcon": _SIZES | {"alibi": False},
    "Falcon with alibi": _SIZES | {"alibi": True},
    "Mpt": {"vocab_size": VOCAB, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128},
    "Mixtral": _SIZES | _EXPERTS,
    "Qwen2Moe": _SIZES | _EXPERTS | {"shared_expert_intermediate_size": 16},
    "GptOss": _SIZES | _EXPERTS | _WINDOW,
}
"""Architectures whose prompts of unequal length share a batch."""

APART = {
    "Mamba": _STATE,
    "Mamba with biases": _STATE | {"use_bias": True},
    "FalconMamba": _STATE,
    "Mamba2": _STATE | {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    "Jamba": _SIZES | _JAMBA,
    "Qwen3Next": _SIZES | _EXPERTS | _DELTA,
    "Lfm2": _SIZES | {"layer_types": ["conv", "full_attention"]},
    "CTRL": _GPT | {"dff": 64},
    "Bart": _BART,
}
"""Architectures that padding would change, or might."""

REFUSED = {
    "OpenAIGPT": _GPT,
    "XLNet": {"vocab_size": VOCAB, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64},
    "Rwkv": _STATE | {"attention_hidden_size": 32},
    "RecurrentGemma": _SIZES | {"lru_width": 32, "block_types": ["recurrent", "attention"]},
    "XLM": {"vocab_size": VOCAB, "emb_dim": 32, "n_layers": 2, "n_heads": 4},
    "Bert": _SIZES,
    "Roberta": _SIZES | {"pad_token_id": 1, "is_decoder": True},
    "Bart for summaries": _BART,
    "T5": {
        "vocab_size": VOCAB,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
    },
}
"""Architectures that keep no cache of a known kind, or have an encoder, or count positions in their own way."""

_CLASSES = {
    "GPT2": "GPT2LMHeadModel",
    "Gemma3Text": "Gemma3ForCausalLM",
    "CTRL": "CTRLLMHeadModel",
    "OpenAIGPT": "OpenAIGPTLMHeadModel",
    "XLNet": "XLNetLMHeadModel",
    "XLM": "XLMWithLMHeadModel",
    "Bert": "BertLMHeadModel",
    "Bart for summaries": "BartForConditionalGeneration",
    "T5": "T5ForConditionalGeneration",
}


def build(name):
    """The model in eval mode, float32: not every architecture can be run in float64."""
    settings = (PADDED | APART | REFUSED)[name]
    base = name.split(" ")[0]
    if not hasattr(transformers, base + "Config"):
        pytest.skip(f"{base} is not in this release of transformers")
    torch.manual_seed(4)
    config = getattr(transformers, base + "Config")(**settings)
    model = getattr(transformers, _CLASSES.get(name, base + "ForCausalLM"))(config)
    return model.eval()
