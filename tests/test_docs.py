"""What the documents and docstrings say exists."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import typer

import wmcore
from wmcore.cli.main import app
from wmcore.schemes import SCHEMES

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
MODULES = sorted(m.name for m in pkgutil.iter_modules(wmcore.__path__) if m.name != "__main__")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_nothing_installs_the_package_of_another():
    """`wmcore` on PyPI is a physics experiment's framework: what we ship is called wmcore-lm there."""
    suffixes = {".py", ".md", ".toml", ".txt", ".html", ".ipynb", ".yml", ".service", ""}
    wrong = re.compile(r"(?<![\w.-])wmcore(\\?\[[a-z{])|pip3? install[^\n`]*[\s'\"]wmcore(?![\w-])")
    seen = 0
    for folder in ("wmcore", "kernels", "bindings", "benchmarks", "docs", "examples", "."):
        paths = (ROOT / folder).rglob("*") if folder != "." else ROOT.glob("*")
        for path in paths:
            if path.is_file() and path.suffix in suffixes and path.name != "CHANGELOG.md":
                text = path.read_text(encoding="utf-8")
                seen += text.count("wmcore-lm")
                assert not wrong.search(text), (path, wrong.search(text))
    assert seen > 15
    for line in ("pip install wmcore", "pip install -U 'wmcore[scan]'", 'run "wmcore[ray]"'):
        assert wrong.search(line), line
    assert not wrong.search("pip install 'wmcore-lm[scan]'")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_and_options_exist(page):
    commands = typer.main.get_command(app).commands
    text = page.read_text(encoding="utf-8")
    for name, rest in re.findall(r"^ *wmcore ([\w-]+)(.*)", text, flags=re.MULTILINE):
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"(?<=\s)-{1,2}[a-z][\w-]*", rest)) <= known | {"-h"}


def test_tables_are_what_the_results_say(monkeypatch):
    """`python benchmarks/tables.py` changes nothing: no figure of a table was typed or left behind."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    tables = importlib.import_module("tables")
    seen = set()
    for page in tables.PAGES:
        text = page.read_text(encoding="utf-8")
        assert tables.filled(text) == text, page
        seen |= set(re.findall(r"<!-- end ([\w-]+) -->", text))
    assert seen >= set(tables.SECTIONS)
    broken = "<!-- key-length -->\nnothing\n<!-- end key-length -->"
    assert tables.filled(broken) != broken


def test_readme_example_uses_real_names():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    compile(code, "README.md", "exec")
    for module, names in re.findall(r"^from (\S+) import (.+)$", code, flags=re.MULTILINE):
        for name in names.split(", "):
            assert hasattr(importlib.import_module(module), name), name


@pytest.mark.parametrize(
    ("page", "what"), [("README.md", "sampler"), ("docs/detection.md", "cost")]
)
def test_tables_of_schemes_have_a_row_for_each(page, what):
    rows = re.findall(r"^\| (`[^|]+`) \|", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    each = [set(re.findall(r"`([^`]+)`", row)) & set(SCHEMES) for row in rows]
    alike = {}
    for scheme in SCHEMES.values():
        alike.setdefault(getattr(scheme, what), set()).add(scheme.name)
    assert [names for names in each if len(names) > 1] == list(alike.values())


def documented(docstring: str) -> list[str]:
    """Names in the Parameters section of a NumPy-style docstring."""
    section = re.search(r"Parameters\n-+\n(.*?)(\n\n\w[\w ]*\n-+\n|\Z)", docstring, re.DOTALL)
    if section is None:
        return []
    lines = re.findall(r"^(\S[^\n]*)$", section[1], flags=re.MULTILINE)
    return [name.strip("* ") for line in lines for name in line.split(" : ")[0].split(",")]


@pytest.mark.parametrize("module", MODULES)
def test_docstrings_name_the_parameters(module):
    loaded = importlib.import_module(f"wmcore.{module}")
    assert loaded.__doc__
    members = [m for m in vars(loaded).values() if getattr(m, "__module__", "") == loaded.__name__]
    methods = [f for c in members if inspect.isclass(c) for f in vars(c).values()]
    for member in [*members, *methods]:
        function = getattr(member, "__func__", member)
        if not inspect.isfunction(function) or not function.__doc__:
            continue
        names = documented(inspect.getdoc(function))
        real = [p for p in inspect.signature(function).parameters if p not in {"self", "cls"}]
        if names:
            assert names == real, f"{module}.{function.__qualname__}"


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))
    for page in PAGES:
        named = re.findall(r"`make ([a-z]+)", page.read_text(encoding="utf-8"))
        assert set(named) <= targets, page


def test_each_servers_tests_are_collected_apart():
    """The environment of one server cannot import what another's tests need: llama.cpp's has no torch."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    runs = re.findall(r"pytest -m (vllm|sglang|llamacpp) (\S+)", makefile)
    assert {marker for marker, _ in runs} == {"vllm", "sglang", "llamacpp"}
    covered = set()
    for marker, pattern in runs:
        files = sorted(ROOT.glob(pattern.replace("$$one", "*")))
        assert files, pattern
        for file in files:
            assert file.is_file(), pattern
            assert f"pytest.mark.{marker}" in file.read_text(encoding="utf-8"), file
        covered |= set(files)
    assert covered == set((ROOT / "tests/servers").glob("test_*.py"))
