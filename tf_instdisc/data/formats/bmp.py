"""Decodes BMP files.

TensorFlow's decoder reads images with a palette as grayscale.
"""

import tensorflow as tf

from tf_instdisc.data.formats.file_bytes import FileBytes, file_bytes, require
from tf_instdisc.data.formats.stored import Stored

BITS = (1, 4, 8, 16, 24, 32)

_RGB, _BITFIELDS, _ALPHA_BITFIELDS = 0, 3, 6
_FILE_HEADER = 14
_OLD_HEADER = 12  # OS/2's; its palette has three bytes per color.
_MASKS_AT = 54


def read(file: FileBytes) -> Stored:
    """Reads the size; the file itself is decoded later."""
    header = _Header(file)
    checks = [
        *require(
            tf.reduce_any(header.bits == BITS)
            & tf.reduce_any(
                header.compression == [_RGB, _BITFIELDS, _ALPHA_BITFIELDS]
            )
            & (header.height < 2**31)
            & (header.width < 2**31),
            "A BMP must not be compressed, with "
            f"{', '.join(map(str, BITS))} bits per pixel. Received bits, "
            "compression:",
            [header.bits, header.compression],
        ),
        # A file without all of its pixels is cut off.
        *require(
            header.offset + header.stride * header.height
            <= tf.cast(file.length, tf.int64),
            "A BMP must be complete.",
            [],
        ),
    ]
    with tf.control_dependencies(checks):
        contents = tf.identity(file.contents)
    return Stored(contents, header.height, header.width, tf.constant(1))


class _Header:
    """The fields of a header, int64."""

    def __init__(self, file: FileBytes):
        size = file.little(14, 4)
        self.is_old = size == _OLD_HEADER

        def number(
            old_at: int, old_count: int, at: int, count: int
        ) -> tf.Tensor:
            old = file.little(old_at, old_count)
            return tf.where(self.is_old, old, file.little(at, count))

        self.offset = file.little(10, 4)
        self.width = number(18, 2, 18, 4)
        height = number(20, 2, 22, 4)
        # A negative height means that rows go from top to bottom.
        self.is_downward = height >= 2**31
        self.height = tf.where(self.is_downward, 2**32 - height, height)
        self.bits = number(24, 2, 28, 2)
        self.compression = number(30, 0, 30, 4)
        self.palette = _FILE_HEADER + size
        self.stride = (self.width * self.bits + 31) // 32 * 4


def decode(contents: tf.Tensor) -> tf.Tensor:
    """Returns uint8 `[height, width, 3]`."""
    file = file_bytes(contents)
    header = _Header(file)
    height, width, stride, offset = (
        tf.cast(number, tf.int32)
        for number in (
            header.height,
            header.width,
            header.stride,
            header.offset,
        )
    )
    rows = file.data[offset : offset + stride * height]
    rows = tf.reshape(rows, [height, stride])
    branches = [
        lambda: _with_palette(file, header, rows, 1),
        lambda: _with_palette(file, header, rows, 4),
        lambda: _with_palette(file, header, rows, 8),
        lambda: _of_16_bits(file, header, rows),
        lambda: _of_24_bits(rows),
        lambda: _of_32_bits(file, header, rows),
    ]
    index = tf.argmax(header.bits == BITS)
    image = tf.switch_case(tf.cast(index, tf.int32), branches)
    # Pixels after the last column only pad the row.
    image = tf.ensure_shape(image, [None, None, 3])[:, :width]
    return tf.cond(header.is_downward, lambda: image, lambda: image[::-1])


# === From rows of bytes, `[height, stride]`, to colors ===


def _with_palette(
    file: FileBytes, header: _Header, rows: tf.Tensor, bits: int
) -> tf.Tensor:
    shifts = tf.constant([*range(8 - bits, -1, -bits)], tf.uint8)
    indices = tf.bitwise.bitwise_and(
        tf.bitwise.right_shift(rows[..., None], shifts),
        tf.constant(2**bits - 1, tf.uint8),
    )
    indices = tf.reshape(indices, [tf.shape(rows)[0], -1])
    num_bytes = tf.where(header.is_old, 3, 4)
    places = num_bytes * tf.range(2**bits)[:, None] + [2, 1, 0]
    places += tf.cast(header.palette, tf.int32)
    # The palette ends where the pixels begin.
    is_palette = places < tf.cast(header.offset, tf.int32)
    colors = tf.where(is_palette, file.gather(places), 0)
    return tf.gather(tf.cast(colors, tf.uint8), tf.cast(indices, tf.int32))


def _of_16_bits(file: FileBytes, header: _Header, rows: tf.Tensor) -> tf.Tensor:
    default = tf.constant([0x7C00, 0x03E0, 0x001F], tf.int64)
    masks = _masks(file, header, default)
    is_known = tf.reduce_all(masks == default) | tf.reduce_all(
        masks == [0xF800, 0x07E0, 0x001F]
    )
    checks = require(is_known, "Masks of a BMP must be standard.", [masks])
    with tf.control_dependencies(checks):
        low, high = rows[:, ::2], rows[:, 1::2]
        numbers = tf.cast(low, tf.int32) + 256 * tf.cast(high, tf.int32)
    masks = tf.cast(masks, tf.int32)
    channels = []
    for channel in range(3):
        mask = masks[channel]
        unit = tf.bitwise.bitwise_and(mask, -mask)
        value = tf.bitwise.bitwise_and(numbers, mask) // unit
        most = mask // unit
        channels.append(tf.cast((value * 255 + most // 2) // most, tf.uint8))
    return tf.stack(channels, -1)


def _of_24_bits(rows: tf.Tensor) -> tf.Tensor:
    height, stride = tf.unstack(tf.shape(rows))
    whole = rows[:, : stride // 3 * 3]
    return tf.reshape(whole, [height, -1, 3])[..., ::-1]


def _of_32_bits(file: FileBytes, header: _Header, rows: tf.Tensor) -> tf.Tensor:
    default = tf.constant([0xFF0000, 0xFF00, 0xFF], tf.int64)
    masks = _masks(file, header, default)
    known = tf.constant([0xFF << 8 * place for place in range(4)], tf.int64)
    places = masks[:, None] == known
    checks = require(
        tf.reduce_all(tf.reduce_any(places, axis=1)),
        "Masks of a BMP must be whole bytes.",
        [masks],
    )
    with tf.control_dependencies(checks):
        order = tf.argmax(places, axis=1)
    pixels = tf.reshape(rows, [tf.shape(rows)[0], -1, 4])
    return tf.gather(pixels, order, axis=-1)


def _masks(file: FileBytes, header: _Header, default: tf.Tensor) -> tf.Tensor:
    """Returns the bits of red, green and blue, int64 `[3]`."""
    stated = [file.little(_MASKS_AT + 4 * place, 4) for place in range(3)]
    return tf.where(header.compression != _RGB, tf.stack(stated), default)
