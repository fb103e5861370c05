"""Brute-force twins of the kernels: plain loops from the definitions, nothing of wmcore."""

import math

# ChaCha and sampling


def chacha_block(key_words, counter, nonce0, nonce1, rounds):
    """One ChaCha block (Bernstein 2008): 16 ints from 8 key words, a 64-bit counter, two nonces."""
    low, high = counter & 0xFFFFFFFF, counter >> 32
    start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *map(int, key_words)]
    start += [low, high, nonce0, nonce1]
    x = list(start)

    def rotate(value, count):
        return ((value << count) | (value >> (32 - count))) & 0xFFFFFFFF

    def quarter(a, b, c, d):
        x[a] = (x[a] + x[b]) & 0xFFFFFFFF
        x[d] = rotate(x[d] ^ x[a], 16)
        x[c] = (x[c] + x[d]) & 0xFFFFFFFF
        x[b] = rotate(x[b] ^ x[c], 12)
        x[a] = (x[a] + x[b]) & 0xFFFFFFFF
        x[d] = rotate(x[d] ^ x[a], 8)
        x[c] = (x[c] + x[d]) & 0xFFFFFFFF
        x[b] = rotate(x[b] ^ x[c], 7)

    for _ in range(rounds // 2):
        for column in range(4):
            quarter(column, 4 + column, 8 + column, 12 + column)
        for column in range(4):
            quarter(column, 4 + (column + 1) % 4, 8 + (column + 2) % 4, 12 + (column + 3) % 4)
    return [(a + b) & 0xFFFFFFFF for a, b in zip(x, start, strict=True)]


def exp_key_word(key_words, domain, row, token):
    """The word of (row, token): block 16 * (token // 256) + token % 16, word (token // 16) % 16."""
    block = chacha_block(key_words, 16 * (token // 256) + token % 16, domain, row, 8)
    return block[token // 16 % 16]


def gumbel(word):
    """-log(-log(u)) of u = (word + 1/2) / 2**32; log1p keeps the digits of u near 1."""
    return -math.log(-math.log1p(-(0xFFFFFFFF - int(word) + 0.5) / 2**32))


def exp_scores(logits, inverse_temperature, words):
    """logit * inverse_temperature + Gumbel number per token; -inf for -inf and NaN."""
    scores = []
    for logit, word in zip(logits, words, strict=True):
        allowed = not (math.isnan(logit) or logit == -math.inf)
        scores.append(logit * inverse_temperature + gumbel(word) if allowed else -math.inf)
    return scores


def truncated(x, top_k, top_p, min_p, joint):
    """The tokens that top-k, top-p and min-p leave of a row x of scaled logits: a set, sums in float64.

    joint: all three of the whole law, as SGLang; else min-p, then top-k, then top-p, each of what is left, as vLLM.
    """
    order = sorted(range(len(x)), key=lambda token: (-x[token], token))
    top = x[order[0]]
    weight = [math.exp(value - top) for value in x]
    k = top_k if 0 < top_k < len(x) else len(x)
    left = order
    if not joint:
        left = [token for token in order if weight[token] >= min(min_p, 1)]
        kth = x[left[min(k, len(left)) - 1]]
        left = [token for token in left if x[token] >= kth]
    total = math.fsum(weight[token] for token in left)
    kept = set()
    before = 0.0
    for token in left:
        inside = before <= top_p * total if joint else before < top_p * total
        inside = inside or top_p >= 1
        if joint:
            inside = inside and len(kept) < k and weight[token] >= min_p
        if kept and not inside:
            break
        kept.add(token)
        before += weight[token]
    return kept


def its_weights(logits, inverse_temperature):
    """round(exp((logit - greatest) * inverse_temperature) * 2**30); 0 for -inf and NaN."""
    top = max(logit for logit in logits if not math.isnan(logit))
    weights = []
    for logit in logits:
        allowed = not (math.isnan(logit) or logit == -math.inf)
        power = math.exp((logit - top) * inverse_temperature) if allowed else 0.0
        weights.append(math.floor(power * 2**30 + 0.5))
    return weights


def its_token(weights, order, word):
    """The first token in permuted order whose cumulative weight exceeds floor(u * total)."""
    target = (2 * int(word) + 1) * sum(map(int, weights)) // 2**33
    cumulative = 0
    for token in order:
        cumulative += int(weights[token])
        if cumulative > target:
            return int(token)
    return -1


# Costs


def exp_cost_nats(word):
    """log(1 - u), u = (word + 1/2) / 2**32."""
    return math.log(2 * (0xFFFFFFFF - int(word)) + 1) - 33 * math.log(2)


def its_cost_units(word, rank, denominator):
    """abs(u - eta) in units of 2**-16: u = word >> 16, eta = rank / denominator rounded."""
    eta = (2 * int(rank) * 65536 + denominator) // (2 * denominator) if denominator else 0
    return abs((int(word) >> 16) - eta)


# Alignment. costs[i][j]: token i of a text (or of its distinct tokens) at key row j; integers or floats.


def edit_cost(costs, gamma):
    """Levenshtein-style alignment of all rows with all columns of a matrix [k][L]."""
    k, length = len(costs), len(costs[0])
    d = [
        [gamma * (i + j) if i == 0 or j == 0 else None for j in range(length + 1)]
        for i in range(k + 1)
    ]
    for i in range(1, k + 1):
        for j in range(1, length + 1):
            d[i][j] = min(
                d[i - 1][j] + gamma,
                d[i][j - 1] + gamma,
                d[i - 1][j - 1] + costs[i - 1][j - 1],
            )
    return d[k][length]


def plain_cost(costs):
    """The sum along the diagonal of a square matrix."""
    return sum(costs[i][i] for i in range(len(costs)))


def all_alignments(costs, inverse, k, gamma):
    """Cost of every block with every window, [m - k + 1][n]. costs: [U][n]; gamma None: no edits."""
    n = len(costs[0])
    table = []
    for first in range(len(inverse) - k + 1):
        block = [costs[i] for i in inverse[first : first + k]]
        windows = []
        for tau in range(n):
            matrix = [[row[(tau + j) % n] for j in range(k)] for row in block]
            windows.append(plain_cost(matrix) if gamma is None else edit_cost(matrix, gamma))
        table.append(windows)
    return table


def statistic(costs, inverse, k, gamma):
    """(phi, block, tau): the least alignment, the first block and then the first window among equals."""
    table = all_alignments(costs, inverse, k, gamma)
    return min((v, b, tau) for b, row in enumerate(table) for tau, v in enumerate(row))


# An e-value over edit paths


def evalue(f, jump, insertion, run, blocks):
    """Sum over edit paths of prior times product of f[token][row], path by path. f: [m][n] of floats.

    Starts are equally likely; the paths of a block of neighbouring starts stay in the n rows from its first one on.
    """
    m, n = len(f), len(f[0])

    def onward(token, i, base):
        """From here on, the next row being the i-th from base."""
        if token == m:
            return 1.0
        total = insertion * onward(token + 1, i, base)
        for d in range(n - i):
            prior = 1 - jump - insertion if d == 0 else jump * (1 - run) * run ** (d - 1)
            total += prior * f[token][(base + i + d) % n] * onward(token + 1, i + d + 1, base)
        return total

    total = 0.0
    for block in range(blocks):
        base = block * n // blocks
        for start in range(base, (block + 1) * n // blocks):
            total += onward(0, start - base, base) / n
    return total


# Resamples


def null_word(seed_key, t, i, j, n):
    """The 32-bit word of resample t for the i-th distinct token at key row j: two halves, two domains."""
    run = (n + 15) // 16
    word, block = divmod(j, run)
    halves = []
    for domain in (6, 7):
        x = chacha_block(seed_key, block | i << 32, domain, t // 2, 8)[word]
        halves.append(x >> 16 if t % 2 else x & 0xFFFF)
    return halves[0] << 16 | halves[1]


def null_uniform(seed_key, t, j, n):
    """u of key row j in resample t of an its key, 16 bits."""
    run = (n + 15) // 16
    word, block = divmod(j, run)
    x = chacha_block(seed_key, block, 8, t // 2, 8)[word]
    return x >> 16 if t % 2 else x & 0xFFFF


def null_ranks(seed_key, t, count, vocab_size):
    """The first `count` distinct ranks of resample t of an its key."""
    ranks = []
    draw = 0
    while len(ranks) < count:
        block, word = draw // 256 * 16 + draw % 16, draw // 16 % 16
        rank = chacha_block(seed_key, block, 9, t, 8)[word] * vocab_size >> 32
        if rank not in ranks:
            ranks.append(rank)
        draw += 1
    return ranks


def p_value(phi, null):
    """(1 + number of null statistics <= phi) / (T + 1)."""
    return (1 + sum(x <= phi for x in null)) / (len(null) + 1)


def any_prefix_p_value(rows):
    """p of rows[0] among rows [T + 1][m]: by the least rank at a prefix, then by the sum of 1 / rank."""
    fits = []
    for row in rows:
        ranks = [sum(other[i] <= own for other in rows) for i, own in enumerate(row)]
        total = 0.0
        for rank in ranks:
            total += 1 / rank
        fits.append((min(ranks), -total))
    return sum(fit <= fits[0] for fit in fits) / len(rows)


def sequential_p_value(phi, null, h):
    """Besag and Clifford 1991: h / l at the l-th resample that brings the h-th hit; (p, resamples used)."""
    hits = 0
    for used, x in enumerate(null, start=1):
        hits += x <= phi
        if hits == h:
            return h / used, used
    return (1 + hits) / (len(null) + 1), len(null)


# The published code's samplers


def published_exp_place(probs, pi, xi):
    """argmax of xi[i] ** (1 / p), p = probs[pi[i]], by its logarithm (a power would underflow)."""
    scores = [
        math.log(u) / p if u > 0 and p > 0 else -math.inf
        for u, p in zip(xi, (probs[v] for v in pi), strict=True)
    ]
    return scores.index(max(scores)) if max(scores) > -math.inf else -1


def published_its_token(probs, pi, u):
    """The first token in order pi at which the running sum of probabilities is at least u."""
    total, last = 0.0, -1
    for v in pi:
        total += probs[v]
        last = v if probs[v] > 0 else last
        if total >= u:
            return v
    return last


# The Gumbel watermark of serving engines


def philox4x32(counter, key):
    """Philox4x32-10 (Salmon et al. 2011): four words from a counter of four and a key of two."""
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def context_word(context, token, key):
    """The word of a token after a context (a list of tokens, -1 before the text) under a 64-bit key."""
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    state = [0x574D4358, len(context), 0, 0]
    for offset in range(0, len(context), 4):
        block = [c & 0xFFFFFFFF for c in context[offset : offset + 4]]
        block += [0xFFFFFFFF - i for i in range(len(block), 4)]
        state = philox4x32([s ^ c for s, c in zip(state, block, strict=True)], [k0 ^ offset, k1])
    out = philox4x32([token >> 2, *state[:3]], [k0 ^ state[3], k1 ^ 0x574D544B])
    return out[token & 3]


def gumbel_score(text, width, keys, weights, deduplicate):
    """(sum of the weighted -log(1 - u), tokens counted)."""
    total, seen = 0.0, set()
    scored = 0
    for i, token in enumerate(text):
        context = ([-1] * width + list(text[:i]))[i : i + width]
        if deduplicate and tuple(context) in seen:
            continue
        seen.add(tuple(context))
        scored += 1
        for key, weight in zip(keys, weights, strict=True):
            u = ((context_word(context, token, key) >> 8) + 1) / (2**24 + 1)
            total -= weight * math.log1p(-min(u, 1 - 2**-24))
    return total, scored


def murmur3(data):
    """MurmurHash3 x86 32-bit of whole words of bytes, seed 0 (Appleby, smhasher)."""
    state = 0
    for i in range(0, len(data), 4):
        k = int.from_bytes(data[i : i + 4], "little") * 0xCC9E2D51 % 2**32
        k = (k << 15 | k >> 17) * 0x1B873593 % 2**32
        state ^= k
        state = ((state << 13 | state >> 19) * 5 + 0xE6546B64) % 2**32
    state ^= len(data)
    state = (state ^ state >> 16) * 0x85EBCA6B % 2**32
    state = (state ^ state >> 13) * 0xC2B2AE35 % 2**32
    return state ^ state >> 16


def sglang_score(text, prompt, window, keys, share, most):
    """(sum of -log(1 - u), tokens counted) of SGLang's watermark under one key or two; an empty prompt: unknown."""

    def pack(*words):
        return b"".join(word.to_bytes(4, "little") for word in words)

    total, seen = 0.0, set()
    tokens = [*prompt, *text]
    for i in range(len(prompt) or window, len(tokens)):
        context = tuple(tokens[max(0, i - window) : i])
        if context in seen or len(seen) == most:
            continue
        seen.add(context)
        hashed = pack(murmur3(pack(*context)))
        packed = [key.to_bytes(8, "little") for key in keys]
        coin = murmur3(b"".join(packed) + hashed)
        key = packed[0] if len(keys) == 1 or coin < int(share * 2**32) else packed[1]
        total -= math.log1p(-(murmur3(key + hashed + pack(tokens[i])) + 0.5) / 2**32)
    return total, len(seen)


# Free and local alignments with scores


def clip(value):
    """Saturated to 16 bits."""
    return max(-32768, min(32767, value))


def scored_statistic(costs, gamma, bonus, local):
    """The least cost of a free or local alignment on the cyclic key. costs: [m][n] integers, row i for token i.

    Row gaps are tried from every column to every other. The state has gamma added, as sums saturate in that order.
    """
    n = len(costs[0])
    state, plain = [gamma] * n, [0] * n
    best = 0
    for row in costs:
        new = []
        for j in range(n):
            d = min(clip(state[j - 1] + clip(row[j] - gamma)), state[j])
            new.append(clip((min(d, 0) if local else d) + gamma))
        state = []
        for j in range(n):
            reached, least = 0, 32767
            for back in range(n):
                reached = new[(j - back) % n]
                for _ in range(back):
                    reached = clip(reached + gamma)
                least = min(least, reached)
            state.append(least)
        best = min(best, min(clip(value - gamma) for value in state)) if local else best
        plain = [clip(clip(plain[j - 1] + clip(row[j] - gamma)) + gamma) for j in range(n)]
    if local:
        return best
    return min(*(clip(s - gamma) for s in state), *(clip(p - bonus) for p in plain))


def best_segment(scores):
    """(sum, first token, stop, row of the first) of the gapless segment of at most n tokens with the largest sum.

    scores: [m][n] floats, summed along the cyclic diagonal; (0.0, 0, 0, 0) where none is positive.
    """
    m, n = len(scores), len(scores[0])
    best = (0.0, 0, 0, 0)
    for start in range(m):
        for row in range(n):
            total = 0.0
            for d in range(min(n, m - start)):
                total += scores[start + d][(row + d) % n]
                if total > best[0]:
                    best = (total, start, start + d + 1, row)
    return best
