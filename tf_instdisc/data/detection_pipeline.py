"""From images with boxes to batches for a detector.

The order of an epoch's images, and which of them are flipped, depend only on
the seed, the epoch and the position.
"""

import numpy as np
import tensorflow as tf

from tf_instdisc import random_streams
from tf_instdisc.data import decode, scaling
from tf_instdisc.data.detection_source import DetectionSource
from tf_instdisc.data.sources import buffer_shuffled

PADDING = -1.0
"""Edges and class of padding, which is not an object."""

_CACHE_LIMIT = 2 * 2**30  # Bytes of pixels to keep in memory.
_SHUFFLE_BUFFER = 1024  # images


def square_images(source: DetectionSource, image_size: int) -> tf.data.Dataset:
    """Returns the decoded images in order, resized to squares.

    They are kept in memory if they take up to 2 GiB.

    Returns:
        A dataset of uint8 `[image_size, image_size, 3]`.
    """

    @tf.autograph.experimental.do_not_convert
    def prepare(contents: tf.Tensor) -> tf.Tensor:
        image = decode.decode_whole(contents)
        image = scaling.resize(image, [image_size, image_size])
        return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)

    images = source.images().map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
    if source.num_images * image_size**2 * 3 <= _CACHE_LIMIT:
        images = images.cache()
    return images


def examples(source: DetectionSource, image_size: int) -> tf.data.Dataset:
    """Returns the images with their objects, in order.

    Difficult objects are left out, as is usual in training.

    Returns:
        A dataset of (position, image, boxes, classes): int64; uint8
        `[image_size, image_size, 3]`; float32 `[most, 4]`, left, top, right,
        bottom edge in pixels of the square; float32 `[most]`. Both are padded
        with `PADDING` to the largest number of objects in an image.
    """
    most = max(int(np.sum(~entry.difficult)) for entry in source.objects)
    boxes = np.full([source.num_images, most, 4], PADDING, np.float32)
    classes = np.full([source.num_images, most], PADDING, np.float32)
    for i, entry in enumerate(source.objects):
        kept = ~entry.difficult
        scale = image_size / np.tile(source.sizes[i, ::-1], 2)
        boxes[i, : kept.sum()] = entry.boxes[kept] * scale
        classes[i, : kept.sum()] = entry.classes[kept]
    labels = tf.data.Dataset.from_tensor_slices((boxes, classes))
    images = square_images(source, image_size)
    pairs = tf.data.Dataset.zip(images, labels).enumerate()
    return pairs.map(lambda i, pair: (i, pair[0], *pair[1]))


def epoch_batches(
    examples: tf.data.Dataset, batch_size: int, epoch: int, seed: int
) -> tf.data.Dataset:
    """Returns shuffled batches of one epoch; half of the images are flipped.

    Args:
        examples: The output of `examples`.
        batch_size: Number of images in a batch; the last may be smaller.
        epoch: In [0, 2**24).
        seed: In [0, 2**31).

    Returns:
        A dataset of (images, labels): uint8 `[batch, size, size, 3]` and a
        dictionary of `boxes`, float32 `[batch, most, 4]`, and `classes`,
        float32 `[batch, most]`.
    """

    @tf.autograph.experimental.do_not_convert
    def flip(
        position: tf.Tensor,
        image: tf.Tensor,
        boxes: tf.Tensor,
        classes: tf.Tensor,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        draw = tf.random.stateless_uniform(
            [],
            random_streams.seed_of(
                random_streams.AUGMENTATION, seed, position, epoch
            ),
        )
        size = tf.cast(tf.shape(image)[1], tf.float32)
        left, top, right, bottom = tf.unstack(boxes, axis=-1)
        mirrored = tf.stack([size - right, top, size - left, bottom], axis=-1)
        mirrored = tf.where(classes[:, None] == PADDING, boxes, mirrored)
        image, boxes = tf.cond(
            draw < 0.5,
            lambda: (image[:, ::-1], mirrored),
            lambda: (image, boxes),
        )
        return image, {"boxes": boxes, "classes": classes}

    order = random_streams.seed_of(random_streams.EPOCH_ORDER, seed, epoch)
    shuffled = buffer_shuffled(examples, _SHUFFLE_BUFFER, order)
    flipped = shuffled.map(flip, num_parallel_calls=tf.data.AUTOTUNE)
    return flipped.batch(batch_size).prefetch(tf.data.AUTOTUNE)
