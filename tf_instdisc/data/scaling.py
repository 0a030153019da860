"""Resizes and shifts images with stock TensorFlow ops."""

import tensorflow as tf

_SWAP = [1, 0, 2]  # Exchanges rows and columns.


def scale(
    image: tf.Tensor, size: list[int], scales: tf.Tensor, offsets: tf.Tensor
) -> tf.Tensor:
    """Resizes as Pillow's BILINEAR does: out = scale * in + offset.

    The filter is a triangle with antialiasing. `ScaleAndTranslate` adds
    whole rows at once, but columns only pixel by pixel. Each axis is therefore
    resized as rows, which halves the time and gives the same result.

    Args:
        image: `[height, width, channels]`.
        size: Height and width of the result, in pixels.
        scales: float32 `[2]`, pixels of the result per pixel of the image.
        offsets: float32 `[2]`, where the image's first pixel is in the result.

    Returns:
        float32 `[*size, channels]`.
    """
    channels = image.shape[-1]
    height, width = tf.unstack(tf.shape(image)[:2])
    rows = tf.reshape(image, [height, width * channels])
    rows = _scale_rows(rows, size[0], scales[0], offsets[0])
    columns = tf.transpose(tf.reshape(rows, [size[0], width, channels]), _SWAP)
    columns = tf.reshape(columns, [width, size[0] * channels])
    columns = _scale_rows(columns, size[1], scales[1], offsets[1])
    return tf.transpose(tf.reshape(columns, [*size[::-1], channels]), _SWAP)


def _scale_rows(
    rows: tf.Tensor, size: int, factor: tf.Tensor, offset: tf.Tensor
) -> tf.Tensor:
    """Resizes the first axis of `[length, values]`."""
    scaled = tf.raw_ops.ScaleAndTranslate(
        images=rows[None, :, None],
        size=[size, 1],
        scale=tf.stack([factor, 1.0]),
        translation=tf.stack([offset, 0.0]),
        kernel_type="triangle",
        antialias=True,
    )
    return scaled[0, :, 0]
