"""Record what the code of today says: runs every case of `cases.py` and writes one JSON file for each group.

The files beside this script were first made from commit 164320f, before the wiring inside the package was rebuilt,
and equalled after it, bit for bit. They are remade only where a result is meant to change, and CHANGELOG.md says so:
when seeds were mixed with secret keys and exp texts got an e-value beside the bound from the statistic, and (scans
alone) when that bound became sharper and when a list of token
ids became a record. To remake them from an older commit, or to see what that commit says, run this
script with the Python of an environment in which that commit is installed:

    git worktree add ../old 164320f
    python3 -m venv ../old/.venv && ../old/.venv/bin/python -m pip install -e "../old[demo,test]"
    ../old/.venv/bin/python tests/recorded/make.py

It says which code it asks. No result depends on `--threads`. On another processor or with another release of SciPy,
NumPy or torch, what these round may differ in the last bit: p-values of proven bounds and of vLLM's own watermark
come from SciPy, some texts from torch.
"""

import argparse
import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
# This folder's own modules must not be found as top-level ones; tests/ has tiny.py and, in it, `recorded`.
sys.path[0] = str(HERE.parent)


def text_of(cases: dict, names: list[str]) -> str:
    """A JSON object with one line for each case, so that a change shows which one it is."""
    lines = [
        f"{json.dumps(n)}:{json.dumps(cases[n](), separators=(',', ':'), allow_nan=False)}"
        for n in names
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=HERE, help="where to write")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--only", help="one group, such as scan")
    options = parser.parse_args()

    import torch

    import wmcore
    from recorded import cases, common

    torch.set_num_threads(1)
    common.THREADS[0] = options.threads
    print("recording what", wmcore.__file__, "says")
    options.folder.mkdir(parents=True, exist_ok=True)
    for file, group in cases.FILES.items():
        if options.only in (None, file):
            start = time.perf_counter()
            text = text_of(group, list(group))
            (options.folder / f"{file}.json").write_text(text)
            seconds = time.perf_counter() - start
            print(f"{file}: {len(group)} cases, {len(text)} bytes, {seconds:.1f} s")


if __name__ == "__main__":
    main()
