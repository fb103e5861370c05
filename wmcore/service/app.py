"""`create_app`: the service as an ASGI application."""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from wmcore._version import __version__
from wmcore.service import page_routes, routes, schema
from wmcore.service.body import JSON
from wmcore.service.desk import Desk
from wmcore.service.logs import LOG, Envelope
from wmcore.service.metrics import Metrics
from wmcore.service.panel import Panel
from wmcore.service.refusals import Refused
from wmcore.service.settings import Settings
from wmcore.watermark import Watermark

SETTINGS = "WMCORE_SERVICE"
"""The environment variable in which workers find their settings."""
PATHS = (
    "/",
    "/v1/detect",
    "/v1/detect/stream",
    "/v1/info",
    "/healthz",
    "/metrics",
    "/openapi.json",
)
"""Those that logs and counts name."""
_REFUSALS = (400, 401, 403, 408, 413, 415, 422, 429, 500, 503)


def open_panel(settings: Settings) -> Panel:
    """The detectors of the watermark files; WatermarkError for what cannot be used."""
    panel = Panel(
        {name: Watermark.load(path) for name, path in settings.names.items()},
        level=settings.level,
        scheme=settings.scheme,
        threads=settings.threads,
        tokenizer=settings.tokenizer,
        most_tokens=settings.limits.tokens,
    )
    if any(tier.coarse for tier in settings.tiers):
        panel.check_coarse()
    return panel


def create_app(settings: Settings, panel: Panel | None = None) -> FastAPI:
    """The application.

    Parameters
    ----------
    settings : Settings
    panel : Panel, optional
        That of the settings, if it is open already.

    Raises
    ------
    WatermarkError
        As `open_panel`.
    """
    desk = Desk(settings, panel or open_panel(settings))

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(desk.open)
        yield
        desk.close()

    app = FastAPI(
        title="wmcore",
        summary="Finds a watermark in text.",
        version=__version__,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=life,
    )
    app.state.desk = desk
    app.state.metrics = Metrics()
    app.add_middleware(Envelope, metrics=app.state.metrics, paths=PATHS)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _refused_by_the_router)
    _add_routes(app)
    app.include_router(page_routes.router)
    return app


def from_environment() -> FastAPI:
    """The application of a worker process: its settings are in the environment variable `SETTINGS`."""
    log_to_stderr()
    return create_app(Settings.from_json(os.environ[SETTINGS]))


def log_to_stderr() -> None:
    """Write the lines of `logs` to standard error, and nothing of them to other handlers."""
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    if not LOG.handlers:
        LOG.addHandler(logging.StreamHandler())


def _add_routes(app: FastAPI) -> None:
    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": schema.Problem} for status in _REFUSALS
    }
    body = {
        "requestBody": {
            "required": True,
            "content": {
                JSON: {
                    "schema": {
                        "oneOf": [
                            schema.Texts.model_json_schema(),
                            schema.Tokens.model_json_schema(),
                        ]
                    }
                }
            },
        }
    }
    bearer = [Security(HTTPBearer(auto_error=False))]  # `Desk.admit` looks at it
    app.add_api_route(
        "/v1/detect",
        routes.detect,
        methods=["POST"],
        response_model=schema.Answers,
        responses=problems,
        openapi_extra=body,
        dependencies=bearer,
    )
    lines = {"description": "A line a text.", "content": {routes.LINES: {}}, "model": schema.Line}
    app.add_api_route(
        "/v1/detect/stream",
        routes.detect_stream,
        methods=["POST"],
        response_model=None,
        responses={200: lines, **problems},
        openapi_extra=body,
        dependencies=bearer,
    )
    app.add_api_route("/v1/info", routes.info, response_model=schema.Info)
    starting: dict[int | str, dict[str, Any]] = {503: {"model": schema.Health}}
    app.add_api_route("/healthz", routes.health, response_model=schema.Health, responses=starting)
    app.add_api_route("/metrics", routes.metrics, response_model=None)


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    return JSONResponse(error.body(), error.status, error.headers)


async def _refused_by_the_router(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    refused = Refused(
        error.status_code, error.detail, remedy="GET /openapi.json says what there is"
    )
    return JSONResponse(refused.body(), error.status_code, error.headers)
