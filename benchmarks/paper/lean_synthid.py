"""transformers' SynthID processor at a fraction of its cost, with the same results. Imports torch and transformers."""

from typing import Any

import torch
from transformers import SynthIDTextWatermarkingConfig, SynthIDTextWatermarkLogitsProcessor

CHUNK = 4096
"""Tokens whose keys stay in a core's cache."""


class LeanSynthId(SynthIDTextWatermarkLogitsProcessor):
    """The processor of one text, with transformers' defaults; what it is called with has one row.

    Only what goes into and comes out of its own methods is changed: tokens that have no chance are left out (they stay
    at -inf; the others agree to rounding, and bit for bit where all have a chance), bits are float32, looked up a chunk
    at a time, and lie in memory key by key, as they are read. The table of bits is made on the CPU, as other devices
    make another from its seed.
    """

    keys: Any
    sampling_table: Any

    def __init__(self, ngram_length: int, keys: list[int], device: Any) -> None:
        default = SynthIDTextWatermarkingConfig(ngram_length, keys)
        super().__init__(
            ngram_len=ngram_length,
            keys=keys,
            sampling_table_size=default.sampling_table_size,
            sampling_table_seed=default.sampling_table_seed,
            context_history_size=default.context_history_size,
            device="cpu",
        )
        self.keys = self.keys.to(device)
        self.sampling_table = self.sampling_table.to(device, torch.float32)
        self.device = device

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores [1, V] for input_ids [1, w]."""
        self._possible = (scores[0] != -torch.inf).nonzero()[:, 0]
        return super().__call__(input_ids, scores)

    def _compute_keys(self, n_minus_1_grams: Any, indices: Any) -> Any:
        return super()._compute_keys(n_minus_1_grams, indices[:, self._possible])

    def sample_g_values(self, ngram_keys: Any) -> Any:
        """Bits [1, S, 30] as a view of [1, 30, S]."""
        look_up = super().sample_g_values
        chunks = ngram_keys.transpose(1, 2).split(CHUNK, 2)
        return torch.cat([look_up(keys) for keys in chunks], 2).transpose(1, 2)

    def update_scores(self, scores: Any, g_values: Any) -> Any:
        """Scores [1, V]; g_values: of the possible tokens."""
        updated = torch.full_like(scores, -torch.inf)
        updated[:, self._possible] = super().update_scores(scores[:, self._possible], g_values)
        return updated
