"""The form of the page, as a browser posts it: read in memory, so that no text is written to a disk."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from urllib.parse import parse_qsl

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from wmcore.reading import decode
from wmcore.service.body import read_body
from wmcore.service.refusals import Refused
from wmcore.service.settings import Limits

MULTIPART, ENCODED = "multipart/form-data", "application/x-www-form-urlencoded"
_FIELDS = 8
"""Most fields of a form: the page has three."""


@dataclass(frozen=True)
class Form:
    """What was posted.

    text : in the box; file : bytes of the file that was chosen, empty for none; token : of access, or None.
    """

    text: str
    file: bytes
    token: str | None


class _InMemory(MultiPartParser):
    """Keeps files of any size in memory: the body is there already."""

    spool_max_size = 2**31


async def read_form(request: Request, limits: Limits) -> Form:
    """The form in a body. Refused (400, 408, 413, 415, 422) for none, or one that is broken, too long or too slow, or
    not UTF-8, which is what browsers send whatever they name."""
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await read_body(request, limits, ENCODED if sent == ENCODED else MULTIPART)
    try:
        fields = _encoded(body) if sent == ENCODED else await _multipart(request, body)
    except UnicodeError:
        raise Refused(
            422, "the form is not UTF-8", limit="UTF-8", remedy="send its fields in UTF-8"
        ) from None
    except (MultiPartException, ValueError):
        raise _broken() from None
    text, file, token = (fields.get(name, "") for name in ("text", "file", "token"))
    if isinstance(text, bytes) or isinstance(token, bytes):
        raise _broken()
    return Form(text, file if isinstance(file, bytes) else b"", token or None)


def _encoded(body: bytes) -> dict[str, str | bytes]:
    """The fields of a body of the type `ENCODED`; ValueError if they are too many, UnicodeError if not UTF-8."""
    pairs = parse_qsl(
        body.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=_FIELDS
    )
    return dict(pairs)


async def _multipart(request: Request, body: bytes) -> dict[str, str | bytes]:
    """The fields of a body of the type `MULTIPART`, bytes for those with a file's name; errors as of `_encoded`."""
    # The parser would take any encoding of Python that the header names, and Latin-1 where that fails.
    kind = request.headers["content-type"] + "; charset=latin-1"
    parser = _InMemory(
        Headers({"content-type": kind}),
        _once(body),
        max_files=1,
        max_fields=_FIELDS,
        max_part_size=len(body),
    )
    return {
        name: await value.read()
        if isinstance(value, UploadFile)
        else value.encode("latin-1").decode("utf-8")
        for name, value in (await parser.parse()).multi_items()
    }


def text_of(form: Form) -> str:
    """The text to test: the file's, if one was chosen. Refused (422) for none, or a file that is no text.

    Line ends are made \\n: browsers send \\r\\n for every one in the box, and no model writes that.
    """
    text = form.text
    if form.file:
        read, error = decode(form.file, len(form.file))
        if read is None:
            raise Refused(
                422, f"the file is {error}", parameter="file", remedy="choose a file of plain text"
            )
        text = read
    if not text.strip():
        raise Refused(
            422, "there is no text", parameter="text", remedy="paste one, or choose a file"
        )
    return text.replace("\r\n", "\n")


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


def _broken() -> Refused:
    return Refused(400, "the form is broken", remedy="load the page again, and send it once more")
