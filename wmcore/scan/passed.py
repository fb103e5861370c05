"""What a scan passed over in its folders, and why."""

import posixpath
from bisect import insort
from collections import Counter
from typing import Any

from wmcore.reading import clean

NAMED = 10
"""So many of the files that are passed over are named."""
_REASONS = 20
"""So many reasons are told apart."""


class PassedOver:
    """Counts the files and folders that are not read, by reason, and keeps the first names."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self._names: list[str] = []

    def add(self, path: str, reason: str) -> None:
        """Take note of a file, or of a folder that is not looked into."""
        self.reasons[reason] += 1
        insort(self._names, clean(f"{path} ({reason})"))
        del self._names[NAMED:]

    def join(self, other: "PassedOver", folder: str) -> None:
        """Add what was passed over in a folder, of which `other` has the relative names."""
        self.reasons += other.reasons
        self._names = sorted(self._names + [posixpath.join(folder, n) for n in other._names])[
            :NAMED
        ]

    def to_dict(self) -> dict[str, Any]:
        """{"total": how many, "reasons": {why: how many}, "first": names, at most ten}."""
        told = self.reasons.most_common(_REASONS)
        rest = self.reasons.total() - sum(n for _, n in told)
        reasons = {clean(why): n for why, n in told}
        return {
            "total": self.reasons.total(),
            "reasons": reasons | ({"other reasons": rest} if rest else {}),
            "first": list(self._names),
        }

    def __str__(self) -> str:
        found = self.to_dict()
        reasons = ", ".join(f"{n:,} {why}" for why, n in found["reasons"].items())
        more = found["total"] - len(self._names)
        tail = f" and {more:,} more" if more else ""
        return f"passed over {found['total']:,} ({reasons}): {', '.join(self._names)}{tail}"
