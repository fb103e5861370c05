"""The inputs of a scan: files, folders and fsspec URLs, each a `Source` of documents, streamed.

A source's records have positions (line, element, row or file numbers from 0), and shard s holds the positions
s * shard_size up to (s + 1) * shard_size: what a shard holds never depends on what was done before.
"""

import hashlib
import os
import posixpath
import stat
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from wmcore.errors import WatermarkError, reason
from wmcore.records import (
    Cursor,
    Document,
    Format,
    Reading,
    document,
    format_of,
    read_items,
    text_document,
)
from wmcore.scan.batch import BATCH_BYTES, BATCH_DOCUMENTS, Batch
from wmcore.scan.settings import ScanSettings

HEAD = 1 << 16
NAMED = 10
"""So many of the files that a folder holds and that cannot be read are named in a warning."""


@dataclass(frozen=True)
class Source:
    """One input: a file with records, or all text files of a folder (in the order of their names)."""

    format: Format
    name: str
    paths: list[str]
    filesystem: Any

    def identity(self) -> dict[str, Any]:
        """What tells whether the input is still the same: name, size, time of change, hash of its first 64 KiB."""
        digest = hashlib.sha256()
        size, changed = 0, ""
        for path in self.paths:
            info = self.filesystem.info(path)
            time = str(next((info[k] for k in ("mtime", "LastModified", "ETag") if k in info), ""))
            size += int(info.get("size") or 0)
            changed = max(changed, time)
            line = f"{path}\x00{info.get('size')}\x00{time}\n"
            digest.update(line.encode("utf-8", "surrogatepass"))
        with self.filesystem.open(self.paths[0], "rb") as stream:
            digest.update(stream.read(HEAD))
        return {
            "name": self.name,
            "kind": self.format.kind,
            "files": len(self.paths),
            "size": size,
            "changed": changed,
            "head": digest.hexdigest()[:32],
        }

    def batches(
        self, number: int, settings: ScanSettings, done: Collection[int]
    ) -> Iterator[Batch]:
        """The records as batches, in order, without those of the shards in `done` (numbers).

        There is at least one batch, never of a shard in `done`. The last one has `source_ends` set, unless a later
        shard is done.
        """
        size = settings.shard_size
        cursor = Cursor(done, size)
        batch: Batch | None = None
        held = 0
        for position, made in self._documents(settings.reading, cursor):
            if position // size in done:
                continue  # where the input breaks off: the shard that is there says so
            if batch is not None and batch.shard != position // size:
                batch.shard_ends = True
                yield batch
                batch = None
            if batch is None:
                batch, held = Batch(number, position // size), 0
            elif len(batch.documents) >= BATCH_DOCUMENTS or held >= BATCH_BYTES:
                batch.done = cursor.share
                yield batch
                batch, held = Batch(number, batch.shard), 0
            if made is not None:
                batch.documents.append(made)
                held += made.size
        if batch is None:
            batch = Batch(number, max(done, default=-1) + 1)
        batch.shard_ends = True
        batch.source_ends = batch.shard > max(done, default=-1)
        batch.done = 1.0
        yield batch

    def _documents(self, reading: Reading, cursor: Cursor) -> Iterator[tuple[int, Document | None]]:
        """(position, document or None for a blank line), without those that the cursor skips."""
        try:
            if self.format.kind == "text":
                yield from self._texts(reading, cursor)
                return
            (path,) = self.paths
            cursor.total = int(self.filesystem.info(path).get("size") or 0)
            with self.filesystem.open(path, "rb") as raw:
                for position, item in read_items(self.name, raw, self.format, reading, cursor):
                    yield position, document(self.name, position, item, reading)
        except (OSError, WatermarkError):
            raise
        except Exception as error:
            if _is_local(self.filesystem):
                raise
            raise WatermarkError(  # each kind of server has errors of its own
                f"input {self.name} cannot be read ({reason(error)}): once the server answers, "
                "run the same scan; it goes on where it stopped"
            ) from error

    def _texts(self, reading: Reading, cursor: Cursor) -> Iterator[tuple[int, Document | None]]:
        for position, path in enumerate(self.paths):
            cursor.position = position
            if not cursor.skips(position, position):
                with self.filesystem.open(path, "rb") as stream:
                    raw = stream.read(reading.max_bytes + 1)
                yield position, text_document(path, position, raw, self.format, reading)
            cursor.share = (position + 1) / len(self.paths)


def open_sources(inputs: Sequence[str], output: str | os.PathLike | None = None) -> list[Source]:
    """The sources of file, folder or fsspec URLs, sorted within a folder, without what is in the output.

    Warns of files in a folder that cannot be read.

    Raises
    ------
    WatermarkError
        For an input that is missing, of an unknown kind, or a folder without a file that can be read.
    """
    import fsspec

    sources: list[Source] = []
    for given in inputs:
        if not given:
            raise WatermarkError("an input is an empty name: give a file, a folder or a URL")
        try:
            if os.path.lexists(given):  # whatever URL its name looks like
                filesystem, path = fsspec.filesystem("file"), os.path.abspath(given)
            else:
                filesystem, path = fsspec.core.url_to_fs(given)
            if filesystem.isdir(path):
                sources += _folder(filesystem, path, given, output)
            elif filesystem.exists(path):
                sources.append(_file(filesystem, path, given))
            else:
                raise WatermarkError(f"input {given}: no such file or folder: check the path")
        except (OSError, WatermarkError):
            raise
        except Exception as error:  # each kind of URL has errors of its own
            raise WatermarkError(
                f"input {given} cannot be opened ({reason(error)}): check the URL, and install what it needs"
            ) from error
    return sources


def _file(filesystem: Any, path: str, given: str) -> Source:
    form = format_of(path)
    if form is None:
        raise WatermarkError(
            f"input {given}: the name ends in none of .jsonl, .ndjson, .json (also with .gz or .zst), "
            ".parquet and .txt: rename it, or convert it"
        )
    if _is_local(filesystem) and (trouble := _trouble(path)):
        raise WatermarkError(f"input {given}: {trouble}: give a file that can be read twice")
    return Source(form, given, [path], filesystem)


def _folder(
    filesystem: Any, path: str, given: str, output: str | os.PathLike | None
) -> list[Source]:
    """The files of a folder: those with records one by one, all texts together."""
    if _is_local(filesystem):
        if output is not None and os.path.realpath(path) == os.path.realpath(output):
            raise WatermarkError(f"input {given} is the output, too: choose another folder for one")
        files = _local_files(path, given, output)
    else:
        files = [f for f in filesystem.find(path) if not _is_hidden(posixpath.relpath(f, path))]
    formats = {file: form for file in sorted(files) if (form := format_of(file)) is not None}
    sources = [
        Source(form, posixpath.join(given, posixpath.relpath(file, path)), [file], filesystem)
        for file, form in formats.items()
        if form.kind != "text"
    ]
    texts = [file for file, form in formats.items() if form.kind == "text"]
    if texts:
        sources.append(Source(Format("text"), given, texts, filesystem))
    if not sources:
        raise WatermarkError(
            f"input {given} holds no .jsonl, .json, .parquet or .txt file that can be read (nor .jsonl.gz, .json.zst): "
            "give a folder that does"
        )
    return sources


def _local_files(folder: str, given: str, output: str | os.PathLike | None) -> list[str]:
    """The files below a folder, without hidden ones; warns of what looks like an input and cannot be read."""
    results = None if output is None else os.path.realpath(output)
    files: list[str] = []
    passed: list[str] = []

    def note(error: OSError) -> None:
        passed.append(f"{error.filename} ({error.strerror})")

    for root, folders, names in os.walk(folder, onerror=note):
        visible = sorted(name for name in folders if not _is_hidden(name))
        links = [name for name in visible if os.path.islink(os.path.join(root, name))]
        passed += [f"{os.path.join(root, name)} (a link to a folder)" for name in links]
        folders[:] = [
            name
            for name in visible
            if name not in links and os.path.realpath(os.path.join(root, name)) != results
        ]
        for name in names:
            path = os.path.join(root, name)
            if _is_hidden(name) or format_of(name) is None:
                continue
            trouble = _trouble(path)
            if trouble is None:
                files.append(path)
            else:
                passed.append(f"{path} ({trouble})")
    if passed:
        more = f" and {len(passed) - NAMED:,} more" if len(passed) > NAMED else ""
        warnings.warn(
            f"input {given}: passed over {', '.join(sorted(passed)[:NAMED])}{more}", stacklevel=2
        )
    return files


def _trouble(path: str) -> str | None:
    """Why a local file cannot be read, or None."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return "a link that leads nowhere" if os.path.islink(path) else str(error.strerror)
    if not stat.S_ISREG(mode):
        return "no regular file"
    return None if os.access(path, os.R_OK) else "it cannot be read"


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _is_local(filesystem: Any) -> bool:
    return "file" in filesystem.protocol
