"""Proxies: how expected each token of a text is, by a model that reads the text without its prompt.

A proxy is a callable ``proxy(tokens) -> z``: token ids, int64 [m], to a finite number for each, float [m]; the higher,
the more expected. It must be a function of the tokens alone (and of those before, if a prefix of a text is to have the
numbers of the text). `ModelProxy` makes one of a model of transformers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from wmcore.errors import WatermarkError, reason

Proxy = Callable[[np.ndarray], Any]

TEMPERATURE = 0.7
"""At which a `ModelProxy` says how expected a token is."""

WINDOW = 1024
"""The most tokens that are read at once, if the model takes so many: attention and logits grow with it."""

_ROWS = 128  # logits turned into probabilities at a time
_LEAST = -1e4  # log-probability of what cannot be


def log_probabilities(
    model: Any,
    before: Sequence[int],
    tokens: Sequence[int],
    temperature: float,
    top_p: float = 1.0,
) -> np.ndarray:
    """log P(token | what is before it) of each of `tokens`, float64 [m], of the law that is sampled from.

    model: a causal language model of transformers. before: token ids, at least one. With top_p, a token that it
    excludes (by another rounding than that of the draw) counts as if it were kept.
    """
    import torch

    from wmcore.stepping import language_model
    from wmcore.truncate import nucleus

    device = language_model(model).get_input_embeddings().weight.device
    ids = torch.tensor([[*before, *tokens]], device=device)
    found = []
    with torch.inference_mode():
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits[0, len(before) - 1 :]
        wanted = ids[0, len(before) :, None].to(logits.device)
        for first in range(0, len(logits), _ROWS):
            scaled = logits[first : first + _ROWS].float() / temperature
            kept = nucleus(scaled, 1.0, top_p) if top_p < 1 else scaled
            found.append(scaled.gather(1, wanted[first : first + _ROWS])[:, 0] - kept.logsumexp(-1))
    # NaN stays, and is refused where z is read.
    return np.clip(torch.cat(found).cpu().numpy().astype(np.float64), _LEAST, 0.0)


class ModelProxy:
    """z of a token: its log-probability at temperature 0.7 after the tokens of the text before it.

    Texts are read one by one, so that z does not depend on what else is tested. A text longer than the window is read
    in windows that overlap by half: a token has at least half a window before it.

    Parameters
    ----------
    model
        A causal language model of transformers, in eval mode, on any device; of the tokenizer that texts are made of.
    window : int
        Tokens read at once; at most what the model takes.

    Raises
    ------
    WatermarkError
        For something that is no such model.

    Notes
    -----
    Time: one forward pass over the text; over twice as many tokens beyond the window.
    """

    def __init__(self, model: Any, window: int = WINDOW) -> None:
        from wmcore.stepping import language_model

        inner = language_model(model)
        config = inner.config.get_text_config()
        self._model = model
        self._size = int(inner.get_input_embeddings().weight.shape[0])
        self._start = _start(config)
        limit = getattr(config, "max_position_embeddings", None) or window
        self._window = max(2, min(window, limit))

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """z of each token (int64 [m]): float64 [m]."""
        ids = tokens.tolist()
        if max(ids) >= self._size:
            raise WatermarkError(
                f"token {max(ids)} is outside the proxy's vocabulary of {self._size} tokens: use a model of the "
                "tokenizer that the text is made of"
            )
        read = [np.empty(0)]
        before = self._start
        if not before:  # nothing stands before the first token
            read.append(np.array([-np.log(self._size)]))
            before = ids[:1]
            ids = ids[1:]
        first = 0
        half = self._window // 2
        while first < len(ids):
            context = [*before, *ids[:first]] if first == 0 else ids[first - half : first]
            room = self._window - half if first else self._window + 1 - len(before)
            some = ids[first : first + room]
            read.append(log_probabilities(self._model, context, some, TEMPERATURE))
            first += len(some)
        return np.concatenate(read)


def _start(config: Any) -> list[int]:
    """The token in front of a text, if the model has one: its begin-of-text or else its end-of-text token."""
    for name in ("bos_token_id", "eos_token_id"):
        token = getattr(config, name, None)
        if isinstance(token, (list, tuple)):
            token = token[0] if token else None
        if token is not None:
            return [int(token)]
    return []


def as_proxy(proxy: Any) -> Proxy:
    """A proxy of what a user gives: a model's name (`wmcore.models.load_model`), a model, or a callable as it is."""
    if isinstance(proxy, str):
        from wmcore.models import load_model

        return ModelProxy(load_model(proxy)[0])
    if hasattr(proxy, "modules"):  # torch's
        return ModelProxy(proxy)
    if not callable(proxy):
        raise TypeError(
            f"proxy is a {type(proxy).__name__}, but must be a model, a model's name, or a callable: token ids int64 "
            "[m] to float [m]"
        )
    return proxy


def read_with(proxy: Proxy, tokens: np.ndarray) -> np.ndarray:
    """z of the tokens of a text (int64 [m]): float64 [m].

    Raises WatermarkError if the proxy fails, or does not give m finite numbers.
    """
    try:
        z = proxy(tokens.copy())
        if hasattr(z, "detach"):  # torch, on any device
            z = z.detach().cpu().double().numpy()
        z = np.asarray(z)
        if z.dtype.kind not in "fiu":
            raise TypeError(f"it gives items of type {z.dtype}, but numbers are needed")
        z = z.astype(np.float64)
    except WatermarkError:
        raise
    except Exception as error:
        raise WatermarkError(f"the proxy cannot read the text: {reason(error)}") from error
    if z.shape != tokens.shape:
        raise WatermarkError(
            f"the proxy gives numbers of the shape {z.shape}, but must give one for each of {len(tokens)} tokens: "
            f"{tokens.shape}"
        )
    if not np.isfinite(z).all():
        at = int(np.flatnonzero(~np.isfinite(z))[0])
        raise WatermarkError(
            f"the proxy gives {z[at]} for token {at}, but its numbers must be finite: put a large one for infinity"
        )
    return z
