"""Bytes of strangers to pixels, inside of the graph and without failing.

What an image may cost is read from its header, before it is decoded. GIF,
JPEG XL and animated WebP are refused: their decoders hold all frames, whose
number and size no header bounds.
"""

import functools

import tensorflow as tf

from tf_instdisc.data import decode

FORMATS = "JPEG, PNG, WebP (not animated) or BMP"

# Shorter side to image_size: a line of pixels would become a huge image.
MAX_ASPECT_RATIO = 64

_PARALLEL_DECODERS = 8


def decode_batch(
    contents: tf.Tensor,
    image_size: int,
    crop_fraction: float,
    max_pixels: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes, resizes and crops images as in evaluation; never fails.

    A graph has no "try": `ignore_errors` of tf.data, on a data set of one
    image, is one. All of it are stock ops.

    Args:
        contents: string `[batch]`, not empty.
        image_size: Side of the output, in pixels.
        crop_fraction: As in `evaluation_dataset`.
        max_pixels: Larger images are refused, by what their header says.

    Returns:
        float32 `[batch, image_size, image_size, 3]` in 0..255, zeros where an
        image is refused, and bool `[batch]`: which images were decoded.
    """
    read = functools.partial(
        decode_one,
        image_size=image_size,
        crop_fraction=crop_fraction,
        max_pixels=max_pixels,
    )
    nothing = tf.data.Dataset.from_tensors(
        (tf.zeros([image_size, image_size, 3]), False)
    )

    def try_one(content):
        image = tf.data.Dataset.from_tensors(content)
        image = image.map(lambda c: (read(c), True)).ignore_errors()
        return image.concatenate(nothing).take(1)

    images = tf.data.Dataset.from_tensor_slices(contents)
    images = images.interleave(
        try_one,
        cycle_length=_PARALLEL_DECODERS,
        num_parallel_calls=_PARALLEL_DECODERS,
        deterministic=True,
    )
    batches = images.batch(tf.size(contents, tf.int64))
    decoded, valid = batches.get_single_element()
    return (
        tf.ensure_shape(decoded, [None, image_size, image_size, 3]),
        tf.ensure_shape(valid, [None]),
    )


def decode_batch_or_fail(
    contents: tf.Tensor,
    image_size: int,
    crop_fraction: float,
    max_pixels: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """As `decode_batch`, but one bad image is an error of the whole batch.

    Raises:
        tf.errors.InvalidArgumentError: When run, if an image is refused.
    """
    images = tf.map_fn(
        functools.partial(
            decode_one,
            image_size=image_size,
            crop_fraction=crop_fraction,
            max_pixels=max_pixels,
        ),
        contents,
        fn_output_signature=tf.TensorSpec([image_size, image_size, 3]),
        parallel_iterations=_PARALLEL_DECODERS,
    )
    return images, tf.ones([tf.size(contents)], tf.bool)


def decode_one(
    contents: tf.Tensor,
    image_size: int,
    crop_fraction: float,
    max_pixels: int,
) -> tf.Tensor:
    """Decodes one image, if its header allows it.

    Args:
        contents: Scalar string.
        image_size: Side of the output, in pixels.
        crop_fraction: As in `evaluation_dataset`.
        max_pixels: Larger images are refused.

    Returns:
        float32 `[image_size, image_size, 3]` in 0..255.

    Raises:
        tf.errors.InvalidArgumentError: When run, if the image is of another
            format, too large, too long, or broken.
    """
    height, width = header_shape(contents)
    checks = [
        tf.debugging.assert_positive(tf.minimum(height, width)),
        tf.debugging.assert_less_equal(
            height * width,
            tf.constant(max_pixels, tf.int64),
            f"An image must have at most {max_pixels} pixels.",
        ),
        tf.debugging.assert_less_equal(
            tf.maximum(height, width),
            MAX_ASPECT_RATIO * tf.minimum(height, width),
            f"Sides of an image may differ {MAX_ASPECT_RATIO}-fold at most.",
        ),
    ]
    with tf.control_dependencies(checks):
        contents = tf.identity(contents)
    image = decode.decode_whole(contents)
    return decode.resize_and_center_crop(image, image_size, crop_fraction)


def header_shape(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Height and width that an image claims, without decoding it.

    Args:
        contents: Scalar string.

    Returns:
        Two int64 scalars.

    Raises:
        tf.errors.InvalidArgumentError: When run, if the format is none of
            `FORMATS` or the header is cut off.
    """

    def bytes_at(start, length):
        return tf.strings.substr(contents, start, length)

    def integer(start, length, big_endian=False):
        values = tf.cast(
            tf.io.decode_raw(bytes_at(start, length), tf.uint8), tf.int64
        )
        values = tf.ensure_shape(values, [length])
        places = range(length - 1, -1, -1) if big_endian else range(length)
        return tf.reduce_sum(values * [256**place for place in places])

    def jpeg():
        shape = tf.io.extract_jpeg_shape(contents, output_type=tf.int32)
        return tf.cast(shape[:2], tf.int64)

    def png():
        # libpng, too, wants IHDR first.
        with tf.control_dependencies(
            [tf.debugging.assert_equal(bytes_at(12, 4), b"IHDR")]
        ):
            return tf.stack([integer(20, 4, True), integer(16, 4, True)])

    def bmp():
        # A height below zero means: from top to bottom.
        height = integer(22, 4)
        height = tf.minimum(height, 2**32 - height)
        return tf.stack([height, integer(18, 4)])

    def webp_lossy():
        return tf.stack([integer(28, 2) % 2**14, integer(26, 2) % 2**14])

    def webp_lossless():
        bits = integer(21, 4)
        return tf.stack([bits // 2**14 % 2**14, bits % 2**14]) + 1

    def webp_extended():
        is_animated = integer(20, 1) // 2 % 2
        with tf.control_dependencies(
            [tf.debugging.assert_equal(is_animated, tf.constant(0, tf.int64))]
        ):
            return tf.stack([integer(27, 3), integer(24, 3)]) + 1

    def refuse():
        with tf.control_dependencies(
            [tf.debugging.Assert(False, [f"An image must be {FORMATS}."])]
        ):
            return tf.zeros([2], tf.int64)

    def webp():
        kind = bytes_at(12, 4)
        return tf.case(
            [
                (tf.equal(kind, b"VP8 "), webp_lossy),
                (tf.equal(kind, b"VP8L"), webp_lossless),
                (tf.equal(kind, b"VP8X"), webp_extended),
            ],
            default=refuse,
        )

    shape = tf.case(
        [
            (tf.equal(bytes_at(0, 3), b"\xff\xd8\xff"), jpeg),
            (tf.equal(bytes_at(0, 8), b"\x89PNG\r\n\x1a\n"), png),
            (tf.equal(bytes_at(0, 4), b"RIFF"), webp),
            (tf.equal(bytes_at(0, 2), b"BM"), bmp),
        ],
        default=refuse,
    )
    height, width = tf.unstack(tf.ensure_shape(shape, [2]))
    return height, width
