"""Keeps other sites in the same browser away from the page's server."""

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

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


MIDDLEWARE = (
    # A site whose name is rebound to this machine sends its own name.
    Middleware(TrustedHostMiddleware, allowed_hosts=_HOSTS),
    Middleware(BaseHTTPMiddleware, dispatch=_guard),
)
