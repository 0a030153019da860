"""Bytes of an image file in a graph: numbers, slices, and new files."""

from typing import NamedTuple

import tensorflow as tf

_LETTERS = [bytes([value]) for value in range(256)]
# Zeros after the last byte; no more bytes are read at once.
_PADDING = 64


class FileBytes(NamedTuple):
    """A file as a string and as numbers.

    Reading beyond the end returns zeros, so that a truncated file needs no
    special case.

    Attributes:
        contents: Scalar string.
        data: uint8 `[length + 64]`, the same bytes followed by zeros.
        length: Number of bytes in the file, int32 scalar.
    """

    contents: tf.Tensor
    data: tf.Tensor
    length: tf.Tensor

    def at(self, start: int | tf.Tensor, count: int) -> tf.Tensor:
        """Returns int32 `[count]`, the bytes from `start`; at most 64."""
        start = tf.clip_by_value(start, 0, self.length)
        return tf.cast(tf.slice(self.data, [start], [count]), tf.int32)

    def gather(self, positions: tf.Tensor) -> tf.Tensor:
        """Returns int32, the bytes at some positions, in the same shape."""
        inside = (positions >= 0) & (positions < self.length)
        positions = tf.where(inside, positions, self.length)
        return tf.cast(tf.gather(self.data, positions), tf.int32)

    def little(self, start: tf.Tensor, count: int) -> tf.Tensor:
        """Returns a little-endian number of up to four bytes, int64."""
        return little_endian(self.at(start, count))

    def big(self, start: tf.Tensor, count: int) -> tf.Tensor:
        """Returns a big-endian number of up to four bytes, int64."""
        return big_endian(self.at(start, count))

    def slice(self, start: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
        """Returns a scalar string, truncated at the end of the file."""
        start = tf.clip_by_value(start, 0, self.length)
        return tf.strings.substr(
            self.contents, start, tf.maximum(end - start, 0)
        )


class Stored(NamedTuple):
    """An image that is not decoded yet, and the fields of its header.

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


def file_bytes(contents: tf.Tensor) -> FileBytes:
    """Wraps the contents of a file, a scalar string."""
    padded = tf.strings.join([contents, bytes(_PADDING)])
    data = tf.io.decode_raw(padded, tf.uint8)
    return FileBytes(contents, data, tf.size(data) - _PADDING)


def little_endian(values: tf.Tensor) -> tf.Tensor:
    """Converts bytes `[..., count]` to int64 `[...]`."""
    places = [256**place for place in range(values.shape[-1])]
    return tf.reduce_sum(tf.cast(values, tf.int64) * places, axis=-1)


def big_endian(values: tf.Tensor) -> tf.Tensor:
    """Converts bytes `[..., count]` to int64 `[...]`."""
    return little_endian(values[..., ::-1])


def to_string(values: tf.Tensor) -> tf.Tensor:
    """Converts bytes `[count]` in 0..255 to a scalar string."""
    return tf.strings.reduce_join(tf.gather(tf.constant(_LETTERS), values))


def little_string(number: tf.Tensor, count: int) -> tf.Tensor:
    """Converts a number to little-endian bytes, a scalar string."""
    number = tf.cast(number, tf.int64)
    return to_string(number // [256**place for place in range(count)] % 256)


def require(condition: tf.Tensor, message: str, values: list) -> list:
    """Returns control dependencies that fail with InvalidArgumentError.

    Args:
        condition: bool scalar.
        message: The requirement.
        values: Tensors to show.

    Returns:
        A list for `tf.control_dependencies`.
    """
    return [tf.debugging.Assert(condition, [message, *values])]
