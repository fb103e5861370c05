"""The functions of the published implementation: signatures, quirks, statistics; and a checkout's own, where given."""

import inspect
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peers import PUBLISHED, needs_published
from tiny import llama

from wmcore import Detector, WatermarkError
from wmcore.bindings import jthickstun as ours
from wmcore.watermark import Watermark

VOCAB, N = 300, 24
SCORES = {
    "exp": (ours.gumbel_key_func, lambda x, y: ours.gumbel_score(x, y), False, 0.0),
    "exp-edit": (ours.gumbel_key_func, lambda x, y: ours.gumbel_edit_score(x, y, gamma=0.3), False, 0.3),
    "its": (ours.transform_key_func, lambda x, y: ours.transform_score(x, y), True, 0.0),
    "its-edit": (
        ours.transform_key_func,
        lambda x, y: ours.transform_edit_score(x, y, gamma=0.4),
        True,
        0.4,
    ),
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def text(length, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, VOCAB, length))


def statistic(scheme, tokens, k, seed=7, null=False, dist=None, module=ours):
    key, score, normalize, _ = SCORES[scheme]
    return module.phi(
        tokens=tokens,
        n=N,
        k=k,
        generator=torch.Generator().manual_seed(seed),
        key_func=key,
        vocab_size=VOCAB,
        dist=dist or score,
        null=null,
        normalize=normalize,
    )


def slow(scheme):
    """A dist that is not one of ours as it stands: phi takes the general way."""
    return lambda x, y: 0 + SCORES[scheme][1](x, y)


@pytest.mark.parametrize("scheme", SCORES)
@pytest.mark.parametrize("k", [12, 5, 2])
def test_kernels_agree_with_the_general_way_and_the_detector(scheme, k):
    tokens = text(12)
    fast = statistic(scheme, tokens, k)
    assert (fast.dtype, fast.shape) == (torch.float32, torch.Size([]))
    # Half a unit of fixed point a token (its: one and a half), and two gaps.
    allowed = (1.5 * k + 2) / (2**12 if scheme.startswith("exp") else 2**16)
    for null in (False, True):
        general = statistic(scheme, tokens, k, null=null, dist=slow(scheme))
        assert float(statistic(scheme, tokens, k, null=null)) == pytest.approx(
            float(general), abs=allowed
        )
    settings = {"gap": SCORES[scheme][3]} if scheme.endswith("edit") else {}
    mark = Watermark.published(
        scheme,
        seed=7,
        generator="torch",
        vocab_size=VOCAB,
        key_length=N,
        block_length=k,
        **settings,
    )
    (found,) = Detector(mark, threads=1).detect([tokens], resamples=1)
    assert float(fast) == pytest.approx(found.statistic, abs=1e-6 * k)


@pytest.mark.parametrize("scheme", SCORES)
def test_adjacency_has_every_window(scheme):
    key, score, normalize, _ = SCORES[scheme]
    xi, pi = key(torch.Generator().manual_seed(1), N, VOCAB, VOCAB)
    tokens = torch.argsort(pi)[text(8)]
    tokens = tokens.float() / VOCAB if normalize else tokens
    table = ours.adjacency(tokens, xi, score, 5)
    assert (table.shape, table.dtype) == ((4, N), torch.float32)
    assert torch.allclose(table, ours.adjacency(tokens, xi, slow(scheme), 5), atol=2e-3)


def test_a_foreign_dist_takes_the_general_way():
    """Also one that our score functions cannot be recognised in."""
    tokens = text(6)
    for dist in (
        lambda x, y: float(len(x)) + float(y[0, 0]),
        lambda x, y: ours.gumbel_score(x[:3], y[:3]),
        lambda x, y: 2 * ours.gumbel_score(x, y),
    ):
        xi = ours.gumbel_key_func(torch.Generator().manual_seed(7), N, VOCAB)[0]
        rows = [[(j + i) % N for i in range(6)] for j in range(N)]
        wanted = min(float(dist(tokens, xi[row])) for row in rows)
        assert float(statistic("exp", tokens, 6, dist=dist)) == pytest.approx(wanted, rel=1e-6)
    huge = lambda x, y: ours.gumbel_edit_score(x, y, gamma=1e30)  # noqa: E731 - as scripts do
    plain = statistic("exp", tokens, 6)
    assert float(statistic("exp", tokens, 6, dist=huge)) == pytest.approx(float(plain), abs=1e-2)
    with pytest.raises(WatermarkError, match="block_length 7 exceeds the text's 6 tokens"):
        statistic("exp", tokens, 7)
    with pytest.raises(WatermarkError, match="k 7 is outside 1 to the text's 6 tokens"):
        statistic("exp", tokens, 7, dist=slow("exp"))


def stat_of(scheme):
    return lambda tokens, n, k, generator, vocab_size, null=False: ours.phi(
        tokens=tokens, n=n, k=k, generator=generator, key_func=SCORES[scheme][0],
        vocab_size=vocab_size, dist=SCORES[scheme][1], null=null, normalize=SCORES[scheme][2],
    )  # fmt: skip


@pytest.mark.parametrize("scheme", SCORES)
def test_permutation_tests_and_generation_fit_together(scheme):
    """Text of the published loop has p = 0 (no added one), from both tests; other text has not."""
    model, seeds = llama(VOCAB).float(), torch.tensor([3, 2**32 - 1])
    sampler = ours.gumbel_sampling if scheme.startswith("exp") else ours.transform_sampling
    prompts = torch.tensor([[5, 6], [7, 8]])
    made = ours.generate(model, prompts, VOCAB, N, 20, seeds, SCORES[scheme][0], sampler)
    assert made.shape == (2, 22)
    assert (made[:, :2] == prompts).all()
    plain = ours.generate_rnd(prompts, 20, model)
    test_stat = stat_of(scheme)
    torch.manual_seed(1)
    for tokens, seed in zip(made[:, 2:], seeds, strict=True):
        p = ours.permutation_test(tokens, VOCAB, N, 20, seed, test_stat, n_runs=25)
        assert (float(p), p.dtype) == (0.0, torch.float32)
    assert float(ours.permutation_test(plain[0, 2:], VOCAB, N, 20, 3, test_stat, n_runs=25)) > 0
    null = torch.sort(torch.stack([statistic(scheme, plain[1, 2:], 20, s) for s in range(19)]))[0]
    assert float(ours.fast_permutation_test(made[0, 2:], VOCAB, N, 20, 3, test_stat, null)) == 0
    p = ours.fast_permutation_test(plain[1, 2:], VOCAB, N, 20, 0, test_stat, null)
    assert p.shape == torch.Size([])
    assert 0 < float(p) <= 1


def test_generation_takes_foreign_parts_and_names_mistakes():
    model, prompts = llama(VOCAB).float(), torch.tensor([[5, 6]] * 2)
    keys = [0]

    def key_func(generator, n, vocab_size):
        keys[0] += 1
        return ours.gumbel_key_func(generator, n, vocab_size)

    def sampler(probs, pi, xi):
        assert (probs.shape, pi.shape, xi.shape) == ((2, VOCAB),) * 3
        return ours.gumbel_sampling(probs, pi, xi)

    torch.manual_seed(5)
    foreign = ours.generate(model, prompts, VOCAB, 6, 10, [1, 2], key_func, sampler)
    torch.manual_seed(5)
    same = ours.generate(
        model, prompts, VOCAB, 6, 10, [1, 2], ours.gumbel_key_func, ours.gumbel_sampling
    )
    assert torch.equal(foreign, same)
    assert keys == [2]
    with pytest.raises(WatermarkError, match="seeds has 1 entries for 2 prompts"):
        ours.generate(model, prompts, VOCAB, 6, 3, [1], key_func, sampler)


def test_the_demo():
    rng, numpys = ours.mersenne_rng(10), np.random.RandomState(10)
    words = np.frombuffer(numpys.bytes(4 * 70000), "<u4")
    assert [rng.rand() for _ in range(70000)] == (words / 2**32).tolist()
    assert sorted(ours.mersenne_rng().randperm(9)) == list(range(9))
    assert ours.mersenne_rng(5489).randint() == 3499211612  # MT19937's first word, by its authors
    y = np.full((2, 3), 0.5, np.float32)
    assert ours.levenshtein(np.array([0, 2]), y, 0.0) == pytest.approx(2 * np.log(0.5))
    y[:] = 1.0  # would be -inf there
    assert np.isfinite(ours.levenshtein(np.array([0, 2]), y))


def test_patch_without_a_checkout():
    """In a process of its own: the names of a checkout, without one on the path, need no Cython."""
    code = """
from wmcore.bindings.jthickstun import patch, gumbel_edit_score
print(len(patch()), len(patch(demo=True)))
from watermarking.detection import phi, fast_permutation_test, permutation_test
from watermarking.generation import generate, generate_rnd
import watermarking.gumbel.score as score
from watermarking.transform.transform_levenshtein import transform_levenshtein
from levenshtein import levenshtein
assert score.gumbel_edit_score is gumbel_edit_score
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.stdout == "10 12\n", done.stderr


def test_a_script_finds_the_rest_of_its_checkout(tmp_path):
    """From any folder: other modules come from the checkout, ours are attributes of its packages, too."""
    for folder in ("watermarking", "watermarking/gumbel", "watermarking/transform", "experiments"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text("")
    (tmp_path / "watermarking" / "attacks.py").write_text("here = True")
    (tmp_path / "experiments" / "script.py").write_text(
        "import watermarking.attacks, watermarking.detection, watermarking.gumbel.score\n"
        "print(watermarking.attacks.here, watermarking.detection.phi.__module__)\n"
        "print(watermarking.gumbel.score.gumbel_score.__module__)\n"
    )
    command = [sys.executable, "-m", ours.__name__, str(tmp_path / "experiments" / "script.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.stdout == f"True {ours.__name__}\n{ours.__name__}\n", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("from watermarking.detection import phi_batched", "ImportError.*'phi_batched'"),
        ("import watermarking.detection as d; d.phi_batched", "AttributeError.*'phi_batched'"),
        ("from watermarking.gumbel.key import KEYS", "ImportError.*'KEYS'"),
        ("from watermarking.detection import phi; phi(1, n=1, k=1, device='cpu')", "TypeError.*'device'"),
        ("from mersenne import mersenne_rng; mersenne_rng(1).randn()", "AttributeError.*'randn'"),
        ("from levenshtein import levenshtein; levenshtein([], [], 0.0, 1.0)", "TypeError.*positional"),
    ],
)  # fmt: skip
def test_a_fork_that_has_more_fails_loudly(tmp_path, line, said):
    """Its own function of that name is there, and is not run in a program that is half ours."""
    for folder in ("watermarking", "watermarking/gumbel", "watermarking/transform"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text("")
    more = "KEYS = 1\ndef phi_batched(): pass\ndef phi(*more, **settings): pass\n"
    for name in ("detection", "gumbel/key"):
        (tmp_path / "watermarking" / f"{name}.py").write_text(more)
    (tmp_path / "mersenne.py").write_text("class mersenne_rng:\n    def randn(self): pass\n")
    (tmp_path / "levenshtein.py").write_text("def levenshtein(*more): pass\n")
    (tmp_path / "script.py").write_text(line)
    command = [sys.executable, "-m", ours.__name__, str(tmp_path / "script.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(said, done.stderr.splitlines()[-1]), done.stderr


# Against a checkout of the published code


@pytest.fixture(scope="module")
def theirs():
    pytest.importorskip("pyximport", reason="the published code compiles itself with Cython")
    sys.path.insert(0, str(PUBLISHED))
    import watermarking.detection
    import watermarking.generation

    yield watermarking
    sys.path.remove(str(PUBLISHED))


@needs_published
def test_signatures_are_theirs(theirs):
    for name, functions in ours._MODULES.items():
        module = sys.modules[name]
        for function in functions:
            there = getattr(module, function.__name__)
            if inspect.isfunction(there):
                wanted = [(p.name, p.default) for p in inspect.signature(there).parameters.values()]
                here = inspect.signature(function).parameters.values()
                assert [(p.name, p.default) for p in here] == wanted, function


@needs_published
@pytest.mark.parametrize("scheme", SCORES)
def test_statistics_and_p_values_are_theirs(theirs, scheme):
    from watermarking.gumbel.score import gumbel_edit_score, gumbel_score
    from watermarking.transform.score import transform_edit_score, transform_score

    gamma = SCORES[scheme][3]
    dist = {
        "exp": gumbel_score,
        "exp-edit": lambda x, y: gumbel_edit_score(x, y, gamma),
        "its": transform_score,
        "its-edit": lambda x, y: transform_edit_score(x, y, gamma),
    }[scheme]
    tokens = text(15)
    for k in (15, 6, 2):
        for null in (False, True):
            wanted = float(statistic(scheme, tokens, k, 3, null, dist, theirs.detection))
            allowed = (1.5 * k + 2) / (2**12 if scheme.startswith("exp") else 2**16) + 1e-5
            assert float(statistic(scheme, tokens, k, 3, null)) == pytest.approx(
                wanted, abs=allowed
            )
            if scheme.endswith("edit"):  # the general way rounds as theirs, bit for bit
                assert float(statistic(scheme, tokens, k, 3, null, slow(scheme))) == wanted
    key, _, normalize, _ = SCORES[scheme]

    def their_stat(tokens, n, k, generator, vocab_size, null=False):
        return theirs.detection.phi(
            tokens, n, k, generator, key, vocab_size, dist, null=null, normalize=normalize
        )

    for module, stat in ((theirs.detection, their_stat), (ours, stat_of(scheme))):
        torch.manual_seed(9)
        p = module.permutation_test(tokens, VOCAB, N, 15, 11, stat, n_runs=30)
        found = p if module is ours else (wanted := p)
    assert torch.equal(found, wanted)


@needs_published
@pytest.mark.parametrize("scheme", ["gumbel", "transform"])
@pytest.mark.parametrize("random_offset", [True, False])
def test_tokens_are_theirs(theirs, scheme, random_offset):
    model = llama(VOCAB).float()
    prompts, seeds = text(40).reshape(8, 5), torch.arange(8) * 1000
    package = getattr(theirs, scheme)
    made = []
    for module, key, sampler in (
        (
            theirs.generation,
            getattr(package.key, f"{scheme}_key_func"),
            getattr(package.sampler, f"{scheme}_sampling"),
        ),
        (ours, getattr(ours, f"{scheme}_key_func"), getattr(ours, f"{scheme}_sampling")),
    ):
        torch.manual_seed(2)
        made.append(
            module.generate(model, prompts, VOCAB, N, 60, seeds, key, sampler, random_offset)
        )
    assert torch.equal(*made)


STUBS = {
    "datasets.py": """
import random
def load_dataset(*args, **kwargs):
    random.seed(1)
    return [{"text": " ".join(f"w{random.randrange(280)}" for _ in range(80))} for _ in range(60)]
""",
    "nltk/__init__.py": "",
    "nltk/util.py": "def ngrams(*args): raise NotImplementedError",
    "sitecustomize.py": "import torch; torch.set_num_threads(1)",
}


@needs_published
@pytest.mark.slow
@pytest.mark.parametrize("method", ["gumbel", "transform"])
def test_their_experiment_script_runs_unchanged(theirs, tmp_path, method):
    """c4-experiment.py on a tiny model and made-up texts (the only stubs): same tokens, same p-values."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {f"w{i}": i for i in range(VOCAB - 8)} | {"<s>": VOCAB - 8, "<unk>": VOCAB - 7}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    begin = ("<s>", VOCAB - 8)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[begin])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")
    fast.save_pretrained(tmp_path / "model")
    llama(VOCAB).float().save_pretrained(tmp_path / "model")
    for name, content in STUBS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    script = Path("experiments") / "c4-experiment.py"
    settings = f"--method {method} --edit --gamma 0.4 --model {tmp_path / 'model'} --n 16 --m 15"
    settings += " --T 4 --n_runs 12 --batch_size 2 --offset --prompt_tokens 5 --buffer_tokens 5"
    results = []
    for runner, saved in (([], "theirs.p"), (["-m", "wmcore.bindings.jthickstun"], "ours.p")):
        path = os.pathsep.join([str(tmp_path), str(PUBLISHED)])
        command = [sys.executable, *runner, str(script), *settings.split(), "--save", saved]
        command[-1] = str(tmp_path / saved)
        done = subprocess.run(
            command,
            cwd=PUBLISHED,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        results.append(pickle.loads((tmp_path / saved).read_bytes()))
    for part in ("watermark", "null"):
        assert torch.equal(results[0][part]["tokens"], results[1][part]["tokens"])
        assert torch.equal(results[0][part]["pvals"], results[1][part]["pvals"])
    assert results[0]["watermark"]["pvals"].mean() < results[0]["null"]["pvals"].mean()
