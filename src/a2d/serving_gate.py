"""Gate of `a2d serve`: it lets through only requests that the page and the JSON interface need."""

from __future__ import annotations

import json
import logging
import math
import re
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NoReturn

from a2d.errors import first_line
from a2d.quoting import shorten

_LOG = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

_PATHS = re.compile(r".*/gradio_api/(queue/join|cancel|reset|(call|call/v2|run|api)/translate)/?")
"""Paths that may be posted to. Gradio has others, such as /upload, which stores files."""

_BY_NAME = re.compile(r".*/call/v2/translate/?")
"""Path whose requests have arguments by name: Gradio ends in a traceback for other names."""


_RESULT = re.compile(r".*/call/(?:v2/)?translate/([^/]+)")
"""Path of a result. Gradio waits without end where a result was fetched before."""

_REMEMBERED = 10_000
"""Number of fetched results that are remembered."""


class Gate:
    """ASGI middleware that refuses other requests with one sentence, as JSON: `{"error": …}`.

    A request that the application cannot answer ends in one sentence, too, without a traceback.

    Args:
        app: the application behind it.
        size: largest body of a request, in bytes.
    """

    def __init__(self, app: Application, size: int) -> None:
        self._app, self._size = app, size
        self._fetched: deque[str] = deque(maxlen=_REMEMBERED)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        try:
            await self._answer(scope, receive, answer)
        except Exception as error:  # of Gradio, for addresses and content that it does not check
            address = f"{scope['method']} {shorten(scope['path'], 100)}"
            _LOG.warning("%s failed (%s)", address, shorten(first_line(error), 200))
            _LOG.debug("traceback:", exc_info=error)
            await answer.fail()

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            result = _RESULT.fullmatch(scope["path"])
            if result is not None and result[1] in self._fetched:
                await _refuse(send, 404, "this result was fetched before: translate again.")
                return
            if result is not None and scope["method"] == "GET":
                self._fetched.append(result[1])
            await self._app(scope, receive, send)
            return
        if not _PATHS.fullmatch(scope["path"]):
            await _refuse(send, 404, "nothing can be sent to this address.")
            return
        body = await self._body(receive)
        if body is None:
            problem = f"the request has more than {self._size:,} bytes: send less text."
            await _refuse(send, 413, problem)
            return
        named = _BY_NAME.fullmatch(scope["path"]) is not None
        problem = _problem(body, named)
        if problem:
            await _refuse(send, 400, problem)
            return
        await self._app(scope, _replay(body, receive), send)

    async def _body(self, receive: Receive) -> bytes | None:
        """Read the body; None if it is too large, whose rest is not read."""
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._size:
                return None
        return body


class _Answer:
    """Sender of a response that can be ended at any time.

    Args:
        send: sends a message of the response.
    """

    def __init__(self, send: Send) -> None:
        self._send, self._started, self._ended = send, False, False

    async def __call__(self, message: Message) -> None:
        """Send a message of the response."""
        self._started = True
        self._ended = message["type"] == "http.response.body" and not message.get("more_body")
        await self._send(message)

    async def fail(self) -> None:
        """Refuse the request, or end the response that was begun."""
        if not self._started:
            await _refuse(self, 400, "the request cannot be answered: check its address and keys.")
        elif not self._ended:
            await self({"type": "http.response.body", "body": b""})


def _problem(body: bytes, named: bool) -> str:
    """Describe what is wrong with a body; nothing if it is right."""
    try:
        content = json.loads(
            body, parse_constant=_refuse_number, parse_float=_number, parse_int=_integer
        )
        json.dumps(content, ensure_ascii=False).encode()  # fails for half a surrogate pair
    except (ValueError, RecursionError):
        return "the request is not JSON with valid Unicode."
    if not isinstance(content, dict):
        return "the request is not a JSON object."
    if named and content.keys() != {"text"}:
        return 'the request has other keys than "text": send {"text": "Save the file."}.'
    return ""


def _number(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _refuse_number(digits)


def _integer(digits: str) -> int:
    number = int(digits)
    return number if abs(number) < 2**63 else _refuse_number(digits)


def _refuse_number(digits: str) -> NoReturn:
    raise ValueError(f"{shorten(digits, 40)} is too large, or not JSON")


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a function that receives a body that was read, and then what follows."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again


async def _refuse(send: Send, status: int, problem: str) -> None:
    body = json.dumps({"error": problem}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
