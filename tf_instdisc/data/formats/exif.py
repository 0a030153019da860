"""The orientation in EXIF data: how a stored image should be shown."""

import tensorflow as tf

from tf_instdisc.data.formats.file_bytes import (
    FileBytes,
    big_endian,
    little_endian,
)

_ORIENTATION = 0x0112
_PREFIX = b"Exif\0\0"
_TAG_BYTES = 12
# Bytes per value by TIFF type: byte, short and long.
_VALUE_BYTES = {1: 1, 3: 2, 4: 4}


def orientation(file: FileBytes, start: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    """Reads the orientation; invalid data counts as upright.

    Args:
        start: Start of the EXIF data, with or without `Exif\\0\\0`.
        end: End of the EXIF data; equal to `start` if there is none.

    Returns:
        int32 scalar in 1..8.
    """
    return tf.cond(
        end - start >= 8 + 2 + _TAG_BYTES,
        lambda: _read(file, start, end),
        lambda: tf.constant(1),
    )


def _read(file: FileBytes, start: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    has_prefix = tf.reduce_all(file.at(start, len(_PREFIX)) == list(_PREFIX))
    start += tf.where(has_prefix, len(_PREFIX), 0)
    head = file.at(start, 8)
    is_big = head[0] == ord("M")
    is_tiff = (head[0] == head[1]) & (is_big | (head[0] == ord("I")))
    is_tiff &= tf.reduce_max(head[2:4]) == 42

    def number(values: tf.Tensor) -> tf.Tensor:
        return tf.where(is_big, big_endian(values), little_endian(values))

    directory = number(head[4:8])
    size = tf.cast(end - start, tf.int64)
    directory = start + tf.cast(tf.minimum(directory, size), tf.int32)
    num_tags = tf.cast(number(file.at(directory, 2)), tf.int32)
    fitting = (end - directory - 2) // _TAG_BYTES
    num_tags = tf.clip_by_value(num_tags, 0, tf.maximum(fitting, 0))
    places = tf.range(num_tags)[:, None] * _TAG_BYTES
    tags = file.gather(directory + 2 + places + tf.range(_TAG_BYTES))
    kinds = number(tags[:, 2:4])
    values = tf.zeros_like(kinds)
    for kind, num_bytes in _VALUE_BYTES.items():
        value = number(tags[:, 8 : 8 + num_bytes])
        values = tf.where(kinds == kind, value, values)
    is_orientation = (number(tags[:, :2]) == _ORIENTATION) & (
        number(tags[:, 4:8]) == 1
    )
    # If a tag occurs twice, the last one counts, as in Pillow.
    found = tf.concat([[1], tf.boolean_mask(values, is_orientation)], 0)[-1]
    is_valid = is_tiff & (found >= 1) & (found <= 8)
    return tf.where(is_valid, tf.cast(found, tf.int32), 1)


def is_transposed(orientation: tf.Tensor) -> tf.Tensor:
    """Returns whether rows are shown as columns; bool scalar."""
    return orientation >= 5


def flips(orientation: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns whether to flip the image top to bottom, and left to right.

    The flips are applied after the transposition.
    """
    vertical = tf.reduce_any(orientation == [3, 4, 7, 8])
    horizontal = tf.reduce_any(orientation == [2, 3, 6, 7])
    return vertical, horizontal


def orient(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Orients a stored image `[height, width, channels]` as it is shown."""

    def rotated() -> tf.Tensor:
        shown = tf.cond(
            is_transposed(orientation),
            lambda: tf.transpose(image, [1, 0, 2]),
            lambda: image,
        )
        vertical, horizontal = flips(orientation)
        shown = tf.cond(vertical, lambda: shown[::-1], lambda: shown)
        return tf.cond(horizontal, lambda: shown[:, ::-1], lambda: shown)

    return tf.cond(orientation == 1, lambda: image, rotated)
