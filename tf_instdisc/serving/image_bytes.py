"""Decodes untrusted image bytes in-graph, without raising errors.

`data.decode` limits the cost of an image before it is decoded.
"""

import functools

import tensorflow as tf

from tf_instdisc.data import decode

_PARALLEL_DECODERS = 8


def decode_batch(
    contents: tf.Tensor,
    image_size: int,
    crop_fraction: float,
    max_pixels: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes, resizes and crops images as in evaluation; never fails.

    A graph has no "try", but `ignore_errors` of tf.data skips images that
    fail. The others are then scattered to their positions. All ops are stock.

    Args:
        contents: string `[batch]`.
        image_size: Side of the output in pixels.
        crop_fraction: As in `evaluation_dataset`.
        max_pixels: Images with more pixels, according to their header, are
            rejected.

    Returns:
        float32 `[batch, image_size, image_size, 3]` in [0, 255], with zeros
        for rejected images, and bool `[batch]`, which images were decoded.
    """

    @tf.autograph.experimental.do_not_convert
    def read(
        position: tf.Tensor, content: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        image = decode.decode_center(
            content, image_size, crop_fraction, max_pixels
        )
        return position, image

    images = tf.data.Dataset.from_tensor_slices(contents).enumerate(1)
    images = images.map(
        read,
        num_parallel_calls=_PARALLEL_DECODERS,
        deterministic=True,
    ).ignore_errors()
    # A batch must not be empty, even if all images are rejected.
    blank = tf.zeros([image_size, image_size, 3])
    blanks = tf.data.Dataset.from_tensors((tf.constant(0, tf.int64), blank))
    size = tf.size(contents, tf.int64) + 1
    batches = blanks.concatenate(images).batch(size)
    positions, decoded = batches.get_single_element()
    shape = [size, image_size, image_size, 3]
    places = positions[:, None]
    images = tf.scatter_nd(places, decoded, tf.cast(shape, tf.int64))
    valid = tf.scatter_nd(places, tf.ones_like(positions, tf.int32), size[None])
    return images[1:], valid[1:] > 0


def decode_batch_or_fail(
    contents: tf.Tensor,
    image_size: int,
    crop_fraction: float,
    max_pixels: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Like `decode_batch`, but one bad image fails the whole batch.

    Raises:
        tf.errors.InvalidArgumentError: When run, if an image is rejected.
    """
    images = tf.map_fn(
        functools.partial(
            decode.decode_center,
            image_size=image_size,
            crop_fraction=crop_fraction,
            max_pixels=max_pixels,
        ),
        contents,
        fn_output_signature=tf.TensorSpec([image_size, image_size, 3]),
        parallel_iterations=_PARALLEL_DECODERS,
    )
    return images, tf.ones([tf.size(contents)], tf.bool)
