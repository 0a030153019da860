"""JPEG files: header, EXIF and number of scans, read before decoding."""

from collections.abc import Callable

import tensorflow as tf

from tf_instdisc.data.formats import exif
from tf_instdisc.data.formats.file_bytes import FileBytes, Stored, require

_SEGMENTS = 1000  # Maximum number in a header.
_SCANS = 200  # Maximum number in an image.
# Every scan visits each block. Libjpeg's progressive images have 10 scans.
_USUAL_SCANS = 10
_MORE_SCANS = 20  # Maximum number in an image of the largest size.

# TensorFlow does not invert CMYK without Adobe's marker; Pillow does.
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"

# What follows FF: fill bytes, restart markers and garbage are skipped.
_SKIPPED, _SEGMENT, _FRAME, _SCAN = range(4)
_KINDS = [_SKIPPED] * 0xC0 + [_SEGMENT] * 0x40
_KINDS[0xC0:0xD0] = [_FRAME] * 0x10
_KINDS[0xC4] = _KINDS[0xC8] = _KINDS[0xCC] = _SEGMENT
_KINDS[0xD0:0xDA] = [_SKIPPED] * 0x0A
_KINDS[0xDA] = _SCAN
_KINDS[0xFF] = _SKIPPED

RATIOS = (1, 2, 4, 8)
"""Fractions of its size at which a JPEG can be decoded."""


def read(file: FileBytes, max_pixels: int) -> Stored:
    """Reads everything before the first scan, and counts the scans."""
    starts, is_whole = _segments(file)
    scan = starts[-1]
    heads = file.gather(starts[:, None] + tf.range(10))
    # Other positions hold garbage, which was skipped.
    kinds = tf.where(heads[:, 0] == 0xFF, heads[:, 1], 0)
    is_frame = tf.gather(_KINDS, kinds) == _FRAME
    frame = tf.reduce_max(tf.where(is_frame, starts, 0))
    is_exif = (kinds == 0xE1) & _begins_with(heads, b"Exif\0\0")
    # If there is none, an empty segment is used; otherwise the first counts.
    exif_at = tf.concat([tf.boolean_mask(starts, is_exif), [frame]], 0)[0]
    exif_end = exif_at + 2 + tf.cast(file.big(exif_at + 2, 2), tf.int32)
    exif_end = tf.where(tf.reduce_any(is_exif), exif_end, 0)
    has_adobe = tf.reduce_any((kinds == 0xEE) & _begins_with(heads, b"Adobe"))
    height = file.big(frame + 5, 2)
    width = file.big(frame + 7, 2)
    is_cmyk = file.at(frame + 9, 1)[0] == 4
    # Within scans, FF is never followed by D9 or DA. Anything after the first
    # end (a second image, a film) is cut off.
    marks = tf.where(file.data[scan : file.length] == 0xFF)[:, 0]
    marks = tf.cast(marks, tf.int32) + scan
    markers = file.gather(marks + 1)
    ends = tf.boolean_mask(marks, markers == 0xD9)
    end = tf.concat([ends + 2, file.length[None]], 0)[0]
    scans = tf.math.count_nonzero((markers == 0xDA) & (marks < end))
    costs = scans - _USUAL_SCANS
    pixels = tf.maximum(height, 1) * tf.maximum(width, 1)
    checks = [
        *require(
            is_whole & (frame > 0), "A JPEG must have a frame and a scan.", []
        ),
        *require(
            (scans <= _SCANS) & (costs * pixels <= _MORE_SCANS * max_pixels),
            "A JPEG must have fewer scans. Received:",
            [scans],
        ),
    ]
    with tf.control_dependencies(checks):
        contents = file.slice(0, end)
    contents = tf.cond(
        is_cmyk & ~has_adobe,
        lambda: tf.strings.join(
            [file.slice(0, 2), _ADOBE, tf.strings.substr(contents, 2, -1)]
        ),
        lambda: contents,
    )
    orientation = exif.orientation(file, exif_at + 4, exif_end)
    return Stored(contents, height, width, orientation)


def _segments(file: FileBytes) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns where segments begin, and whether a first scan was found."""

    def step(
        count: tf.Tensor,
        position: tf.Tensor,
        starts: tf.TensorArray,
        _: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.TensorArray, tf.Tensor]:
        first, marker, high, low = tf.unstack(file.at(position, 4))
        kind = tf.where(first == 0xFF, tf.gather(_KINDS, marker), _SKIPPED)
        starts = starts.write(count, position)
        moved = tf.where(kind == _SKIPPED, 1, 2 + high * 256 + low)
        return count + 1, position + moved, starts, kind

    def condition(
        count: tf.Tensor,
        position: tf.Tensor,
        _: tf.TensorArray,
        kind: tf.Tensor,
    ) -> tf.Tensor:
        return (kind != _SCAN) & (count < _SEGMENTS) & (position < file.length)

    _, _, starts, kind = tf.while_loop(
        condition,
        step,
        [
            tf.constant(0),
            tf.constant(2),
            tf.TensorArray(tf.int32, 1, dynamic_size=True),
            tf.constant(_SKIPPED),
        ],
        parallel_iterations=1,
    )
    return starts.stack(), kind == _SCAN


def _begins_with(heads: tf.Tensor, text: bytes) -> tf.Tensor:
    """Returns which segments begin with `text`."""
    return tf.reduce_all(heads[:, 4 : 4 + len(text)] == list(text), axis=1)


def decode(contents: tf.Tensor, box: tf.Tensor, ratio: tf.Tensor) -> tf.Tensor:
    """Decodes a box of the image at a fraction of its size.

    Args:
        contents: Scalar string.
        box: int32 `[4]`: top, left, height and width, in pixels of the result.
        ratio: int32 scalar, one of `RATIOS`.

    Returns:
        uint8 `[height, width, 3]`.
    """

    def at(ratio: int) -> Callable[[], tf.Tensor]:
        # The default DCT differs by 1 of 255 from other decoders.
        return lambda: tf.io.decode_and_crop_jpeg(
            contents,
            box,
            channels=3,
            ratio=ratio,
            dct_method="INTEGER_ACCURATE",
        )

    index = tf.reduce_sum(tf.cast(ratio > RATIOS, tf.int32))
    return tf.switch_case(index, [at(ratio) for ratio in RATIOS])
