"""Servers that answer anything, in this process."""

import concurrent.futures
import contextlib
import socket
import threading
import time

import grpc


@contextlib.contextmanager
def raw_server(answer):
    """Listens, and lets `answer(connection)` speak on each connection.

    Yields:
        The port.
    """
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    opened = []

    def serve(connection):
        with contextlib.suppress(OSError), connection:
            answer(connection)

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

    def answer(connection):
        read_request(connection)
        connection.sendall(reply)

    return answer


def dripping(start, piece, seconds=10, pause=0.1):
    """Sends `start`, then a piece repeatedly for a long time."""

    def answer(connection):
        connection.sendall(start)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            connection.sendall(piece)
            time.sleep(pause)

    return answer


def http_reply(body, status=b"200 OK"):
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (
        status,
        len(body),
        body,
    )


@contextlib.contextmanager
def grpc_server(answers):
    """Answers each call by the bytes that `answers` has for its method.

    Args:
        answers: By the method's last name: bytes, or a function of them.

    Yields:
        The port.
    """

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            answer = answers.get(details.method.rpartition("/")[2])
            if answer is None:
                return None
            return grpc.unary_unary_rpc_method_handler(
                lambda request, context: (
                    answer(context) if callable(answer) else answer
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
