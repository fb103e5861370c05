"""Whether an ecosystem is there in a version that a binding was written for."""

import re
from importlib.metadata import PackageNotFoundError, version

from wmcore.errors import WatermarkError


def require(package: str, least: str, below: str, remedy: str) -> str:
    """The installed version of a package; WatermarkError if it is missing or outside [least, below).

    Parameters
    ----------
    package : str
        Its name on PyPI.
    least, below : str
        Versions as numbers and dots.
    remedy : str
        What to run, as in "pip install 'wmcore[generate]'".
    """
    try:
        found = version(package)
    except PackageNotFoundError:
        raise WatermarkError(f"package {package} is not installed: {remedy}") from None
    if not _numbers(least) <= _numbers(found) < _numbers(below):
        raise WatermarkError(
            f"package {package} is version {found}, but this binding needs at least {least} and below "
            f"{below}: {remedy}"
        )
    return found


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.split("+")[0])[:3])
