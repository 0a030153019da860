"""Batches as Keras passes them: images, instance ids, sample weights."""

import contextlib
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_instdisc.errors import UsageError

IMAGE_KEYS = ("image", "images")
ID_KEYS = ("instance_id", "instance_ids", "id", "ids")
_NEEDS_IDS = (
    "Training needs the instance id of each image: an integer in [0, "
    "num_instances) that numbers the images. Give batches (image, "
    'instance_id) or {"image": ..., "instance_id": ...}; for a tf.data data '
    "set, dataset.enumerate() numbers the elements."
)
_OUT_OF_RANGE = (
    "`instance_ids` must be in [0, {}), the rows of the memory bank. "
    "Received: an instance id of"
)
_LENGTH_TOLERANCE = 0.02  # More than half precision's error.


def unpack(
    data: Any, num_instances: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
    """Splits a batch into its parts, in a replica's step.

    Args:
        data: `(images, instance_ids)`, `(images, instance_ids,
            sample_weight)`, or a dictionary with the keys `image` and
            `instance_id`.
        num_instances: Ids must be in [0, num_instances).

    Returns:
        The images, int64 ids `[batch]` and float weights `[batch]` or None.

    Raises:
        UsageError: If the ids are missing, or have the wrong type or shape.
            Ids that are out of range raise it when the step runs (see
            `named_errors`).
    """
    x, ids, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    images = images_of(x)
    if ids is None and isinstance(x, Mapping):
        ids = _entry(x, ID_KEYS)
    elif isinstance(ids, Mapping):
        ids = _entry(ids, ID_KEYS)
    if ids is None:
        raise UsageError(
            f"{_NEEDS_IDS} Received: a batch of {_described(data)}"
        )
    ids = tf.convert_to_tensor(ids)
    if ids.shape.rank is None:  # From tf.numpy_function, for example.
        ids = tf.reshape(ids, [-1])
    if ids.shape.rank == 2 and ids.shape[1] == 1:
        ids = ids[:, 0]
    _require_integers(ids.dtype.as_numpy_dtype, ids.shape)
    ids = tf.cast(ids, tf.int64)
    # The ids come from the host: checking them there, the step does not wait
    # for a GPU.
    with tf.device("CPU:0"):
        lowest, highest = tf.reduce_min(ids), tf.reduce_max(ids)
        in_range = require(
            (lowest >= 0) & (highest < num_instances),
            _OUT_OF_RANGE.format(num_instances),
            tf.where(lowest < 0, lowest, highest),
        )
    with tf.control_dependencies(in_range):
        ids = tf.identity(ids)
    if sample_weight is not None:
        sample_weight = tf.convert_to_tensor(sample_weight)
        if not sample_weight.dtype.is_floating:
            raise UsageError(
                "`sample_weight` must be float, [batch]. Received: "
                f"sample_weight of type {sample_weight.dtype.name}. If these "
                "are labels, leave them out: batches are (image, instance_id)."
            )
        sample_weight = tf.reshape(sample_weight, tf.shape(ids))
    return images, ids, sample_weight


def images_of(x: tf.Tensor | Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Returns the images in Keras' x, which may be a dictionary.

    Raises:
        UsageError: If x is a dictionary without images.
    """
    if not isinstance(x, Mapping):
        return x
    images = _entry(x, IMAGE_KEYS)
    if images is None:
        raise UsageError(
            "A dictionary must hold the images as `image`. Received: the keys "
            f"{', '.join(map(repr, x))}"
        )
    return images


def _entry(
    mapping: Mapping[str, tf.Tensor], keys: tuple[str, ...]
) -> tf.Tensor | None:
    return next((mapping[key] for key in keys if key in mapping), None)


def _described(data: object) -> str:
    if isinstance(data, Mapping):
        return f"the keys {', '.join(map(repr, data))}"
    return "images alone"


def _require_integers(
    dtype: np.dtype | type[np.generic], shape: tf.TensorShape | tuple[int, ...]
) -> None:
    is_integer = np.issubdtype(dtype, np.integer)
    if not is_integer or len(shape) != 1:
        raise UsageError(
            "`instance_ids` must be integers of shape [batch]. Received: "
            f"instance_ids of type {np.dtype(dtype).name} and shape "
            f"{tuple(shape)}"
        )


def checked_ids(x: Any, ids: Any, num_instances: int) -> Any:
    """Checks the ids of whole arrays before training; supplies missing ones.

    Args:
        x: The argument x of `fit`.
        ids: The argument y of `fit`, or None. Without ids, the images are
            numbered by position if x is an array with one image per instance.
        num_instances: n.

    Returns:
        The ids to train with.

    Raises:
        UsageError: If ids are missing, of the wrong type, out of range, or
            repeat so often that they must be labels.
    """
    if ids is None and isinstance(x, np.ndarray | tf.Tensor):
        if len(x) == num_instances:
            return np.arange(num_instances)
        raise UsageError(
            f"{_NEEDS_IDS} Received: {len(x)} images without ids for "
            f"num_instances={num_instances}; only an array of all images is "
            "numbered automatically."
        )
    if not isinstance(ids, np.ndarray | tf.Tensor | list | tuple):
        return ids
    values = np.asarray(ids)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    _require_integers(values.dtype, values.shape)
    wrong = values[(values < 0) | (values >= num_instances)]
    if len(wrong):
        raise UsageError(f"{_OUT_OF_RANGE.format(num_instances)} {wrong[0]}")
    distinct = len(np.unique(values))
    if distinct < num_instances and 4 * distinct <= len(values):
        raise UsageError(
            "`instance_ids` must number the images. Received: "
            f"{len(values)} images with {distinct} different ids, which look "
            "like labels. Use numpy.arange(num_instances)."
        )
    return values


def warn_of_labels(ids: np.ndarray) -> None:
    """Warns if the ids of the first batch repeat as labels do."""
    distinct = len(np.unique(ids))
    if len(ids) >= 16 and 2 * distinct <= len(ids):
        warnings.warn(
            f"A batch of {len(ids)} images has {distinct} different ids. Are "
            "these labels? Instance ids number the images.",
            stacklevel=2,
        )


# === Conditions on values, which are only known when the step runs ===


def unit_vectors(embeddings: tf.Tensor, dtype: str) -> tf.Tensor:
    """Casts embeddings `[batch, dim]`, which must have unit length.

    The result does not depend on the check: a GPU would have to report its
    outcome to the host between the forward and the backward pass.
    """
    lengths = tf.cast(tf.norm(embeddings, axis=-1), tf.float32)
    # Zero or non-finite lengths are reported elsewhere.
    is_checked = tf.math.is_finite(lengths) & (lengths > 1e-3)
    errors = tf.where(is_checked, tf.abs(lengths - 1), 0.0)
    require(
        tf.reduce_max(errors) < _LENGTH_TOLERANCE,
        "`encoder` must end in unit vectors: add keras.layers."
        "UnitNormalization() as its last layer. Received: an embedding of "
        "length",
        lengths[tf.argmax(errors)],
    )
    return tf.cast(embeddings, dtype)


_FAILED = re.compile(r"assertion failed: \[(`.*?)\] \[(.*?)\]", re.DOTALL)


def require(condition: tf.Tensor, message: str, value: tf.Tensor) -> list:
    """Requires that a condition holds when the step runs.

    Args:
        condition: bool scalar.
        message: Begins with the name of an argument in backticks.
        value: Scalar, printed after the message.

    Raises:
        UsageError: If the step runs eagerly and the condition is false. In a
            graph, `named_errors` raises it.
    """
    if not tf.executing_eagerly():
        return [tf.debugging.Assert(condition, [message, value])]
    if not bool(condition):
        raise UsageError(f"{message} {value.numpy()}")
    return []


@contextlib.contextmanager
def named_errors() -> Iterator[None]:
    """Converts a failed `require` of a graph to its error message.

    Raises:
        UsageError: If a condition failed.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        failed = _FAILED.search(error.message)
        if failed is None:
            raise
        message = f"{failed[1]} {failed[2]}"
    else:
        return
    raise UsageError(message)
