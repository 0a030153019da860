"""WebP files: the first image in them, without the rest."""

import tensorflow as tf

from tf_instdisc.data.formats import exif, gif
from tf_instdisc.data.formats.file_bytes import (
    FileBytes,
    Stored,
    little_endian,
    little_string,
    require,
    to_string,
)

_CHUNKS = 1000
_FRAME_BYTES = 16  # Of an animation's frame, before its chunks.
_CANVAS_FIELDS = 4
_ALPHA_BIT = 16


def read(file: FileBytes) -> Stored:
    """Creates a still and opaque file of the image, or of the first frame.

    The frame's position on its canvas is stored at the end, for `decode`.
    """
    bits, canvas, frame, exif_at = _chunks(file)
    is_lossless = file.at(bits[0] + 3, 1)[0] == ord("L")
    body = bits[0] + 8
    # A lossless image only states that it has alpha, which changes no color.
    packed = file.at(body, 5)
    sides = little_endian(packed[1:])
    lossless_size = tf.stack([sides // 2**14, sides]) % 2**14 + 1
    lossy_size = (
        tf.stack([file.little(body + 8, 2), file.little(body + 6, 2)]) % 2**14
    )
    size = tf.where(is_lossless, lossless_size, lossy_size)
    has_canvas = canvas > 0
    canvas_size = 1 + tf.stack(
        [file.little(canvas + 15, 3), file.little(canvas + 12, 3)]
    )
    canvas_size = tf.where(has_canvas, canvas_size, size)
    corner = 2 * tf.stack(
        [file.little(frame + 11, 3), file.little(frame + 8, 3)]
    )
    corner = tf.where(frame > 0, corner, 0)
    checks = [
        *require(
            (bits[0] > 0)
            & (bits[1] <= file.length)
            & tf.reduce_all(size > 0)
            & tf.reduce_all(corner + size <= canvas_size),
            "A WebP must hold a whole image, within its canvas.",
            [],
        ),
    ]
    opaque = packed[4:] - tf.bitwise.bitwise_and(packed[4:], _ALPHA_BIT)
    with tf.control_dependencies(checks):
        length = bits[1] - body
        pixels = tf.cond(
            is_lossless,
            lambda: tf.strings.join(
                [
                    file.slice(body, body + 4),
                    to_string(opaque),
                    file.slice(body + 5, bits[1]),
                ]
            ),
            lambda: file.slice(body, bits[1]),
        )
    even = length + length % 2
    contents = tf.strings.join(
        [
            b"RIFF",
            little_string(even + 12, 4),
            b"WEBP",
            file.slice(bits[0], body),
            pixels,
            tf.where(even > length, b"\0", b""),
            little_string(corner[1] // 2, 2),
            little_string(corner[0] // 2, 2),
        ]
    )
    orientation = exif.orientation(file, exif_at[0], exif_at[1])
    return Stored(contents, canvas_size[0], canvas_size[1], orientation)


def _chunks(
    file: FileBytes,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns image chunk, canvas, first frame and EXIF chunk."""

    def step(
        count: tf.Tensor,
        position: tf.Tensor,
        bits: tf.Tensor,
        canvas: tf.Tensor,
        frame: tf.Tensor,
        exif_at: tf.Tensor,
    ) -> tuple[tf.Tensor, ...]:
        head = file.at(position, 8)
        kind = head[:4]
        length = little_endian(head[4:])
        length = tf.cast(
            tf.minimum(length, tf.cast(file.length, tf.int64) + 1), tf.int32
        )

        def is_kind(name: bytes) -> tf.Tensor:
            return tf.reduce_all(kind == list(name))

        body = position + 8
        chunk = tf.stack([position, body + length])
        is_image = (is_kind(b"VP8 ") | is_kind(b"VP8L")) & (bits[0] == 0)
        bits = tf.where(is_image, chunk, bits)
        canvas = tf.where(is_kind(b"VP8X"), position, canvas)
        is_first_frame = is_kind(b"ANMF") & (frame == 0)
        frame = tf.where(is_first_frame, position, frame)
        exif_at = tf.where(
            is_kind(b"EXIF"), tf.stack([body, body + length]), exif_at
        )
        moved = 8 + length + length % 2
        position += tf.where(is_first_frame, 8 + _FRAME_BYTES, moved)
        return count + 1, position, bits, canvas, frame, exif_at

    def condition(
        count: tf.Tensor, position: tf.Tensor, *_: tf.Tensor
    ) -> tf.Tensor:
        return (count < _CHUNKS) & (position < file.length)

    nothing = tf.constant([0, 0])
    _, _, bits, canvas, frame, exif_at = tf.while_loop(
        condition,
        step,
        [
            tf.constant(0),
            tf.constant(12),
            nothing,
            tf.constant(0),
            tf.constant(0),
            nothing,
        ],
        parallel_iterations=1,
    )
    return bits, canvas, frame, exif_at


def decode(
    contents: tf.Tensor, height: tf.Tensor, width: tf.Tensor
) -> tf.Tensor:
    """Returns uint8 `[height, width, 3]`: the image on its canvas, opaque."""
    fields = tf.strings.substr(contents, -_CANVAS_FIELDS, _CANVAS_FIELDS)
    corner = tf.ensure_shape(tf.io.decode_raw(fields, tf.uint16), [2])
    left, top = tf.unstack(2 * tf.cast(corner, tf.int32))
    length = tf.strings.length(contents) - _CANVAS_FIELDS
    image = tf.io.decode_image(
        tf.strings.substr(contents, 0, length),
        channels=3,
        expand_animations=False,
    )
    image = tf.ensure_shape(image, [None, None, 3])
    black = tf.zeros([3], tf.uint8)
    return gif.place(image, top, left, height, width, black)
