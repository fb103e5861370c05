"""The inputs of a scan: files, folders and fsspec URLs, each a `Source` of documents, streamed.

A source's records have positions (line, element, row or file numbers from 0), and shard s holds the positions
s * shard_size up to (s + 1) * shard_size: what a shard holds never depends on what was done before.
"""

import hashlib
import os
import posixpath
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from wmcore.errors import WatermarkError, reason
from wmcore.formats import READ, WHOLE, Format, format_of, unread
from wmcore.reading import Cursor, Reading
from wmcore.records import Document, document, open_input, read_items, text_document
from wmcore.scan.batch import BATCH_BYTES, BATCH_DOCUMENTS, FIRST_DOCUMENTS, Batch
from wmcore.scan.passed import PassedOver
from wmcore.scan.settings import ScanSettings
from wmcore.scan.stdin import STDIN, StandardInput

HEAD = 1 << 16


@dataclass(frozen=True)
class Source:
    """One input: a file, or all text files of a folder, the root (in the order of their names)."""

    format: Format
    name: str
    paths: list[str]
    filesystem: Any
    root: str | None = None

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
        room = min(FIRST_DOCUMENTS, BATCH_DOCUMENTS)
        for position, made in self._documents(settings.reading, cursor):
            if position // size in done:
                continue  # where the input breaks off: the shard that is there says so
            if batch is not None and batch.shard != position // size:
                batch.shard_ends = True
                batch.done = cursor.share
                yield batch
                batch = None
            if batch is None:
                batch, held = Batch(number, position // size), 0
            elif len(batch.documents) >= room or held >= BATCH_BYTES:
                batch.done = cursor.share
                yield batch
                room = BATCH_DOCUMENTS
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
            if self.format.kind in WHOLE:
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
                form = format_of(path) or self.format
                name = (
                    posixpath.join(self.name, posixpath.relpath(path, self.root))
                    if self.root
                    else self.name
                )
                with self.filesystem.open(path, "rb") as stream:
                    made = text_document(name, position, stream, form, reading)
                yield position, made
            cursor.share = (position + 1) / len(self.paths)


def open_sources(
    inputs: Sequence[str], output: str | os.PathLike[str] | None, passed: PassedOver
) -> list[Source]:
    """The sources of file, folder or fsspec URLs, sorted within a folder, without what is in the output.

    The files of a folder that are not read are added to `passed`; ``-`` is standard input.

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
        if given == STDIN:
            sources.append(_standard_input())
            continue
        try:
            if os.path.lexists(given):  # whatever URL its name looks like
                filesystem, path = fsspec.filesystem("file"), os.path.abspath(given)
            else:
                filesystem, path = fsspec.core.url_to_fs(given)
            if filesystem.isdir(path):
                sources += _folder(filesystem, path, given, output, passed)
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
    if sum(source.name == STDIN for source in sources) > 1:
        raise WatermarkError("- is given twice: standard input can be read once")
    return sources


def _file(filesystem: Any, path: str, given: str) -> Source:
    form = format_of(path)
    if form is None:
        raise WatermarkError(f"input {given}: {unread(path)}: rename it or convert it to {READ}")
    if _is_local(filesystem) and (trouble := _trouble(path)):
        raise WatermarkError(f"input {given}: {trouble}: give a file that can be read twice")
    return Source(form, given, [path], filesystem)


def _standard_input() -> Source:
    """Records on standard input: JSON Lines, or what else a .json file may hold."""
    with open_input(STDIN) as stream:
        return Source(Format("json"), STDIN, [STDIN], StandardInput(stream, HEAD))


def _folder(
    filesystem: Any,
    path: str,
    given: str,
    output: str | os.PathLike[str] | None,
    passed: PassedOver,
) -> list[Source]:
    """The files of a folder: those with records one by one, all texts and pages together."""
    mine = PassedOver()
    if _is_local(filesystem):
        if output is not None and os.path.realpath(path) == os.path.realpath(output):
            raise WatermarkError(f"input {given} is the output, too: choose another folder for one")
        found = _local_files(path, output, mine)
    else:
        found = [posixpath.relpath(file, path) for file in filesystem.find(path)]
    formats: dict[str, Format] = {}
    for file in sorted(found):
        form = format_of(file)
        if _is_hidden(file):
            mine.add(file, "hidden")
        elif form is None:
            mine.add(file, unread(file))
        elif _is_local(filesystem) and (trouble := _trouble(os.path.join(path, file))):
            mine.add(file, trouble)
        else:
            formats[file] = form
    sources = [
        Source(form, posixpath.join(given, file), [posixpath.join(path, file)], filesystem)
        for file, form in formats.items()
        if form.kind not in WHOLE
    ]
    texts = [posixpath.join(path, file) for file, form in formats.items() if form.kind in WHOLE]
    if texts:
        sources.append(Source(Format("text"), given, texts, filesystem, path))
    if not sources:
        held = f"; {mine}" if mine.reasons else ", and nothing else"
        raise WatermarkError(f"input {given} holds no file that can be read, {READ}{held}")
    passed.join(mine, given)
    return sources


def _local_files(
    folder: str, output: str | os.PathLike[str] | None, passed: PassedOver
) -> list[str]:
    """The files below a folder, relative to it, without those in hidden folders, linked ones and the output."""
    results = None if output is None else os.path.realpath(output)
    files: list[str] = []

    def relative(root: str, name: str) -> str:
        return os.path.relpath(os.path.join(root, name), folder)

    def note(error: OSError) -> None:
        passed.add(os.path.relpath(error.filename, folder), str(error.strerror))

    for root, folders, names in os.walk(folder, onerror=note):
        entered = []
        for name in sorted(folders):
            path = os.path.join(root, name)
            if _is_hidden(name):
                passed.add(relative(root, name), "hidden")
            elif os.path.islink(path):
                passed.add(relative(root, name), "a link to a folder")
            elif os.path.realpath(path) != results:
                entered.append(name)
        folders[:] = entered
        files += [relative(root, name) for name in names]
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
