"""Servers that send anything, in this process."""

import concurrent.futures
import contextlib
import socket
import threading
import time

import grpc


@contextlib.contextmanager
def raw_server(response):
    """Listens, and lets `response(connection)` speak on each connection.

    Yields:
        The port.
    """
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    opened = []

    def serve(connection):
        with contextlib.suppress(OSError), connection:
            response(connection)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                opened.append(connection)
                threading.Thread(
                    target=serve, args=(connection,), daemon=True
                ).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        # Or the thread would stay in accept.
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in opened:
            connection.close()


def read_request(connection):
    """Reads headers and body."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    while len(body) < length and (piece := connection.recv(65536)):
        body += piece


def replying(reply):
    """Answers every request with the same bytes, then closes."""

    def response(connection):
        read_request(connection)
        connection.sendall(reply)

    return response


def dripping(start, piece, seconds=10, pause=0.1):
    """Sends `start`, then a piece repeatedly for a long time."""

    def response(connection):
        connection.sendall(start)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            connection.sendall(piece)
            time.sleep(pause)

    return response


def http_reply(body, status=b"200 OK"):
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (
        status,
        len(body),
        body,
    )


@contextlib.contextmanager
def grpc_server(responses):
    """Answers each call by the bytes that `responses` has for its method.

    Args:
        responses: By the method's last name: bytes, or a function of them.

    Yields:
        The port.
    """

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            response = responses.get(details.method.rpartition("/")[2])
            if response is None:
                return None
            return grpc.unary_unary_rpc_method_handler(
                lambda request, context: (
                    response(context) if callable(response) else response
                )
            )

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers([Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None)
