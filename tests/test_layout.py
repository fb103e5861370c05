"""How the code hangs together: who imports whom, which names are private, how many arguments a function takes."""

import ast
import re
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from wmcore.cli.main import app
from wmcore.schemes import SCHEMES

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {
    "wmcore": "wmcore",
    "kernels": "wmcore.kernels",
    "bindings": "wmcore.bindings",
    "benchmarks/paper": "wmcore.paper",
}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

MOST_ARGUMENTS = 8
FOREIGN = {("bindings/jthickstun.py", "phi"), ("bindings/jthickstun.py", "generate")}
"""Whose signature is another's."""
CALLED_BY_OTHERS = {"prefix_curve", "tokens_until", "readable", "readinto", "VectorModel", "emit"}
"""The API's own, a raw file's protocol, Numba's registry, logging's."""


def modules():
    """{module name: its file} of everything that is installed."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


MODULES = modules()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def imports(name):
    """(module, imported name or None) of every import, inside functions too, but for those of types alone."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]

    def walk(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, None) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                above = package.split(".")[: 1 - child.level or None] if child.level else []
                base = ".".join([*above, *([child.module] if child.module else [])])
                yield from ((base, alias.name) for alias in child.names)
            else:
                yield from walk(child)

    return list(walk(TREES[name]))


def needed(name):
    """Our modules that a module imports, at once or later."""
    found = set()
    for module, member in imports(name):
        found |= {one for one in (f"{module}.{member}", module) if one in MODULES and one != name}
    return found


ABOVE = ("wmcore.bindings", "wmcore.paper")
"""Packages on top of wmcore, which know nothing of each other."""


def layer(name):
    """0 for kernels, 1 for wmcore itself, 2 for what is above it."""
    return 0 if name.startswith("wmcore.kernels") else 2 if name.startswith(ABOVE) else 1


def test_no_module_needs_itself():
    """A package does nothing but name its parts, and so is no part of a cycle."""
    parts = {name for name, path in MODULES.items() if path.name != "__init__.py"}
    graph = {name: needed(name) & parts for name in parts}
    assert sum(map(len, graph.values())) > 100
    list(TopologicalSorter(graph).static_order())  # CycleError names the modules of one


def test_imports_point_one_way():
    upwards = {(a, b) for a in MODULES for b in needed(a) if layer(b) > layer(a)}
    assert upwards == {
        ("wmcore.cli.scan", "wmcore.bindings.ray"),
        ("wmcore.cli.bench", "wmcore.paper"),
        ("wmcore.cli.bench", "wmcore.paper.command"),
    }


def test_what_is_above_wmcore_stands_alone():
    for package in ABOVE:
        others = tuple(one for one in ABOVE if one != package)
        mine = [name for name in MODULES if name.startswith(package)]
        assert len(mine) > 5
        assert not {(a, b) for a in mine for b in needed(a) if b.startswith(others)}


def test_kernels_import_no_framework():
    allowed = {*sys.stdlib_module_names, "numpy", "numba", "llvmlite", "cupy", "wmcore"}
    for name in MODULES:
        if layer(name) == 0:
            assert {module.split(".")[0] for module, _ in imports(name)} <= allowed, name


@pytest.mark.slow
def test_each_module_can_be_imported_first():
    """In a process of its own, forked from one that has only loaded what others wrote."""
    code = """
import importlib, os, sys, traceback
import numpy, numba, scipy.special, jinja2, torch, typer, transformers
failed = 0
for name in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
        except BaseException as error:
            # A binding says what it lacks.
            lacks = type(error).__name__ == "WatermarkError" and ".bindings." in name
            if not lacks:
                print(name)
                traceback.print_exc()
                os._exit(1)
        os._exit(0)
    failed += os.waitpid(child, 0)[1] != 0
sys.exit(failed)
"""
    names = [name for name in MODULES if not name.endswith("__main__")]
    done = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", MODULES)
def test_private_names_stay_in_their_module(name):
    ours = {}
    for module, member in imports(name):
        if module.startswith("wmcore") and member is not None:
            is_module = f"{module}.{member}" in MODULES
            assert is_module or not re.match(r"_[^_]", member), f"{module}.{member}"
            ours[member] = is_module
    aliases = {
        alias.asname or alias.name
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if ours.get(alias.name)
    }
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            private = node.value.id in aliases and re.match(r"_[^_]", node.attr)
            assert not private, ast.unparse(node)


def arguments(function, method):
    """How many a call may pass; keyword-only ones of the API are named where they are passed, and do not count."""
    spec = function.args
    static = any("staticmethod" in ast.unparse(d) for d in function.decorator_list)
    return len(spec.posonlyargs) + len(spec.args) - (method and not static)


def functions(tree, inside_class=False):
    """(function, whether it is a method) of a module."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, FUNCTIONS):
            yield node, inside_class
        yield from functions(node, isinstance(node, ast.ClassDef))


def test_python_functions_take_at_most_eight_arguments():
    """But commands, whose arguments are the options of the command line."""
    commands = {(c.callback.__module__, c.callback.__name__) for c in app.registered_commands}
    assert commands
    for name, tree in TREES.items():
        place = MODULES[name].relative_to(ROOT).as_posix()
        for function, method in functions(tree):
            if (name, function.name) in commands or (place, function.name) in FOREIGN:
                continue
            count = arguments(function, method)
            if layer(name) == 0:
                count += len(function.args.kwonlyargs)
            assert count <= MOST_ARGUMENTS, f"{place}: {function.name} takes {count}"


def test_cuda_functions_take_at_most_eight_arguments():
    seen = 0
    head = r"(?:__device__|__global__)[^;{}()]*(?:__launch_bounds__\(\d+\)\s*)?\b(\w+)\(([^()]*)\)"
    for path in sorted((ROOT / "kernels" / "cuda").glob("*.cu*")):
        text = re.sub(r"//[^\n]*", "", path.read_text(encoding="utf-8"))
        found = re.findall(head, text)
        assert len(found) == len(re.findall(r"__device__|__global__", text)), path.name
        for function, inside in found:
            count = len([one for one in inside.split(",") if one.strip()])
            assert count <= MOST_ARGUMENTS, f"{path.name}: {function} takes {count}"
        seen += len(found)
    assert seen > 50


def test_every_function_is_used():
    """By our own code, or by name in the API; what only tests call does not count."""
    texts = [path.read_text(encoding="utf-8") for path in MODULES.values()]
    texts += [p.read_text(encoding="utf-8") for p in (ROOT / "kernels" / "cuda").glob("*.cu*")]
    words = Counter(word for text in texts for word in re.findall(r"\w+", text))
    named = Counter()
    for name, tree in TREES.items():
        if not name.startswith("wmcore.bindings"):  # which hold what other ecosystems call
            nodes = [n for n in ast.walk(tree) if isinstance(n, (*FUNCTIONS, ast.ClassDef))]
            named.update(n.name for n in nodes if not n.name.startswith("__"))
            plain = [n for n in tree.body if isinstance(n, ast.Assign)]
            named.update(t.id for n in plain for t in n.targets if isinstance(t, ast.Name))
    unused = {name for name, times in named.items() if words[name] <= times}
    assert unused - {"__all__"} <= CALLED_BY_OTHERS, unused


def test_only_the_table_takes_names_of_schemes_apart():
    parsing = re.compile(
        r"""(startswith|endswith|removesuffix|removeprefix|partition|split)\(["'](its|exp|-?edit)"""
        r"""|["'](its|exp|-edit)["']\s+(not\s+)?in\b"""
    )
    for name, path in MODULES.items():
        if name != "wmcore.schemes":
            assert not parsing.search(path.read_text(encoding="utf-8")), path.name


def test_kernels_know_no_names_of_schemes():
    for name, tree in TREES.items():
        if layer(name) == 0:
            words = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
            assert not {w for w in words if isinstance(w, str)} & {*SCHEMES, "edit", "plain"}, name


@pytest.mark.parametrize(
    "path", sorted((ROOT / "kernels" / "cuda").glob("*.cu*")), ids=lambda p: p.name
)
def test_a_topic_has_one_stem(path):
    """A CUDA source shares its stem with the CPU's; numbers.cuh is simd.py, chacha.py and what both lack."""
    if path.stem != "numbers":
        assert (ROOT / "kernels" / "cpu" / f"{path.stem}.py").exists()


def test_nothing_imports_a_conftest():
    """There is one in each folder of tests: which of them a name means depends on what pytest read first."""
    importers = [
        path.name
        for path in (ROOT / "tests").rglob("*.py")
        if re.search(r"^(from|import) conftest\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert not importers
