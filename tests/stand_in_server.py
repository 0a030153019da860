"""A stand-in for TF Serving: its services, on a session in Python.

    python -m tests.stand_in_server MODEL_DIR GRPC_PORT REST_PORT
        [--tls=KEY --tls=CERT] [--config=models.config]

It is not TF Serving. It shows that an export runs in a session, behind the
messages of tensorflow-serving-api and bodies of the REST API's form. It
batches nothing and loads what is there once: the newest version, or with
models.config its number of newest versions, under its labels.
"""

import argparse
import base64
import concurrent.futures
import http.server
import json
import pathlib
import threading

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

from tests import commands
from tf_instdisc.serving import versions


class StandInVersion:
    """A version of a model in a session."""

    def __init__(self, model_dir, version):
        self.number = version
        self.session = commands.session()
        with self.session.graph.as_default():
            meta_graph = tf.compat.v1.saved_model.load(
                self.session, ["serve"], f"{model_dir}/{version}"
            )
        self.signatures = meta_graph.signature_def

    def predict(self, signature_name, inputs):
        name = signature_name or "serving_default"
        if name not in self.signatures:
            raise ValueError(f"Serving signature name: {name} not found")
        signature = self.signatures[name]
        if set(inputs) != set(signature.inputs):
            raise ValueError(f"input size does not match signature: {name}")
        return self.session.run(
            {name: info.name for name, info in signature.outputs.items()},
            {signature.inputs[k].name: v for k, v in inputs.items()},
        )


class StandInModel:
    """The versions of a model that are served."""

    def __init__(self, model_dir, config=None):
        self.name = pathlib.Path(model_dir).name
        self.labels = {}
        wanted = 1
        if config:
            (model,) = text_format.Parse(
                pathlib.Path(config).read_text(),
                model_server_config_pb2.ModelServerConfig(),
            ).model_config_list.config
            self.labels = dict(model.version_labels)
            wanted = model.model_version_policy.latest.num_versions
        self.versions = {
            number: StandInVersion(model_dir, number)
            for number in versions.versions(model_dir)[-wanted:]
        }

    def find(self, name, version=None, label=None):
        """The version; KeyError is what TF Serving would call NOT_FOUND."""
        if name != self.name:
            raise KeyError(f"Servable not found for request: Latest({name})")
        if label:
            if label not in self.labels:
                raise KeyError(f"Unrecognized servable version label: {label}")
            version = self.labels[label]
        number = version or max(self.versions)
        if number not in self.versions:
            raise KeyError(f"Servable not found: Specific({name}, {number})")
        return self.versions[number]


class StandInPredictionService(
    prediction_service_pb2_grpc.PredictionServiceServicer
):
    def __init__(self, model):
        self.model = model

    def Predict(self, request, context):
        spec = request.model_spec
        try:
            version = self.model.find(
                spec.name, spec.version.value, spec.version_label
            )
            outputs = version.predict(
                spec.signature_name,
                {k: tf.make_ndarray(v) for k, v in request.inputs.items()},
            )
        except KeyError as error:
            context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        except (tf.errors.InvalidArgumentError, ValueError) as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        response = predict_pb2.PredictResponse()
        response.model_spec.version.value = version.number
        for name, value in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return response


class StandInModelService(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, model):
        self.model = model

    def GetModelStatus(self, request, context):
        try:
            self.model.find(request.model_spec.name)
        except KeyError as error:
            context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        response = get_model_status_pb2.GetModelStatusResponse()
        for number in self.model.versions:
            response.model_version_status.add(
                version=number,
                state=get_model_status_pb2.ModelVersionStatus.AVAILABLE,
            )
        return response


class StandInRest(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model: StandInModel

    def do_GET(self):
        statuses = [
            {
                "version": str(number),
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
            for number in self.model.versions
        ]
        self._answer(lambda _: {"model_version_status": statuses})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(lambda version: self._predict(version, body))

    def _predict(self, version, body):
        name = body.get("signature_name", "serving_default")
        if name not in version.signatures:
            raise ValueError(
                f'Serving signature name: "{name}" not found in signature def'
            )
        ((key, info),) = version.signatures[name].inputs.items()
        rows = body["instances"]
        if isinstance(rows[0], dict) != (info.dtype == tf.string):
            raise ValueError(f"JSON Value is not of type {info.dtype}")
        if isinstance(rows[0], dict):
            values = [base64.b64decode(row["b64"]) for row in rows]
            given = np.array(values, object)
        else:
            given = np.array(rows, tf.as_dtype(info.dtype).as_numpy_dtype)
        outputs = version.predict(name, {key: given})
        columns = {k: _to_json(v) for k, v in outputs.items()}
        if len(columns) == 1:
            (predictions,) = columns.values()
        else:
            predictions = [
                dict(zip(columns, row, strict=True))
                for row in zip(*columns.values(), strict=True)
            ]
        return {"predictions": predictions}

    def _answer(self, response):
        try:
            name, _, rest = self.path.removeprefix("/v1/models/").partition("/")
            kind, _, which = rest.partition(":")[0].partition("/")
            version = self.model.find(
                name.partition(":")[0],
                int(which) if kind == "versions" else None,
                which if kind == "labels" else None,
            )
            code, content = 200, response(version)
        except KeyError as error:
            code, content = 404, {"error": str(error)}
        except (tf.errors.InvalidArgumentError, ValueError) as error:
            code, content = 400, {"error": str(error)}
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *unused):
        pass


def _to_json(values):
    if values.dtype == object:
        values = np.char.decode(values.astype(bytes), "utf-8")
    return values.tolist()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model_dir", "grpc_port", "rest_port"):
        parser.add_argument(name)
    parser.add_argument("--tls", action="append", default=[])
    parser.add_argument("--config")
    parsed = parser.parse_args()
    model = StandInModel(parsed.model_dir, parsed.config)
    # As in TF Serving, the length of messages is not limited.
    server = grpc.server(
        concurrent.futures.ThreadPoolExecutor(8),
        options=[
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        StandInPredictionService(model), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(
        StandInModelService(model), server
    )
    address = f"localhost:{parsed.grpc_port}"
    if parsed.tls:
        pair = [pathlib.Path(file).read_bytes() for file in parsed.tls]
        server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    else:
        server.add_insecure_port(address)
    server.start()
    handler = type("Handler", (StandInRest,), {"model": model})
    rest = http.server.ThreadingHTTPServer(
        ("localhost", int(parsed.rest_port)), handler
    )
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    print("ready", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
