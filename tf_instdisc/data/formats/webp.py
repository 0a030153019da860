"""WebP files: the first image in them, without the rest."""

import tensorflow as tf

from tf_instdisc.data.formats import exif, gif
from tf_instdisc.data.formats.file_bytes import (
    FileBytes,
    Stored,
    little_endian,
    little_string,
    require,
)

_CHUNKS = 1000
_FRAME_BYTES = 16  # Of an animation's frame, before its chunks.
_CANVAS_FIELDS = 4


def read(file: FileBytes) -> Stored:
    """Creates a still file of the image, or of the first frame.

    The frame's position on its canvas is stored at the end, for `decode`.
    """
    bits, alphas, canvas, frame, exif_at = _chunks(file)
    is_lossless = file.at(bits[0] + 3, 1)[0] == ord("L")
    body = bits[0] + 8
    sides = file.little(body + 1, 4)
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
    with tf.control_dependencies(checks):
        chunks = _even(file.slice(bits[0], bits[1]))
    # Lossless pixels contain their alpha.
    chunks = tf.cond(
        (alphas[1] > 0) & ~is_lossless,
        lambda: tf.strings.join(
            [
                b"VP8X\x0a\0\0\0\x10\0\0\0",
                little_string(size[1] - 1, 3),
                little_string(size[0] - 1, 3),
                _even(file.slice(alphas[0], alphas[1])),
                chunks,
            ]
        ),
        lambda: chunks,
    )
    contents = tf.strings.join(
        [
            b"RIFF",
            little_string(tf.strings.length(chunks) + 4, 4),
            b"WEBP",
            chunks,
            little_string(corner[1] // 2, 2),
            little_string(corner[0] // 2, 2),
        ]
    )
    orientation = exif.orientation(file, exif_at[0], exif_at[1])
    return Stored(contents, canvas_size[0], canvas_size[1], orientation)


def _even(chunk: tf.Tensor) -> tf.Tensor:
    """Returns a chunk, scalar string, padded to an even length."""
    is_odd = tf.strings.length(chunk) % 2 == 1
    return tf.strings.join([chunk, tf.where(is_odd, b"\0", b"")])


def _chunks(
    file: FileBytes,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns image chunk, alpha, canvas, first frame and EXIF chunk."""

    def step(
        count: tf.Tensor,
        position: tf.Tensor,
        bits: tf.Tensor,
        alphas: tf.Tensor,
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
        is_alphas = is_kind(b"ALPH") & (alphas[0] == 0) & (bits[0] == 0)
        alphas = tf.where(is_alphas, chunk, alphas)
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
        return count + 1, position, bits, alphas, canvas, frame, exif_at

    def condition(
        count: tf.Tensor, position: tf.Tensor, *_: tf.Tensor
    ) -> tf.Tensor:
        return (count < _CHUNKS) & (position < file.length)

    nothing = tf.constant([0, 0])
    _, _, bits, alphas, canvas, frame, exif_at = tf.while_loop(
        condition,
        step,
        [
            tf.constant(0),
            tf.constant(12),
            nothing,
            nothing,
            tf.constant(0),
            tf.constant(0),
            nothing,
        ],
        parallel_iterations=1,
    )
    return bits, alphas, canvas, frame, exif_at


def decode(
    contents: tf.Tensor, height: tf.Tensor, width: tf.Tensor
) -> tf.Tensor:
    """Returns uint8 `[height, width, 3 or 4]`: the image on its canvas."""
    fields = tf.strings.substr(contents, -_CANVAS_FIELDS, _CANVAS_FIELDS)
    corner = tf.ensure_shape(tf.io.decode_raw(fields, tf.uint16), [2])
    left, top = tf.unstack(2 * tf.cast(corner, tf.int32))
    length = tf.strings.length(contents) - _CANVAS_FIELDS
    # Another number of channels than that of the file is an error.
    image = tf.io.decode_image(
        tf.strings.substr(contents, 0, length),
        channels=0,
        expand_animations=False,
    )
    image = tf.ensure_shape(image, [None, None, None])
    black = tf.zeros([], tf.uint8)
    return gif.place(image, top, left, height, width, black)
