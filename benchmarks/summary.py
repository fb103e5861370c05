"""The medians of a pytest-benchmark run, small enough to keep: results/kernels.json.

python benchmarks/summary.py results/raw/bench.json
"""

import json
import sys
from pathlib import Path

from machine import machine


def main() -> None:
    runs = json.loads(Path(sys.argv[1]).read_text())["benchmarks"]
    rows = {
        run["name"].removeprefix("test_"): {
            "median_us": round(1e6 * run["stats"]["median"], 2),
            "rounds": run["stats"]["rounds"],
            **run["extra_info"],
        }
        for run in sorted(runs, key=lambda run: run["fullname"])
    }
    result = {"machine": machine(), "benchmarks": rows}
    ours, cpp = rows.get("edit_int32"), rows.get("edit_int32_cpp")
    if ours and cpp:
        result["edit_int32_share_of_cpp"] = round(cpp["median_us"] / ours["median_us"], 3)
    path = Path(__file__).parent / "results" / "kernels.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
