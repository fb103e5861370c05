"""examples/compare.ipynb: what is committed was really run, and runs again."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parent.parent / "examples/compare.ipynb"
LARGEST = 200_000
"""Bytes: three small plots."""


def pictures(cells):
    """How many plots the cells have put out."""
    return sum("image/png" in out.get("data", {}) for cell in cells for out in cell["outputs"])


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_it_is_small_was_run_in_order_and_names_no_machine():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < LARGEST
    cells = code_cells(json.loads(text))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert pictures(cells) == 3
    for cell in cells:
        for out in cell["outputs"]:
            assert out["output_type"] in {"execute_result", "display_data"}, out
            assert not re.search(r"(?<!\w)/\w+/", str(out["data"].get("text/plain"))), out


@pytest.mark.slow
@pytest.mark.model
def test_it_runs(tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    notebook = nbformat.read(shutil.copy(NOTEBOOK, tmp_path), as_version=4)
    nbformat.validate(notebook)
    for cell in code_cells(notebook):
        cell["outputs"], cell["execution_count"] = [], None
    done = NotebookClient(notebook, timeout=900, resources={"metadata": {"path": tmp_path}})
    done.execute()  # raises where a cell does
    assert pictures(code_cells(notebook)) == 3
