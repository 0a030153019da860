"""An encoded image and the fields of its header."""

from typing import NamedTuple

import tensorflow as tf


class Stored(NamedTuple):
    """An image that is not decoded yet.

    Attributes:
        contents: Scalar string, a file with only what decoding needs, so that
            nothing in it costs more than its pixels.
        height: Height of the stored image, int64 scalar.
        width: Width of the stored image, int64 scalar.
        orientation: As in EXIF, int32 scalar in 1..8.
    """

    contents: tf.Tensor
    height: tf.Tensor
    width: tf.Tensor
    orientation: tf.Tensor
