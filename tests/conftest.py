"""Shared by all tests: nothing is fetched from a network."""

import importlib.util
import io
import logging
import os
import random
import secrets
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import Letters, V
from cuda_shim.ways import SHIMS

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"


@pytest.fixture(autouse=True, scope="session")
def silent_compiler():
    """What a command says must not depend on which test ran first on a machine; test_jit.py tests that it is said."""
    log = logging.getLogger("wmcore")
    log.addFilter(lambda record: not record.getMessage().startswith("compiling kernels"))


@pytest.fixture(autouse=True)
def repeatable(request, monkeypatch):
    """Keys and seeds that come from the system follow from the test's name here, so that a test passes always or
    never: what holds for one key in fifty times only would fail now and then."""
    numbers = random.Random(request.node.nodeid)
    monkeypatch.setattr(os, "urandom", numbers.randbytes)
    monkeypatch.setattr(secrets, "randbits", numbers.getrandbits)


@pytest.fixture
def one_torch_thread():
    """Tiny models gain nothing from threads, and lose much when other processes hold the cores."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(
    scope="session",
    params=["cpu", *SHIMS, pytest.param("device", marks=pytest.mark.gpu)],
)
def backend(request):
    """Every backend: the CPU's, the CUDA one on the host in several ways, and on a device (make gpu)."""
    from wmcore.kernels import load, resolve

    if request.param == "cpu":
        return load("cpu")
    if request.param == "device":
        return resolve("cuda")
    from cuda_shim.device import ShimDevice

    from wmcore.kernels.cuda.backend import CudaBackend

    return CudaBackend(ShimDevice(**SHIMS[request.param]))


@pytest.fixture(scope="session")
def disassembly():
    """benchmarks/disassembly.py. What it compiles is kept: an architecture takes fifteen seconds."""
    path = Path(__file__).resolve().parent.parent / "benchmarks/disassembly.py"
    spec = importlib.util.spec_from_file_location("disassembly", path)
    module = sys.modules["disassembly"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    compiled, made = module.compiled, {}

    def once(nvrtc, architecture):
        if architecture not in made:
            made[architecture] = compiled(nvrtc, architecture)
        return made[architecture]

    module.compiled = once
    return module


@pytest.fixture
def wm(monkeypatch, capsys, tmp_path):
    """Runs the command in the test's folder; gives (exit code, output, errors)."""
    from wmcore.cli.main import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin)))
        capsys.readouterr()
        with pytest.raises(SystemExit) as done:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return done.value.code, out, err

    return run


@pytest.fixture
def letters(monkeypatch):
    """The tokenizer in place of a real one, whatever its name."""
    tokenizer = Letters()
    monkeypatch.setattr("wmcore.models.load_tokenizer", lambda _: tokenizer)
    return tokenizer


@pytest.fixture
def mark(wm, tmp_path):
    """A watermark file for the letters."""
    options = ("--scheme", "exp-edit", "--vocab-size", V, "--key-length", 40)
    assert wm("keygen", *options, "-o", "mark.json")[0] == 0
    return tmp_path / "mark.json"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """(model, sources) of studies that take seconds: see tiny_study.py."""
    pytest.importorskip("pyarrow")
    import tiny_study

    folder = tmp_path_factory.mktemp("tiny")
    return tiny_study.save_model(folder / "model"), tiny_study.save_sources(folder)
