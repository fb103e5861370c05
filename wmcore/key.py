"""Where random numbers come from: the ChaCha key, and the keys that the published code makes from a seed.

Both kinds answer the same questions, so that nothing else asks which kind it has: `costs` (of tokens, to detect),
`numbers` (to sample), `to_dict` (for a file), `derive`, `control`, `salt`, `default_seed`, `eta_denominator`, `fair`,
`fingerprint`.
"""

import hashlib
import hmac
import os
import unicodedata
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from wmcore.checks import memory_error, whole_number
from wmcore.errors import WatermarkError, shown
from wmcore.published import MersenneWords, permutation, uniform_units, uniforms

if TYPE_CHECKING:
    from wmcore.costs import CostSource
    from wmcore.kernels.backend import ExpNumbers, ItsNumbers
    from wmcore.kernels.problem import Problem

GENERATORS = ("torch", "mersenne")


class UniformTable(NamedTuple):
    """What a published exp key draws from: xi, float32 [n, V]."""

    xi: np.ndarray


class Key:
    """256 secret bits from which every key sequence is made with ChaCha8: any number at once, no table needed.

    Parameters
    ----------
    secret : bytes
        32 bytes. Use `Key.generate` for a new one.

    Raises
    ------
    WatermarkError
        If the secret does not have 32 bytes.
    """

    fair: ClassVar[bool] = True
    """Whether its uniforms have the law that proven bounds assume."""

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
    def from_hex(cls, text: str, name: str = "the secret") -> "Key":
        """The key written as 64 hexadecimal digits; raises WatermarkError (`name`, never `text`) for anything else."""
        try:
            return cls(bytes.fromhex(text))
        except (ValueError, TypeError):
            pass
        raise WatermarkError(f"{name} is not 64 hexadecimal digits: restore it, or make a new key")

    def derive(self, label: str) -> "Key":
        """An independent key for a tenant: HMAC-SHA256 of the label under this secret.

        Whoever holds the derived key learns nothing of this one or of its other labels. The label is normalised first
        (Unicode NFC): "café" gives one key, however the é is typed. Case and spaces count.
        """
        if not isinstance(label, str):
            raise WatermarkError(f"label is a {type(label).__name__}, but must be a string")
        try:
            text = unicodedata.normalize("NFC", label).encode()
        except UnicodeEncodeError:
            raise WatermarkError(
                f"label {shown(label)} holds half of a surrogate pair, which is not text: give whole characters"
            ) from None
        return Key(hmac.new(self._secret, b"wmcore derive\x00" + text, hashlib.sha256).digest())

    @property
    def salt(self) -> bytes:
        """What seeds are mixed with, so that who knows a seed but not the key cannot foresee resampled keys."""
        return hmac.new(self._secret, b"wmcore resamples", hashlib.sha256).digest()

    @property
    def default_seed(self) -> int:
        """The seed of resampled keys where none is given, 63 bits: who lacks the key cannot know it."""
        digest = hmac.new(self._secret, b"wmcore default seed", hashlib.sha256).digest()
        return int.from_bytes(digest[:8], "little") >> 1

    def control(self, sampler: str, seed: bytes) -> "Key":
        """A key of the same law that no text carries, made from 32 bytes and the secret."""
        return Key(hmac.new(self._secret, b"wmcore control\x00" + seed, hashlib.sha256).digest())

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits that tell keys apart and reveal nothing."""
        return hashlib.sha256(b"wmcore fingerprint\x00" + self._secret).hexdigest()[:8]

    @property
    def secret_hex(self) -> str:
        """The secret itself, for a key store. Do not log it."""
        return self._secret.hex()

    @property
    def words(self) -> np.ndarray:
        """The ChaCha key: uint32 [8]."""
        return np.frombuffer(self._secret, "<u4").astype(np.uint32)

    def __repr__(self) -> str:
        return f"Key({self.fingerprint})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and hmac.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __getstate__(self) -> dict[str, Any]:
        return {"_secret": self._secret}

    def to_dict(self, from_env: str | None = None) -> dict[str, Any]:
        """What a watermark file says of it; from_env: leave the secret to this environment variable."""
        if from_env:
            return {"kind": "env", "name": from_env, "fingerprint": self.fingerprint}
        return {"kind": "chacha8", "secret": self.secret_hex}

    @staticmethod
    def eta_denominator(vocab_size: int) -> int:
        """eta(r) = r / (V - 1) (paper, section 2.2)."""
        return vocab_size - 1

    def costs(self, problem: "Problem") -> "CostSource":
        """The costs of tokens under this key."""
        from wmcore.costs import ChaChaCosts, RankCosts
        from wmcore.kernels.problem import COSTS

        if COSTS[problem.cost].ranked:
            _check_order(problem.vocab_size)
            return RankCosts(partial(self._its_units, problem.n, problem.vocab_size), problem)
        return ChaChaCosts(self.words, problem)

    def numbers(
        self, sampler: str, key_length: int, vocab_size: int
    ) -> "ExpNumbers | ItsNumbers | UniformTable":
        """What the sampler ("exp" or "its") draws from."""
        from wmcore.kernels.backend import ExpNumbers, ItsNumbers
        from wmcore.kernels.constants import DOMAIN_EXP

        if sampler == "exp":
            return ExpNumbers(self.words, DOMAIN_EXP)
        return ItsNumbers(self.its_order(vocab_size), self.its_words(key_length))

    def its_order(self, vocab_size: int) -> np.ndarray:
        """The permutation of inverse transform sampling: order[r] is the token of rank r. int32 [vocab_size]."""
        _check_order(vocab_size)
        from wmcore.kernels.constants import DOMAIN_ITS_ORDER

        words = self._stream(DOMAIN_ITS_ORDER, vocab_size)
        return np.argsort(words, kind="stable").astype(np.int32)

    def its_words(self, key_length: int) -> np.ndarray:
        """u of each key row, times 2**32: uint32 [key_length]."""
        from wmcore.kernels.constants import DOMAIN_ITS_UNIFORM

        return self._stream(DOMAIN_ITS_UNIFORM, key_length)

    def _its_units(self, key_length: int, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
        return self.its_words(key_length).astype(np.int64) >> 16, self.its_order(vocab_size)

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
        try:
            self._seed = whole_number("seed", seed, 0, limit - 1)
        except WatermarkError:  # without the value, which is the secret
            raise WatermarkError(
                f"seed must be a whole number, and is outside 0 .. {limit - 1}, the seeds of {generator!r}"
            ) from None
        self.generator = generator
        self._tables: dict[tuple[int, int], np.ndarray] = {}

    @property
    def fair(self) -> bool:
        """Whether its uniforms have the law that proven bounds assume: the demo's are rounded up to float32."""
        return self.generator != "mersenne"

    @property
    def seed(self) -> int:
        """The seed, which is this key's secret. Do not log it."""
        return self._seed

    def derive(self, label: str) -> Key:
        """Always a WatermarkError: sub-keys need a secret key."""
        raise WatermarkError(
            f"label {shown(label)} asks for a sub-key, which a published key does not have: "
            "use a secret key (Key.generate)"
        )

    salt: ClassVar[bytes] = b""
    """Nothing: a published key has no secret worth the name, and its resamples stay as they were."""

    @property
    def default_seed(self) -> int:
        """The seed of resampled keys where none is given, 63 bits: it follows from this key's seed, and so can be
        known to whoever can guess that."""
        text = f"wmcore default seed\x00{self.generator}\x00{self._seed}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1

    def control(self, sampler: str, seed: bytes) -> Key:
        """A key of the same law that no text carries; WatermarkError for "its", where there is none."""
        if sampler == "its":
            raise WatermarkError(
                "controls needs keys of the same law, which a published its key has not: leave controls out"
            )
        return Key(seed)

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

    def __getstate__(self) -> dict[str, Any]:
        return {"_seed": self._seed, "generator": self.generator, "_tables": {}}

    def to_dict(self, from_env: str | None = None) -> dict[str, Any]:
        """What a watermark file says of it; WatermarkError with from_env."""
        if from_env:
            raise WatermarkError(
                f"key_from_env={from_env!r} needs a secret key, but this is a published key: "
                "leave key_from_env out"
            )
        return {"kind": "published", "generator": self.generator, "seed": self.seed}

    @staticmethod
    def eta_denominator(vocab_size: int) -> int:
        """eta(r) = r / V, as in the published code."""
        return vocab_size

    def costs(self, problem: "Problem") -> "CostSource":
        """The costs of tokens under this key."""
        from wmcore.costs import RankCosts, UniformCosts
        from wmcore.kernels.problem import COSTS

        if COSTS[problem.cost].ranked:
            _check_order(problem.vocab_size)
            return RankCosts(partial(self._its_units, problem.n, problem.vocab_size), problem)
        _check_table(problem.n, problem.vocab_size)
        return UniformCosts(partial(self.exp_table, problem.n, problem.vocab_size))

    def numbers(
        self, sampler: str, key_length: int, vocab_size: int
    ) -> "ExpNumbers | ItsNumbers | UniformTable":
        """What the sampler ("exp" or "its") draws from."""
        from wmcore.kernels.backend import ItsNumbers

        if sampler == "exp":
            return UniformTable(self.exp_table(key_length, vocab_size))
        order, xi = self._its(key_length, vocab_size)
        return ItsNumbers(order, (xi * 4294967296.0).astype(np.uint32))

    def exp_table(self, key_length: int, vocab_size: int) -> np.ndarray:
        """The uniforms xi, float32 [key_length, vocab_size], all below 1. Made once, then kept."""
        shape = (key_length, vocab_size)
        table = self._tables.get(shape)
        if table is None:
            _check_table(key_length, vocab_size)
            if self.generator == "torch":
                import torch

                source = torch.Generator().manual_seed(self._seed)
                table = torch.rand(shape, generator=source).numpy()
            else:
                words = MersenneWords(self._seed)
                table = np.empty(shape, np.float32)
                for (
                    row
                ) in table:  # one at a time: words and float64 steps take five times the table
                    row[:] = uniforms(words.take(vocab_size))
            self._tables = {shape: table}  # one at a time: they are large
        return table

    def its_order(self, vocab_size: int) -> np.ndarray:
        """The permutation pi: order[r] is the token of rank r. int32 [vocab_size]."""
        return self._its(1, vocab_size)[0]

    def its_uniforms(self, key_length: int, vocab_size: int) -> np.ndarray:
        """The uniforms xi that follow the permutation: float32 [key_length], all below 1."""
        return self._its(key_length, vocab_size)[1]

    def _its_units(self, key_length: int, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
        order, xi = self._its(key_length, vocab_size)
        return uniform_units(xi), order

    def _its(self, key_length: int, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
        _check_order(vocab_size)
        if self.generator == "torch":
            import torch

            source = torch.Generator().manual_seed(self._seed)
            order = torch.randperm(vocab_size, generator=source).numpy()
            xi = torch.rand((key_length, 1), generator=source).numpy().reshape(-1)
        else:
            words = MersenneWords(self._seed)
            order = np.array(permutation(vocab_size, iter(words.take(vocab_size - 1).tolist())))
            xi = uniforms(words.take(key_length))
        return order.astype(np.int32), xi


def _check_order(vocab_size: int) -> None:
    """WatermarkError if the permutation of an its key, with what it is made from, takes too much memory."""
    error = memory_error(
        f"the permutation of an its key for vocab_size {vocab_size:,}",
        64 * vocab_size,
        "give the model's own vocab_size, or use an exp scheme",
    )
    if error is not None:
        raise WatermarkError(error)


def _check_table(key_length: int, vocab_size: int) -> None:
    """WatermarkError if the uniforms of a published exp key take too much memory."""
    error = memory_error(
        f"the table of a published exp key, {key_length:,} rows of {vocab_size:,} tokens,",
        4 * key_length * vocab_size,
        "take a smaller key_length, or a secret key, which needs no table",
    )
    if error is not None:
        raise WatermarkError(error)
