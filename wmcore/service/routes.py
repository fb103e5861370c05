"""The routes of the API."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from wmcore._version import __version__
from wmcore.service.access import Visitor
from wmcore.service.body import JSON, contents_of, read_body
from wmcore.service.desk import Desk, is_for_here
from wmcore.service.logs import fault, note_of
from wmcore.service.panel import Answer
from wmcore.service.refusals import Refused
from wmcore.service.settings import is_local
from wmcore.service.words import PAPER, TECHNIQUE, meaning

LINES = "application/x-ndjson"
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def desk_of(request: Request) -> Desk:
    """The desk of the application that serves a request."""
    return request.app.state.desk


async def detect(request: Request) -> JSONResponse:
    """Test texts for the watermark."""
    desk = desk_of(request)
    visitor, contents = await _asked(desk, request)
    found = await desk.answers(request, visitor, contents)
    return JSONResponse({"results": [result(visitor, one) for one in found], **_frame(desk)})


async def detect_stream(request: Request) -> Response:
    """The same, one line of JSON for each text as it is done; an error on the way is the last line."""
    desk = desk_of(request)
    visitor, contents = await _asked(desk, request)
    found = desk.each(request, visitor, contents, step_tokens=1)
    first = await anext(found)  # what is refused before that is an answer of its own
    seconds = 2 * desk.settings.limits.seconds + visitor.tier.answer_after
    return Lines(_lines(request, visitor, first, found), seconds)


async def info(request: Request) -> JSONResponse:
    """What this detector looks for, how sure it is, and what it takes."""
    desk = desk_of(request)
    detectors = list(desk.panel.detectors.values())
    limits = desk.settings.limits
    frame = _frame(desk)
    del frame["key"]
    return JSONResponse(
        {
            **frame,
            "paper": PAPER,
            "schemes": sorted({one.statistic.scheme.name for one in detectors}),
            "keys": [one.watermark.fingerprint for one in detectors],
            "tokenizer": desk.panel.reads_texts,
            "limits": {
                "body_bytes": limits.body_bytes,
                "texts": limits.texts,
                "tokens": limits.tokens,
                "seconds": limits.seconds,
            },
            "links": {"detect": "/v1/detect", "openapi": "/openapi.json"},
        }
    )


async def health(request: Request) -> JSONResponse:
    """200 once the kernels are loaded."""
    ready = desk_of(request).ready
    return JSONResponse({"status": "ready" if ready else "starting"}, 200 if ready else 503)


async def metrics(request: Request) -> Response:
    """Counts for Prometheus."""
    setting = desk_of(request).settings.metrics
    local = is_for_here(request) and request.client is not None and is_local(request.client.host)
    if setting == "off" or (setting == "local" and not local):
        raise Refused(
            403,
            "the counts are not for this address",
            remedy="ask for http://localhost on the machine of the service, or let its operator set metrics",
        )
    return Response(request.app.state.metrics.page(), media_type=METRICS_TYPE)


def result(visitor: Visitor, answer: Answer) -> dict[str, Any]:
    """An answer as the visitor gets it."""
    told: dict[str, Any] = {"verdict": answer.verdict, "error": answer.error}
    if not visitor.tier.coarse:
        span = answer.span
        told |= {
            "p_value": answer.p_value,
            "statistic": answer.statistic,
            "length": answer.length,
            "span": None
            if span is None
            else {
                "start": span.start,
                "stop": span.stop,
                "char_start": span.char_start,
                "char_stop": span.char_stop,
            },
            "watermark": answer.watermark,
            "key": answer.fingerprint,
            "windows": answer.windows,
        }
    return told


async def _asked(desk: Desk, request: Request) -> tuple[Visitor, list[Any]]:
    """Who asks, and the texts."""
    visitor = desk.admit(request)
    body = await read_body(request, desk.settings.limits, JSON)
    return visitor, contents_of(body, desk.settings.limits)


def _frame(desk: Desk) -> dict[str, Any]:
    """What is said beside the results."""
    detectors = list(desk.panel.detectors.values())
    return {
        "technique": TECHNIQUE,
        "key": detectors[0].watermark.fingerprint if len(detectors) == 1 else None,
        "level": desk.panel.level,
        "meaning": meaning(desk.panel.level, len(detectors)),
        "version": __version__,
    }


async def _lines(
    request: Request, visitor: Visitor, first: Answer, others: AsyncGenerator[Answer, None]
) -> AsyncGenerator[str, None]:
    """The lines of a stream."""
    index = 0
    try:
        yield _line({"index": index, **result(visitor, first)})
        async for answer in others:
            index += 1
            yield _line({"index": index, **result(visitor, answer)})
    except Refused as refused:
        yield _line(refused.body())
    except Exception as error:
        yield _line(fault(note_of(request), error).body())
    finally:
        await others.aclose()  # gives the turn back


def _line(told: dict[str, Any]) -> str:
    return json.dumps(told, ensure_ascii=False) + "\n"


class Lines(StreamingResponse):
    """A stream whose generator, which has the turn, is closed even if the client goes before its end, or has not read
    it after so many seconds."""

    def __init__(self, lines: AsyncGenerator[str, None], seconds: float) -> None:
        super().__init__(lines, media_type=LINES)
        self._lines = lines
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with suppress(TimeoutError):  # the connection is closed, as the answer has no end
                async with asyncio.timeout(self._seconds):
                    await super().__call__(scope, receive, send)
        finally:
            await self._lines.aclose()
