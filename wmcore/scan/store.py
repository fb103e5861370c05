"""The output of a scan: a manifest, a lock and Parquet shards, each written whole or not at all.

`part-<input>-<shard>.parquet` holds the rows of a shard, in order; `-end` in the name says that the input has no more.
The names alone tell what is done, so that a scan can go on after it was killed at any moment.
"""

import errno
import fcntl
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from wmcore._version import __version__
from wmcore.errors import WatermarkError
from wmcore.errors import reason as told
from wmcore.scan.manifest import FORMAT, MANIFEST, VERSION, now, read_manifest, to_bytes
from wmcore.scan.settings import ScanSettings
from wmcore.versions import versions
from wmcore.watermark import Watermark

LOCK = ".lock"
_SHARD = re.compile(r"part-(\d{5,})-(\d{9,})(-end)?\.parquet")
_TEMPORARY = ".writing-"
_LACKING = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""What file systems answer that have no locks, or cannot sync a file or a folder."""


def schema() -> Any:
    """The columns of a shard, as a pyarrow schema (docs/scan.md says what they mean)."""
    import pyarrow as pa

    span = pa.struct([("start", pa.int64()), ("end", pa.int64())])
    return pa.schema(
        [
            ("source", pa.int32()),
            ("position", pa.int64()),
            ("id", pa.string()),
            ("p_value", pa.float64()),
            ("q_value", pa.float64()),
            ("log_e", pa.float64()),
            ("statistic", pa.float64()),
            ("shift", pa.int32()),
            ("span", span),
            ("window", span),
            ("windows", pa.int32()),
            ("length", pa.int64()),
            ("resamples", pa.int64()),
            ("method", pa.string()),
            ("excerpt", pa.struct([("start", pa.int64()), ("text", pa.string())])),
            ("controls", pa.list_(pa.float64())),
            ("error", pa.string()),
        ]
    )


class Store:
    """The output folder of one scan, locked until it is closed.

    Parameters
    ----------
    path : str or path
        Made if it is missing.

    Attributes
    ----------
    manifest : dict
        As it is on the disk, once `begin` was called.

    Raises
    ------
    WatermarkError
        If the folder cannot be made or written, holds something else, or another scan is writing there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not os.fspath(path):
            raise WatermarkError("output is an empty name: give a folder")
        if "://" in os.fspath(path):
            raise WatermarkError(
                f"output {path} is a URL, but results are written to a folder: give one, and copy it there later"
            )
        self.path = Path(path)
        self.manifest: dict[str, Any] = {}
        self._warned = False
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise WatermarkError(
                f"output {self.path} cannot be written ({error.strerror}): choose another folder"
            ) from error
        try:
            self._if_supported(lambda: fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB))
            for left in self.path.glob(f"{_TEMPORARY}*"):
                left.unlink(missing_ok=True)
        except OSError as error:
            os.close(self._lock)
            if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
                what = "another scan is writing there: wait for it, or choose another folder"
            else:
                what = f"it cannot be locked or tidied ({error.strerror}): choose another folder"
            raise WatermarkError(f"output {self.path}: {what}") from None

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._lock)

    def begin(
        self, watermark: Watermark, inputs: list[dict[str, Any]], settings: ScanSettings
    ) -> None:
        """Write a new manifest, or take the one that is there if it is of this very scan.

        Raises
        ------
        WatermarkError
            If the watermark, an input or a setting is not the one that the output was begun with.
        """
        score = settings.scores(watermark)
        test = watermark.tested_as(settings.scheme, settings.gap, settings.block_length, score)
        mark = {
            "fingerprint": watermark.fingerprint,
            "scheme": test.scheme.name,
            "vocab_size": watermark.vocab_size,
            "key_length": watermark.key_length,
            "block_length": test.block_length,
            "gap": test.gap,
        }
        if not (self.path / MANIFEST).exists():
            if any(self.shards()):
                raise WatermarkError(
                    f"output {self.path} holds shards but no {MANIFEST}: restore it, or choose another folder"
                )
            self.save(
                format=FORMAT,
                version=VERSION,
                wmcore=__version__,
                began=now(),
                watermark=mark,
                inputs=inputs,
                settings=settings.to_dict(),
                versions=versions(),
                seconds=0.0,
                summary=None,
            )
            return
        manifest = self.manifest = read_manifest(self.path)
        for name, value in mark.items():
            if manifest["watermark"].get(name) != value:
                self._refuse(
                    f"watermark: {name} was {manifest['watermark'].get(name)!r} and is now {value!r}"
                )
        before = manifest["inputs"]
        if [i["name"] for i in before] != [i["name"] for i in inputs]:
            self._refuse(f"inputs: there were {len(before)}, and now {len(inputs)} or others")
        for old, new in zip(before, inputs, strict=True):
            for name, value in new.items():
                if old.get(name) != value:
                    self._refuse(
                        f"input {new['name']}: {name} was {old.get(name)!r} and is now {value!r}"
                    )
        changed = settings.difference(manifest["settings"])
        if changed is not None:
            self._refuse(f"settings: {changed[:300]}")

    def _if_supported(self, action: Callable[[], object]) -> None:
        """Do it; where the file system cannot, warn once and go on without."""
        try:
            action()
        except OSError as error:
            if error.errno not in _LACKING:
                raise
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"output {self.path}: its file system cannot lock or sync ({error.strerror}): start no second "
                    "scan there, and start this one again after a power failure",
                    stacklevel=2,
                )

    def _refuse(self, what: str) -> None:
        raise WatermarkError(
            f"output {self.path} was begun with something else ({what}): "
            "go on with what it was begun with, or choose another folder"
        )

    def save(self, **changes: Any) -> None:
        """Change fields of the manifest, on the disk whole or not at all."""
        manifest = {**self.manifest, **changes}
        self.replace(MANIFEST, lambda path: path.write_bytes(to_bytes(manifest)))
        self.manifest = manifest

    def shards(self) -> Iterator[tuple[int, int, bool, Path]]:
        """(input, shard, whether it is the input's last, path) of each shard that is there, in order."""
        yield from shards(self.path)

    def done(self) -> tuple[dict[int, set[int]], set[int]]:
        """({input: shards that are there}, inputs whose last shard is there and none before it is missing)."""
        found: dict[int, set[int]] = {}
        last: dict[int, int] = {}
        for source, shard, end, _ in self.shards():
            found.setdefault(source, set()).add(shard)
            if end:
                last[source] = shard
        whole = {s for s, shard in last.items() if len(found[s]) == shard + 1}
        return found, whole

    def write(self, source: int, shard: int, end: bool, rows: list[dict[str, Any]]) -> None:
        """Write a shard."""
        import pyarrow as pa

        rows = sorted(rows, key=lambda row: row["position"])
        table = pa.Table.from_pylist(rows, schema=schema())
        self.write_table(f"part-{source:05}-{shard:09}{'-end' if end else ''}.parquet", table)

    def write_table(self, name: str, table: Any) -> None:
        """Write a pyarrow table to a shard of this name, in place of the one that is there."""
        import pyarrow.parquet as pq

        # Arrow takes some relative names, such as s3:x, for URLs.
        self.replace(name, lambda path: pq.write_table(table, path.absolute(), compression="zstd"))

    def replace(self, name: str, write: Callable[[Path], object]) -> None:
        """Write beside its place, sync, then move there, and sync the folder."""
        temporary = self.path / f"{_TEMPORARY}{os.getpid()}-{name}"
        try:
            write(temporary)
            self._if_supported(lambda: _sync(temporary))
            os.replace(temporary, self.path / name)
            self._if_supported(lambda: _sync(self.path))
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise WatermarkError(
                f"output {self.path}: {name} cannot be written ({error.strerror or error}): make room or mend the "
                "folder, then run the same command; it goes on where it stopped"
            ) from error
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def shards(path: Path) -> Iterator[tuple[int, int, bool, Path]]:
    """(input, shard, whether it is the input's last, path) of each shard in an output folder, in order."""
    found = []
    for file in path.glob("part-*.parquet"):
        match = _SHARD.fullmatch(file.name)
        if match:
            found.append((int(match[1]), int(match[2]), match[3] is not None, file))
    yield from sorted(found)


_ALWAYS = {"source", "position", "id"}
"""Columns with a value in every row."""
_TESTED = {"statistic", "shift", "window", "windows", "length", "resamples", "method"}
"""Columns with a value in every row with a p-value."""
_LATER = {"log_e"}
"""Columns that shards of older versions lack; they are read as null."""
_RANGES = {
    "p_value": (0.0, 1.0),
    "q_value": (0.0, 1.0),
    "log_e": (-1e9, 1e9),
    "position": (0, 2**62),
    "length": (0, 2**62),
}


def _unsound(table: Any) -> str | None:
    """The first column of a shard with a value that no scan writes, on which a reader could stumble, or None."""
    import pyarrow as pa
    import pyarrow.compute as pc

    names = table.column_names
    tested = table["p_value"].is_valid() if "p_value" in names else pa.scalar(False)
    for name in names:
        column = table[name]
        parts = column.flatten() if pa.types.is_struct(column.type) else []
        wrong = [part.null_count != column.null_count for part in parts]
        wrong.append(name in _ALWAYS and column.null_count > 0)
        wrong.append(name in _TESTED and pc.any(pc.and_(tested, column.is_null())).as_py())
        if name in _RANGES:
            low, high = _RANGES[name]
            inside = pc.and_(pc.greater_equal(column, low), pc.less_equal(column, high))
            wrong.append(pc.all(inside).as_py() is False)
        if any(wrong):
            return str(name)
    return None


def read_shard(path: Path, columns: list[str] | None = None) -> Any:
    """A shard, or columns of it, as a pyarrow table; WatermarkError if it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        expected = schema()
        names = columns or expected.names
        table = pq.read_table(path.absolute(), columns=columns, partitioning=None)
        for name in _LATER.intersection(names).difference(table.column_names):
            field = expected.field(name)
            absent = pa.nulls(len(table), field.type)
            table = table.add_column(min(names.index(name), table.num_columns), field, absent)
        reason = "other columns than those of a shard"
        known = all(f.name in names and f.type == expected.field(f.name).type for f in table.schema)
        if known and len(table.schema) == len(names):
            column = _unsound(table)
            if column is None:
                return table
            reason = f"column {column!r} holds what no scan writes"
    except (OSError, pa.ArrowException) as error:
        reason = told(error)
    raise damaged(path, reason)


def damaged(path: Path, reason: str) -> WatermarkError:
    """The error for a shard that cannot be used."""
    return WatermarkError(
        f"shard {path} is damaged ({reason}): delete it and run the same scan again, which makes just that one anew"
    )
