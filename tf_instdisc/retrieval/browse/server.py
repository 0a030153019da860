"""Serves the page to this machine until it is interrupted."""

import signal
import socket

import uvicorn
from starlette.applications import Starlette

from tf_instdisc.errors import UsageError

ADDRESS = "127.0.0.1"
_SECONDS_TO_END = 2


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
