"""What messages tell people to type exists in the command that says it, and can be pasted."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer

import wmcore
from wmcore.cli.main import app

PACKAGE = Path(wmcore.__path__[0])
COMMANDS = typer.main.get_command(app).commands
OPTIONS = {
    name: {option for parameter in command.params for option in parameter.opts}
    for name, command in COMMANDS.items()
}
EVERY = set().union(*OPTIONS.values())
FOREIGN = {"--no-deps", "--long"}
"""Options of pip and zstd."""

SPEAKS = {
    "cli/calibrate.py": {"calibrate"},
    "cli/derive.py": {"derive"},
    "cli/detect.py": {"detect"},
    "cli/generate.py": {"generate"},
    "cli/identify.py": {"identify"},
    "cli/learn.py": {"learn-scores"},
    "cli/main.py": {"keygen", "demo"},
    "cli/output.py": {"generate", "learn-scores", "keygen", "derive", "calibrate"},
    "cli/prompts.py": {"generate", "learn-scores"},
    "cli/report.py": {"report"},
    "cli/scan.py": {"scan"},
    "cli/serve.py": {"serve"},
    "cli/texts.py": {"identify", "calibrate"},
    "evidence/audits.py": {"audit", "report"},
    "evidence/scans.py": {"scan", "report"},
    "scan/finish.py": {"scan"},
    "scan/job.py": {"scan"},
    "scan/worker.py": {"scan"},
    "service/settings.py": {"serve"},
    "watermark_file.py": {"identify", "serve"},
}
"""Which commands show the messages of a module; those of any other module name the command, or say what all have."""


def strings(path):
    """The texts of a module but its docstrings; "{}" stands for a value, "{,}" for one with separators."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {id(part) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for part in n.values}
    documented = {
        id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and n.value is not None
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = []
            for part in node.values:
                if isinstance(part, ast.Constant):
                    parts.append(part.value)
                else:
                    form = "" if part.format_spec is None else ast.unparse(part.format_spec)
                    parts.append("{,}" if "," in form else "{}")
            yield "".join(parts)
        elif isinstance(getattr(node, "value", None), str) and id(node) not in inside | documented:
            yield node.value


def named(text):
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text)) - FOREIGN


PATHS = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", PATHS, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_options_in_messages_exist(path):
    known = [OPTIONS[name] for name in SPEAKS.get(path.relative_to(PACKAGE).as_posix(), ())]
    for text in strings(path):
        if re.match(r"wmcore [a-z-]+", text):  # an example, tested below
            continue
        assert named(text) <= EVERY | {"--help", "--version"}, text
        if known and not re.search(r"--\S+ of ", text):
            assert named(text) <= set().union(*known) | {"--help", "--version"}, text


@pytest.mark.parametrize("module", [path for path, said in SPEAKS.items() if len(said) == 1])
def test_modules_of_commands_are_there(module):
    assert (PACKAGE / module).is_file()


def test_shared_messages_name_options_that_all_their_commands_have():
    assert all("--force" in OPTIONS[name] for name in SPEAKS["cli/output.py"])
    assert all({"--prompts"} <= OPTIONS[name] for name in SPEAKS["cli/prompts.py"])
    for name in ("detect", "scan"):  # records.py
        assert {"--max-bytes", "--text-field", "--tokens-field"} <= OPTIONS[name]
    for name in SPEAKS["cli/texts.py"]:
        assert {"--text-field", "--tokens-field", "--tokenizer"} <= OPTIONS[name]


def test_numbers_in_hints_can_be_pasted():
    separated = re.compile(r"--(?!lengths)[a-z][\w-]* (\{,\}|\d+,\d{3})")
    seen = 0
    for path in PATHS:
        for text in strings(path):
            seen += bool(re.search(r"--[a-z][\w-]* \{\}", text))
            assert not separated.search(text), text
    assert seen > 5
    assert separated.search("scan again with --resamples {,}")
    assert separated.search("scan again with --resamples 21,400")


@pytest.mark.parametrize("name", [*COMMANDS])
def test_examples_of_the_help_are_of_this_command_and_have_its_options(name):
    epilog = COMMANDS[name].epilog or ""
    lines = re.findall(r"\[cyan\](.*?)\[/cyan\]", epilog)
    assert lines, name
    seen = set()
    for line in lines:
        words = shlex.split(line.partition("|")[2] if line.startswith("cat ") else line)
        assert words[0] == "wmcore"
        other = words[1]
        seen.add(other)
        given = {word for word in words[2:] if re.match(r"-{1,2}[a-z]", word)}
        assert given <= OPTIONS[other], line
    assert name in seen
