"""The body of a request: read within its limits, and texts or token ids taken out of it."""

import asyncio
import json
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from wmcore.service.refusals import Refused
from wmcore.service.settings import Limits

_LARGEST_ID = 2**31 - 1
_THROWN_AWAY = 8_000_000
"""Bytes beyond the limit that are read all the same: a connection that is closed before loses the answer on the way,
and a reverse proxy says 502."""
JSON = "application/json"
_EXAMPLE = 'send {"texts": ["…"]} or {"tokens": [[1, 2, 3]]} as application/json'


async def read_body(request: Request, limits: Limits, media_type: str) -> bytes:
    """The whole body, of this media type. Refused (400, 408, 413, 415) if it is another, too long or too slow."""
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if sent != media_type:
        raise Refused(
            415,
            f"the body is not {media_type}",
            parameter="Content-Type",
            limit=media_type,
            remedy=f"send the header 'Content-Type: {media_type}'",
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(
            415,
            "the body is packed",
            parameter="Content-Encoding",
            limit="identity",
            remedy="send it as it is",
        )
    most = limits.body_bytes
    stated = request.headers.get("content-length", "0")
    # uvicorn has checked that it is a number
    size = int(stated) if stated.isdigit() and len(stated) < 19 else 0
    if len(stated) > 18 or size > most + _THROWN_AWAY:
        raise _too_large(limits)
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.seconds):
            async for part in request.stream():
                size += len(part)
                if size > most + _THROWN_AWAY:
                    raise _too_large(limits)
                if size <= most:
                    parts.append(part)
    except TimeoutError:
        if size > most:
            raise _too_large(limits) from None
        raise Refused(
            408,
            f"the body did not come within {limits.seconds:g} s",
            limit=limits.seconds,
            remedy="send it faster, or less",
            headers={"Connection": "close"},
        ) from None
    except ClientDisconnect:
        raise Refused(400, "the client has gone", remedy="stay for the answer") from None
    if size > most:
        raise _too_large(limits)
    return b"".join(parts)


def contents_of(body: bytes, limits: Limits) -> list[str] | list[list[int]]:
    """The texts or lists of token ids in a JSON body. Refused (400, 413, 422) for anything else."""
    try:
        given = json.loads(
            body.decode("utf-8"), parse_constant=_no_number, object_pairs_hook=_object
        )
    except UnicodeDecodeError:
        raise _bad("the body is not UTF-8") from None
    except RecursionError:
        raise _bad("the JSON is nested too deep") from None
    except ValueError:  # of json, and of numbers with thousands of digits
        raise _bad("the body is not JSON") from None
    if not isinstance(given, dict) or len(given) != 1 or not {"texts", "tokens"}.issuperset(given):
        raise Refused(422, "the body must have texts or tokens, and nothing else", remedy=_EXAMPLE)
    ((name, contents),) = given.items()
    if not isinstance(contents, list) or not contents:
        raise Refused(
            422, f"{name} must be a list of at least one", parameter=name, remedy=_EXAMPLE
        )
    if len(contents) > limits.texts:
        raise Refused(
            413,
            f"{name} has {len(contents):,} items, but at most {limits.texts:,} are taken",
            parameter=name,
            limit=limits.texts,
            remedy="send them in several requests",
        )
    for number, content in enumerate(contents):
        where = f"{name}[{number}]"
        if name == "texts":
            check_text(where, content)
        else:
            _check_ids(where, content, limits.tokens)
    return contents


def check_text(where: str, text: Any) -> None:
    """Raise Refused (422) for what is no string, or one that UTF-8 cannot hold."""
    if not isinstance(text, str):
        raise Refused(422, f"{where} is no string", parameter=where, remedy=_EXAMPLE)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise Refused(
            422,
            f"{where} has half of a surrogate pair, which is no character",
            parameter=where,
            remedy="send whole characters",
        ) from None


def _check_ids(where: str, ids: Any, most: int) -> None:
    if not isinstance(ids, list):
        raise Refused(422, f"{where} is no list of token ids", parameter=where, remedy=_EXAMPLE)
    if len(ids) > most:
        raise Refused(
            413,
            f"{where} has {len(ids):,} tokens, but at most {most:,} are taken",
            parameter=where,
            limit=most,
            remedy="send it in parts",
        )
    if not all(type(one) is int and 0 <= one <= _LARGEST_ID for one in ids):
        raise Refused(
            422,
            f"{where} has an item that is no token id",
            parameter=where,
            limit=_LARGEST_ID,
            remedy="send whole numbers from 0 on",
        )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON: of texts that are given twice, the last would be tested alone."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Refused(422, "a name stands twice in the body", remedy=_EXAMPLE)
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)


def _bad(message: str) -> Refused:
    return Refused(400, message, remedy=_EXAMPLE)


def _too_large(limits: Limits) -> Refused:
    return Refused(
        413,
        f"the body has more than {limits.body_bytes:,} bytes",
        limit=limits.body_bytes,
        remedy="send fewer or shorter texts at a time",
        headers={"Connection": "close"},
    )
