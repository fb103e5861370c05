"""Corpus scans: which documents carry a watermark. Streams in, resumable Parquet shards and q-values out.

`readers` make documents of files, `windows` token ids and windows, `worker` rows (p-values are `wmcore.plan`'s),
`store` shards, `fdr` and `finish` q-values, `page` the report, `run` puts them together.
"""

from wmcore.scan.run import Job, Progress, local_shards, scan
from wmcore.scan.settings import ScanSettings

__all__ = ["Job", "Progress", "ScanSettings", "local_shards", "scan"]
