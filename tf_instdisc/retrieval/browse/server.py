"""Serves the page to this machine alone, until it is interrupted."""

import signal
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tf_instdisc.errors import UsageError

ADDRESS = "127.0.0.1"
_SECONDS_TO_END = 2
_HOSTS = ("127.0.0.1", "localhost")
_HEADERS = {
    # The page loads nothing from elsewhere, and no other page loads from it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; "
    "style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


async def _guard(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    """Refuses requests of other pages, and adds headers to all answers."""
    origin = request.headers.get("origin")
    if origin and urlsplit(origin).netloc != request.headers.get("host"):
        return JSONResponse(
            {"error": "Requests from other origins are not allowed."}, 403
        )
    response = await call_next(request)
    response.headers.update(_HEADERS)
    response.headers.setdefault("Cache-Control", "no-cache")
    return response


PROTECTION = (
    # A site whose name is rebound to this machine sends its own name.
    Middleware(TrustedHostMiddleware, allowed_hosts=_HOSTS),
    Middleware(BaseHTTPMiddleware, dispatch=_guard),
)
"""Keeps other sites in the same browser away from the server."""


def listen(port: int) -> socket.socket:
    """Opens a port of the loopback address; 0 chooses a free one.

    Raises:
        UsageError: If the port is not free.
    """
    try:
        return socket.create_server((ADDRESS, port))
    except OSError as error:
        raise UsageError(
            f"`port` must be free. Received: `port`={port}: {error.strerror}. "
            "Give another one, or 0 for any that is free."
        ) from error


def build_server(app: Starlette) -> uvicorn.Server:
    """Returns a server that needs a socket to run on."""
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        log_level="error",
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )
    return uvicorn.Server(config)


def serve(app: Starlette, listener: socket.socket) -> None:
    """Answers requests until Ctrl-C, which ends it without an error."""
    # uvicorn handles the signal, and raises it again when it has ended.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        build_server(app).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGINT, before)
