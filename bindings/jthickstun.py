"""The published implementation (github.com/jthickstun/watermark): its functions, with our kernels behind them.

Same names, arguments, meaning and return types, so that code which passes key functions, samplers and scores around
stays as it is. `patch` puts them under the module names of a checkout; ``python -m wmcore.bindings.jthickstun
experiments/c4-experiment.py ...`` runs a script of a checkout, unchanged, on them.

Kept: a p-value without the added one (it can be 0), `normalize` and `null`, block statistics by minimum, shifts and
null seeds from torch's global generator. Different: costs are rounded to 1/4096 nat (exp) and 1/65536 (its); a
uniform of exactly 1.0 counts as 1 - 2**-24; mistakes raise `WatermarkError`. A ``dist`` that is not one of the score
functions below (or a lambda that only calls one) takes the general way, one Python call for each pair.
"""

import contextlib
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from wmcore import published
from wmcore.bindings import _published
from wmcore.checks import require
from wmcore.errors import WatermarkError
from wmcore.schemes import EXP_COST, ITS_COST, TokenCost
from wmcore.stepping import Stepper

require("torch", "run pip install 'wmcore-lm[generate]'", "2.6", "3")

import torch  # noqa: E402

Tensor = Any


# Keys and samplers


def gumbel_key_func(
    generator: Any, n: int, vocab_size: int, eff_vocab_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """(xi, pi) of an exp key: uniforms float32 [n, eff_vocab_size], and 0, 1, 2, ..."""
    columns = vocab_size if eff_vocab_size is None else int(eff_vocab_size)
    return torch.rand((n, columns), generator=generator), torch.arange(columns)


def transform_key_func(
    generator: Any, n: int, vocab_size: int, eff_vocab_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """(xi, pi) of an its key: uniforms float32 [n, 1], drawn after the permutation int64 [vocab_size]."""
    order = torch.randperm(vocab_size, generator=generator)
    return torch.rand((n, 1), generator=generator), order


_KEYS = (gumbel_key_func, transform_key_func)


def gumbel_sampling(probs: Tensor, pi: Tensor, xi: Tensor) -> Tensor:
    """Where xi ** (1 / p) is greatest, p = probs in the order pi: int64 [B, 1]. Time: about one pass over xi."""
    return _column(_published.exp_places(_floats(probs), _whole(pi), _floats(xi)))


def transform_sampling(probs: Tensor, pi: Tensor, xi: Tensor) -> Tensor:
    """The token at which the CDF in the order pi reaches xi, float32 [B, 1]: int64 [B, 1]."""
    return _column(_published.its_tokens(_floats(probs), _whole(pi), _floats(xi).reshape(-1)))


# Scores of one block against one window


class _Probe:
    """Stands for tokens or xi when `phi` asks a dist which score it is."""


_TOKENS, _XI = _Probe(), _Probe()


class _Score:
    """A token cost, and gamma (None: no edits)."""

    def __init__(self, cost: TokenCost, gamma: float | None) -> None:
        self.cost = cost
        self.gamma = gamma


def gumbel_score(tokens: Tensor, xi: Tensor) -> Tensor:
    """The sum of log(1 - xi[l, tokens[l]]), a float32 tensor without dimensions."""
    if tokens is _TOKENS and xi is _XI:
        return _Score(EXP_COST, None)
    met = xi.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return torch.log1p(-met.clamp(max=float(published.BELOW_ONE))).sum()


def gumbel_edit_score(tokens: Tensor, xi: Tensor, gamma: float) -> float:
    """The edit alignment of tokens, int64 [k], with xi, float32 [L, V]."""
    if tokens is _TOKENS and xi is _XI:
        return _Score(EXP_COST, gamma)  # type: ignore[return-value]
    return levenshtein(tokens.numpy(), xi.numpy(), gamma)


def transform_score(tokens: Tensor, xi: Tensor) -> Tensor:
    """The sum of abs(tokens - xi), tokens normalised: a float32 tensor without dimensions."""
    if tokens is _TOKENS and xi is _XI:
        return _Score(ITS_COST, None)
    return (tokens - xi.squeeze()).abs().sum()


def transform_edit_score(tokens: Tensor, xi: Tensor, gamma: float = 1) -> float:
    """The edit alignment of normalised tokens, float32 [k], with xi, float32 [L] or [L, 1]."""
    if tokens is _TOKENS and xi is _XI:
        return _Score(ITS_COST, gamma)  # type: ignore[return-value]
    return transform_levenshtein(tokens.numpy(), xi.numpy().reshape(-1), gamma)


def levenshtein(x: np.ndarray, y: np.ndarray, gamma: float = 0.0) -> float:
    """The demo's routine: tokens x, int64 [k], with key rows y, float32 [L, V]; cost log(1 - y[j, x[i]])."""
    met = np.minimum(np.asarray(y)[:, np.asarray(x)].T, published.BELOW_ONE)
    return _published.levenshtein(np.log((1 - met).astype(np.float64)).astype(np.float32), gamma)


def gumbel_levenshtein(x: np.ndarray, y: np.ndarray, gamma: float = 1.0) -> float:
    """`levenshtein` with the default gap cost of the library."""
    return levenshtein(x, y, gamma)


def transform_levenshtein(x: np.ndarray, y: np.ndarray, gamma: float = 1.0) -> float:
    """x, float32 [k], with y, float32 [L]; cost abs(x[i] - y[j])."""
    x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
    return _published.levenshtein(np.abs(x[:, None] - y[None, :]), gamma)


# Statistics and tests


def phi(
    tokens: Tensor,
    n: int,
    k: int,
    generator: Any,
    key_func: Callable[..., Any],
    vocab_size: int,
    dist: Callable[..., Any],
    null: bool = False,
    normalize: bool = False,
) -> Tensor:
    """The test statistic: the least dist of any block of k tokens and any window of the key; lower fits better.

    Parameters
    ----------
    tokens : int64 tensor [m]
    n, k : int
        Key length, block length.
    generator : torch.Generator
        Seeded with the key; key_func draws from it.
    key_func : callable
        (generator, n, vocab_size, eff_vocab_size) -> (xi, pi).
    vocab_size : int
    dist : callable
        (tokens of a block, rows of xi) -> number. A score function of this module, or a lambda that only calls one,
        takes the kernels.
    null : bool
        Number the distinct tokens of the text 0, 1, ... and ask key_func for these only.
    normalize : bool
        Give dist tokens / vocab_size.

    Returns
    -------
    float32 tensor without dimensions
    """
    size = vocab_size
    if null:
        tokens = torch.unique(tokens, return_inverse=True, sorted=False)[1]
        size = int(tokens.max()) + 1
    xi, pi = key_func(generator, n, vocab_size, size)
    tokens = _ranks(pi, tokens) if key_func in _KEYS else torch.argsort(pi)[tokens]
    if normalize:
        tokens = tokens.float() / vocab_size
    fast = _alignments(tokens, xi, dist, k)
    if fast is not None:
        return torch.tensor(fast.least()[0], dtype=torch.float32)
    return adjacency(tokens, xi, dist, k).amin(dim=1).amin()


def adjacency(tokens: Tensor, xi: Tensor, dist: Callable[..., Any], k: int) -> Tensor:
    """dist of every block of k tokens with every window of xi: float32 [m - k + 1, n]."""
    fast = _alignments(tokens, xi, dist, k)
    if fast is not None:
        return torch.from_numpy(fast.all())
    m, n = len(tokens), len(xi)
    if not 1 <= k <= m:
        raise WatermarkError(f"k {k} is outside 1 to the text's {m} tokens")
    rows = (torch.arange(n)[:, None] + torch.arange(k)) % n
    windows = [xi[row] for row in rows] if xi.numel() * k <= 1 << 24 else None
    table = torch.empty((m - k + 1, n))
    for i in range(m - k + 1):
        block = tokens[i : i + k]
        for j in range(n):
            table[i, j] = dist(block, xi[rows[j]] if windows is None else windows[j])
    return table


def permutation_test(
    tokens: Tensor,
    vocab_size: int,
    n: int,
    k: int,
    seed: int,
    test_stat: Callable[..., Any],
    n_runs: int = 100,
    max_seed: int = 100000,
) -> Tensor:
    """The share of n_runs other keys (seeds below max_seed) whose statistic is at most that of `seed`: can be 0.

    As published, each run also renames the tokens by a random permutation, and all of it is drawn from torch's
    global generator.
    """
    source = torch.Generator()

    def statistic(key: int, **more: bool) -> Tensor:
        source.manual_seed(key)
        return test_stat(tokens=tokens, n=n, k=k, generator=source, vocab_size=vocab_size, **more)

    observed = statistic(int(seed))
    share: Any = 0  # summed run by run: a float32, rounded as there
    for _ in range(n_runs):
        tokens = _ranks(torch.randperm(vocab_size), tokens)
        key = int(torch.randint(max_seed, (1,)))
        share += (statistic(key, null=True) <= observed).float() / n_runs
    return share


def fast_permutation_test(
    tokens: Tensor,
    vocab_size: int,
    n: int,
    k: int,
    seed: int,
    test_stat: Callable[..., Any],
    null_results: Tensor,
) -> Tensor:
    """The share of null_results, sorted statistics of other texts, that are at most that of `seed`."""
    generator = torch.Generator()
    generator.manual_seed(int(seed))
    observed = test_stat(tokens=tokens, n=n, k=k, generator=generator, vocab_size=vocab_size)
    return torch.searchsorted(null_results, observed, right=True) / len(null_results)


# Generation


def generate(
    model: Any,
    prompts: Tensor,
    vocab_size: int,
    n: int,
    m: int,
    seeds: Sequence[int] | Tensor,
    key_func: Callable[..., Any],
    sampler: Callable[..., Any],
    random_offset: bool = True,
) -> Tensor:
    """Prompts, int64 [B, prompt], with m watermarked tokens after each: int64 [B, prompt + m], on the CPU.

    Text b has the key that key_func draws from seeds[b], and starts at a random row of it (torch's global
    generator) or at row 0. Memory: min(n, m) rows of each key, where the published loop keeps n twice.
    """
    count = len(prompts)
    if len(seeds) != count:
        raise WatermarkError(f"seeds has {len(seeds)} entries for {count} prompts: give one each")
    generator = torch.Generator()
    offset = torch.zeros(count, dtype=torch.int64)
    ours = key_func in _KEYS
    if random_offset and ours:  # these do not touch the global generator, so the order is free
        offset = torch.randint(n, size=(count,))
    steps = torch.arange(min(n, m))
    keys = []
    for b, seed in enumerate(seeds):
        generator.manual_seed(int(seed))
        xi, pi = key_func(generator, n, vocab_size)
        keys.append((xi[(offset[b] + steps) % n] if ours else xi, pi))
    if random_offset and not ours:
        offset = torch.randint(n, size=(count,))
    pis = torch.stack([pi for _, pi in keys])

    def draw(probs: Tensor, i: int) -> Tensor:
        rows = [xi[i % n if ours else (offset[b] + i) % n] for b, (xi, _) in enumerate(keys)]
        return sampler(probs, pis, torch.stack(rows))

    return _continue(model, prompts, m, draw)


def generate_rnd(prompts: Tensor, m: int, model: Any) -> Tensor:
    """Prompts with m tokens drawn by torch.multinomial after each: int64 [B, prompt + m], on the CPU."""
    return _continue(model, prompts, m, None)


def _continue(model: Any, prompts: Tensor, m: int, draw: Callable[..., Any] | None) -> Tensor:
    texts = [prompts.cpu()]
    stepper = Stepper(model, prompts.tolist(), m)
    with torch.no_grad():
        for i in range(m):
            probs = stepper.logits().softmax(-1)
            drawn = torch.multinomial(probs, 1) if draw is None else draw(probs.cpu(), i)
            stepper.append(drawn[:, 0])
            texts.append(drawn.cpu())
    return torch.cat(texts, dim=-1)


# Between torch and the kernels


def _alignments(
    tokens: Tensor, xi: Tensor, dist: Callable[..., Any], k: int
) -> _published.Alignments | None:
    """The kernels' view of the problem, or None where dist or its numbers are something else."""
    score = _recognised(dist)
    if score is None or tokens.ndim != 1 or len(tokens) == 0:
        return None
    distinct, inverse = torch.unique(tokens, return_inverse=True)
    x, y = distinct.numpy(), xi.numpy()
    if score.cost is ITS_COST:
        y = y.reshape(-1)
        if len(y) != len(xi) or not (
            _published.in_unit_interval(x) and _published.in_unit_interval(y)
        ):
            return None
        costs = published.its_costs(x, y)
    else:
        if y.ndim != 2 or x.dtype.kind != "i":
            return None
        met = y[:, x].T
        if not _published.in_unit_interval(met):
            return None
        costs = published.exp_costs(met)
    try:
        return _published.Alignments(
            costs, inverse.numpy(), int(k), cost=score.cost, gamma=score.gamma
        )
    except WatermarkError:
        if 1 <= k <= len(tokens):  # a gap cost beyond 32-bit sums
            return None
        raise


def _recognised(dist: Callable[..., Any]) -> _Score | None:
    """The score that dist is, if it is one of ours with nothing added."""
    try:
        score = dist(_TOKENS, _XI)
    except Exception:  # a dist of the user's own, which does something with its arguments
        return None
    return score if isinstance(score, _Score) else None


def _ranks(pi: Tensor, tokens: Tensor) -> Tensor:
    """argsort(pi)[tokens] for a permutation pi, without a sort."""
    place = torch.empty_like(pi)
    place[pi] = torch.arange(len(pi))
    return place[tokens]


def _floats(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().to("cpu", torch.float32).numpy())


def _whole(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().to("cpu", torch.int64).numpy())


def _column(tokens: np.ndarray) -> Tensor:
    return torch.from_numpy(tokens).unsqueeze(-1)


# The demo's generator


class mersenne_rng:
    """The demo's MT19937, from NumPy: rand() and randint() give the same numbers, randperm(n) the same order."""

    def __init__(self, seed: int = 5489) -> None:
        self._words = iter(published.MersenneWords(int(seed) & 0xFFFFFFFF))

    def randint(self) -> int:
        """The next 32-bit word."""
        return next(self._words)

    def rand(self) -> float:
        """The next word over 2**32."""
        return self.randint() / 4294967296.0

    def randperm(self, n: int) -> list[int]:
        """A permutation of 0 .. n - 1."""
        return published.permutation(n, self._words)


# Under the names of a checkout

_MODULES: dict[str, tuple[Callable[..., Any], ...]] = {
    "watermarking.detection": (phi, adjacency, permutation_test, fast_permutation_test),
    "watermarking.generation": (generate, generate_rnd),
    "watermarking.gumbel.key": (gumbel_key_func,),
    "watermarking.gumbel.sampler": (gumbel_sampling,),
    "watermarking.gumbel.score": (gumbel_score, gumbel_edit_score),
    "watermarking.gumbel.gumbel_levenshtein": (gumbel_levenshtein,),
    "watermarking.transform.key": (transform_key_func,),
    "watermarking.transform.sampler": (transform_sampling,),
    "watermarking.transform.score": (transform_score, transform_edit_score),
    "watermarking.transform.transform_levenshtein": (transform_levenshtein,),
}
_DEMO: dict[str, tuple[Callable[..., Any], ...]] = {
    "levenshtein": (levenshtein,),
    "mersenne": (mersenne_rng,),
}


def patch(demo: bool = False) -> list[str]:
    """Put these functions under the module names of a checkout; call it before the checkout is imported.

    Nothing needs Cython then. Other modules (attacks, kirchenbauer) come from the checkout, if it is on sys.path.

    Parameters
    ----------
    demo : bool
        Also replace the top-level modules ``levenshtein`` and ``mersenne`` of its demo.

    Returns
    -------
    list of str
        The names of the modules that are ours now.
    """
    modules = _MODULES | (_DEMO if demo else {})
    alone = "watermarking" not in sys.modules and find_spec("watermarking") is None
    for name in modules if alone else ():
        for parent in [name.rsplit(".", i)[0] for i in range(name.count("."), 0, -1)]:
            package = sys.modules.setdefault(parent, ModuleType(parent))
            package.__path__ = []
    for name, functions in modules.items():
        module = ModuleType(name, f"{name}, provided by {__name__}.")
        for function in functions:
            setattr(module, function.__name__, function)
        sys.modules[name] = module
    for name in modules:  # import watermarking.detection looks up the name in its package, too
        module = sys.modules[name]
        parent, _, leaf = name.rpartition(".")
        if parent:
            with contextlib.suppress(ImportError):
                import_module(parent)
        if parent in sys.modules:
            setattr(sys.modules[parent], leaf, module)
    return sorted(modules)


def main(arguments: Sequence[str]) -> None:
    """Run a script of a checkout on these functions: script, then its own arguments."""
    import runpy

    if not arguments:
        raise SystemExit(f"usage: python -m {__name__} SCRIPT [ARGUMENT ...]")
    script = Path(arguments[0])
    sys.path[:0] = [str(script.parent), str(script.parent.parent)]
    patch(demo=True)
    sys.argv = list(arguments)
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    from wmcore.bindings import (
        jthickstun,
    )  # the importable twin of __main__, whose functions are passed around

    jthickstun.main(sys.argv[1:])
