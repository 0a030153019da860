"""An image file of any format: first its header, then its pixels."""

from collections.abc import Callable

import tensorflow as tf

from tf_instdisc.data.formats import bmp, gif, jpeg, png, webp
from tf_instdisc.data.formats.file_bytes import Stored, file_bytes, require

FORMATS = "JPEG, PNG, GIF, BMP or WebP"
"""The formats that are decoded, everywhere in the package."""

JPEG, _PNG, _GIF, _BMP, _WEBP, _UNKNOWN = range(6)
"""The formats, in the order of the readers."""


def read(
    contents: tf.Tensor, max_pixels: int, is_trusted: bool = False
) -> tuple[tf.Tensor, Stored]:
    """Reads the header of a file, and bounds the cost of its pixels.

    Args:
        contents: Scalar string.
        max_pixels: Larger images are rejected.
        is_trusted: Whether the file was decoded before. If so, the pixel data
            of a large PNG is not expanded twice, once to measure it.

    Returns:
        The format, int32 scalar, and the content of the header.

    Raises:
        tf.errors.InvalidArgumentError: At run time, if the file has another
            format, is too large, or costs more than its pixels.
    """
    file = file_bytes(contents)
    start = file.slice(0, 12)

    def begins(signature: bytes) -> tf.Tensor:
        return tf.strings.substr(start, 0, len(signature)) == signature

    is_webp = begins(b"RIFF") & (tf.strings.substr(start, 8, 4) == b"WEBP")
    is_kind = [
        begins(b"\xff\xd8\xff"),
        begins(png.SIGNATURE),
        begins(b"GIF87a") | begins(b"GIF89a"),
        begins(b"BM"),
        is_webp,
        True,
    ]
    kind = tf.cast(tf.argmax(tf.cast(is_kind, tf.int32)), tf.int32)

    def refused() -> Stored:
        message = f"An image must be {FORMATS}."
        with tf.control_dependencies(require(tf.constant(False), message, [])):
            zero = tf.zeros([], tf.int64)
        return Stored(contents, zero, zero, tf.constant(1))

    stored = tf.switch_case(
        kind,
        [
            lambda: _READ_JPEG(file, max_pixels),
            lambda: _READ_PNG(file, max_pixels, is_trusted),
            lambda: _READ_GIF(file),
            lambda: _READ_BMP(file),
            lambda: _READ_WEBP(file),
            refused,
        ],
    )
    height, width = stored.height, stored.width
    checks = [
        *require((height > 0) & (width > 0), "An image must have pixels.", []),
        # Not a product, which could exceed 64 bits.
        *require(
            height <= max_pixels // tf.maximum(width, 1),
            f"An image must have at most {max_pixels} pixels. Received "
            "height, width:",
            [height, width],
        ),
    ]
    with tf.control_dependencies(checks):
        return kind, stored._replace(contents=tf.identity(stored.contents))


def decode_box(
    kind: tf.Tensor, stored: Stored, box: tf.Tensor, ratio: tf.Tensor
) -> tf.Tensor:
    """Decodes a box of an image.

    Args:
        kind: As returned by `read`.
        stored: As returned by `read`.
        box: int32 `[4]`: top, left, height and width, in pixels of the stored
            image divided by `ratio`.
        ratio: int32 scalar, one of `jpeg.RATIOS`; 1 for other formats.

    Returns:
        uint8 `[height, width, 3]`, not oriented. Images with alpha are shown
        on white.
    """
    contents, height, width, _ = stored
    image = tf.switch_case(
        kind,
        [
            lambda: jpeg.decode(contents, box, ratio),
            lambda: _DECODE_PNG(box, contents),
            lambda: _DECODE_GIF(box, contents, height, width),
            lambda: _DECODE_BMP(box, contents),
            lambda: _DECODE_WEBP(box, contents, height, width),
        ],
    )
    return tf.ensure_shape(image, [None, None, 3])


# === Functions that are traced once, not for each dataset ===


# If an inlined branch is not taken, TensorFlow still visits each of its ops.
# With all formats, that takes longer than decoding a small image. JPEG is
# inlined, because most images are JPEGs, and a call takes 0.2 ms as well.
_CALLED = {"experimental_attributes": {"_noinline": True}}
_READER = {"autograph": False, "reduce_retracing": True}


def _decoder(decode: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    def traced(box: tf.Tensor, *stored: tf.Tensor) -> tf.Tensor:
        image = decode(*stored)
        top, left, box_height, box_width = tf.unstack(box)
        image = image[top : top + box_height, left : left + box_width]
        if image.shape[2] is None:
            has_alpha = tf.shape(image)[2] == 4
            image = tf.cond(has_alpha, lambda: on_white(image), lambda: image)
        return tf.ensure_shape(image, [None, None, 3])

    return tf.function(traced, autograph=False, **_CALLED)


def on_white(image: tf.Tensor) -> tf.Tensor:
    """Composites uint8 `[height, width, 4]` on white, in three channels."""
    # Products of two bytes fit in 16 bits, which take half of float's memory.
    image = tf.cast(image, tf.uint16)
    alpha = image[..., 3:]
    total = image[..., :3] * alpha + 255 * (255 - alpha) + 128
    # The quotient by 255, rounded.
    total = tf.bitwise.right_shift(total + tf.bitwise.right_shift(total, 8), 8)
    return tf.cast(total, tf.uint8)


_READ_JPEG = tf.function(jpeg.read, **_READER)
_READ_PNG = tf.function(png.read, **_READER, **_CALLED)
_READ_GIF = tf.function(gif.read, **_READER, **_CALLED)
_READ_BMP = tf.function(bmp.read, **_READER, **_CALLED)
_READ_WEBP = tf.function(webp.read, **_READER, **_CALLED)
_DECODE_PNG = _decoder(png.decode)
_DECODE_GIF = _decoder(gif.decode)
_DECODE_BMP = _decoder(bmp.decode)
_DECODE_WEBP = _decoder(webp.decode)
