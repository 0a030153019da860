"""An image file of any format: first its header, then its pixels."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_instdisc.data.formats import bmp, gif, jpeg, png, webp
from tf_instdisc.data.formats.file_bytes import file_bytes, require
from tf_instdisc.data.formats.stored import Stored

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

    readers = [
        _called(lambda: png.read(file, max_pixels, is_trusted)),
        *(
            _called(lambda module=module: module.read(file, max_pixels))
            for module in (gif, bmp, webp)
        ),
    ]
    stored = tf.switch_case(
        kind, [lambda: jpeg.read(file, max_pixels), *readers, refused]
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


def _called(branch: Callable[..., Any]) -> Callable[[], Any]:
    """Prevents a branch from being inlined.

    If an inlined branch is not taken, TensorFlow still visits each of its
    ops. With all formats, that takes longer than decoding a small image. JPEG
    is inlined, because most images are JPEGs, and a call takes 0.2 ms as well.
    """
    return tf.function(
        branch, autograph=False, experimental_attributes={"_noinline": True}
    )


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
        uint8 `[height, width, 3]`, not oriented.
    """
    height, width = stored.height, stored.width

    def box_of(decode: Callable[[], tf.Tensor]) -> Callable[[], tf.Tensor]:
        def decoded() -> tf.Tensor:
            image = tf.ensure_shape(decode(), [None, None, 3])
            top, left, box_height, box_width = tf.unstack(box)
            return image[top : top + box_height, left : left + box_width]

        return _called(decoded)

    contents = stored.contents
    image = tf.switch_case(
        kind,
        [
            lambda: jpeg.decode(contents, box, ratio),
            box_of(lambda: png.decode(contents)),
            box_of(lambda: gif.decode(contents, height, width)),
            box_of(lambda: bmp.decode(contents)),
            box_of(lambda: webp.decode(contents, height, width)),
        ],
    )
    return tf.ensure_shape(image, [None, None, 3])
