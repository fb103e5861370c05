"""What a text that llama.cpp wrote must be: each token drawn again, from the logits that llama.cpp kept."""

import numpy as np

from wmcore import sampling


def explained(llm, start, mark, shift, **settings):
    """Of the tokens after `start` in a Llama (logits_all) all but the last: how many are the key's, how many there are.

    settings: temp, top_k, top_p, min_p, repeat_penalty, with llama_cpp's meaning.
    """
    draw = sampling.on_arrays(mark)
    tokens = llm.input_ids[start : llm.n_tokens].tolist()
    right = 0
    for i, token in enumerate(tokens):
        logits = llm.scores[start + i - 1, : mark.vocab_size].copy()
        x = truncated(logits, tokens[max(0, i - 64) : i], **settings)
        row = (shift + i) % mark.key_length
        right += int(draw(x[None], np.array([row]), 1.0)[0]) == token
    return right, len(tokens)


def truncated(logits, before, temp=1.0, top_k=0, top_p=1.0, min_p=0.0, repeat_penalty=1.0):
    """A row of logits [V] after llama.cpp's chain: penalty, top-k, top-p, min-p, temperature; the rest is -inf."""
    x = logits.astype(np.float32)
    seen = np.unique(np.array(before, int))
    x[seen] = np.where(
        x[seen] <= 0, x[seen] * np.float32(repeat_penalty), x[seen] / np.float32(repeat_penalty)
    )
    order = np.argsort(-x, kind="stable")
    if top_k > 0:
        order = order[:top_k]
    p = np.exp((x[order] - x[order[0]]).astype(np.float64))
    p /= p.sum()
    kept = order[: int(np.searchsorted(np.cumsum(p), top_p)) + 1] if top_p < 1 else order
    if min_p > 0:
        kept = kept[x[kept] >= x[order[0]] + np.log(min_p)]
    out = np.full_like(x, -np.inf)
    out[kept] = x[kept] / np.float32(temp)
    return out
