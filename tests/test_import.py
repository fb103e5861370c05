"""``import wmcore`` is quick, light and complete."""

import subprocess
import sys

import wmcore

HEAVY = ("torch", "numba", "llvmlite", "transformers", "cupy", "typer", "rich", "jinja2", "numpy")


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
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
