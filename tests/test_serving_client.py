"""The clients with a stand-in and, if it is installed, with TF Serving.

`tensorflow_model_server` is taken from the PATH. INSTDISC_LOAD_SECONDS and
INSTDISC_LOAD_CLIENTS size the load test, 6 seconds and 4 clients by default.
"""

import http.server
import os
import pathlib
import shutil
import subprocess
import threading
import time

import numpy as np
import pytest

import tf_instdisc
from tests import exported
from tests.servers import KINDS, Server, need, running
from tf_instdisc.errors import UsageError
from tf_instdisc.serving import saved_model
from tf_instdisc.serving.options import ExportOptions
from tf_instdisc.serving_client import GrpcClient, RestClient, ServingError

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module", params=KINDS)
def server(request, small_model_dir):
    need(request.param)
    with running(request.param, small_model_dir) as server:
        yield server


@pytest.fixture(params=["gRPC", "REST"])
def client(request, server):
    with _client(request.param, server, batch_size=4) as client:
        yield client


def _client(kind, server, model="pictures", **arguments):
    arguments = {"deadline": 120, **arguments}
    if kind == "gRPC":
        target = f"localhost:{server.grpc_port}"
        return GrpcClient(target, model, **arguments)
    url = f"http://localhost:{server.rest_port}"
    return RestClient(url, model, **arguments)


def test_images_come_back_as_keras_embeds_them(client, small_run):
    encoder = tf_instdisc.load_encoder(small_run.path)
    images = exported.random_images(6, seed=3)
    expected = encoder.predict(images.astype(np.float32), verbose=0)
    embedding = client.embed(images)
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(embedding, expected, atol=1e-5)
    found = client.neighbors(images)
    bank = small_run.load_bank()
    nearest = (expected @ bank.rows.T).argmax(axis=1)
    assert found["names"][:, 0].tolist() == bank.names[nearest].tolist()
    assert found["instance_ids"].shape == (6, 10)
    assert found["instance_ids"].dtype == np.int64


def test_bytes_in_several_batches_with_bad_ones_between(client):
    larger = exported.random_images(9, seed=4, size=40)
    contents = [exported.encode(image) for image in larger]
    contents[5] = b"bad"
    response = client.embed_bytes(contents)
    assert response["valid"].tolist() == [i != 5 for i in range(9)]
    assert response["embedding"].shape == (9, 32)
    shares = client.classify_bytes(contents)
    assert shares["classes"][0].tolist() == list(exported.CLASS_NAMES)
    np.testing.assert_allclose(
        shares["scores"].sum(axis=1), shares["valid"], atol=1e-5
    )
    assert client.neighbors_bytes(contents)["names"][5].tolist() == [""] * 10


def test_the_status_names_the_version(client):
    assert client.status() == {1: "AVAILABLE"}


@pytest.mark.parametrize("kind", ["gRPC", "REST"])
@pytest.mark.parametrize(
    ("arguments", "signature", "code"),
    [
        ({"model": "other"}, "image_bytes", "NOT_FOUND"),
        ({"version": 7}, "image_bytes", "NOT_FOUND"),
        ({"label": "canary"}, "image_bytes", None),
        ({}, "serving_default", None),
    ],
)
def test_refusals_are_clear(server, kind, arguments, signature, code):
    with (
        _client(kind, server, **arguments) as client,
        pytest.raises(ServingError, match="model ") as error,
    ):
        client.predict(signature, [b"x"])
    # What the server sends to the others depends on the server.
    assert error.value.code in ({code} if code else CLIENT_ERRORS)
    assert error.value.exit_status == 2


CLIENT_ERRORS = {"NOT_FOUND", "INVALID_ARGUMENT", "FAILED_PRECONDITION"}


@pytest.mark.parametrize("kind", ["gRPC", "REST"])
def test_an_absent_server_is_an_error_in_time(small_model_dir, kind):
    server = Server("stand-in", small_model_dir)
    start = time.monotonic()
    with (
        _client(kind, server, deadline=1.5) as client,
        pytest.raises(ServingError) as error,
    ):
        client.embed_bytes([b"x"])
    assert error.value.code in ("DEADLINE_EXCEEDED", "UNAVAILABLE")
    assert error.value.exit_status == 69
    assert "localhost" in str(error.value)
    assert time.monotonic() - start < 4


def test_long_answers_need_a_larger_limit(server):
    contents = [b"bad" * 1000] * 4
    with _client("gRPC", server, max_message_bytes=1000) as client:
        with pytest.raises(ServingError, match="batch_size") as error:
            client.embed_bytes(contents)
        assert error.value.code == "RESOURCE_EXHAUSTED"
    # 5.6 MB each way is more than gRPC allows by itself.
    with _client("gRPC", server, batch_size=2048) as client:
        response = client.predict("image_bytes", [b"x" * 700] * 2048 * 4)
    assert response["embedding"].shape == (8192, 32)


@pytest.mark.parametrize(
    "arguments",
    [{"deadline": 0}, {"batch_size": 0}, {"version": 1, "label": "stable"}],
)
def test_arguments_are_checked_at_once(arguments):
    with pytest.raises(ValueError, match="Received"):
        GrpcClient("localhost:1", "m", **arguments)


def test_no_inputs_are_an_error_of_the_caller(client):
    with pytest.raises(ValueError, match="empty"):
        client.embed_bytes([])


@pytest.mark.parametrize("content", [b"<html>", b"{}", b"[1]"])
def test_an_answer_of_another_server_is_a_clear_error(content):
    asked = []

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *unused):
            pass

    server = http.server.ThreadingHTTPServer(("localhost", 0), Other)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://localhost:{server.server_port}"
    try:
        with RestClient(url, "my model", label="a/b") as client:
            with pytest.raises(ServingError, match="no predictions, but"):
                client.embed_bytes([b"x"])
            with pytest.raises(ServingError, match="no model_version_status"):
                client.status()
    finally:
        server.shutdown()
        server.server_close()
    path = "/v1/models/my%20model/labels/a%2Fb"
    assert asked == [f"{path}:predict", path]


def test_a_client_s_own_key_without_tls_is_refused():
    with pytest.raises(ValueError, match="enables TLS"):
        GrpcClient("localhost:1", "m", private_key="key.pem")


def _make_certificate(folder):
    """Writes a key and its certificate for localhost; returns their paths."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl on the PATH to make a certificate")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
        " -addext subjectAltName=DNS:localhost"
        f" -keyout {key} -out {certificate}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    return str(key), str(certificate)


def test_wrong_certificates_are_refused_at_once(tmp_path):
    """Otherwise, gRPC ends the process, or tries until the deadline."""
    key, certificate = _make_certificate(tmp_path)
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    trusting = {"root_certificates": certificate}
    for arguments, part in (
        ({"root_certificates": str(text)}, "PEM file of certificates"),
        ({**trusting, "private_key": key}, "given together"),
        ({**trusting, "certificate_chain": certificate}, "given together"),
        (
            {
                **trusting,
                "private_key": str(text),
                "certificate_chain": certificate,
            },
            "PEM files of a key",
        ),
    ):
        with pytest.raises(UsageError, match=part) as caught:
            GrpcClient("localhost:1", "m", **arguments)
        assert "Received: " in str(caught.value)
    pair = {"private_key": key, "certificate_chain": certificate}
    GrpcClient("localhost:1", "m", **trusting, **pair).close()


@pytest.mark.parametrize(
    "target",
    (
        "",
        None,
        "http://localhost:8500",
        "https://localhost:8500",
        "local host:8500",
        "localhost:8500\n",
        "localhost:65536",
        "localhost:0",
        "[::1]:99999",
    ),
)
def test_wrong_targets_are_refused_at_once(target):
    with pytest.raises(UsageError, match=r"host:port.*Received: target="):
        GrpcClient(target, "m")


@pytest.mark.parametrize(
    "target",
    ("localhost:65535", "dns:///localhost:1", "[::1]:8500", "unix:99999"),
)
def test_the_forms_of_a_target_are_accepted(target):
    GrpcClient(target, "m", max_message_bytes=2**31).close()


@pytest.mark.exhaustive
@pytest.mark.parametrize("server_kind", KINDS)
def test_labels_lead_to_their_versions(server_kind, small_run, tmp_path):
    """The walkthrough of export/README.md: canary, stable, rollback."""
    need(server_kind)
    models = tmp_path / "models" / "digits"
    for num_neighbors in (3, 5):
        options = ExportOptions(batch_sizes=(1,), num_neighbors=num_neighbors)
        saved_model.export_run(small_run, str(models), options)
    text = (ROOT / "export" / "models.config").read_text()
    text = text.replace("# version_labels", "version_labels")
    text = text.replace("/models/digits", str(models))
    config = tmp_path / "models.config"
    config.write_text(text)
    images = exported.random_images(2, seed=3)
    with running(server_kind, str(models), config=config) as server:
        for kind in ("gRPC", "REST"):
            for label, wanted in (("stable", 3), ("canary", 5), (None, 5)):
                with _client(kind, server, "digits", label=label) as client:
                    found = client.neighbors(images)["names"]
                    assert found.shape == (2, wanted)
            with _client(kind, server, "digits", version=1) as client:
                assert client.neighbors(images)["names"].shape == (2, 3)
            with _client(kind, server, "digits") as client:
                assert set(client.status()) == {1, 2}


@pytest.mark.exhaustive
@pytest.mark.parametrize("server_kind", KINDS)
def test_tls(server_kind, small_model_dir, tmp_path):
    need(server_kind)
    key, certificate = _make_certificate(tmp_path)
    with running(server_kind, small_model_dir, (key, certificate)) as server:
        trusting = {"root_certificates": str(certificate)}
        with _client("gRPC", server, **trusting) as client:
            assert client.status() == {1: "AVAILABLE"}
        with (
            _client("gRPC", server, deadline=2) as client,
            pytest.raises(ServingError),
        ):
            client.status()


@pytest.mark.exhaustive
@pytest.mark.parametrize("server_kind", KINDS)
def test_load_with_a_restart_loses_nothing(server_kind, small_model_dir):
    need(server_kind)
    seconds = float(os.environ.get("INSTDISC_LOAD_SECONDS", "6"))
    num_clients = int(os.environ.get("INSTDISC_LOAD_CLIENTS", "4"))
    images = exported.random_images(40, seed=8, size=40)
    # Larger than the buffer from which gRPC retries by default.
    tail = b"\0" * 300_000
    contents = [exported.encode(image) + tail for image in images]
    wrong, failed, counts = [], [], [0] * num_clients

    def ask(number, kind, expected, end):
        with _client(kind, server, batch_size=4) as client:
            while time.monotonic() < end:
                at = (counts[number] * 7 + number) % 36
                try:
                    response = client.embed_bytes(contents[at : at + 4])
                except ServingError as error:
                    failed.append(error)
                else:
                    difference = response["embedding"] - expected[at : at + 4]
                    if not np.abs(difference).max() < 1e-5:
                        wrong.append(number)
                counts[number] += 1

    with running(server_kind, small_model_dir) as server:
        with _client("gRPC", server) as client:
            expected = client.embed_bytes(contents)["embedding"]
        end = time.monotonic() + seconds
        threads = [
            threading.Thread(
                target=ask,
                args=(i, "REST" if i % 4 == 3 else "gRPC", expected, end),
            )
            for i in range(num_clients)
        ]
        for thread in threads:
            thread.start()
        time.sleep(seconds / 2)
        before = list(counts)
        server.kill()
        time.sleep(1)
        server.start()
        for thread in threads:
            thread.join()
    print(f"{num_clients} clients, {sum(counts)} requests in {seconds} s")
    assert not failed
    assert not wrong
    # Each client was served before the server was killed, and afterwards.
    assert all(0 < b < c for b, c in zip(before, counts, strict=True))
