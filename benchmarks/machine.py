"""What a result was measured on: written into every results file."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Processor, cores in use, Python, versions of what matters and the commit."""
    from wmcore.kernels.cpu.threads import available

    return {
        "processor": _processor(),
        "cores": available(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("wmcore-lm", "numba", "numpy", "torch")},
        "commit": _commit(),
    }


def _processor() -> str:
    """The model, and the widest vectors it has."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    text = info.read_text()
    fields = dict(
        (part.strip() for part in line.split(":", 1)) for line in text.splitlines() if ":" in line
    )
    widest = next((w for w in ("avx512bw", "avx2") if w in fields.get("flags", "").split()), "")
    model = fields.get("model name", platform.processor())
    return f"{model} (family {fields.get('cpu family')}, model {fields.get('model')}, {widest})"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or None
