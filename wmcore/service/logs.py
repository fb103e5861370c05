"""One line a request, and what every answer has: an id, headers, and no word of a text, token of access or key.

`Envelope` is around everything else: it also turns an error of ours into a 500 that says only its id.
"""

import json
import logging
import re
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wmcore.service.metrics import Metrics
from wmcore.service.panel import Answer
from wmcore.service.refusals import Refused

LOG = logging.getLogger("wmcore.service")
ID_HEADER = "X-Request-ID"
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every answer that does not set its own."""
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass
class Note:
    """What is written down of a request."""

    id: str
    tier: str | None = None
    texts: int = 0
    lengths: list[int | None] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)
    fault: str | None = None

    def add(self, answers: Sequence[Answer], lengths: Sequence[int | None]) -> None:
        """Count what was answered."""
        self.verdicts.update(answer.verdict for answer in answers)
        self.lengths += lengths


def note_of(request: Request) -> Note:
    """The note of a request inside an `Envelope`."""
    return request.scope["wmcore.note"]


class Envelope:
    """ASGI middleware: see above. paths : those that are named in logs and counts; others could be anything."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Sequence[str]) -> None:
        self.app = app
        self.metrics = metrics
        self.paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()
        given = Request(scope).headers.get(ID_HEADER, "")
        note = Note(given if _ID.fullmatch(given) else uuid.uuid4().hex)
        scope["wmcore.note"] = note
        status = 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[ID_HEADER] = note.id
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, receive, send_on)
        except Exception as error:
            refused = fault(note, error)
            if status == 0:
                answer = JSONResponse(refused.body(), refused.status)
                await answer(scope, receive, send_on)
        finally:
            path = scope["path"] if scope["path"] in self.paths else "other"
            self._write(note, scope["method"], path, status, time.perf_counter() - begun)

    def _write(self, note: Note, method: str, path: str, status: int, seconds: float) -> None:
        method = method if method.isalpha() and len(method) < 9 else "other"
        self.metrics.requests.labels(path, str(status), note.tier or "none").inc()
        self.metrics.seconds.labels(path).observe(seconds)
        for verdict, count in note.verdicts.items():
            self.metrics.texts.labels(verdict).inc(count)
        self.metrics.tokens.inc(sum(length or 0 for length in note.lengths))
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "id": note.id,
            "tier": note.tier,
            "method": method,
            "path": path,
            "status": status,
            "texts": note.texts,
            "tokens": note.lengths,
            "verdicts": dict(note.verdicts),
            "seconds": round(seconds, 4),
        }
        if note.fault is not None:
            line["fault"] = note.fault
        LOG.log(logging.ERROR if note.fault else logging.INFO, json.dumps(line))


def fault(note: Note, error: Exception) -> Refused:
    """500, with nothing but an id: where the error came from is noted for the log."""
    note.fault = place_of(error)
    return Refused(
        500,
        f"this is a fault of the service, request {note.id}",
        remedy="tell the operator this id",
    )


def place_of(error: BaseException) -> str:
    """Where an error came from: its type and lines of code, without its message, which could quote a text."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    lines = " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in reversed(frames))
    return f"{type(error).__name__} at {lines}"
