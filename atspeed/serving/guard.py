"""What happens to every request before and after its route: id, token, body limits, log line, metrics."""

import asyncio
import logging
import re
import secrets
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atspeed.serving.logs import FIELDS
from atspeed.serving.problems import ProblemError, ProblemResponse
from atspeed.serving.security import is_authorised
from atspeed.serving.service import Service

log = logging.getLogger(__name__)

REQUEST_ID = "X-Request-ID"
SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
CLOSED = 499  # as nginx logs it: the client has gone
UNKNOWN_ROUTE = "unknown"


class Guard:
    """ASGI middleware; see the module.

    The body is read here, before the app sees the request: so its size and duration are limited whatever the route
    does, and what comes after it can only be the end of the connection.

    Args:
        app: the app.
        service: its limits and tokens, and where requests are counted.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it with a problem."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if SANE_ID.fullmatch(given) else secrets.token_hex(8)
        scope["state"] = {**scope.get("state", {}), FIELDS: {"request_id": request_id}}
        status = CLOSED

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        try:
            self._check_token(scope)
            body = await self._read_body(scope, receive)
            _check_media_type(scope)
            await self.app(scope, _replayed(body, receive), send_with_id)
        except ProblemError as problem:
            await ProblemResponse(problem, request_id)(scope, receive, send_with_id)
        except ConnectionResetError:
            pass
        except asyncio.CancelledError:
            if status == CLOSED:
                ended = ProblemError(503, "the service ended before this was answered; try again", retry_after=1)
                await ProblemResponse(ended, request_id)(scope, receive, send_with_id)
        except Exception:
            log.exception("a request failed", extra={FIELDS: {"request_id": request_id}})
            if status == CLOSED:
                failed = ProblemError(500, "the service failed; its log says why, by the request ID")
                await ProblemResponse(failed, request_id)(scope, receive, send_with_id)
        self._note(scope, status, time.perf_counter() - start)

    def _check_token(self, scope: Scope) -> None:
        settings, path = self.service.settings, _path(scope)
        header = Headers(scope=scope).get("authorization")
        if path.startswith("/v1/catalog") and scope["method"] == "POST":
            if not settings.changes_catalog:
                raise ProblemError(404, "one of several replicas: a new catalog is a new bundle and a redeploy")
            if settings.catalog_token is None:
                raise ProblemError(403, "changes of the catalog are off: the service was started without their token")
            if not is_authorised(header, settings.catalog_token):
                raise ProblemError(401, "changes of the catalog need their own token: Authorization: Bearer …")
        elif path.startswith("/v1/") and settings.token is not None and not is_authorised(header, settings.token):
            raise ProblemError(401, "this service needs a token: Authorization: Bearer …")

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes:
        settings = self.service.settings
        changes = _path(scope).startswith("/v1/catalog")
        limit = settings.max_catalog_body_bytes if changes else settings.max_body_bytes
        too_large = ProblemError(413, f"the body has more than {limit} bytes")
        length = Headers(scope=scope).get("content-length", "")
        if length.isdigit() and int(length) > limit:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(settings.body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ConnectionResetError
                    body += message.get("body", b"")
                    if len(body) > limit:
                        raise too_large
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise ProblemError(408, f"the body did not arrive within {settings.body_timeout_s:g} s") from None

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", UNKNOWN_ROUTE)
        self.service.metrics.requests.labels(route, status).inc()
        self.service.metrics.request_seconds.labels(route).observe(seconds)
        if route in ("/health", "/ready", "/metrics") and status == 200:
            return  # probes would fill the log
        fields = {
            **scope["state"][FIELDS],
            "method": scope["method"],
            "route": route,
            "status": status,
            "ms": round(1000 * seconds, 2),
        }
        log.info("%s %s", scope["method"], route, extra={FIELDS: fields})


def _path(scope: Scope) -> str:
    """Return the path below the prefix that the app is mounted at, if any, exactly as the router has it."""
    path, prefix = scope["path"], scope.get("root_path", "")
    return path[len(prefix) :] if path.startswith(f"{prefix}/") else path


def _check_media_type(scope: Scope) -> None:
    media_type = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
    if scope["method"] == "POST" and not re.fullmatch(r"application/(.+\+)?json", media_type):
        raise ProblemError(415, f"the Content-Type is {media_type!r}; send application/json")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives a body that has been read, then what follows it."""
    messages: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
