"""Exports the encoder alone for phones and embedded devices."""

import os
import pathlib

import keras
import numpy as np
import tensorflow as tf

from tf_instdisc import atomic
from tf_instdisc.data import decode
from tf_instdisc.data.folder_listing import image_paths
from tf_instdisc.errors import UsageError
from tf_instdisc.paths import local_path

_CALIBRATION_IMAGES = 256


def calibration_images(
    folder: str, image_size: int, crop_fraction: float
) -> np.ndarray:
    """Draws images for the calibration from all of a folder.

    Files that cannot be decoded are left out.

    Args:
        folder: The folder, including its subfolders.
        image_size: Side of the images, in pixels.
        crop_fraction: As in `decode.decode_center`.

    Returns:
        float32 `[num_images, image_size, image_size, 3]` in [0, 255], 256
        images if there are as many.

    Raises:
        FileNotFoundError: If the folder is missing or contains no images.
        ValueError: If no image can be decoded.
    """
    folder = local_path(folder, "calibration_images")
    names = np.random.default_rng(0).permutation(image_paths(folder))
    paths = tf.constant([os.path.join(folder, name) for name in names])

    @tf.autograph.experimental.do_not_convert
    def read(path: tf.Tensor) -> tf.Tensor:
        content = tf.io.read_file(path)
        return decode.decode_center(content, image_size, crop_fraction)

    images = tf.data.Dataset.from_tensor_slices(paths).map(read)
    images = images.ignore_errors().take(_CALIBRATION_IMAGES)
    found = list(images.as_numpy_iterator())
    if not found:
        raise UsageError(
            "`calibration_images` must be a folder with images that can be "
            f"decoded. Received: calibration_images={folder!r}"
        )
    if len(found) < min(len(names), _CALIBRATION_IMAGES):
        print(f"Only {len(found)} images of {folder} can be read.", flush=True)
    return np.stack(found)


def write(
    encoder: keras.Model,
    path: pathlib.Path,
    kind: str,
    calibration_images: np.ndarray | None = None,
) -> None:
    """Writes `tflite/encoder_KIND.tflite` below a directory.

    It takes float32 images in batches of one.

    Args:
        encoder: A model that maps images `[batch, size, size, 3]` to
            embeddings.
        path: The directory.
        kind: `"float32"`, or `"int8"` for weights and activations.
        calibration_images: uint8 or float `[num_images, size, size, 3]` in
            [0, 255]; required for int8.
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
    file = path / "tflite" / f"encoder_{kind}.tflite"
    file.parent.mkdir(exist_ok=True)
    atomic.write_bytes(file, converter.convert())
