"""Places for remote runs: S3 on the loopback address, memory and a folder."""

import contextlib
import logging
import os

import fsspec
import pytest

from tests.servers import free_port
from tf_instdisc import remote


@contextlib.contextmanager
def s3_server():
    """Serves S3 and points AWS' usual variables to it; yields a bucket."""
    pytest.importorskip("s3fs", reason="pip install 's3fs'")
    pytest.importorskip("flask_cors", reason="pip install 'flask-cors'")
    server = pytest.importorskip("moto.server", reason="pip install 'moto'")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    values = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        with contextlib.suppress(FileExistsError):  # By another module.
            fsspec.filesystem("s3", skip_instance_cache=True).mkdir("bucket")
        try:
            yield "s3://bucket"
        finally:
            server.stop()
            fsspec.filesystem("s3").clear_instance_cache()


@contextlib.contextmanager
def gs_server():
    """Serves Google Cloud Storage, without conditions; yields a bucket."""
    pytest.importorskip("gcsfs", reason="pip install 'gcsfs'")
    emulator = pytest.importorskip(
        "gcp_storage_emulator.server",
        reason="pip install 'gcp-storage-emulator'",
    )
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    port = free_port()
    with (
        emulator.create_server("127.0.0.1", port, True, "bucket"),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        yield "gs://bucket"


@contextlib.contextmanager
def machine(folder):
    """Makes this process work as on another machine, with its own caches."""
    copies = dict(remote._copies)
    remote._copies.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", os.fspath(folder))
        try:
            yield
        finally:
            remote._copies.clear()
            remote._copies.update(copies)


def names(url):
    """Names of all objects below a URL."""
    fs, root = fsspec.core.url_to_fs(url)
    fs.invalidate_cache()
    try:
        found = fs.find(root)
    except FileNotFoundError:
        found = []
    root = root.rstrip("/") + "/"
    return [path.removeprefix(root) for path in found]


def objects(url):
    """Content of all objects below a URL, by name."""
    fs, root = fsspec.core.url_to_fs(url)
    return {name: fs.cat_file(f"{root}/{name}") for name in names(url)}
