"""``wmcore serve``: the detector as a service on HTTP."""

import math
import os
import shutil
import socket
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from wmcore.cli.console import MOST, WATERMARK, TestScheme, TokenizerName, example, named, note, say
from wmcore.errors import WatermarkError

if TYPE_CHECKING:
    from wmcore.service.settings import Settings

_REMEDY = "run pip install 'wmcore-lm[serve]'"
PACKAGES = {
    "fastapi": "0.115",
    "uvicorn": "0.37",
    "prometheus-client": "0.21",
    "python-multipart": "0.0.20",
}
"""What is needed, and from which version on."""
_READY_SECONDS = 120
"""In which a worker that replaces another must be ready: uvicorn takes 5 s, in which it is not, and keeps the old."""

EXAMPLES = example(
    "wmcore serve -w watermark.json",
    "wmcore serve -w keys/ --port 8080 --workers 2",
    "wmcore serve --config service.toml --host 0.0.0.0",
    "wmcore serve --new-token",
)


def serve(
    watermarks: Annotated[
        list[str] | None,
        typer.Option(
            "--watermark",
            "-w",
            metavar="FILE|FOLDER",
            help="A watermark file, or a folder of them (*.json). Can be given again. p is corrected for their number. "
            f"Default: that of --config, or ${WATERMARK}.",
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            callback=named,
            help="Settings in TOML: watermarks, level, limits, tiers (docs/service.md). Options overrule it.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Default: this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes.")] = 1,
    level: Annotated[
        float | None,
        typer.Option(help="The p up to which a text is found. Default: 0.001."),
    ] = None,
    tokenizer: TokenizerName = None,
    scheme: TestScheme = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=MOST, help="Of each worker. Default: its share of the cores."),
    ] = None,
    body_bytes: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Largest body. Default: 1,000,000.")
    ] = None,
    texts: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Most texts in a request. Default: 64.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Longest text. Default: 20,000.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Longest time for an answer. Default: 30.")
    ] = None,
    waiting: Annotated[
        int | None,
        typer.Option(
            min=0, max=MOST, help="Requests of a worker that wait; more get 429. Default: 16."
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(help="Who gets /metrics: local (this machine), all, off. Default: local."),
    ] = None,
    open_to_all: Annotated[
        bool,
        typer.Option(
            "--open-to-all",
            help="Give full answers to anybody who reaches another --host, though they help to forge and remove.",
        ),
    ] = False,
    new_token: Annotated[
        bool,
        typer.Option("--new-token", help="Print a new token of access and its hash, and stop."),
    ] = False,
) -> None:
    """Answer over HTTP whether texts carry the watermark: an API, its description and metrics."""
    from wmcore.checks import require

    if new_token:
        _new_token()
        return
    for package, least in PACKAGES.items():
        require(package, _REMEDY, least)
    from wmcore.kernels.cpu.threads import available
    from wmcore.service.settings import for_host, settings_of

    named_elsewhere = os.environ.get(WATERMARK) if config is None else None
    settings = settings_of(
        config,
        {
            "watermarks": watermarks or ([named_elsewhere] if named_elsewhere else None),
            "level": level,
            "tokenizer": tokenizer,
            "scheme": scheme,
            "threads": threads,
            "metrics": metrics,
        },
        {
            "body_bytes": body_bytes,
            "texts": texts,
            "tokens": tokens,
            "seconds": seconds,
            "waiting": waiting,
        },
    )
    if settings.threads is None and workers > 1:
        settings = replace(settings, threads=max(1, available() // workers))
    settings = for_host(settings, host, open_to_all)
    with _bound(host, port) as listener:
        _run(settings, listener, workers)


def _new_token() -> None:
    from wmcore.service.access import new_token

    token, kept = new_token()
    say(f"token: {token}\nhash:  {kept}")
    note("give the token to one client; the hash goes into tokens of a tier in --config")


def _bound(host: str, port: int) -> socket.socket:
    """A socket with this address, on which nobody listens yet."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, number)
    except (OSError, UnicodeError) as error:
        raise WatermarkError(
            f"--host {host}: not an address of this machine ({error}); give one, such as 127.0.0.1"
        ) from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise WatermarkError(
            f"--host {host} --port {port}: cannot be listened on ({error.strerror}): give another"
        ) from None
    bound.set_inheritable(True)
    return bound


def _run(settings: "Settings", listener: socket.socket, workers: int) -> None:
    """Serve until a signal says to stop; what is under way is answered."""
    import uvicorn

    from wmcore.service.app import SETTINGS, create_app, log_to_stderr, open_panel
    from wmcore.service.metrics import FOLDER

    panel = open_panel(settings)
    panel.warm()  # what is compiled here, workers find on disk
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    count = len(settings.watermarks)
    note(
        f"http://{shown}:{port}: {count:,} watermark{'' if count == 1 else 's'}, found: p <= {settings.level:g}; "
        "Ctrl-C stops"
    )
    options = {
        "workers": workers,
        "http": "h11",
        "ws": "none",
        "lifespan": "on",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "limit_concurrency": settings.limits.connections,
        "timeout_worker_healthcheck": _READY_SECONDS,
        "timeout_graceful_shutdown": math.ceil(settings.limits.seconds) + 1,
    }
    if workers == 1:
        log_to_stderr()
        uvicorn.Server(uvicorn.Config(create_app(settings, panel), **options)).run([listener])
        return
    del panel
    folder = tempfile.mkdtemp(prefix="wmcore-metrics-")
    os.environ[FOLDER] = folder
    os.environ[SETTINGS] = settings.to_json()
    listener.close()  # each uvicorn hands sockets to its workers in another way: it makes its own
    try:
        target = "wmcore.service.app:from_environment"
        uvicorn.run(target, factory=True, host=host, port=port, **options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
