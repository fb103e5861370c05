"""A user's script passes mypy's strict mode, and mistakes in one are found, each with the error that names it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from wmcore.kernels import BACKENDS
from wmcore.schemes import SCHEMES
from wmcore.scores import SCORES
from wmcore.types import BackendName, SchemeName, ScoreName

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"wmcore": "wmcore", "kernels": "wmcore/kernels", "bindings": "wmcore/bindings"}
"""{folder of the sources: its place in an installation}."""
STRICT = ("--strict", "--follow-imports=silent", "--config-file", str(ROOT / "pyproject.toml"))
"""What torch and its like define is seen as Any, as in `make check`."""

RIGHT = '''
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from wmcore import SCHEMES, Detection, Detector, Generation, Key, Watermark, WatermarkError, generate
from wmcore.calibration import Calibration
from wmcore.identify import identify
from wmcore.locate import locate
from wmcore.plan import Plan
from wmcore.scan import scan
from wmcore.types import SchemeName, Texts
from wmcore.verdict import verdicts


def p_values(found: Sequence[Detection]) -> list[float]:
    return [one.p_value for one in found if one.p_value is not None]


def any_texts(detector: Detector, texts: Texts) -> list[Detection]:
    return detector.detect(texts, plan=Plan(99))


def all_kinds(path: Path) -> list[list[Detection]]:
    scheme: SchemeName = "exp-edit"
    watermark = Watermark.create(scheme, vocab_size=100, key_length=16, key=Key.generate())
    watermark.save(path)
    detector = Detector(Watermark.load(path), scheme="exp", backend="cpu", threads=1)
    lists: list[list[int]] = [[1, 2, 3], [4, 5]]
    arrays = [np.array([1, 2, 3]), np.arange(4, dtype=np.uint16)]
    mixed: list[str | list[int]] = ["a text", [1, 2]]
    words = ["a text", "another"]
    rows = np.zeros((2, 5), np.int64)
    tensors = [torch.tensor([1, 2, 3])]
    found = [detector.detect(lists, resamples=9, seed=1)]
    found.append(detector.detect(arrays, resamples=9))
    found.append(detector.detect(tuple(lists), resamples=9, stop_after=None))
    found.append(detector.detect(mixed, resamples=9))
    found.append(detector.detect(words, resamples=9))
    found.append(detector.detect(rows, resamples=9))
    found.append(detector.detect(tensors, resamples=9))
    found.append(detector.detect(torch.zeros((2, 5), dtype=torch.int64), resamples=9))
    found.append(any_texts(detector, lists))
    return found


def others(detector: Detector, calibration: Calibration) -> None:
    first = detector.detect([[1, 2]], calibration=calibration)[0]
    path = first.alignment
    if path is not None:
        print(path.positions.tolist(), first.verdict(0.01).upper())
    print(detector.backend.upper(), locate(detector, np.arange(9))[0].start)
    print(verdicts(detector, [[1, 2]])[0].found, identify(["a"], [detector.watermark])[0].index)
    made: list[Generation] = generate(torch.nn.Module(), ["a"], None, max_new_tokens=5)
    any_texts(detector, [one.tokens for one in made])
    for row in scan("corpus.jsonl", detector.watermark, backend="auto", scheme="exp-local"):
        print(row["id"])


def chosen(name: str) -> Watermark:
    """A name that is not known before the program runs is looked up."""
    try:
        return Watermark.create(SCHEMES[name].name, vocab_size=100)
    except (KeyError, WatermarkError):
        sys.exit(2)
'''

HEAD = """
from wmcore import Detector, Watermark
import wmcore

mark = Watermark.create(vocab_size=100)
detector = Detector(mark)
name: str = "exp"
"""
WRONG = {
    'Watermark.create("exp-fre", vocab_size=100)': "arg-type",
    "Watermark.create(name, vocab_size=100)": "arg-type",
    'Watermark.create(vocab_size="100")': "arg-type",
    "Watermark.create()": "call-arg",
    'Detector(mark, scheme="exp-edt")': "arg-type",
    'Detector(mark, backend="gpu")': "arg-type",
    'Detector("watermark.json")': "arg-type",
    "detector.detect([1, 2, 3])": "list-item",
    'detector.detect({"input_ids": [[1, 2, 3]]})': "arg-type",
    'detector.detect([[1, 2, "3"]])': "list-item",
    'detector.detect([[1, 2]], resamples="many")': "arg-type",
    "detector.detect([[1, 2]])[0].p_value < 0.05": "operator",
    "detector.detect([[1, 2]])[0].p": "attr-defined",
    "wmcore.Detecter(mark)": "attr-defined",
}
"""{a line: the code of the error in it}."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The package as it is installed: mypy cannot follow an editable installation of mapped folders."""
    site = tmp_path_factory.mktemp("site")
    for folder, place in FOLDERS.items():
        shutil.copytree(
            ROOT / folder, site / place, ignore=shutil.ignore_patterns("__pycache__", "*.html")
        )
    return site


def errors(script: str, installed: Path, cache: Path) -> set[tuple[int, str]]:
    """(line, code) of the errors that mypy finds in a script."""
    pytest.importorskip("mypy", reason="mypy is not installed: extra test")
    (installed / "script.py").write_text(script, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *STRICT, "--cache-dir", str(cache), "script.py"],
        cwd=installed,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = re.findall(r"^script\.py:(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.MULTILINE)
    assert bool(found) == bool(done.returncode), done.stdout
    return {(int(line), code) for line, code in found}


def test_a_script_passes(installed, pytestconfig):
    assert errors(RIGHT, installed, pytestconfig.cache.mkdir("mypy")) == set()


def test_mistakes_are_found(installed, pytestconfig):
    first = HEAD.count("\n") + 1
    found = errors(HEAD + "\n".join(WRONG) + "\n", installed, pytestconfig.cache.mkdir("mypy"))
    assert found == {(first + i, code) for i, code in enumerate(WRONG.values())}


def test_the_script_runs(tmp_path):
    names: dict = {}
    exec(compile(RIGHT, "script.py", "exec"), names)
    found = names["all_kinds"](tmp_path / "watermark.json")
    assert [[one.error is None for one in some] for some in found] == [
        [True, True],
        [True, True],
        [True, True],
        [False, True],  # there is no tokenizer
        [False, False],
        [True, True],
        [True],
        [True, True],
        [True, True],
    ]
    assert names["chosen"]("its").scheme == "its"
    with pytest.raises(SystemExit):
        names["chosen"]("magic")


def test_literals_are_the_tables():
    assert get_args(SchemeName) == tuple(SCHEMES)
    assert get_args(ScoreName) == tuple(SCORES)
    assert get_args(BackendName) == ("auto", *BACKENDS)
