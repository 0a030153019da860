"""Warm-up requests that a server replays before it serves a version."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tf_instdisc.paths import without_wildcards
from tf_instdisc.serving.signatures import Function

FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")


def write_records(
    path: str,
    model_name: str,
    functions: dict[str, Function],
    batch_sizes: tuple[int, ...],
) -> None:
    """Writes a record for each signature and batch size.

    Args:
        path: Directory of a SavedModel.
        functions: `tf.function`s whose input signature is a single tensor of
            images or encoded images.
    """
    file = os.path.join(path, FILE)
    os.makedirs(os.path.dirname(file), exist_ok=True)
    picture = tf.io.encode_jpeg(tf.fill([32, 32, 3], tf.constant(128, "uint8")))
    with tf.io.TFRecordWriter(file) as writer:
        for signature_name, function in functions.items():
            spec = function.input_signature[0]
            for batch_size in batch_sizes:
                request = predict_pb2.PredictRequest()
                request.model_spec.name = model_name
                request.model_spec.signature_name = signature_name
                request.inputs[spec.name].CopyFrom(
                    _tensor_proto(spec, batch_size, picture)
                )
                log = prediction_log_pb2.PredictionLog(
                    predict_log=prediction_log_pb2.PredictLog(request=request)
                )
                writer.write(log.SerializeToString())


def _tensor_proto(
    spec: tf.TensorSpec, batch_size: int, picture: tf.Tensor
) -> Any:
    if spec.dtype == tf.string:
        return tf.make_tensor_proto([picture.numpy()] * batch_size)
    # A constant tensor is stored as a single value, so the record is small.
    gray = np.array(128, spec.dtype.as_numpy_dtype)
    return tf.make_tensor_proto(gray, shape=[batch_size, *spec.shape[1:]])


def read_records(path: str) -> Iterator[predict_pb2.PredictRequest]:
    """Yields the requests in a SavedModel's warm-up file."""
    records = tf.data.TFRecordDataset(os.path.join(path, FILE))
    for record in records.as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        yield log.predict_log.request


def replay(path: str) -> None:
    """Runs every record in a session, as a server does.

    A record that fails would prevent the server from loading the version.

    Raises:
        RuntimeError: If a request fails, or if a response is not finite or does
            not have one row for each image.
    """
    requests = list(read_records(path))
    load = tf.compat.v1.saved_model.load
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        with without_wildcards(path) as folder:
            meta_graph = load(session, ["serve"], folder)
        for request in requests:
            _replay_one(session, meta_graph, request)


def _replay_one(
    session: tf.compat.v1.Session,
    meta_graph: tf.compat.v1.MetaGraphDef,
    request: predict_pb2.PredictRequest,
) -> None:
    name = request.model_spec.signature_name
    signature = meta_graph.signature_def[name]
    ((input_name, proto),) = request.inputs.items()
    array = tf.make_ndarray(proto)
    try:
        outputs = session.run(
            {key: info.name for key, info in signature.outputs.items()},
            {signature.inputs[input_name].name: array},
        )
    except tf.errors.OpError as error:
        raise RuntimeError(
            f"Signature {name} fails on its warm-up record of batch size "
            f"{len(array)}: {error.message}"
        ) from error
    for key, value in outputs.items():
        is_finite = value.dtype.kind != "f" or np.isfinite(value).all()
        if len(value) != len(array) or not is_finite:
            raise RuntimeError(
                f"Signature {name} must give one finite row for each image. "
                f"Received: {key} of shape {value.shape} for a batch of "
                f"{len(array)}"
            )
