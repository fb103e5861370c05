"""Texts from an OpenAI-compatible server: vLLM, SGLang, llama.cpp and others, by address."""

import contextlib
import http.client
import json
import os
import time
import urllib.request
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from wmcore.audit.writers import Sampling, Written
from wmcore.errors import WatermarkError, reason

LARGEST_ANSWER = 16_000_000
"""Bytes of an answer that are read."""


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, and how.

    Attributes
    ----------
    url : str
        With the version, as in ``http://127.0.0.1:8000/v1``.
    model : str or None
        The name under which the server has it; None asks for none.
    key_env : str or None
        Environment variable with the API key. The key itself is kept nowhere.
    timeout : float
        Seconds for one answer.
    body : dict
        Fields of every request, beside those that this class fills in.
    """

    url: str
    model: str | None = None
    key_env: str | None = None
    timeout: float = 300.0
    body: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise WatermarkError(
                f"url is {self.url!r}, but must be the address of a server with its version, as in "
                "http://127.0.0.1:8000/v1"
            )
        if parts.username or parts.password:
            raise WatermarkError(
                "url has a name or password in it: put the API key into an environment variable"
            )
        if parts.query or parts.fragment:
            raise WatermarkError(
                "url has a '?' or '#', but paths are put behind it: end it with the version, as in "
                "http://127.0.0.1:8000/v1"
            )

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The server's answer to a request; WatermarkError with the reason where there is none."""
        headers = {"Content-Type": "application/json"}
        secret = ""
        if self.key_env is not None:
            secret = os.environ.get(self.key_env, "").strip()
            if not secret:
                raise WatermarkError(f"environment variable {self.key_env} is not set: set it")
            if not (secret.isascii() and secret.isprintable()):
                raise WatermarkError(
                    f"environment variable {self.key_env} has characters that no API key has: set it anew"
                )
            headers["Authorization"] = f"Bearer {secret}"
        address = f"{self.url.rstrip('/')}/{path}"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        until = time.monotonic() + self.timeout
        try:
            with _opener().open(request, timeout=self.timeout) as answer:
                content = _read(answer, until)
            found = json.loads(content) if answer.status == 200 else None
        except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
            # URLError, a timeout; no JSON; no HTTP
            raise WatermarkError(f"{address} gives no answer: {reason(error)}") from None
        if answer.status != 200:
            said = " ".join(content[:2000].decode(errors="replace").split())
            if secret:
                said = said.replace(secret, "(the API key)")
            raise WatermarkError(f"{address} answers {answer.status}: {said[:200]}")
        if not isinstance(found, dict):
            raise WatermarkError(f"{address} answers no JSON object: is it a server of this kind?")
        return found


def _read(answer: http.client.HTTPResponse, until: float) -> bytes:
    """The body, cut at `LARGEST_ANSWER`; TimeoutError where it is not there by then, however slowly it drips."""
    parts, left = [], LARGEST_ANSWER
    while left and (part := answer.read1(min(65_536, left))):
        parts.append(part)
        left -= len(part)
        if time.monotonic() > until:
            raise TimeoutError("timed out")
    return b"".join(parts)


def _opener() -> urllib.request.OpenerDirector:
    """Answers of any status; follows no redirect: it would take the API key to another host."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
    ):
        opener.add_handler(handler)
    return opener


@dataclass(frozen=True)
class EndpointWriter:
    """Answers of a server, each from a request of its own without a seed.

    Attributes
    ----------
    marked : Endpoint
        The set-up that is audited.
    unmarked : Endpoint or None
        The same model with the watermark off: the same server with the field that opts out, or a second one.
    sampling : Sampling
    at_once : int
        Requests at a time.
    """

    marked: Endpoint
    unmarked: Endpoint | None
    sampling: Sampling
    at_once: int = 4

    @property
    def unmarks(self) -> bool:
        """Whether there is an endpoint for it."""
        return self.unmarked is not None

    def describe(self) -> dict[str, Any]:
        """Kind, addresses, settings, fields; no API key."""
        return {
            "kind": "endpoint",
            "url": self.marked.url,
            "name": self.marked.model,
            "fields": self.marked.body,
            "unmarked_url": None if self.unmarked is None else self.unmarked.url,
            "unmarked_fields": None if self.unmarked is None else self.unmarked.body,
            **vars(self.sampling),
        }

    def write(
        self, prompts: Sequence[str], places: Sequence[int], *, marked: bool
    ) -> list[Written]:
        """See `Writer`. A request that fails gives a `Written` with an error. An interrupt waits for no answer."""
        endpoint = self.marked if marked else self.unmarked
        if endpoint is None:
            raise WatermarkError("unmarked is None: there is no endpoint without the watermark")

        def one(place: int) -> Written:
            try:
                path, body = self._request(endpoint, prompts[place])
                return _written(place, endpoint.post(path, body))
            except WatermarkError as error:
                return Written(place, None, error=str(error))

        waiting, done = deque(enumerate(places)), SimpleQueue[tuple[int, Written | Exception]]()

        def work() -> None:
            with contextlib.suppress(IndexError):  # none is left
                while True:
                    i, place = waiting.popleft()
                    try:
                        done.put((i, one(place)))
                    except Exception as error:
                        done.put((i, error))

        for _ in range(min(self.at_once, len(places))):
            Thread(target=work, daemon=True).start()  # an executor's threads are waited for at exit
        made: dict[int, Written] = {}
        for _ in places:
            i, found = done.get()
            if isinstance(found, Exception):
                raise found
            made[i] = found
        return [made[i] for i in range(len(places))]

    def _request(self, endpoint: Endpoint, prompt: str) -> tuple[str, dict[str, Any]]:
        how = self.sampling
        body: dict[str, Any] = {"max_tokens": how.max_new_tokens}
        optional = {
            "model": endpoint.model,
            "temperature": how.temperature,
            "top_p": how.top_p,
            "top_k": how.top_k,
        }
        body |= {name: value for name, value in optional.items() if value is not None}
        if how.chat:
            body["messages"] = [{"role": "user", "content": prompt}]
        else:
            body["prompt"] = prompt
        return ("chat/completions" if how.chat else "completions"), body | endpoint.body


def _written(place: int, answer: dict[str, Any]) -> Written:
    """The text of an answer, with what it says of tokens."""
    try:
        choice = answer["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        usage = answer.get("usage") or {}
        drawn = usage.get("completion_tokens")
    except (KeyError, IndexError, TypeError, AttributeError):
        return Written(place, None, error="the server's answer has no text in choices[0]")
    if not text and _reasoned(choice):
        return Written(
            place,
            None,
            error="the answer is reasoning alone: let it have more tokens (--max-new-tokens)",
        )
    if not isinstance(text, str):
        return Written(place, None, error="the server's answer has a text that is no string")
    return Written(place, text, _tokens(choice), drawn if isinstance(drawn, int) else None)


def _reasoned(choice: dict[str, Any]) -> bool:
    """Whether the server shows reasoning beside the answer, under one of the names in use."""
    message = choice.get("message")
    return isinstance(message, dict) and any(
        message.get(name) for name in ("reasoning_content", "reasoning")
    )


def _tokens(choice: dict[str, Any]) -> list[int] | None:
    """Token ids, where a request asked for them: ``token_ids`` or ``token_id:5`` among the log probabilities (vLLM)."""
    given = choice.get("token_ids")
    if given is None and isinstance(choice.get("logprobs"), dict):
        logprobs = choice["logprobs"]
        names = logprobs.get("tokens")
        try:
            if names is None:
                names = [one["token"] for one in logprobs.get("content") or ()]
            if names and all(name.startswith("token_id:") for name in names):
                given = [int(name.removeprefix("token_id:")) for name in names]
        except (
            TypeError,
            KeyError,
            AttributeError,
            ValueError,
        ):  # other servers' log probabilities
            return None
    if isinstance(given, list) and all(type(token) is int for token in given):
        return given
    return None
