"""Where random numbers come from: the ChaCha key, and the keys that the published code makes from a seed.

Both kinds of key answer the same four questions: the costs of tokens (for detection), and, for sampling,
`exp` numbers, the `its` order of tokens and the `its` uniforms.
"""

import hashlib
import hmac
import os
import threading
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from wmcore.errors import WatermarkError

if TYPE_CHECKING:
    from wmcore.kernels import Backend
    from wmcore.kernels.packing import Problem

GENERATORS = ("torch", "mersenne")

# A table of all costs is kept once this share of the vocabulary has been asked for, and if it fits.
_TABLE_AFTER = 1 / 16
_TABLE_LIMIT = 1 << 28


class Key:
    """256 secret bits from which every key sequence is made with ChaCha8 (DESIGN: random access, no table needed).

    Parameters
    ----------
    secret : bytes
        32 bytes. Use `Key.generate` for a new one.

    Raises
    ------
    WatermarkError
        If the secret does not have 32 bytes.
    """

    def __init__(self, secret: bytes) -> None:
        if not isinstance(secret, bytes) or len(secret) != 32:
            size = len(secret) if isinstance(secret, bytes) else type(secret).__name__
            raise WatermarkError(
                f"secret has {size} bytes, but a key needs exactly 32: use Key.generate() to make one"
            )
        self._secret = secret

    @classmethod
    def generate(cls) -> "Key":
        """A new key from the operating system's random numbers."""
        return cls(os.urandom(32))

    @classmethod
    def from_hex(cls, text: str) -> "Key":
        """The key written as 64 hexadecimal digits; raises WatermarkError (without the text) for anything else."""
        try:
            return cls(bytes.fromhex(text))
        except (ValueError, TypeError):
            pass
        raise WatermarkError(
            "the secret is not 64 hexadecimal digits: restore it, or make a new key"
        )

    def derive(self, label: str) -> "Key":
        """An independent key for a tenant: HMAC-SHA256 of the label under this secret.

        Whoever holds the derived key learns nothing of this one or of its other labels.
        """
        if not isinstance(label, str):
            raise WatermarkError(f"label is a {type(label).__name__}, but must be a string")
        message = b"wmcore derive\x00" + label.encode()
        return Key(hmac.new(self._secret, message, hashlib.sha256).digest())

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits that tell keys apart and reveal nothing."""
        return hashlib.sha256(b"wmcore fingerprint\x00" + self._secret).hexdigest()[:8]

    @property
    def secret_hex(self) -> str:
        """The secret itself, for a key store. Do not log it."""
        return self._secret.hex()

    @cached_property
    def words(self) -> np.ndarray:
        """The ChaCha key: uint32 [8]."""
        return np.frombuffer(self._secret, "<u4").astype(np.uint32)

    def __repr__(self) -> str:
        return f"Key({self.fingerprint})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and hmac.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __getstate__(self) -> dict:
        return {"_secret": self._secret}

    def its_order(self, vocab_size: int) -> np.ndarray:
        """The permutation of inverse transform sampling: order[r] is the token of rank r. int32 [vocab_size]."""
        from wmcore.kernels.constants import DOMAIN_ITS_ORDER

        words = self._stream(DOMAIN_ITS_ORDER, vocab_size)
        return np.argsort(words, kind="stable").astype(np.int32)

    def its_words(self, key_length: int, vocab_size: int) -> np.ndarray:
        """u of each key row, times 2**32: uint32 [key_length] (the same for any vocab_size)."""
        from wmcore.kernels.constants import DOMAIN_ITS_UNIFORM

        return self._stream(DOMAIN_ITS_UNIFORM, key_length)

    def _stream(self, domain: int, count: int) -> np.ndarray:
        """The first words of a domain, in ChaCha's own order: uint32 [count]."""
        from wmcore.kernels.constants import ROUNDS
        from wmcore.kernels.cpu.chacha import keystream

        out = np.empty((16, 16 * ((count + 255) // 256)), np.uint32)
        keystream(self.words, 0, domain, 0, ROUNDS, out)
        return np.ascontiguousarray(out.T).reshape(-1)[:count]


class PublishedKey:
    """The key sequence that the published code makes from a seed (github.com/jthickstun/watermark).

    Parameters
    ----------
    seed : int
        0 to 2**32 - 1 for "mersenne", 0 to 2**63 - 1 for "torch".
    generator : {"torch", "mersenne"}
        "torch": a `torch.Generator`, as in its `watermarking/`: exp draws an n x V table of uniforms; its draws the
        permutation, then n uniforms. "mersenne": MT19937 as in its `demo/`, each word / 2**32; its, which the
        demo lacks, takes the demo's `randperm`, then n uniforms.

    Notes
    -----
    A uniform of the demo can round to 1.0 in float32 (about one in 2**25), with which log(1 - u) is -inf and any
    text that holds that token at that row counts as watermarked. Here such a uniform is 1 - 2**-24 instead: the
    one difference from the published numbers.
    """

    def __init__(self, seed: int, generator: str = "torch") -> None:
        if generator not in GENERATORS:
            raise WatermarkError(
                f"generator {generator!r} is not known: use one of {', '.join(GENERATORS)}"
            )
        limit = 2**63 if generator == "torch" else 2**32
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
            raise WatermarkError(f"seed must be a whole number from 0 to {limit - 1}, but is none")
        if not 0 <= int(seed) < limit:
            raise WatermarkError(f"seed is outside 0 .. {limit - 1}, the seeds of {generator!r}")
        self._seed = int(seed)
        self.generator = generator
        self._tables: dict[tuple[int, int], np.ndarray] = {}

    @property
    def seed(self) -> int:
        """The seed, which is this key's secret. Do not log it."""
        return self._seed

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits that tell keys apart. A seed is guessable, so this hides it only from view."""
        text = f"wmcore published\x00{self.generator}\x00{self._seed}"
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def __repr__(self) -> str:
        return f"PublishedKey({self.generator}, {self.fingerprint})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PublishedKey):
            return False
        return (self._seed, self.generator) == (other._seed, other.generator)

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __getstate__(self) -> dict:
        return {"_seed": self._seed, "generator": self.generator, "_tables": {}}

    def exp_table(self, key_length: int, vocab_size: int) -> np.ndarray:
        """The uniforms xi, float32 [key_length, vocab_size], all below 1. Made once, then kept."""
        shape = (key_length, vocab_size)
        table = self._tables.get(shape)
        if table is None:
            if self.generator == "torch":
                import torch

                source = torch.Generator().manual_seed(self._seed)
                table = torch.rand(shape, generator=source).numpy()
            else:
                words = self._mersenne().take(key_length * vocab_size)
                table = _uniform(words).reshape(shape)
            self._tables = {shape: table}  # one at a time: they are large
        return table

    def its_order(self, vocab_size: int) -> np.ndarray:
        """The permutation pi: order[r] is the token of rank r. int32 [vocab_size]."""
        return self._its(1, vocab_size)[0]

    def its_uniforms(self, key_length: int, vocab_size: int) -> np.ndarray:
        """The uniforms xi that follow the permutation: float32 [key_length], all below 1."""
        return self._its(key_length, vocab_size)[1]

    def its_words(self, key_length: int, vocab_size: int) -> np.ndarray:
        """`its_uniforms` times 2**32, rounded down: uint32 [key_length]."""
        return (self.its_uniforms(key_length, vocab_size) * 4294967296.0).astype(np.uint32)

    def _its(self, key_length: int, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
        if self.generator == "torch":
            import torch

            source = torch.Generator().manual_seed(self._seed)
            order = torch.randperm(vocab_size, generator=source).numpy()
            xi = torch.rand((key_length, 1), generator=source).numpy().reshape(-1)
        else:
            words = self._mersenne()
            draws = words.take(vocab_size - 1)
            order = np.arange(vocab_size)
            for i, draw in zip(range(vocab_size - 1, 0, -1), draws.tolist(), strict=True):
                j = draw % i
                order[i], order[j] = order[j], order[i]
            xi = _uniform(words.take(key_length))
        return order.astype(np.int32), xi

    def _mersenne(self) -> "_Mersenne":
        return _Mersenne(self._seed)


class _Mersenne:
    """The words of MT19937 seeded the legacy way, in order."""

    def __init__(self, seed: int) -> None:
        self._state = np.random.RandomState(seed)

    def take(self, count: int) -> np.ndarray:
        return np.frombuffer(self._state.bytes(4 * count), "<u4")


def _uniform(words: np.ndarray) -> np.ndarray:
    """word / 2**32 as float32, kept below 1."""
    below_one = np.nextafter(np.float32(1), np.float32(0))
    return np.minimum((words / 4294967296.0).astype(np.float32), below_one)


class CostSource:
    """The token costs of one watermark's key, for any tokens: what a `Detector` keeps between batches.

    Parameters
    ----------
    key : Key or PublishedKey
    problem : wmcore.kernels.packing.Problem
    """

    def __init__(self, key: Key | PublishedKey, problem: "Problem") -> None:
        self._key = key
        self._problem = problem
        self._lock = threading.Lock()
        self._asked = 0
        self._table: np.ndarray | None = None

    def costs(
        self, tokens: np.ndarray, backend: "Backend", threads: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """(costs int32 [R, >= n], row of each of tokens int64 [len(tokens)]), for int64 token ids below V."""
        problem = self._problem
        if problem.its or isinstance(self._key, PublishedKey):
            distinct, rows = np.unique(tokens, return_inverse=True)
            make = self._its_costs if problem.its else self._published_exp_costs
            return make(distinct), rows
        table = self._exp_table(len(tokens), backend, threads)
        if table is not None:
            return table, tokens
        distinct, rows = np.unique(tokens, return_inverse=True)
        assert isinstance(self._key, Key)
        return backend.exp_costs(self._key.words, distinct, problem.n, threads), rows

    def _exp_table(self, asked: int, backend: "Backend", threads: int) -> np.ndarray | None:
        problem = self._problem
        assert isinstance(self._key, Key)
        with self._lock:
            self._asked += asked
            if (
                self._table is None
                and self._asked > _TABLE_AFTER * problem.vocab_size
                and problem.vocab_size * problem.n * 4 <= _TABLE_LIMIT
            ):
                self._table = backend.exp_table(
                    self._key.words, problem.vocab_size, problem.n, threads
                )
            return self._table

    def _published_exp_costs(self, tokens: np.ndarray) -> np.ndarray:
        assert isinstance(self._key, PublishedKey)
        xi = self._key.exp_table(self._problem.n, self._problem.vocab_size)
        cost = np.log1p(-xi.T[tokens].astype(np.float64))
        return np.rint(cost * self._problem.scale).astype(np.int32)

    @cached_property
    def _its_parts(self) -> tuple[np.ndarray, np.ndarray]:
        """(u int64 [n], eta int64 [V]) in cost units."""
        problem, key = self._problem, self._key
        rank = np.empty(problem.vocab_size, np.int64)
        rank[key.its_order(problem.vocab_size)] = np.arange(problem.vocab_size)
        eta = (rank * problem.scale + problem.denominator // 2) // max(problem.denominator, 1)
        if isinstance(key, Key):
            return key.its_words(problem.n, problem.vocab_size).astype(np.int64) >> 16, eta
        xi = key.its_uniforms(problem.n, problem.vocab_size).astype(np.float64)
        return (xi * problem.scale).astype(np.int64), eta

    def _its_costs(self, tokens: np.ndarray) -> np.ndarray:
        u, eta = self._its_parts
        return np.abs(u[None, :] - eta[tokens][:, None]).astype(np.int32)

    def __getstate__(self) -> dict:
        return {"_key": self._key, "_problem": self._problem}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["_key"], state["_problem"])  # type: ignore[misc]
