"""A wheel holds everything and works away from the repository."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {
    "wmcore": "wmcore",
    "kernels": "wmcore/kernels",
    "bindings": "wmcore/bindings",
    "benchmarks/paper": "wmcore/paper",
}
"""{folder of the sources: its place in the wheel}."""


def python(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def tracked() -> list[str]:
    """The files that git holds; skips where there is no git, as in an unpacked sdist."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no git checkout to compare with")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    names = [name for name in listed.stdout.decode().split("\0") if name]
    return [name for name in names if (ROOT / name).exists()]


def test_the_readme_says_of_the_project_what_setup_says():
    line = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[2]
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    license, python, stage = line.split(" · ")[:3]
    assert f'license="{license}"' in text
    assert f'python_requires=">={re.fullmatch("Python (.+) or later", python)[1]}"' in text
    assert f"Development Status :: 3 - {stage.capitalize()}" in text


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from a copy of the sources."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    python(
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        "dist",
        ".",
        cwd=source,
    )
    (built,) = (source / "dist").glob("wmcore_lm-*.whl")
    return built


def test_wheel_holds_every_source_and_data_file(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    expected = set()
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".cu", ".cuh", ".html", ".css", ".js", ".jsonl", ".typed"}:
                expected.add(f"{package}/{path.relative_to(ROOT / folder).as_posix()}")
    assert expected <= held
    outside = ("kernels/", "bindings/", "benchmarks/", "tests/")
    assert not any(name.startswith(outside) for name in held)


def test_sdist_holds_what_git_holds(tmp_path):
    """Tests, documents and Makefile included: they work from the unpacked folder."""
    source = tmp_path / "source"
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    python("setup.py", "-q", "sdist", cwd=source)
    (built,) = (source / "dist").glob("wmcore_lm-*.tar.gz")
    with tarfile.open(built) as archive:
        held = {one.name.partition("/")[2] for one in archive.getmembers() if one.isfile()}
    made = {name for name in held if name.startswith("wmcore_lm.egg-info/")}
    assert held - made - {"PKG-INFO", "setup.cfg"} == set(tracked())


def test_installed_wheel_is_imported_from_where_it_is(wheel, tmp_path):
    target = tmp_path / "site"
    python(
        "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(wheel), cwd=tmp_path
    )
    code = (
        f"import sys; sys.path.insert(0, {str(target)!r})\n"
        "import wmcore.kernels.cpu, wmcore.bindings, wmcore.token_page, wmcore.paper.command\n"
        "wmcore.token_page.render('t', [])\n"
        "print(wmcore.kernels.cpu.__file__)"
    )
    assert python("-c", code, cwd=tmp_path).strip().startswith(str(target / "wmcore/kernels/cpu"))


def test_nothing_imports_the_mapped_folders_by_their_own_name():
    wrong = ("import kernels", "from kernels", "import bindings", "from bindings")
    for folder in ("wmcore", "kernels", "bindings", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for line in path.read_text(encoding="utf-8").splitlines():
                assert not line.strip().startswith(wrong), f"{path}: {line}"
