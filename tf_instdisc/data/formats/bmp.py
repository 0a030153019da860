"""BMP files: what TensorFlow decodes, and the colors of a palette."""

import tensorflow as tf

from tf_instdisc.data.formats.file_bytes import (
    FileBytes,
    Stored,
    file_bytes,
    require,
)

READ = "uncompressed, with 8, 24 or 32 bits per pixel: blue, green and red"
"""The files that are read."""

_BITS = (8, 24, 32)
_SMALLEST_HEADER = 40  # The Windows header; that of OS/2 is shorter.
_HEADER_AT = 14
_MASKS_AT = 54
_MASKS = (0xFF0000, 0xFF00, 0xFF)  # Red, green and blue.


def read(file: FileBytes) -> Stored:
    """Reads the size; the file itself is decoded later."""
    header = file.little(_HEADER_AT, 4)
    width, height = file.little(18, 4), file.little(22, 4)
    bits, compression = file.little(28, 2), file.little(30, 4)
    # A negative height means that rows go from top to bottom.
    height = tf.where(height >= 2**31, 2**32 - height, height)
    masks = [file.little(_MASKS_AT + 4 * place, 4) for place in range(3)]
    has_usual_masks = tf.reduce_all(tf.stack(masks) == _MASKS)
    has_usual_masks &= (compression == 3) & (bits == 32)
    stride = (width * bits + 31) // 32 * 4
    checks = [
        *require(
            (header >= _SMALLEST_HEADER)
            & tf.reduce_any(bits == _BITS)
            & ((compression == 0) | has_usual_masks)
            & (height < 2**31)
            & (width < 2**31),
            f"A BMP must be {READ}. Received bits, compression:",
            [bits, compression],
        ),
        # A file without all of its pixels is cut off.
        *require(
            file.little(10, 4) + stride * height
            <= tf.cast(file.length, tf.int64),
            "A BMP must be complete.",
            [],
        ),
    ]
    with tf.control_dependencies(checks):
        contents = tf.identity(file.contents)
    return Stored(contents, height, width, tf.constant(1))


def decode(contents: tf.Tensor) -> tf.Tensor:
    """Returns uint8 `[height, width, 3]`."""
    stored = tf.ensure_shape(tf.io.decode_bmp(contents), [None, None, None])

    def with_palette() -> tf.Tensor:
        """Replaces the palette indices that the op returns by colors."""
        file = file_bytes(contents)
        start = tf.cast(file.little(_HEADER_AT, 4), tf.int32) + _HEADER_AT
        places = start + 4 * tf.range(256)[:, None] + [2, 1, 0]
        # The palette ends where the pixels begin.
        is_palette = places < tf.cast(file.little(10, 4), tf.int32)
        colors = tf.where(is_palette, file.gather(places), 0)
        colors = tf.cast(colors, tf.uint8)
        return tf.gather(colors, tf.cast(stored[..., 0], tf.int32))

    is_indexed = tf.shape(stored)[-1] == 1
    return tf.cond(is_indexed, with_palette, lambda: stored[..., :3])
