"""`Desk`: from a request to answers: who asks, the queue, the tests in steps, and what is noted."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request

from wmcore.service.access import Gate, Visitor
from wmcore.service.logs import note_of
from wmcore.service.panel import Answer, Panel, Text, TooManyTokens
from wmcore.service.refusals import Refused
from wmcore.service.settings import Settings, is_local
from wmcore.service.work import Queue, Turn

STEP_TOKENS = 4096
"""Texts are tested together until they have so many tokens: time limits are looked at in between."""


class Desk:
    """What the routes work with.

    Parameters
    ----------
    settings : Settings
    panel : Panel
        Made for these settings.
    """

    def __init__(self, settings: Settings, panel: Panel) -> None:
        self.settings = settings
        self.panel = panel
        self.ready = False
        self._gate = Gate(settings.tiers)
        self._queue = Queue(settings.limits.waiting, settings.limits.seconds)

    def open(self) -> None:
        """Load the kernels: from now on the service is ready."""
        self.panel.warm()
        self.ready = True

    def close(self) -> None:
        """Begin no more tests."""
        self.ready = False
        self._queue.close()

    def admit(self, request: Request, token: str | None = None) -> Visitor:
        """Who asks, by this token or that of the header Authorization.

        Refused (401) if nobody knows it, and (403) without one if full answers are for this machine alone, but the
        request came through a proxy or was for a host of another name.
        """
        header = request.headers.get("authorization")
        if token is None and header is not None:
            scheme, _, token = header.partition(" ")
            if scheme.lower() != "bearer":
                token = ""  # which nobody has
        visitor = self._gate.admit(
            token and token.strip(), request.client.host if request.client else None
        )
        note_of(request).tier = visitor.tier.name
        tier = visitor.tier
        if self.settings.only_local and tier.open and not tier.coarse and not is_for_here(request):
            raise Refused(
                403,
                "full answers without a token are for users of this machine alone",
                parameter="Host",
                limit="localhost",
                remedy="ask for http://localhost, or let the operator set tiers or start with --open-to-all",
            )
        return visitor

    async def answers(
        self, request: Request, visitor: Visitor, contents: Sequence[Any], *, detail: bool = False
    ) -> list[Answer]:
        """What the visitor may know of each text.

        Parameters
        ----------
        request : Request
        visitor : Visitor
            As `admit` gave it.
        contents : sequence of str or of lists of int
            Within the limits of number and size; `body.contents_of` makes sure.
        detail : bool
            Whether answers carry a `Detail`. Those of a coarse tier never do.

        Raises
        ------
        Refused
            413 for a text of too many tokens, 422 for strings where no watermark has a tokenizer, 429 for a visitor
            who sends too many or a full queue, 503 where it takes too long.
        """
        found = []
        async for answer in self.each(request, visitor, contents, detail=detail):
            found.append(answer)
        return found

    async def each(
        self,
        request: Request,
        visitor: Visitor,
        contents: Sequence[Any],
        *,
        detail: bool = False,
        step_tokens: int = STEP_TOKENS,
    ) -> AsyncGenerator[Answer, None]:
        """The same, one by one as they are done."""
        note = note_of(request)
        note.texts = len(contents)
        if isinstance(contents[0], str) and not self.panel.reads_texts:
            raise Refused(
                422,
                "no watermark here has a tokenizer, so that strings cannot be read",
                parameter="texts",
                remedy='send token ids: {"tokens": [[1, 2, 3]]}',
            )
        self._gate.count(visitor, len(contents))
        begun = asyncio.get_running_loop().time()
        judge: Callable[[Sequence[Text]], list[Answer]] = partial(self.panel.judge, detail=detail)
        if visitor.tier.coarse:
            judge = self.panel.judge_coarsely
        async with self._queue.turn() as turn:
            await _stays(request)
            texts = await self._read(turn, contents)
            held: list[Answer] = []
            for group in _groups(texts, step_tokens):
                found = await turn.run(partial(judge, group))
                note.add(found, [text.length for text in group])
                await _stays(request)
                if visitor.tier.answer_after:
                    held += found
                    continue
                for answer in found:
                    yield answer
        if held:
            wait = begun + visitor.tier.answer_after - asyncio.get_running_loop().time()
            await asyncio.sleep(max(0.0, wait))
        for answer in held:
            yield answer

    async def _read(self, turn: Turn, contents: Sequence[Any]) -> list[Text]:
        """The texts in tokens."""
        try:
            return await turn.run(partial(self.panel.read, contents))
        except TooManyTokens as error:
            name = "texts" if isinstance(contents[0], str) else "tokens"
            raise Refused(
                413,
                str(error),
                parameter=f"{name}[{error.index}]",
                limit=error.limit,
                remedy="send it in parts",
            ) from None


async def _stays(request: Request) -> None:
    """Refused (400) if the client has gone."""
    if await request.is_disconnected():
        raise Refused(400, "the client has gone", remedy="stay for the answer")


def is_for_here(request: Request) -> bool:
    """Whether a request was sent to this machine by a name that is always its own, and no proxy says that it passed it
    on. A page of another site whose name was turned to 127.0.0.1 sends that name."""
    try:
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname
    except ValueError:
        return False
    passed_on = any(name in request.headers for name in ("forwarded", "x-forwarded-for", "via"))
    return is_local(host) and not passed_on


def _groups(texts: Sequence[Text], most: int) -> Iterator[list[Text]]:
    """The texts in lists of so many tokens, or of one longer text."""
    group: list[Text] = []
    tokens = 0
    for text in texts:
        length = text.length or 0
        if group and tokens + length > most:
            yield group
            group, tokens = [], 0
        group.append(text)
        tokens += length
    if group:
        yield group
