"""Checks the inputs of clients: images, or files as bytes."""

from collections.abc import Sequence

import numpy as np

from tf_instdisc.errors import UsageError


def checked_inputs(
    inputs: np.ndarray | Sequence[bytes],
) -> np.ndarray | Sequence[bytes]:
    """Raises UsageError unless all inputs are images, or all are bytes."""
    if isinstance(inputs, str | bytes) or not hasattr(inputs, "__len__"):
        raise UsageError(
            "`inputs` must be images, or a list of files as bytes. "
            f"Received: inputs of {type(inputs).__name__}"
        )
    if not len(inputs):
        raise UsageError("`inputs` must not be empty. Received: 0 inputs")
    if any(isinstance(value, bytes) for value in inputs):
        if all(isinstance(value, bytes) for value in inputs):
            return list(inputs)
        raise UsageError(
            "`inputs` must be all bytes, or all images. Received: both"
        )
    images = np.asarray(inputs)
    if images.dtype.kind not in "uif" or not np.isfinite(images).all():
        raise UsageError(
            "`inputs` must be images of finite numbers, or files as bytes. "
            f"Received: inputs of the type {images.dtype}"
        )
    return images


def input_name(inputs: np.ndarray | Sequence[bytes]) -> str:
    """Returns the name of the tensor that a signature takes."""
    is_bytes = isinstance(inputs[0], bytes)
    return "image_bytes" if is_bytes else "images"
