"""Numbers that the CPU and CUDA kernels share: ChaCha domains, fixed-point scales, limits.

Changing any of these changes the watermark: old keys would no longer find old texts.
"""

ROUNDS = 8
"""ChaCha rounds behind every key word."""

# Domains: the first nonce word. One secret gives independent streams for each use.
DOMAIN_EXP = 1
"""exp keys: one word per (row, token)."""
DOMAIN_ITS_UNIFORM = 2
"""its keys: one word per row."""
DOMAIN_ITS_ORDER = 3
"""its keys: one word per token, whose argsort is the permutation."""
DOMAIN_FRESH = 4
"""Ordinary (unwatermarked) sampling: rows that are never used twice."""
DOMAIN_SHIFT = 5
"""Random shifts of generated texts."""
DOMAIN_NULL_HIGH = 6
"""Resampled exp keys: the high 16 bits of each word."""
DOMAIN_NULL_LOW = 7
"""Resampled exp keys: the low 16 bits of each word."""
DOMAIN_NULL_UNIFORM = 8
"""Resampled its keys: one word per row."""
DOMAIN_NULL_RANK = 9
"""Resampled its keys: one word per draw of a rank."""

EXP_SCALE = 1 << 12
"""Units per nat of an exp token cost: 1/4096 nat, so 2.4e-4 nats at most between two neighbours."""
ITS_SCALE = 1 << 16
"""Units per 1.0 of an its token cost abs(u - eta)."""

EXP_COST_MIN = -93_691
"""The least exp token cost: round(4096 * log(2**-33)), for the word 2**32 - 1."""
MAX_BLOCK = 8192
"""The longest block that is aligned at once: k * range stays below 2**31 (see `problem.Problem`)."""
NOTHING = 2**31 - 1
"""A statistic that no alignment reaches: "not found", or as a threshold "whatever it is"."""

LEVELS = 128
"""Room for the levels that a key's 16-bit numbers are sorted into before a score is looked up."""
SCORE_SCALE = 32
"""Units per nat of a score (free and local alignments)."""
MOST_SCORE_GAP = 16_000
"""The largest gap cost of a scored alignment, in units: 500 nats, which no match is worth."""
