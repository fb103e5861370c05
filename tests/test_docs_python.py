"""Every Python block of the documents runs as it is pasted: those of a page in their order, in one namespace.

What cannot run here is named in ELSEWHERE, with the reason: it compiles, and what it imports is looked up. The files
that pages speak of lie in the folder in which they run. SmolLM2 itself is for `make slow`; otherwise a tiny model with
its tokenizer takes its place.
"""

import ast
import importlib
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from tiny import llama

from wmcore import Watermark, models
from wmcore.learning import Sample, fit_scores

ROOT = Path(__file__).resolve().parent.parent
V = 49152
BLOCK = re.compile(r"^```python\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
PAGES = {
    str(path.relative_to(ROOT)): BLOCK.findall(path.read_text(encoding="utf-8"))
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
}

MODEL = {"README.md", "docs/detection.md", "docs/bindings/transformers.md"}
"""Pages whose blocks load SmolLM2."""

POLARS = "polars is not among what the tests install"
VLLM = "needs vLLM, which has an environment of its own"
SGLANG = "needs SGLang's engine, which has an environment of its own"
LLAMA_CPP = "needs llama-cpp-python, which has an environment of its own, and a GGUF file"
TENSORRT = "needs TensorRT-LLM and its GPU"
MARKLLM = "needs a checkout of MarkLLM"
GPU = "needs a CUDA device"
ELSEWHERE = {
    ("docs/bindings/arrays.md", 2): POLARS,
    ("docs/bindings/llama_cpp.md", 0): LLAMA_CPP,
    ("docs/bindings/llama_cpp.md", 1): LLAMA_CPP,
    ("docs/bindings/llama_cpp.md", 2): LLAMA_CPP,
    ("docs/bindings/markllm.md", 0): MARKLLM,
    ("docs/bindings/sglang.md", 0): SGLANG,
    ("docs/bindings/sglang.md", 1): SGLANG,
    ("docs/bindings/trtllm.md", 0): TENSORRT,
    ("docs/bindings/trtllm.md", 1): TENSORRT,
    ("docs/bindings/trtllm.md", 2): TENSORRT,
    ("docs/bindings/vllm.md", 0): VLLM,
    ("docs/cuda.md", 0): GPU,
}
"""{(page, place of the block): why it is not run}."""

FOREIGN = {
    "dynamo",
    "llama_cpp",
    "polars",
    "sglang",
    "tensorrt_llm",
    "utils",
    "vllm",
    "watermark",
}
"""What only blocks in ELSEWHERE may import: looked up where it is installed."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with the files that the pages name."""
    import pandas as pd
    import pyarrow as pa

    folder = tmp_path_factory.mktemp("docs")
    watermark = Watermark.create(vocab_size=V, tokenizer="smollm2")
    for name in ("watermark.json", "mark.json"):
        watermark.save(folder / name)
    prose = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    for name, part in (("essay.txt", prose[:1500]), ("letter.txt", prose[1500:2500])):
        (folder / name).write_text(part, encoding="utf-8")
    rng = np.random.default_rng(1)
    sample = Sample(rng.integers(V, size=800), rng.random(800), np.log(rng.random(800)))
    fit_scores([sample]).save(folder / "scores.json")
    fit_scores([sample], by="tokens", vocab_size=V).save(folder / "tokens.json")
    with pa.CompressedOutputStream(folder / "corpus.jsonl.zst", "zstd") as file:
        file.write(b'{"url": "a", "text": "' + b"The harbour was empty. " * 20 + b'"}\n')
    tokens = [rng.integers(V, size=40).tolist() for _ in range(4)]
    pd.DataFrame({"tokens": tokens}).to_parquet(folder / "tokens.parquet")
    results = folder / "wmcore-bench/results/default/smollm2"
    results.mkdir(parents=True)
    pd.DataFrame(
        {"cut": [35], "method": ["exp"], "test": ["exp"], "rate": [0.1], "p": [0.5]}
    ).to_parquet(results / "substitution.parquet")
    return folder


@pytest.fixture
def clean(monkeypatch):
    """Modules and tables as they were: some pages put theirs in."""
    from wmcore.paper import testing

    monkeypatch.setattr(testing, "TESTS", dict(testing.TESTS))
    before = dict(sys.modules)
    yield
    for name in [name for name in sys.modules if name not in before]:
        if name.partition(".")[0] in ("watermark", "watermarking", "markllm"):
            del sys.modules[name]


def run(page: str, folder: Path, monkeypatch) -> int:
    """How many blocks of a page were run."""
    monkeypatch.chdir(folder)
    namespace: dict[str, object] = {"__name__": "pasted"}
    done = 0
    for place, code in enumerate(PAGES[page]):
        if (page, place) not in ELSEWHERE:
            exec(compile(code, f"{page}, block {place}", "exec"), namespace)
            done += 1
    return done


RUN = [
    page
    for page, blocks in PAGES.items()
    if any((page, place) not in ELSEWHERE for place in range(len(blocks)))
]


@pytest.mark.usefixtures("clean", "one_torch_thread")
@pytest.mark.parametrize("page", RUN)
def test_blocks_run_as_they_are_pasted(page, files, monkeypatch):
    if page in MODEL:
        tokenizer = models._load("AutoTokenizer", "smollm2", models.packaged_file())
        monkeypatch.setattr(
            models, "load_model", lambda name: (llama(V, bos_token_id=1).float(), tokenizer)
        )
    assert run(page, files, monkeypatch) > 0


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.usefixtures("clean", "one_torch_thread")
@pytest.mark.parametrize("page", sorted(MODEL))
def test_blocks_run_with_smollm2(page, files, monkeypatch):
    assert run(page, files, monkeypatch) > 0


def test_a_broken_block_fails(files, monkeypatch):
    monkeypatch.setitem(PAGES, "page", ["texts = [1]\n", "detector.detect(texts)\n"])
    with pytest.raises(NameError, match="detector"):
        run("page", files, monkeypatch)


def has(module: str, name: str) -> bool:
    """Whether a module of ours, or of a package that is installed, has a name; ours is read, not imported."""
    if not module.startswith("wmcore."):
        return hasattr(importlib.import_module(module), name)
    tree = ast.parse(Path(find_spec(module).origin).read_text(encoding="utf-8"))
    made = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            made |= {alias.name for alias in node.names}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            made.add(node.target.id)  # made on demand, for instance
    return name in made


def unknown_imports(code: str) -> list[str]:
    """What a block imports that does not exist: of ours, and of others where those are installed."""
    wrong = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            wrong += [a.name for a in node.names if a.name not in FOREIGN and not find_spec(a.name)]
        elif isinstance(node, ast.ImportFrom):
            top = node.module.partition(".")[0]
            if find_spec(top):
                names = [alias.name for alias in node.names]
                wrong += [f"{node.module}.{name}" for name in names if not has(node.module, name)]
            elif top not in FOREIGN:
                wrong.append(node.module)
    return wrong


@pytest.mark.parametrize(("page", "place"), ELSEWHERE, ids=lambda part: str(part))
def test_blocks_for_elsewhere_import_what_there_is(page, place):
    assert unknown_imports(PAGES[page][place]) == []


def test_an_import_of_nothing_fails():
    code = "import vllm\nimport nonesuch\nfrom wmcore.bindings.llama_cpp import Llama, Alpaca\n"
    assert unknown_imports(code) == ["nonesuch", "wmcore.bindings.llama_cpp.Alpaca"]
