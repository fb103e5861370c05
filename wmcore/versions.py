"""What runs: our version, Python's, those of the packages that results come from, and the kind of machine."""

import platform
from importlib.metadata import PackageNotFoundError, version

from wmcore._version import __version__

_PACKAGES = ("numpy", "numba", "scipy", "tokenizers", "transformers", "torch")


def versions() -> dict[str, str]:
    """{"wmcore", "python", "platform" and the packages that are installed: version}; no name of a machine or user."""
    found = {"wmcore": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {**found, "platform": platform.platform()}
