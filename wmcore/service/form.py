"""The form of the page, as a browser posts it: read in memory, so that no text is written to a disk."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import FormParser, MultiPartException, MultiPartParser
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
    """The form in a body. Refused (400, 408, 413, 415) for none, or one that is broken, too long or too slow."""
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await read_body(request, limits, ENCODED if sent == ENCODED else MULTIPART)
    size = len(body)
    try:
        if sent == ENCODED:
            fields = await FormParser(
                request.headers, _once(body), max_fields=_FIELDS, max_part_size=size
            ).parse()
        else:
            fields = await _InMemory(
                request.headers,
                _once(body),
                max_files=1,
                max_fields=_FIELDS,
                max_part_size=size,
            ).parse()
    except (MultiPartException, FormParserError, KeyError):  # KeyError: no boundary is named
        raise _broken() from None
    text, file, token = (fields.get(name) for name in ("text", "file", "token"))
    if isinstance(text, UploadFile) or isinstance(token, UploadFile):
        raise _broken()
    raw = await file.read() if isinstance(file, UploadFile) else b""
    return Form(text or "", raw, token or None)


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
