"""Inputs: JSON Lines (plain, gzip, zstd), Parquet and plain-text files, local or at any fsspec URL, streamed.

Each input is a `Source`. Its records have positions (line, row or file numbers from 0), and shard s holds the
positions s * shard_size up to (s + 1) * shard_size: what a shard holds never depends on what was done before. A record
that cannot be used becomes a `Document` with an error; an input that breaks off ends with one.
"""

import hashlib
import json
import posixpath
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wmcore.errors import WatermarkError
from wmcore.scan.documents import BATCH_BYTES, BATCH_DOCUMENTS, Batch, Document
from wmcore.scan.packed import unpacked
from wmcore.scan.settings import ScanSettings
from wmcore.textio import text_of

JSON_LINES = (".jsonl", ".ndjson")
PACKED = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
TEXTS = (".txt", ".text", ".md")
PARQUET = (".parquet", ".pq")
HEAD = 1 << 16
Item = tuple[int, Any]  # position, and what `_document` makes a document of


@dataclass
class _Reached:
    """How far a reader is: the share of the input that it read, and the position that comes next, yielded or not."""

    share: float = 0.0
    position: int = 0


@dataclass
class Source:
    """One input: a JSON Lines or Parquet file, or all text files of a folder (in the order of their names)."""

    kind: str
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
            digest.update(f"{path}\x00{info.get('size')}\x00{time}\n".encode())
        with self.filesystem.open(self.paths[0], "rb") as stream:
            digest.update(stream.read(HEAD))
        return {
            "name": self.name,
            "kind": self.kind,
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
        reached = _Reached()
        read = {"jsonl": self._lines, "parquet": self._rows, "text": self._files}[self.kind]
        items = _until_broken(read(settings, lambda i: i // size in done, reached), reached)
        batch: Batch | None = None
        held = 0
        for position, item in items:
            if position // size in done:
                continue  # where the input breaks off: the shard that is there says so
            document = _document(self.name, position, item, settings)
            if batch is not None and batch.shard != position // size:
                batch.shard_ends = True
                yield batch
                batch = None
            if batch is None:
                batch, held = Batch(number, position // size), 0
            elif len(batch.documents) >= BATCH_DOCUMENTS or held >= BATCH_BYTES:
                batch.done = reached.share
                yield batch
                batch, held = Batch(number, batch.shard), 0
            if document is not None:
                batch.documents.append(document)
                held += document.size
        if batch is None:
            batch = Batch(number, max(done, default=-1) + 1)
        batch.shard_ends = True
        batch.source_ends = batch.shard > max(done, default=-1)
        batch.done = 1.0
        yield batch

    def _lines(
        self, settings: ScanSettings, skip: Callable[[int], bool], reached: _Reached
    ) -> Iterator[Item]:
        (path,) = self.paths
        total = max(int(self.filesystem.info(path).get("size") or 0), 1)
        limit = settings.max_bytes
        with self.filesystem.open(path, "rb") as raw:
            stream = unpacked(raw, PACKED.get(posixpath.splitext(path.lower())[1]))
            position = 0
            while line := stream.readline(limit + 1):
                tail = line
                while tail and not tail.endswith(b"\n"):
                    tail = stream.readline(1 << 20)
                if not skip(position):
                    yield position, line
                position += 1
                reached.position = position
                if position % 256 == 0:
                    reached.share = min(raw.tell() / total, 1.0)

    def _rows(
        self, settings: ScanSettings, skip: Callable[[int], bool], reached: _Reached
    ) -> Iterator[Item]:
        import pyarrow.parquet as pq

        (path,) = self.paths
        wanted = settings.tokens_field or settings.text_field
        with self.filesystem.open(path, "rb") as raw:
            table = pq.ParquetFile(raw)
            columns = [wanted, *([settings.id_field] if settings.id_field else [])]
            for column in columns:
                if column not in table.schema_arrow.names:
                    names = ", ".join(table.schema_arrow.names[:8])
                    raise WatermarkError(
                        f"{self.name} has no column {column!r} (columns: {names}): name the right one"
                    )
            total = max(table.metadata.num_rows, 1)
            position = 0
            for group in range(table.metadata.num_row_groups):
                rows = table.metadata.row_group(group).num_rows
                if all(skip(p) for p in range(position, position + rows, settings.shard_size)) and (
                    rows == 0 or skip(position + rows - 1)
                ):
                    position += rows
                    reached.position = position
                    continue
                for part in table.iter_batches(
                    1024, row_groups=[group], columns=columns, use_threads=False
                ):
                    for record in part.to_pylist():
                        if not skip(position):
                            yield position, record
                        position += 1
                        reached.position = position
                    reached.share = position / total

    def _files(
        self, settings: ScanSettings, skip: Callable[[int], bool], reached: _Reached
    ) -> Iterator[Item]:
        for position, path in enumerate(self.paths):
            reached.position = position
            if not skip(position):
                with self.filesystem.open(path, "rb") as stream:
                    yield position, (path, stream.read(settings.max_bytes + 1))
            reached.share = (position + 1) / len(self.paths)


def open_sources(inputs: Sequence[str]) -> list[Source]:
    """The sources of file, folder or fsspec URLs, sorted within a folder.

    Raises
    ------
    WatermarkError
        For an input that is missing, of an unknown kind, or a folder without a file that can be read.
    """
    import fsspec

    sources: list[Source] = []
    for given in inputs:
        try:
            filesystem, path = fsspec.core.url_to_fs(given)
            if filesystem.isdir(path):
                found = _folder(filesystem, path, given)
                if not found:
                    raise WatermarkError(
                        f"input {given} holds no .jsonl, .parquet or .txt file (nor .jsonl.gz, .jsonl.zst): "
                        "give a folder that does"
                    )
                sources += found
            elif filesystem.exists(path):
                kind = _kind(path)
                if kind is None:
                    raise WatermarkError(
                        f"input {given}: the name ends in none of .jsonl, .ndjson (also with .gz or .zst), "
                        ".parquet and .txt: rename it, or convert it"
                    )
                sources.append(Source(kind, given, [path], filesystem))
            else:
                raise WatermarkError(f"input {given}: no such file or folder: check the path")
        except (ValueError, ImportError) as error:
            if isinstance(error, WatermarkError):
                raise
            raise WatermarkError(
                f"input {given} cannot be opened ({error}): check the URL, and install what it needs"
            ) from error
    return sources


def _kind(path: str) -> str | None:
    stem, end = posixpath.splitext(path.lower())
    if end in PACKED:
        end = posixpath.splitext(stem)[1]
        return "jsonl" if end in JSON_LINES else None
    kinds = {"jsonl": JSON_LINES, "parquet": PARQUET, "text": TEXTS}
    return next((kind for kind, ends in kinds.items() if end in ends), None)


def _folder(filesystem: Any, path: str, given: str) -> list[Source]:
    """The files of a folder: JSON Lines and Parquet one by one, all texts together."""
    files = sorted(f for f in filesystem.find(path) if not posixpath.basename(f).startswith("."))
    sources = []
    for file in files:
        kind = _kind(file)
        if kind in ("jsonl", "parquet"):
            name = posixpath.join(given, posixpath.relpath(file, path))
            sources.append(Source(str(kind), name, [file], filesystem))
    texts = [file for file in files if _kind(file) == "text"]
    if texts:
        sources.append(Source("text", given, texts, filesystem))
    return sources


class _Broken:
    def __init__(self, reason: str) -> None:
        self.reason = reason


def _until_broken(items: Iterable[Item], reached: _Reached) -> Iterator[Item]:
    """The items, and where the data itself is damaged one more that says so. Trouble with the disk or net passes."""
    import pyarrow as pa

    try:
        yield from items
    except (EOFError, zlib.error, pa.ArrowException) as error:
        yield reached.position, _Broken(str(error))
    except OSError as error:
        if error.errno is not None:
            raise
        yield reached.position, _Broken(str(error))


def _document(name: str, position: int, item: Any, settings: ScanSettings) -> Document | None:
    """The document of an item, or None for a blank line."""
    place = f"{name}:{position + 1}"
    if isinstance(item, _Broken):
        reason = " ".join(item.reason.split())[:200]
        return Document(
            position,
            place,
            error=f"{name} breaks off here ({reason}): what follows was not read; mend the file and scan it anew",
        )
    if isinstance(item, tuple):
        path, raw = item
        text, error = _decode(raw, settings.max_bytes)
        return Document(position, path, text, error=error)
    if isinstance(item, bytes):
        text, error = _decode(item, settings.max_bytes)
        if text is None:
            return Document(position, place, error=error)
        if not text.strip():
            return None
        try:
            item = json.loads(text)
        except (ValueError, RecursionError):
            return Document(position, place, error="not JSON: give one JSON object a line")
        if not isinstance(item, dict):
            kind = type(item).__name__
            return Document(position, place, error=f"a JSON {kind}, not an object: give one a line")
    name_given = item.get(settings.id_field) if settings.id_field else None
    if name_given is not None:
        place = str(name_given).encode("utf-8", "replace").decode()
    if settings.tokens_field is not None:
        tokens, error = token_ids(item.get(settings.tokens_field), settings.tokens_field)
        return Document(position, place, tokens=tokens, error=error)
    text, error = text_of(item, settings.text_field)
    if text is not None and len(text) > settings.max_bytes:
        text, error = None, _too_long(settings.max_bytes)
    return Document(position, place, text, error=error)


def token_ids(value: Any, field: str) -> tuple[np.ndarray | None, str | None]:
    """(token ids int64 [m], None), or (None, what is wrong with the value of this field)."""
    if not isinstance(value, list) or not all(type(t) is int for t in value):
        return None, f"field {field!r} is not a list of token ids"
    try:
        return np.array(value, np.int64), None
    except OverflowError:
        return None, f"field {field!r} holds a number beyond 64 bits"


def _decode(raw: bytes, limit: int) -> tuple[str | None, str | None]:
    if len(raw) > limit:
        return None, _too_long(limit)
    try:
        return raw.decode("utf-8-sig"), None
    except UnicodeDecodeError as e:
        return None, f"not UTF-8: byte 0x{raw[e.start]:02x} at offset {e.start:,}: convert it"


def _too_long(limit: int) -> str:
    return f"longer than {limit:,} bytes: split it, or raise --max-bytes"
