"""A client of TF Serving over gRPC."""

import json
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tf_instdisc.errors import UsageError
from tf_instdisc.serving.client.client import (
    FIRST_BACKOFF,
    MAX_ATTEMPTS,
    MAX_BACKOFF,
    Client,
    ClientOptions,
)
from tf_instdisc.serving.client.responses import (
    InvalidResponseError,
    Response,
    text_array,
)
from tf_instdisc.serving.client.tls import check_pem_files
from tf_instdisc.text import shown

# A GIF of one pixel, which every exported model reads.
_PIXEL = (
    b"GIF87a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"
)

_MAX_INT = 2**31 - 1  # The largest value of an option of gRPC.


class GrpcClient(Client):
    """A thread-safe client over gRPC.

    The client waits for an unavailable server, and sends an interrupted
    request up to five times within the deadline. This is safe because
    predictions have no side effects.

    Args:
        target: `host:port`; TF Serving listens on port 8500.
        model_name: Name of the model on the server.
        root_certificates: PEM file of the authority that signed the server's
            certificate; enables TLS.
        private_key: PEM file of the client's key, if the server requires it.
        certificate_chain: PEM file of the client's certificate, likewise.
        **options: Other fields of `ClientOptions`, such as `deadline=10`.

    Raises:
        FileNotFoundError: If a PEM file is missing.
        ValueError: If an option is out of its range, `target` is not
            `host:port`, a PEM file has other contents, only one of the client's
            files is given, or they are given without `root_certificates`, in
            which case nothing would be encrypted.
    """

    def __init__(
        self,
        target: str,
        model_name: str,
        *,
        root_certificates: str | None = None,
        private_key: str | None = None,
        certificate_chain: str | None = None,
        **options: Any,
    ):
        super().__init__(
            target, ClientOptions(model_name, **options), 256 * 2**20
        )
        _require_target(target)
        if root_certificates is None and (private_key or certificate_chain):
            raise UsageError(
                "`private_key` and `certificate_chain` go with "
                "`root_certificates`, which enables TLS. Received: "
                "root_certificates=None"
            )
        if root_certificates is not None:
            check_pem_files(root_certificates, private_key, certificate_chain)
        retry = {
            "maxAttempts": MAX_ATTEMPTS,
            "initialBackoff": f"{FIRST_BACKOFF}s",
            "maxBackoff": f"{MAX_BACKOFF}s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        services = ("PredictionService", "ModelService")
        names = [{"service": f"tensorflow.serving.{s}"} for s in services]
        config = {"methodConfig": [{"name": names, "retryPolicy": retry}]}
        max_bytes = min(self.max_message_bytes, _MAX_INT)
        channel_options = [
            ("grpc.max_send_message_length", max_bytes),
            ("grpc.max_receive_message_length", max_bytes),
            # Requests larger than this buffer, 256 KiB by default, would
            # silently not be retried.
            ("grpc.per_rpc_retry_buffer_size", max_bytes),
            ("grpc.service_config", json.dumps(config)),
            ("grpc.initial_reconnect_backoff_ms", int(1000 * FIRST_BACKOFF)),
            ("grpc.max_reconnect_backoff_ms", int(1000 * MAX_BACKOFF)),
        ]
        if root_certificates is None:
            self._channel = grpc.insecure_channel(target, channel_options)
        else:
            credentials = grpc.ssl_channel_credentials(
                *(
                    path and pathlib.Path(path).read_bytes()
                    for path in (
                        root_certificates,
                        private_key,
                        certificate_chain,
                    )
                )
            )
            self._channel = grpc.secure_channel(
                target, credentials, channel_options
            )
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(
            self._channel
        )
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def version_of_label(self) -> int | None:
        """Returns the version that `label` names now.

        A server says so with its predictions only, so a pixel is embedded.

        Returns:
            None if the server does not say it.

        Raises:
            ServingError: As in `embed`.
        """
        return (
            self._predict("image_bytes", [_PIXEL]).model_spec.version.value
            or None
        )

    def _predict_batch(
        self, signature_name: str, inputs: np.ndarray | Sequence[bytes]
    ) -> Response:
        response = self._predict(signature_name, inputs)
        return {
            name: _to_array(proto, self.max_message_bytes)
            for name, proto in response.outputs.items()
        }

    def _predict(
        self, signature_name: str, inputs: np.ndarray | Sequence[bytes]
    ) -> predict_pb2.PredictResponse:
        request = predict_pb2.PredictRequest()
        self._address(request.model_spec)
        request.model_spec.signature_name = signature_name
        name = "image_bytes" if isinstance(inputs[0], bytes) else "images"
        request.inputs[name].CopyFrom(tf.make_tensor_proto(inputs))
        return self._call(self._predictions.Predict, request)

    def _states(self) -> dict[int, str]:
        request = get_model_status_pb2.GetModelStatusRequest()
        self._address(request.model_spec)
        response = self._call(self._models.GetModelStatus, request)
        states = get_model_status_pb2.ModelVersionStatus.State
        try:
            return {
                status.version: states.Name(status.state)
                for status in response.model_version_status
            }
        except ValueError as error:
            raise InvalidResponseError("a state that is unknown") from error

    def close(self) -> None:
        self._channel.close()

    def _address(self, model_spec: model_pb2.ModelSpec) -> None:
        model_spec.name = self.options.model_name
        if self.options.version is not None:
            model_spec.version.value = self.options.version
        if self.options.label is not None:
            model_spec.version_label = self.options.label

    def _call(self, method: Callable[..., Any], request: Any) -> Any:
        try:
            return method(
                request, timeout=self.options.deadline, wait_for_ready=True
            )
        except grpc.RpcError as error:
            raise self._error(
                error.code().name, error.details() or ""
            ) from error


def _require_target(target: str) -> None:
    message = (
        "`target` must be host:port, with a port of at most 65535 and without "
        f"spaces or http://. Received: target={target!r}"
    )
    if not isinstance(target, str) or not target or not target.isprintable():
        raise UsageError(message)
    port = target.rpartition(":")[2]
    is_wrong_port = port.isdecimal() and not 0 < int(port) < 2**16
    if target.startswith(("unix:", "unix-abstract:", "vsock:")):  # No port.
        is_wrong_port = False
    is_url = target.lower().startswith(("http://", "https://"))
    if " " in target or is_url or is_wrong_port:
        raise UsageError(message)


def _to_array(proto: Any, max_bytes: int) -> np.ndarray:
    """Converts an untrusted tensor to an array.

    `make_ndarray` alone would fill a tensor up to the shape that it claims.
    """
    shape = [axis.size for axis in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or min(shape, default=1) < 1:
        raise InvalidResponseError(f"a tensor of the shape {shape[:8]}")
    num_values = sum(
        len(values)
        for field, values in proto.ListFields()
        if field.name.endswith("_val")
    )
    if not proto.tensor_content and num_values != math.prod(shape):
        raise InvalidResponseError(
            f"a tensor of the shape {shape[:8]} with {num_values:,} values"
        )
    try:
        array = tf.make_ndarray(proto)
        if array.dtype != object:
            return array
        texts = [tf.compat.as_text(text) for text in array.flat]
        return text_array(
            np.array(texts, object).reshape(array.shape), max_bytes
        )
    except UnicodeDecodeError as error:
        raise InvalidResponseError("text that is not UTF-8") from error
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidResponseError(shown(repr(error), 200)) from error
