"""The routes of the page: GET shows the form, POST the answer above it."""

from functools import partial

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse

from wmcore.service import page
from wmcore.service.desk import Desk
from wmcore.service.form import read_form, text_of
from wmcore.service.logs import fault, note_of
from wmcore.service.refusals import Refused
from wmcore.service.routes import desk_of
from wmcore.service.words import TECHNIQUE, false_alarm

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

_HEADINGS = {
    401: "No access",
    403: "No access",
    408: "Too slow",
    413: "Too much text",
    422: "Nothing to test",
    429: "Too many requests",
    503: "Too busy",
}
_TOKEN = "give the access token that the operator gave you, below the text"


@router.get("/")
async def show(request: Request) -> HTMLResponse:
    """The form."""
    return _answer(page.blank(site_of(desk_of(request))))


@router.post("/")
async def check(request: Request) -> HTMLResponse:
    """What is said of the text that was posted, or why there is no answer."""
    desk = desk_of(request)
    site = site_of(desk)
    text = ""
    try:
        form = await read_form(request, desk.settings.limits)
        text = form.text
        visitor = desk.admit(request, form.token)
        text = text_of(form)
        (answer,) = await desk.answers(request, visitor, [text], detail=True)
        return _answer(await run_in_threadpool(page.answered, site, text, answer))
    except Refused as error:
        refused = error
    except Exception as error:
        refused = fault(note_of(request), error)
    told = partial(page.refused, site, text, *_problem(refused))
    return _answer(await run_in_threadpool(told), refused.status, refused.headers)


def site_of(desk: Desk) -> page.Site:
    """What the page says of a service."""
    count = len(desk.panel.detectors)
    return page.Site(
        technique=TECHNIQUE,
        false_alarm=f"{false_alarm(desk.panel.level, count)}.",
        threshold=desk.panel.level,
        most_tokens=desk.settings.limits.tokens,
        watermarks=count,
        asks_for_token=any(not tier.open for tier in desk.settings.tiers),
        operator=desk.settings.operator,
        contact=desk.settings.contact,
    )


def _problem(refused: Refused) -> tuple[str, str]:
    """A heading and a sentence."""
    remedy = _TOKEN if refused.status == 401 else refused.remedy
    message = f"{refused.message[:1].upper()}{refused.message[1:]}: {remedy}."
    return _HEADINGS.get(refused.status, "No answer"), message


def _answer(shown: str, status: int = 200, headers: dict[str, str] | None = None) -> HTMLResponse:
    policy = {"Content-Security-Policy": page.content_security_policy()}
    return HTMLResponse(shown, status, {**policy, **(headers or {})})
