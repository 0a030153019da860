"""The files of `export/`: they parse, and the smoke client works."""

import pathlib
import shutil
import subprocess
import sys

import pytest
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from tensorflow_serving.config import model_server_config_pb2

from tests import exported
from tests.servers import KINDS, need, running
from tf_instdisc.serving.options import ExportOptions
from tf_instdisc.serving_client import RestClient

pytestmark = pytest.mark.slow

FOLDER = pathlib.Path(__file__).parent.parent / "export"
README = (FOLDER / "README.md").read_text()

# tensorflow-serving-api has no protos of these three. Fields as in
# tensorflow/serving: session_bundle_config.proto, monitoring_config.proto,
# ssl_config.proto.
_INT64 = ".google.protobuf.Int64Value"
_FIELDS = {
    "BatchingParameters": {
        "max_batch_size": _INT64,
        "batch_timeout_micros": _INT64,
        "max_enqueued_batches": _INT64,
        "num_batch_threads": _INT64,
        "allowed_batch_sizes": "repeated int64",
    },
    "PrometheusConfig": {"enable": "bool", "path": "string"},
    "MonitoringConfig": {"prometheus_config": ".test.PrometheusConfig"},
    "SSLConfig": {
        "server_key": "string",
        "server_cert": "string",
        "custom_ca": "string",
        "client_verify": "bool",
    },
}


def _message(name):
    file = descriptor_pb2.FileDescriptorProto(
        name="test.proto",
        package="test",
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    for message_name, fields in _FIELDS.items():
        message = file.message_type.add(name=message_name)
        for number, (field_name, kind) in enumerate(fields.items(), 1):
            field = message.field.add(name=field_name, number=number)
            label, _, kind = kind.rpartition(" ")
            field.label = (
                field.LABEL_REPEATED if label else field.LABEL_OPTIONAL
            )
            if kind.startswith("."):
                field.type, field.type_name = field.TYPE_MESSAGE, kind
            else:
                field.type = getattr(field, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    descriptor = pool.FindMessageTypeByName(f"test.{name}")
    return message_factory.GetMessageClass(descriptor)()


def _parse(file, message):
    return text_format.Parse((FOLDER / file).read_text(), message)


def test_models_config_parses_and_labels_a_version():
    config = _parse(
        "models.config", model_server_config_pb2.ModelServerConfig()
    )
    (model,) = config.model_config_list.config
    assert model.base_path.endswith(model.name)
    assert model.version_labels["stable"] == 1


def test_batches_are_those_that_are_warmed_up():
    config = _parse("batching.config", _message("BatchingParameters"))
    sizes = tuple(config.allowed_batch_sizes)
    assert sizes == ExportOptions().batch_sizes
    assert config.max_batch_size.value == sizes[-1]


def test_monitoring_parses():
    config = _parse("monitoring.config", _message("MonitoringConfig"))
    assert config.prometheus_config.enable
    assert config.prometheus_config.path in README


def test_the_tls_file_that_the_readme_makes_parses(tmp_path):
    _parse("ssl.config.example", _message("SSLConfig"))
    if not shutil.which("openssl"):
        pytest.skip("no openssl on the PATH to make a certificate")
    _, _, tls = README.partition("## TLS")
    script = tls.partition("```sh\n")[2].partition("```")[0]
    subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    config = text_format.Parse(
        (tmp_path / "ssl.config").read_text(), _message("SSLConfig")
    )
    assert config.server_cert == (tmp_path / "cert.pem").read_text()
    assert config.server_key == (tmp_path / "key.pem").read_text()


def test_compose_gives_the_server_files_that_exist():
    text = (FOLDER / "docker-compose.yml").read_text()
    files = [part.split()[0] for part in text.split("/config/")[1:]]
    assert set(files) >= {"models.config", "batching.config"}
    for file in files:
        assert (FOLDER / file).exists() or (FOLDER / f"{file}.example").exists()


@pytest.fixture(scope="module", params=KINDS)
def server(request, small_model_dir):
    need(request.param)
    with running(request.param, small_model_dir) as server:
        url = f"http://localhost:{server.rest_port}"
        with RestClient(url, "pictures", deadline=120) as client:
            client.status()
        yield f"{url}/v1/models/pictures"


def _smoke(*arguments):
    # -S -I: without site-packages.
    return subprocess.run(
        [sys.executable, "-S", "-I", FOLDER / "smoke_client.py", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.exhaustive
def test_the_smoke_client_finds_neighbors(server, tmp_path):
    image = tmp_path / "image.png"
    image.write_bytes(exported.encode(exported.random_images(1, seed=1)[0]))
    result = _smoke(server, image)
    assert result.returncode == 0, result.stdout
    assert "version 1: AVAILABLE" in result.stdout
    assert "made_up/" in result.stdout


def test_the_smoke_client_fails_clearly(server, tmp_path):
    image = tmp_path / "image.png"
    image.write_bytes(b"bad")
    result = _smoke(server, image)
    assert result.returncode == 1
    assert "not an image" in result.stdout
    result = _smoke(server.replace("pictures", "other"), image)
    assert result.returncode == 1
    assert "404" in result.stdout
    assert _smoke("http://localhost:9/v1/models/x", image).returncode == 1
