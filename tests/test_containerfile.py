"""Containerfile: no container is built here; what it copies exists, and suffices to install."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
STEPS = [line.split(None, 1) for line in TEXT.splitlines() if line and not line.startswith("#")]


def only(instruction):
    (value,) = [value for name, value in STEPS if name == instruction]
    return value


def copied():
    """What .containerignore lets through: everything is left out but what it names with a !."""
    lines = (ROOT / ".containerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    return [rule[1:] for rule in rules if rule.startswith("!")]


def test_it_runs_the_command_as_an_ordinary_user():
    assert only("ENTRYPOINT") == '["wmcore"]'
    user = only("USER")
    names = [name for name, _ in STEPS]
    assert names.index("RUN") < names.index("USER") < names.index("ENTRYPOINT")
    assert re.search(rf"\buseradd\b.*\b{user}\b", TEXT)
    assert user != "root"


def test_it_installs_extras_and_pins_that_exist():
    (extras,) = re.findall(r'pip install [^&]*"\.\[([\w,]+)\]"', TEXT)
    for extra in extras.split(","):
        assert f'"{extra}":' in (ROOT / "setup.py").read_text(encoding="utf-8")
    pins = re.findall(r"-c (\S+)", TEXT)
    assert pins
    assert set(pins) <= set(copied())
    version = re.fullmatch(r"docker\.io/library/python:(3\.\d+)-slim", only("FROM"))[1]
    assert f"Python :: {version}" in (ROOT / "setup.py").read_text(encoding="utf-8")


def test_what_is_copied_is_what_setup_reads():
    assert shlex.split(only("COPY")) == [".", "/src"]
    there = copied()
    for name in there:
        assert (ROOT / name).exists(), name
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    read = set(re.findall(r'ROOT / "([^"/]+)', text)) | {"setup.py", "pyproject.toml", "LICENSE"}
    mapped = set(re.findall(r'"wmcore\.\w+": "([\w/]+)",', text))
    assert mapped == {"kernels", "bindings", "benchmarks/paper"}
    assert set(there) == read | mapped | {"wmcore", "constraints.txt"}
