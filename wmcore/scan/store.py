"""The output of a scan: a manifest, a lock and Parquet shards, each written whole or not at all.

`part-<input>-<shard>.parquet` holds the rows of a shard, in order; `-end` in the name says that the input has no more.
The names alone tell what is done, so that a scan can go on after it was killed at any moment.
"""

import fcntl
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wmcore._version import __version__
from wmcore.errors import WatermarkError
from wmcore.scan.settings import ScanSettings

FORMAT, VERSION = "wmcore.scan", 1
MANIFEST, LOCK = "manifest.json", ".lock"
_SHARD = re.compile(r"part-(\d{5})-(\d{9})(-end)?\.parquet")
_TEMPORARY = ".writing-"


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
    """The output folder of one scan, locked while it is open (a context manager).

    Parameters
    ----------
    path : str or path
        Made if it is missing.

    Raises
    ------
    WatermarkError
        If the folder cannot be made or written, holds something else, or another scan is writing there.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise WatermarkError(
                f"output {self.path} cannot be written ({error.strerror}): choose another folder"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise WatermarkError(
                f"output {self.path}: another scan is writing there: wait for it, or choose another folder"
            ) from None
        for left in self.path.glob(f"{_TEMPORARY}*"):
            left.unlink(missing_ok=True)

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def begin(
        self, watermark: dict[str, Any], inputs: list[dict[str, Any]], settings: ScanSettings
    ) -> dict[str, Any]:
        """The manifest: a new one, or the one that is there if it is of this very scan.

        Raises
        ------
        WatermarkError
            If the watermark, an input or a setting is not the one that the output was begun with.
        """
        if not (self.path / MANIFEST).exists():
            if any(self.shards()):
                raise WatermarkError(
                    f"output {self.path} holds shards but no {MANIFEST}: restore it, or choose another folder"
                )
            manifest: dict[str, Any] = {
                "format": FORMAT,
                "version": VERSION,
                "wmcore": __version__,
                "watermark": watermark,
                "inputs": inputs,
                "settings": settings.to_dict(),
                "seconds": 0.0,
                "summary": None,
            }
            self.save(manifest)
            return manifest
        manifest = read_manifest(self.path)
        for name, value in watermark.items():
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
        return manifest

    def _refuse(self, what: str) -> None:
        raise WatermarkError(
            f"output {self.path} was begun with something else ({what}): "
            "go on with what it was begun with, or choose another folder"
        )

    def save(self, manifest: dict[str, Any]) -> None:
        """Replace the manifest, whole or not at all."""
        data = (json.dumps(manifest, indent=2) + "\n").encode()

        def write(path: Path) -> None:
            path.write_bytes(data)

        self.replace(MANIFEST, write)

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

        self.replace(name, lambda path: pq.write_table(table, path, compression="zstd"))

    def replace(self, name: str, write: Any) -> None:
        """Write beside its place, sync, then move there, and sync the folder."""
        temporary = self.path / f"{_TEMPORARY}{os.getpid()}-{name}"
        try:
            write(temporary)
            handle = os.open(temporary, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(temporary, self.path / name)
            folder = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise WatermarkError(
                f"output {self.path}: {name} cannot be written ({error.strerror or error}): make room or mend the "
                "folder, then run the same command; it goes on where it stopped"
            ) from error
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def shards(path: Path) -> Iterator[tuple[int, int, bool, Path]]:
    """(input, shard, whether it is the input's last, path) of each shard in an output folder, in order."""
    for file in sorted(path.glob("part-*.parquet")):
        match = _SHARD.fullmatch(file.name)
        if match:
            yield int(match[1]), int(match[2]), match[3] is not None, file


def read_shard(path: Path, columns: list[str] | None = None) -> Any:
    """A shard as a pyarrow table; WatermarkError if it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, columns=columns, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise WatermarkError(
            f"shard {path} is damaged ({' '.join(str(error).split())[:120]}): delete it and run the same scan again, "
            "which makes just that one anew"
        ) from error


def read_manifest(path: str | os.PathLike) -> dict[str, Any]:
    """The manifest of an output folder; WatermarkError if there is none, or of another version."""
    file = Path(path) / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WatermarkError(
            f"{path} is not the output of a scan (it has no {MANIFEST}): give the folder of 'wmcore scan -o'"
        ) from None
    except (OSError, ValueError):
        manifest = None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise WatermarkError(
            f"{file} is damaged or not of a scan: restore it, or scan into another folder"
        )
    if manifest.get("version") != VERSION:
        raise WatermarkError(
            f"{file} has version {manifest.get('version')!r}, but this wmcore reads {VERSION}: "
            "use the wmcore that wrote it"
        )
    return manifest
