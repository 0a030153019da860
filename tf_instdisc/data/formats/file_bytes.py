"""Bytes of an image file in a graph: numbers, slices, and new files."""

import dataclasses

import tensorflow as tf

_LETTERS = [bytes([value]) for value in range(256)]


# Zeros behind the last byte, as many as are read at a time.
_PADDING = 64


@dataclasses.dataclass(frozen=True)
class FileBytes:
    """A file as text and as numbers.

    Reading beyond the end gives zeros, so that a file that is cut off needs no
    branch of its own.

    Attributes:
        contents: Scalar string.
        data: uint8 `[length + 64]`, the same bytes and zeros.
        length: Bytes of the file, int32 scalar.
    """

    contents: tf.Tensor
    data: tf.Tensor
    length: tf.Tensor

    def at(self, start: int | tf.Tensor, count: int) -> tf.Tensor:
        """int32 `[count]`, the bytes from `start` on; 64 at most."""
        start = tf.clip_by_value(start, 0, self.length)
        return tf.cast(tf.slice(self.data, [start], [count]), tf.int32)

    def gather(self, positions: tf.Tensor) -> tf.Tensor:
        """int32, the bytes at some positions, of the same shape."""
        inside = (positions >= 0) & (positions < self.length)
        positions = tf.where(inside, positions, self.length)
        return tf.cast(tf.gather(self.data, positions), tf.int32)

    def little(self, start: tf.Tensor, count: int) -> tf.Tensor:
        """A little-endian number of up to four bytes, int64."""
        return little_endian(self.at(start, count))

    def big(self, start: tf.Tensor, count: int) -> tf.Tensor:
        """A big-endian number of up to four bytes, int64."""
        return big_endian(self.at(start, count))

    def slice(self, start: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
        """Scalar string; cut off where the file ends."""
        start = tf.clip_by_value(start, 0, self.length)
        return tf.strings.substr(
            self.contents, start, tf.maximum(end - start, 0)
        )


def file_bytes(contents: tf.Tensor) -> FileBytes:
    """Wraps the contents of a file, a scalar string."""
    padded = tf.strings.join([contents, bytes(_PADDING)])
    data = tf.io.decode_raw(padded, tf.uint8)
    return FileBytes(contents, data, tf.size(data) - _PADDING)


def little_endian(values: tf.Tensor) -> tf.Tensor:
    """int64 `[...]` from bytes `[..., count]`."""
    places = [256**place for place in range(values.shape[-1])]
    return tf.reduce_sum(tf.cast(values, tf.int64) * places, axis=-1)


def big_endian(values: tf.Tensor) -> tf.Tensor:
    """int64 `[...]` from bytes `[..., count]`."""
    return little_endian(values[..., ::-1])


def to_string(values: tf.Tensor) -> tf.Tensor:
    """Scalar string of bytes `[count]` in 0..255."""
    return tf.strings.reduce_join(tf.gather(tf.constant(_LETTERS), values))


def little_string(number: tf.Tensor, count: int) -> tf.Tensor:
    """Scalar string: a number as little-endian bytes."""
    number = tf.cast(number, tf.int64)
    return to_string(number // [256**place for place in range(count)] % 256)


def require(condition: tf.Tensor, message: str, values: list) -> list:
    """A control dependency that fails with InvalidArgumentError.

    Args:
        condition: bool, scalar.
        message: What is required.
        values: Tensors to show.

    Returns:
        A list for `tf.control_dependencies`.
    """
    return [tf.debugging.Assert(condition, [message, *values])]
