"""What the tokens of a vLLM request must be, from transformers' logits and wmcore's draw: no batch and no server."""

from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from wmcore import sampling
from wmcore.truncate import penalised, truncated

PROMPTS = [
    f"Tell me about {what}." for what in (
        "the sea", "a small village", "bread", "the moon", "an old clock", "winter", "trains", "a lost letter",
        "bees", "the desert", "a violin", "rivers", "paper", "the night market", "a lighthouse", "wool", "maps",
        "rain", "a garden", "the first snow",
    )
]  # fmt: skip


@dataclass
class Request:
    """How a text was asked for: what vLLM calls by other names, and the tokens that it may not or only take."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    bias: dict = field(default_factory=dict)
    allowed: list | None = None
    banned: list = field(default_factory=list)


class Reference:
    def __init__(self, folder):
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def logits(self, prompt, output, request):
        """float32 [tokens of the output, V]: what the server draws each from."""
        with torch.inference_mode():
            x = self.model(torch.tensor([[*prompt, *output]])).logits[0, len(prompt) - 1 : -1]
        x = x.float().clone()
        if request.allowed is not None:
            closed = torch.ones(x.shape[-1], dtype=torch.bool)
            closed[request.allowed] = False
            x[:, closed] = -torch.inf
        x[:, request.banned] = -torch.inf
        for token, much in request.bias.items():
            x[:, token] += much
        penalties = (
            request.repetition_penalty,
            request.frequency_penalty,
            request.presence_penalty,
        )
        if penalties != (1.0, 0.0, 0.0):
            names = ("repetition", "frequency", "presence")
            how = dict(zip(names, penalties, strict=True))
            for i in range(len(output)):
                x[i] = penalised(x[i], prompt, output[:i], **how)
        columns = (request.temperature, request.top_k, request.top_p, request.min_p)
        return truncated(x, *(torch.tensor([v]).expand(len(x)) for v in columns))

    def differing(self, mark, shift, prompt, output, request=None):
        """Positions whose token is not the one that the key draws for a text that begins at row `shift`."""
        x = self.logits(prompt, output, request or Request())[:, : mark.vocab_size]
        rows = (shift + np.arange(len(output))) % mark.key_length
        drawn = sampling.watermarked(mark)(x.contiguous(), rows, 1.0).tolist()
        return [i for i, (a, b) in enumerate(zip(drawn, output, strict=True)) if a != b]

    def encode(self, text):
        return self.tokenizer.encode(text)
