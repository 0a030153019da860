"""An HTTP exchange with a time limit and a size limit."""

import contextlib
import dataclasses
import http.client
import queue
import socket
import ssl
import threading
import time
import urllib.parse

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
    method: str,
    url: str,
    body: bytes | None,
    end: float,
    max_bytes: int,
    context: ssl.SSLContext | None = None,
) -> Reply:
    """Sends a request and reads the whole reply.

    It runs in a separate thread, because the timeout of a socket applies to
    each single read and not at all to name resolution. At the end, the socket
    is shut down, which ends the thread; a thread that still waits for a name
    ends by itself. Redirects are not followed.

    Args:
        method: `"GET"` or `"POST"`.
        url: An HTTP or HTTPS URL.
        body: JSON, or None.
        end: The deadline, in seconds of `time.monotonic`.
        max_bytes: Maximum size of the body of the reply.
        context: The TLS context for HTTPS.

    Raises:
        ExchangeError: If the deadline is exceeded, the connection fails or is
            interrupted, the body is too long, or the reply is not HTTP.
    """
    remaining = end - time.monotonic()
    if remaining <= 0:
        raise ExchangeError("DEADLINE_EXCEEDED", "the deadline has passed")
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=remaining)
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(
            parts.netloc, timeout=remaining, context=context
        )
    opened: list[socket.socket] = []
    outcome: queue.SimpleQueue[Reply | Exception] = queue.SimpleQueue()

    def run() -> None:
        try:
            connection.connect()
            # Kept here, as the connection forgets it before the body is read.
            opened.append(connection.sock)
            # One that is opened too late for the caller ends here.
            if time.monotonic() >= end:
                raise TimeoutError("connected too late")
            headers = {
                "Content-Type": "application/json",
                "Connection": "close",
            }
            connection.request(method, parts.path, body, headers)
            with connection.getresponse() as response:
                reply = Reply(response.status, _read(response, max_bytes))
            outcome.put(reply)
        # The caller's thread raises it.
        except Exception as error:
            outcome.put(error)
        finally:
            connection.close()

    threading.Thread(target=run, daemon=True, name="exchange").start()
    try:
        result = outcome.get(timeout=max(end - time.monotonic(), 0))
    except queue.Empty:
        raise ExchangeError(
            "DEADLINE_EXCEEDED", "the reply did not end in time"
        ) from None
    finally:
        for sock in opened:
            # SSLSocket.shutdown would drop TLS state that the thread uses.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
    if isinstance(result, Exception):
        raise _to_exchange_error(result) from result
    return result


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
        raise ExchangeError("UNAVAILABLE", "the reply was cut off")
    return bytes(body)


def _to_exchange_error(error: Exception) -> ExchangeError:
    """Converts the error of a failed exchange."""
    if isinstance(error, ExchangeError):
        return error
    details = repr(error)
    if isinstance(error, TimeoutError):
        return ExchangeError("DEADLINE_EXCEEDED", details)
    if isinstance(error, ssl.SSLCertVerificationError):
        # A retry would not help.
        return ExchangeError("UNAUTHENTICATED", details)
    if isinstance(error, OSError | http.client.IncompleteRead):
        return ExchangeError("UNAVAILABLE", details)
    # The standard library raises these for replies that are not HTTP.
    return ExchangeError("INTERNAL", details)
