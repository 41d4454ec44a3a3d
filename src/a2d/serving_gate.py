"""Gate of `a2d serve`: it lets through only requests that the page and the JSON interface need."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NoReturn

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

_PATHS = re.compile(r".*/gradio_api/(queue/join|cancel|reset|(call|call/v2|run|api)/translate)/?")
"""Paths that may be posted to. Gradio has others, such as /upload, which stores files."""

_BY_NAME = re.compile(r".*/call/v2/translate/?")
"""Path whose requests have arguments by name: Gradio ends in a traceback for other names."""


class Gate:
    """ASGI middleware that refuses other requests with one sentence, as JSON: `{"error": …}`.

    Args:
        app: the application behind it.
        size: largest body of a request, in bytes.
    """

    def __init__(self, app: Application, size: int) -> None:
        self._app, self._size = app, size

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
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


def _problem(body: bytes, named: bool) -> str:
    """Describe what is wrong with a body; nothing if it is right."""
    try:
        content = json.loads(body, parse_constant=_refuse_constant)
        json.dumps(content, ensure_ascii=False).encode()  # fails for half a surrogate pair
    except (ValueError, RecursionError):
        return "the request is not JSON with valid Unicode."
    if not isinstance(content, dict):
        return "the request is not a JSON object."
    if named and content.keys() != {"text"}:
        return 'the request has other keys than "text": send {"text": "Save the file."}.'
    return ""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


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
