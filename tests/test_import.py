"""``import wmcore`` is quick, light and complete."""

import subprocess
import sys
from pathlib import Path

import wmcore

HEAVY = ("torch", "numba", "llvmlite", "transformers", "cupy", "typer", "rich", "jinja2", "numpy")


NOT_FOR_DETECTION = (
    *("typer", "rich", "jinja2"),  # of the command and its pages
    *("torch", "transformers", "tokenizers", "pyarrow", "fsspec", "fastapi", "cupy"),  # of extras
)
LIBRARY = '''
import sys

class Without:
    """A finder for which some packages are not installed."""

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in NAMES:
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path = [Without(finder) for finder in sys.meta_path]
from wmcore import Detector, Key, Watermark
from wmcore.calibration import Calibration
from wmcore.identify import identify
from wmcore.locate import locate
from wmcore.verdict import verdicts

mark = Watermark.create("exp-free", vocab_size=50, key_length=16, key=Key(bytes(32)))
mark.save("watermark.json")
assert Watermark.load("watermark.json") == mark
texts = [list(range(30)), list(range(10, 40))]
detector = Detector(mark, threads=1)
found = detector.detect(texts)
null = Calibration.fit(mark, [30], 50)
found += detector.detect(texts, calibration=null)
judged = [*verdicts(detector, texts), *identify(texts, [mark])]
assert [one.error for one in [*found, *judged]] == [None] * 8, (found, judged)
assert locate(detector, texts[1]) == []
print([0 < one.p_value <= 1 for one in found])
'''


def run(code: str, cwd: Path | None = None) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_nothing_heavy():
    code = f"import sys, wmcore; print([m for m in {HEAVY} if m in sys.modules])"
    assert run(code).strip() == "[]"


def test_import_is_instant():
    code = "from time import perf_counter as t; a = t(); import wmcore; print(t() - a)"
    assert min(float(run(code)) for _ in range(3)) < 0.2


def test_every_public_name_loads():
    for name in wmcore.__all__:
        assert getattr(wmcore, name) is not None
    assert set(wmcore.__all__) <= set(dir(wmcore))


def test_unknown_name_says_so():
    code = "import wmcore\ntry: wmcore.nonsense\nexcept AttributeError as e: print(e)"
    assert run(code).strip() == "module 'wmcore' has no attribute 'nonsense'"


def test_no_module_has_the_name_of_a_public_function():
    code = "import pkgutil, wmcore; print([m.name for m in pkgutil.iter_modules(wmcore.__path__)])"
    code += "; print(sorted(wmcore.__all__))"
    modules, names = (set(eval(line)) for line in run(code).strip().splitlines())
    assert not modules & names


def test_kernels_do_not_load_torch():
    code = "import sys, wmcore.detect; print('torch' in sys.modules)"
    assert run(code).strip() == "False"


def test_detection_needs_no_other_package(tmp_path):
    """NumPy, SciPy and Numba are enough for texts of token ids."""
    code = f"NAMES = {NOT_FOR_DETECTION}\n" + LIBRARY
    assert run(code, tmp_path).strip() == str([True] * 4)
