"""Corpus scans: which documents carry a watermark. Streams in, resumable Parquet shards and q-values out.

`sources` make documents of inputs, `windows` token ids and windows, `worker` rows (p-values are `wmcore.plan`'s),
`store` shards, `fdr` and `finish` q-values, `page` the report; `job` says what is to do, `run` does it.

Names load when first used, so that the command reads the defaults of `ScanSettings` at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wmcore.scan.job import Job, Meter, Progress
    from wmcore.scan.run import local_shards, scan
    from wmcore.scan.settings import ScanSettings

_HOME = {
    "Job": "wmcore.scan.job",
    "Meter": "wmcore.scan.job",
    "Progress": "wmcore.scan.job",
    "ScanSettings": "wmcore.scan.settings",
    "local_shards": "wmcore.scan.run",
    "scan": "wmcore.scan.run",
}

__all__ = ["Job", "Meter", "Progress", "ScanSettings", "local_shards", "scan"]


if not TYPE_CHECKING:  # which would take it to mean that every name is there

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module 'wmcore.scan' has no attribute {name!r}")
        return getattr(import_module(_HOME[name]), name)
