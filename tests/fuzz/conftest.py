"""Marks the fuzzers, and says how many inputs there were and from which seed."""

from pathlib import Path

import pytest

from fuzz.budget import SEED, spent

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.fuzz)
            item.add_marker(pytest.mark.filterwarnings("ignore"))  # odd inputs are warned about


def pytest_terminal_summary(terminalreporter):
    if spent:
        each = ", ".join(f"{name.removeprefix('test_')} {n:,}" for name, n in spent.items())
        terminalreporter.write_line(f"fuzz: {spent.total():,} inputs, FUZZ_SEED={SEED} ({each})")
