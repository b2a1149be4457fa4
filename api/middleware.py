"""Middleware for every request: an id, and limits on paths and bodies."""

import re
import secrets

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import Problem, answer, unexpected

log = structlog.get_logger("api")


class RequestId:
    """Gives each request an id, which is in the response header, in problems and on every log line.

    Uncaught errors are logged under the id and answered as a problem.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request_id = "req_" + secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id

        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except ClientDisconnect:
                log.info("client went away", path=scope["path"])
            except Exception:
                log.exception("request failed", method=scope["method"], path=scope["path"])
                if started:
                    raise  # too late for a response: the server must cut the connection
                await answer(Request(scope), unexpected())(scope, receive, send_with_id)


class PlainPath:
    """Answers 404 to paths with U+0000, which no row can have and databases reject."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on."""
        if scope["type"] == "http" and "\0" in scope["path"]:
            problem = Problem(404, "no_such_route", "There is no such route.")
            return await answer(Request(scope), problem)(scope, receive, send)
        await self._app(scope, receive, send)


class BodyLimit:
    """Rejects a body of more than `limit` bytes with 413 before it has been read entirely.

    Routes whose paths match `streamed` read their bodies in chunks and count for themselves.
    """

    def __init__(self, app: ASGIApp, limit: int, streamed: re.Pattern[str]) -> None:
        self._app = app
        self._limit = limit
        self._streamed = streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, counting its bytes."""
        if scope["type"] != "http" or self._streamed.fullmatch(scope["path"]):
            return await self._app(scope, receive, send)
        problem = Problem(
            413,
            "body_too_large",
            f"The body is larger than {self._limit:,} bytes; upload long documents with POST /v1/documents.",
            field="body",
            headers={"connection": "close"},
            max_bytes=self._limit,
        )
        declared = Request(scope).headers.get("content-length", "")
        if declared.isdecimal() and (len(declared) > 19 or int(declared) > self._limit):
            return await answer(Request(scope), problem)(scope, receive, send)
        received = 0

        async def receive_counting() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise problem
            return message

        await self._app(scope, receive_counting, send)
