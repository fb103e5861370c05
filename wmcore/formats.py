"""What a file is, by the end of its name."""

import posixpath
from typing import NamedTuple

from wmcore.errors import WatermarkError

PACKED = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd", ".zstd": "zstd"}
_KINDS = {
    "jsonl": (".jsonl", ".ndjson"),
    "json": (".json",),
    "parquet": (".parquet", ".pq"),
    "csv": (".csv",),
    "tsv": (".tsv", ".tab"),
    "warc": (".warc", ".wet"),
    "text": (".txt", ".text", ".md"),
    "html": (".html", ".htm", ".xhtml"),
}
WHOLE = ("text", "html")
"""Kinds of which a file is one document, not records."""

READ = ".txt, .md, .html, .jsonl, .json, .csv, .tsv, .warc (each also with .gz, .bz2, .xz or .zst) or .parquet"
"""The names that are read, for messages."""

_OTHERS = (
    "7z aac arrow avi avro bin bmp br bz2 doc docx eml epub exe feather flac gguf gif gz heic ico ipynb jpeg jpg"
    " key lz4 lzma m4a mbox mkv mobi mov mp3 mp4 mpeg mpg npy npz numbers odp ods odt ogg opus orc pages pdf"
    " pickle pkl png ppt pptx ps psd pt rar rtf safetensors sqlite svg tar tgz tif tiff wat wav webm webp wma wmv"
    " xls xlsx xml xz yaml yml zip zst zstd"
)
_NO_TEXT = {f".{end}" for end in _OTHERS.split()}


class Format(NamedTuple):
    """What a file is. kind: a key of the table above, or "guess" (a text unless it looks like JSON or HTML)."""

    kind: str
    packing: str | None = None


def format_of(name: str) -> Format | None:
    """The format that the end of a file's name stands for, in whatever case; None for any other name."""
    stem, end = posixpath.splitext(name.lower())
    packing = PACKED.get(end)
    if packing is not None:
        end = posixpath.splitext(stem)[1]
    kind = next((kind for kind, ends in _KINDS.items() if end in ends), None)
    if kind is None or (packing is not None and kind == "parquet"):
        return None
    return Format(kind, packing)


def unread(name: str) -> str:
    """Why a file of a name without a format is passed over, in a few words."""
    stem, end = posixpath.splitext(posixpath.basename(name).lower())
    if end in PACKED:
        end = posixpath.splitext(stem)[1] + end
    return f"{end} is not read" if end else "its name has no ending"


def given_format(path: str, records: bool) -> Format:
    """The format of a file given by name, or of ``-``, standard input.

    Parameters
    ----------
    path : str
    records : bool
        Whether a field is named, so that a name that says nothing means records, not a text.

    Raises
    ------
    WatermarkError
        For the name of something that is neither text nor records.
    """
    known = format_of(path)
    if known is not None:
        return known
    if posixpath.splitext(path.lower())[1] in _NO_TEXT:
        raise WatermarkError(f"{path}: {unread(path)}: convert it to {READ}")
    return Format("json" if records else "guess")
