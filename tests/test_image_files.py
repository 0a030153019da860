"""Failures of one image, and failures of a network or a store."""

import errno
import functools
import http.server
import importlib
import pathlib
import socket
import threading
import types

import fsspec
import pytest

from tf_instdisc.data import image_files
from tf_instdisc.errors import StorageError

pytest.importorskip("apache_beam", reason="no '.[beam]' is installed")
pytest.importorskip("s3fs", reason="no '.[s3]' is installed")
aiohttp = importlib.import_module("aiohttp")
botocore = importlib.import_module("botocore.exceptions")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(image_files, "_PAUSE", 0.001)


def read(name):
    """What is read of one file."""
    (found,) = image_files.read_files("", [name])
    return found


@pytest.fixture
def server():
    """A server that gives its statuses one after the other, the last again.

    The status 0 is a connection that breaks off within an image.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked += 1
            self.server.path = self.path
            status = self.server.statuses[0]
            self.server.statuses = self.server.statuses[1:] or [status]
            self.send_response(status or 200)
            self.send_header("Content-Length", "7" if status else "9")
            self.end_headers()
            self.wfile.write(b"picture")

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked = 0
        server.url = f"http://127.0.0.1:{server.server_port}/a.png"
        threading.Thread(
            target=server.serve_forever, args=(0.01,), daemon=True
        ).start()
        yield server
        server.shutdown()


def test_urls_are_sent_as_browsers_send_them(server):
    server.statuses = [200]
    base = server.url.removesuffix("a.png")
    for name, sent in (
        ("my cat.png", "/my%20cat.png"),
        ("é.png?q=ü&n=1", "/%C3%A9.png?q=%C3%BC&n=1"),
        ("a%20b+c.png", "/a%20b+c.png"),
    ):
        assert read(base + name) == (b"picture", "")
        assert server.path == sent
    # The name of a host has another encoding.
    found = image_files._ascii_url("https://bücher.example:80/é")
    assert found == "https://xn--bcher-kva.example:80/%C3%A9"


@pytest.mark.parametrize("status", [403, 404, 410])
def test_the_status_of_one_image_is_final(status, server):
    server.statuses = [status, 200]
    content, reason = read(server.url)
    assert not content
    assert str(status) in reason
    assert server.asked == 1


@pytest.mark.parametrize("status", [0, 401, 408, 429, 500, 502, 503, 504])
def test_a_server_that_fails_is_asked_again(status, server):
    server.statuses = [status, status, 200]
    assert read(server.url) == (b"picture", "")
    assert server.asked == 3
    server.statuses = [status]
    with pytest.raises(StorageError, match="run the same command again"):
        read(server.url)
    assert server.asked == 3 + 5


def test_a_server_that_does_not_answer_ends_the_pipeline(monkeypatch):
    monkeypatch.setattr(image_files, "_DEADLINE", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.png"
        with pytest.raises(StorageError, match="refused"):
            read(url)
        silent.listen()
        with pytest.raises(StorageError, match="timed out"):
            read(url)


@pytest.mark.parametrize("code", [socket.EAI_NONAME, socket.EAI_AGAIN])
def test_a_host_is_unknown_or_the_name_server_unavailable(code, monkeypatch):
    def resolve(*arguments, **options):
        raise socket.gaierror(code, "no address")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    if code == socket.EAI_NONAME:
        assert "no address" in read("http://nosuch.invalid/a.png")[1]
    else:
        with pytest.raises(StorageError, match="no address"):
            read("http://example.com/a.png")


@pytest.mark.parametrize(
    "name",
    [
        "missing.png",
        ".",
        f"{__file__}/a.png",
        "x" * 300,
        "a\0.png",
        "loop",
        "nosuch://bucket/a.png",
        "http://",
        "http://a b/c.png",
        "http://127.0.0.1:port/a.png",
        "http://é\n/a.png",
    ],
)
def test_names_that_no_file_can_have_are_bad(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("loop").symlink_to("loop")
    content, reason = read(name)
    assert not content
    assert reason


def of_boto(code, status):
    """The error that s3fs makes of an answer of S3."""
    answer = {
        "Error": {"Code": code},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    error = PermissionError(code)
    error.__cause__ = botocore.ClientError(answer, "GetObject")
    return error


class OfGoogle(Exception):
    """Like `gcsfs.retry.HttpError`."""

    def __init__(self, code):
        super().__init__(f"answer {code}")
        self.code = code


of_aiohttp = functools.partial(
    aiohttp.ClientResponseError, types.SimpleNamespace(real_url="a.png"), ()
)

PASSING = [
    botocore.EndpointConnectionError(endpoint_url="http://s3"),
    botocore.NoCredentialsError(),
    of_boto("ExpiredToken", 400),
    of_aiohttp(status=503),
    aiohttp.ServerDisconnectedError(),
    OfGoogle(429),
    TimeoutError(),
    ConnectionResetError(),
    OSError(errno.EBUSY, "Slow down"),
    OSError(errno.ESTALE, "Stale file handle"),
]
FINAL = [
    of_boto("AccessDenied", 403),
    of_aiohttp(status=404),
    OfGoogle(404),
    FileNotFoundError("bucket/a.png"),
    PermissionError("bucket/a.png"),
    ValueError("no bucket"),
]


ERRORS: list[Exception] = []


class Failing(fsspec.AbstractFileSystem):
    protocol = "failing"

    def open(self, *arguments, **options):
        if ERRORS:
            raise ERRORS.pop()
        return fsspec.filesystem("memory").open("picture", "rb")


fsspec.register_implementation("failing", Failing)


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_a_store_that_fails_is_asked_again(error):
    fsspec.filesystem("memory").pipe("/picture", b"picture")
    ERRORS[:] = [error] * 2
    assert read("failing://bucket/a.png") == (b"picture", "")
    ERRORS[:] = [error] * 6
    with pytest.raises(StorageError, match=r"bucket/a\.png"):
        read("failing://bucket/a.png")
    assert len(ERRORS) == 1


@pytest.mark.parametrize("error", FINAL, ids=repr)
def test_an_error_of_a_store_about_one_image_is_final(error):
    ERRORS[:] = [error] * 2
    content, reason = read("failing://bucket/a.png")
    assert not content
    assert type(error).__name__ in reason
    assert len(ERRORS) == 1


def test_a_missing_package_is_not_a_bad_image():
    ERRORS[:] = [ImportError("no s3fs")] * 2
    with pytest.raises(ImportError, match="no s3fs"):
        read("failing://bucket/a.png")
    assert len(ERRORS) == 1
