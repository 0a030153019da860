"""An HTTP exchange with a time limit and a size limit."""

import contextlib
import dataclasses
import functools
import http.client
import queue
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from typing import Any

_PIECE = 2**16  # bytes


@dataclasses.dataclass(frozen=True)
class Reply:
    """The status and the complete body of a reply."""

    status: int
    body: bytes


class ExchangeError(Exception):
    """There was no usable reply.

    Attributes:
        code: Name of the closest gRPC status.
    """

    def __init__(self, code: str, details: str):
        super().__init__(details)
        self.code = code


def exchange(
    request: urllib.request.Request,
    end: float,
    max_bytes: int,
    context: ssl.SSLContext | None = None,
) -> Reply:
    """Sends a request and reads the whole reply.

    It runs in a separate thread, because the timeout of a socket applies to
    each single read and not at all to name resolution. At the end, the socket
    is shut down, which ends the thread; a thread that still waits for a name
    ends by itself. Redirects are not followed, because they would turn POST
    into GET.

    Args:
        request: A request with an HTTP or HTTPS URL.
        end: The deadline, in seconds of `time.monotonic`.
        max_bytes: Maximum size of the body.
        context: The TLS context for HTTPS.

    Raises:
        ExchangeError: If the deadline is exceeded, the connection fails or is
            interrupted, the body is too long, or the reply is not HTTP.
    """
    remaining = end - time.monotonic()
    if remaining <= 0:
        raise ExchangeError("DEADLINE_EXCEEDED", "the time is over")
    sockets = _Sockets()
    outcome: queue.SimpleQueue[Reply | Exception] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put(_ask(request, remaining, max_bytes, context, sockets))
        # The caller's thread raises it.
        except Exception as error:
            outcome.put(error)

    threading.Thread(target=run, daemon=True, name="exchange").start()
    try:
        result = outcome.get(timeout=max(end - time.monotonic(), 0))
    except queue.Empty:
        raise ExchangeError(
            "DEADLINE_EXCEEDED", "the reply did not end in time"
        ) from None
    finally:
        sockets.shut_down()
    if isinstance(result, Exception):
        raise _to_exchange_error(result) from result
    return result


def _ask(
    request: urllib.request.Request,
    timeout: float,
    max_bytes: int,
    context: ssl.SSLContext | None,
    sockets: "_Sockets",
) -> Reply:
    opener = urllib.request.build_opener(
        _KeepStatus, _Http(sockets), _Https(sockets, context)
    )
    with opener.open(request, timeout=timeout) as response:
        return Reply(response.status, _read(response, max_bytes))


def _read(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    if (response.length or 0) > max_bytes:
        raise ExchangeError(
            "RESOURCE_EXHAUSTED", f"a reply of {response.length:,} bytes"
        )
    body = bytearray()
    while piece := response.read(_PIECE):
        body += piece
        if len(body) > max_bytes:
            raise ExchangeError(
                "RESOURCE_EXHAUSTED",
                f"a reply of more than {max_bytes:,} bytes",
            )
    if response.length:
        raise ExchangeError("UNAVAILABLE", "the reply breaks off")
    return bytes(body)


def _to_exchange_error(error: Exception) -> ExchangeError:
    """Converts the error of a failed exchange."""
    if isinstance(error, ExchangeError):
        return error
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    details = repr(reason)
    if isinstance(reason, TimeoutError):
        return ExchangeError("DEADLINE_EXCEEDED", details)
    if isinstance(reason, ssl.SSLCertVerificationError):
        # A retry would not help.
        return ExchangeError("UNAUTHENTICATED", details)
    if isinstance(reason, OSError | http.client.IncompleteRead):
        return ExchangeError("UNAVAILABLE", details)
    # The standard library raises these for replies that are not HTTP.
    return ExchangeError("INTERNAL", details)


class _KeepStatus(urllib.request.HTTPErrorProcessor):
    """Returns responses of any status; follows no redirects."""

    def http_response(
        self,
        request: urllib.request.Request,
        response: http.client.HTTPResponse,
    ) -> http.client.HTTPResponse:
        return response

    https_response = http_response


class _Sockets:
    """The sockets of one exchange, which another thread may shut down."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: list[socket.socket] = []
        self._is_over = False

    def add(self, opened: socket.socket) -> None:
        with self._lock:
            self._opened.append(opened)
            is_over = self._is_over
        if is_over:
            raise TimeoutError("connected too late")

    def shut_down(self) -> None:
        with self._lock:
            self._is_over = True
            for opened in self._opened:
                # SSLSocket.shutdown would drop TLS state that the thread uses.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(opened, socket.SHUT_RDWR)


class _TrackedConnection(http.client.HTTPConnection):
    """A connection whose socket can be shut down by another thread."""

    def __init__(self, *arguments: Any, sockets: _Sockets, **options: Any):
        super().__init__(*arguments, **options)
        self._sockets = sockets

    def connect(self) -> None:
        super().connect()
        self._sockets.add(self.sock)


class _TrackedTlsConnection(_TrackedConnection, http.client.HTTPSConnection):
    pass


class _Http(urllib.request.HTTPHandler):
    def __init__(self, sockets: _Sockets):
        super().__init__()
        self._sockets = sockets

    def http_open(
        self, request: urllib.request.Request
    ) -> http.client.HTTPResponse:
        connect = functools.partial(_TrackedConnection, sockets=self._sockets)
        return self.do_open(connect, request)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, sockets: _Sockets, context: ssl.SSLContext | None):
        super().__init__(context=context)
        self._sockets = sockets
        self._tls = context

    def https_open(
        self, request: urllib.request.Request
    ) -> http.client.HTTPResponse:
        connect = functools.partial(
            _TrackedTlsConnection, sockets=self._sockets, context=self._tls
        )
        return self.do_open(connect, request)
