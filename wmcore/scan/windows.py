"""Long documents in overlapping windows, and their tokens."""

from typing import Any

import numpy as np

from wmcore.engine import Engine
from wmcore.errors import WatermarkError
from wmcore.scan.settings import ScanSettings
from wmcore.schemes import Scheme
from wmcore.windows import usual_window


def window_and_stride(settings: ScanSettings, scheme: Scheme) -> tuple[int, int]:
    """Those of the settings, or those that are usual with a scheme."""
    window = settings.window or usual_window(scheme)
    return window, settings.stride or (window + 1) // 2


def check_window(engine: Engine, window: int) -> None:
    """Raise WatermarkError unless blocks fit into a window."""
    k = engine.block_length
    if k is not None and k > window:
        raise WatermarkError(
            f"window is {window} tokens, but the test aligns blocks of {k}: use a window of at least that"
        )
    error = engine.error(window)
    if error is not None:
        raise WatermarkError(f"window is {window} tokens: {error}")


_AT_ONCE = 512  # texts per call of the tokenizer, whose own records are large


class Encoder:
    """Tokenises texts in batches with a fast tokenizer of Hugging Face, and maps tokens back to characters.

    Parameters
    ----------
    tokenizer : tokenizer of transformers
        A fast one is used through its Rust core, which works on all cores and skips what is not asked for; any
        other one is called text by text and gives no spans.
    window : int
        Documents of more tokens need to know the characters of a window.
    """

    def __init__(self, tokenizer: Any, window: int) -> None:
        self._tokenizer = tokenizer
        self._window = window
        self._core: Any = getattr(tokenizer, "backend_tokenizer", None)
        if self._core is not None:
            self._core.no_padding()
            self._core.no_truncation()

    def encode(self, texts: list[str], spans: bool) -> list[tuple[np.ndarray, Any]]:
        """(token ids int64 [m], what `characters` needs or None) of each text.

        spans: whether short texts need their characters, too.
        """
        if self._core is None:
            encoded = self._tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
            return [(np.array(ids, np.int64), None) for ids in encoded]
        return [
            one
            for first in range(0, len(texts), _AT_ONCE)
            for one in self._encode(texts[first : first + _AT_ONCE], spans)
        ]

    def _encode(self, texts: list[str], spans: bool) -> list[tuple[np.ndarray, Any]]:
        # With offsets costs a third more: only for what is probably longer than a window.
        long = [spans or len(text) > 3 * self._window for text in texts]
        fast = self._core.encode_batch_fast(
            [t for t, slow in zip(texts, long, strict=True) if not slow], add_special_tokens=False
        )
        full = self._core.encode_batch(
            [t for t, slow in zip(texts, long, strict=True) if slow], add_special_tokens=False
        )
        one, other = iter(full), iter(fast)
        results = []
        for text, slow in zip(texts, long, strict=True):
            encoding = next(one) if slow else next(other)
            ids = np.array(encoding.ids, np.int64)
            if not slow and len(ids) > self._window:
                encoding, slow = self._core.encode(text, add_special_tokens=False), True
            results.append((ids, encoding if slow else None))
        return results
