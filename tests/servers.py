"""Server processes for tests: the stand-in, or TF Serving itself."""

import contextlib
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
REAL = "tensorflow_model_server"


class Server:
    """A server process that can be killed and started again."""

    def __init__(self, kind, model_dir, tls=()):
        self.kind = kind
        self.model_dir = model_dir
        self.tls = tls
        self.grpc_port, self.rest_port = _free_port(), _free_port()
        self.process = None

    def start(self):
        ports = [str(self.grpc_port), str(self.rest_port)]
        command = [
            sys.executable,
            "-m",
            "tests.stand_in_server",
            self.model_dir,
            *ports,
            *self.tls,
        ]
        if self.kind == REAL:
            command = [
                REAL,
                f"--port={ports[0]}",
                f"--rest_api_port={ports[1]}",
                f"--model_name={pathlib.Path(self.model_dir).name}",
                f"--model_base_path={self.model_dir}",
            ]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self):
        self.process.kill()
        self.process.wait()


def _free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def running(*arguments):
    server = Server(*arguments)
    server.start()
    try:
        yield server
    finally:
        server.kill()
