"""GIF files: the first frame, without the others."""

import tensorflow as tf

from tf_instdisc.data.formats.file_bytes import (
    FileBytes,
    Stored,
    little_string,
    require,
    to_string,
)

_STEPS = 4000  # Blocks or runs of equal blocks before a frame.
_RUN = 256
_HEADER_END = 13
_DESCRIPTOR_BYTES = 10
# After the trailer: left, top, background, and a byte of padding.
_CANVAS_FIELDS = 8


def read(file: FileBytes) -> Stored:
    """Creates a file of the first frame alone.

    Blocks for animation, text and transparency are omitted, as they do not
    affect the colors. The frame's position and the canvas are stored after
    the trailer, for `decode`.
    """
    height, width = _short(file, 8), _short(file, 6)
    palette_end = _HEADER_END + _palette_bytes(file, 10)
    frame, end, transparent = _first_frame(file, palette_end)
    left, top = _short(file, frame + 1), _short(file, frame + 3)
    frame_width, frame_height = _short(file, frame + 5), _short(file, frame + 7)
    checks = require(
        (frame > 0)
        & (end <= file.length)
        & (frame_width > 0)
        & (frame_height > 0)
        & (left + frame_width <= width)
        & (top + frame_height <= height),
        "A GIF must hold a whole frame, within its canvas.",
        [],
    )
    local = _palette_bytes(file, frame + 9)
    palette = tf.where(local > 0, frame + _DESCRIPTOR_BYTES, _HEADER_END)
    background = file.at(palette + 3 * transparent, 3)
    size = little_string(frame_width, 2) + little_string(frame_height, 2)
    with tf.control_dependencies(checks):
        contents = tf.strings.join(
            [
                b"GIF89a",
                size,
                file.slice(10, palette_end),
                b",\0\0\0\0",
                size,
                file.slice(frame + 9, end),
                b";",
                little_string(left, 2),
                little_string(top, 2),
                to_string(background),
                b"\0",
            ]
        )
    return Stored(
        contents,
        tf.cast(height, tf.int64),
        tf.cast(width, tf.int64),
        tf.constant(1),
    )


def _short(file: FileBytes, at: int | tf.Tensor) -> tf.Tensor:
    return tf.cast(file.little(at, 2), tf.int32)


def _palette_bytes(file: FileBytes, at: int | tf.Tensor) -> tf.Tensor:
    (flags,) = tf.unstack(file.at(at, 1))
    return tf.where(flags >= 128, 3 * 2 ** (flags % 8 + 1), 0)


def _first_frame(
    file: FileBytes, position: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the frame's descriptor, its end, and the transparent color."""
    run = tf.range(_RUN)

    def in_data(
        position: tf.Tensor, frame: tf.Tensor, transparent: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Skips data blocks, or a run of equal ones; the last is empty."""
        (length,) = tf.unstack(file.at(position, 1))
        heads = file.gather(position + (length + 1) * run)
        alike = tf.math.cumprod(tf.cast(heads == length, tf.int32))
        count = tf.where(length > 0, tf.reduce_sum(alike), 1)
        position += (length + 1) * count
        return position, frame, transparent, length > 0

    def at_block(
        position: tf.Tensor, frame: tf.Tensor, transparent: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        head = file.at(position, _DESCRIPTOR_BYTES)
        is_extension = head[0] == 0x21
        is_frame = head[0] == 0x2C
        sets_color = is_extension & (head[1] == 0xF9) & (head[3] % 2 == 1)
        transparent = tf.where(sets_color, head[6], transparent)
        frame = tf.where(is_frame, position, frame)
        moved = _DESCRIPTOR_BYTES + _palette_bytes(file, position + 9) + 1
        moved = tf.where(is_frame, moved, tf.where(is_extension, 2, 1))
        is_data = is_frame | is_extension
        return position + moved, frame, transparent, is_data

    def step(
        count: tf.Tensor,
        position: tf.Tensor,
        frame: tf.Tensor,
        transparent: tf.Tensor,
        is_data: tf.Tensor,
    ) -> tuple[tf.Tensor, ...]:
        return count + 1, *tf.cond(
            is_data,
            lambda: in_data(position, frame, transparent),
            lambda: at_block(position, frame, transparent),
        )

    def condition(
        count: tf.Tensor,
        position: tf.Tensor,
        frame: tf.Tensor,
        _: tf.Tensor,
        is_data: tf.Tensor,
    ) -> tf.Tensor:
        return (
            ((frame == 0) | is_data)
            & (count < _STEPS)
            & (position < file.length)
        )

    _, end, frame, transparent, is_data = tf.while_loop(
        condition,
        step,
        [
            tf.constant(0),
            position,
            tf.constant(0),
            tf.constant(0),
            tf.constant(False),
        ],
        parallel_iterations=1,
    )
    return tf.where(is_data, 0, frame), end, transparent


def decode(
    contents: tf.Tensor, height: tf.Tensor, width: tf.Tensor
) -> tf.Tensor:
    """Returns uint8 `[height, width, 3]`: the first frame on its canvas."""
    image = tf.io.decode_image(contents, channels=3, expand_animations=False)
    image = tf.ensure_shape(image, [None, None, 3])
    fields = tf.strings.substr(contents, -_CANVAS_FIELDS, _CANVAS_FIELDS)
    fields = tf.ensure_shape(
        tf.io.decode_raw(fields, tf.uint8), [_CANVAS_FIELDS]
    )
    numbers = tf.cast(fields, tf.int32)
    left = numbers[0] + 256 * numbers[1]
    top = numbers[2] + 256 * numbers[3]
    return place(image, top, left, height, width, fields[4:7])


def place(
    image: tf.Tensor,
    top: tf.Tensor,
    left: tf.Tensor,
    height: tf.Tensor,
    width: tf.Tensor,
    background: tf.Tensor,
) -> tf.Tensor:
    """Places a frame on a canvas.

    Args:
        image: uint8 `[frame_height, frame_width, channels]`.
        top: int32, row of the canvas at which the frame begins.
        left: int32, column of the canvas at which the frame begins.
        height: Height of the canvas.
        width: Width of the canvas.
        background: uint8 `[channels]` or scalar, color of the rest.

    Returns:
        uint8 `[height, width, channels]`.
    """
    shape = tf.shape(image)

    def placed() -> tf.Tensor:
        below = tf.cast(height, tf.int32) - top - shape[0]
        right = tf.cast(width, tf.int32) - left - shape[1]
        # Differences from the background, so that zero is the background.
        differences = tf.pad(
            tf.bitwise.bitwise_xor(image, background),
            [[top, below], [left, right], [0, 0]],
        )
        return tf.bitwise.bitwise_xor(differences, background)

    is_whole = (shape[0] == tf.cast(height, tf.int32)) & (
        shape[1] == tf.cast(width, tf.int32)
    )
    return tf.cond(is_whole, lambda: image, placed)
