"""Server processes for tests: the stand-in, or TF Serving itself."""

import contextlib
import json
import pathlib
import shutil
import socket
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
REAL = "tensorflow_model_server"


KINDS = ("stand-in", REAL)


def need(kind):
    """Skips where TF Serving is asked for and is not there."""
    if kind == REAL and not shutil.which(REAL):
        pytest.skip(f"no {REAL} on the PATH: the stand-in alone was asked")


class Server:
    """A server process that can be killed and started again.

    Args:
        kind: One of `KINDS`.
        model_dir: Of one model; its last part is the model's name.
        tls: Files of a key and a certificate.
        config: A models.config in place of the newest version of the model.
    """

    def __init__(self, kind, model_dir, tls=(), config=None):
        self.kind = kind
        self.model_dir = model_dir
        self.tls = tls
        self.config = config
        self.grpc_port, self.rest_port = free_port(), free_port()
        self.process = None

    def start(self):
        ports = [str(self.grpc_port), str(self.rest_port)]
        command = [
            sys.executable,
            "-m",
            "tests.stand_in_server",
            self.model_dir,
            *ports,
            *(f"--tls={file}" for file in self.tls),
            *([f"--config={self.config}"] if self.config else []),
        ]
        if self.kind == REAL:
            command = [
                REAL,
                f"--port={ports[0]}",
                f"--rest_api_port={ports[1]}",
                *self._real_flags(),
            ]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _real_flags(self):
        if self.tls:
            # JSON's strings are those of protobuf's text format.
            key, certificate = (
                json.dumps(pathlib.Path(file).read_text()) for file in self.tls
            )
            file = pathlib.Path(self.tls[0]).with_name("ssl.config")
            file.write_text(f"server_key: {key}\nserver_cert: {certificate}\n")
            yield f"--ssl_config_file={file}"
        if self.config:
            yield f"--model_config_file={self.config}"
            yield "--allow_version_labels_for_unavailable_models=true"
            yield "--model_config_file_poll_wait_seconds=1"
        else:
            yield f"--model_name={pathlib.Path(self.model_dir).name}"
            yield f"--model_base_path={self.model_dir}"

    def kill(self):
        self.process.kill()
        self.process.wait()


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def running(*arguments, **options):
    server = Server(*arguments, **options)
    server.start()
    try:
        yield server
    finally:
        server.kill()
