"""Exports the encoder alone for phones and embedded devices."""

import os
import pathlib

import keras
import numpy as np
import tensorflow as tf

from tf_instdisc import atomic
from tf_instdisc.config.fields import require_choice
from tf_instdisc.errors import UsageError
from tf_instdisc.serving.options import TFLITE_TYPES

_CALIBRATION_IMAGES = 256


def write(
    encoder: keras.Model,
    path: str,
    types: tuple[str, ...],
    calibration_images: np.ndarray | None = None,
) -> None:
    """Writes `tflite/encoder_TYPE.tflite` below a directory.

    Args:
        encoder: A model that maps images `[batch, size, size, 3]` to
            embeddings.
        path: The directory.
        types: Any of `"float32"` and `"int8"`.
        calibration_images: uint8 or float `[num_images, size, size, 3]` in
            [0, 255]; required for int8.

    Raises:
        ValueError: If a type is unknown, or if int8 has no calibration images.
    """
    for kind in types:
        require_choice("tflite", kind, TFLITE_TYPES)
    if "int8" in types and (
        calibration_images is None or not len(calibration_images)
    ):
        raise UsageError(
            "TFLite in int8 needs `calibration_images`, a few hundred like "
            "those in use. Received: none"
        )
    for kind in types:
        file = pathlib.Path(path, "tflite", f"encoder_{kind}.tflite")
        os.makedirs(file.parent, exist_ok=True)
        atomic.write_bytes(file, convert(encoder, kind, calibration_images))


def convert(
    encoder: keras.Model,
    kind: str,
    calibration_images: np.ndarray | None = None,
) -> bytes:
    """Converts an encoder to TFLite with float32 inputs and batch size 1.

    Args:
        encoder: A model that maps images `[batch, size, size, 3]` to
            embeddings.
        kind: `"float32"`, or `"int8"` for weights and activations.
        calibration_images: As in `write`; required for int8.

    Returns:
        The TFLite file.
    """
    size = encoder.input_shape[1]

    @tf.function(
        input_signature=[tf.TensorSpec([1, size, size, 3], name="images")],
        autograph=False,
    )
    def embed(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"embedding": encoder(images, training=False)}

    # The converter needs the raw variables: with the Keras model, it silently
    # omits the weights, and without any argument, the signature.
    variables = tf.Module()
    variables.encoder = [variable.value for variable in encoder.variables]
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [embed.get_concrete_function()], variables
    )
    if kind == "int8":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        images = np.asarray(calibration_images)[:_CALIBRATION_IMAGES]
        converter.representative_dataset = lambda: (
            [image[None].astype(np.float32)] for image in images
        )
    return converter.convert()
