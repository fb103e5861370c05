"""`Evidence`: what a report for an authority says, before it is a page and a file. Both are made from it alone."""

import hashlib
import json
import math
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

FORMAT, VERSION = "wmcore.evidence", 1
_BLOCK = 1 << 20

Plain = str | int | float | None


@dataclass(frozen=True)
class Fact:
    """A number or a name: for a file (`name`), and for people (`label`)."""

    name: str
    label: str
    value: Plain


@dataclass(frozen=True)
class Share:
    """So many of so many, and an interval of 95 % for the share behind it; None where it cannot be given."""

    count: int
    of: int
    interval: list[float] | None


@dataclass(frozen=True)
class FalseAlarms:
    """How often texts that do not carry the key were found.

    what : which texts under which keys; level : they were found where p <= level; found : of all of them; keys : under
    how many keys; least, most : texts found under a key, at least and at most, where each tested all of them.
    """

    what: str
    level: float
    found: Share
    keys: int
    least: int | None = None
    most: int | None = None


@dataclass(frozen=True)
class Attacked:
    """What is found after an edit; `found` is None where that was not tested here.

    name, what : for a file, and for people; tokens : the median length after the edit; median_p : of the texts.
    """

    name: str
    what: str
    found: Share | None = None
    tokens: int | None = None
    median_p: float | None = None


@dataclass(frozen=True)
class Digest:
    """A file, or several, by their SHA-256; `command`: what prints it on a machine that has them."""

    what: str
    bytes: int
    sha256: str
    command: str


@dataclass(frozen=True)
class Section:
    """Sentences before the rows of a table, which may have none."""

    says: list[str]
    rows: list[Any]


@dataclass(frozen=True)
class TestedAs:
    """How the texts of a result were tested, and up to which p a text counts as found: see `Detector`."""

    fingerprint: str
    scheme: str
    gap: float | None
    block_length: int
    score: str | None
    level: float


@dataclass(frozen=True)
class Evidence:
    """All that a report says.

    Attributes
    ----------
    about : str
        "scan" or "audit".
    verdict : str
        One line.
    fingerprint, scheme : str
    made, began, ended : str or None
        The times of the report and of the run, UTC, in ISO 8601; None where the run noted none.
    findings : Section of Fact
    technique : Section of Fact
        How the watermark works and what its test rests on.
    false_alarms : Section of FalseAlarms
    robustness : Section of Attacked
    parameters : list of Fact
    ran, reported : dict
        Versions: of the run (what it noted), and of the report.
    limits : list of str
        What all this does not show.
    files : list of Digest
        What the report was made from.
    """

    about: str
    verdict: str
    fingerprint: str
    scheme: str
    made: str
    began: str | None
    ended: str | None
    findings: Section
    technique: Section
    false_alarms: Section
    robustness: Section
    parameters: list[Fact]
    ran: dict[str, str]
    reported: dict[str, str]
    limits: list[str]
    files: list[Digest]

    def with_robustness(self, measured: Section, files: list[Digest]) -> "Evidence":
        """The same with what `wmcore.evidence.robustness` measured of marked texts, and the files these are from."""
        return replace(self, robustness=measured, files=[*self.files, *files])

    def to_dict(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    def to_bytes(self) -> bytes:
        """The JSON file."""
        return (json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n").encode()


def plain(value: Any) -> Plain:
    """What another file holds, as a fact's value: what is no name, finite number or None in Python's words."""
    if value is None or (isinstance(value, (str, int)) and not isinstance(value, bool)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return str(value)


def digest(path: Path) -> Digest:
    """Of one file."""
    return Digest(path.name, path.stat().st_size, _sha256(path), sha256sum(path.name))


def sha256sum(name: str) -> str:
    """The command that prints a file's SHA-256, whatever its name has in it: people paste it into a shell."""
    return f"sha256sum {'-- ' if name.startswith('-') else ''}{shlex.quote(name)}"


def digest_of_all(paths: Iterable[Path], pattern: str) -> Digest:
    """Of all files with names like this, in order of their names: that of the lines that sha256sum prints of them."""
    lines, size, count = hashlib.sha256(), 0, 0
    for path in sorted(paths, key=lambda p: p.name):
        lines.update(f"{_sha256(path)}  {path.name}\n".encode())
        size += path.stat().st_size
        count += 1
    command = f"LC_ALL=C; sha256sum {pattern} | sha256sum"
    return Digest(f"{pattern} ({count:,})", size, lines.hexdigest(), command)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        state = hashlib.sha256()
        while block := file.read(_BLOCK):
            state.update(block)
    return state.hexdigest()
