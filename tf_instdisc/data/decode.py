"""Encoded images to pixels, with stock TensorFlow ops only."""

import tensorflow as tf

from tf_instdisc.augment import Augmentation, crop_boxes


def decode_whole(contents: tf.Tensor) -> tf.Tensor:
    """Decodes a JPEG, PNG, GIF or BMP.

    Args:
        contents: Scalar string.

    Returns:
        uint8 `[height, width, 3]`; of an animation, the first frame.

    Raises:
        tf.errors.InvalidArgumentError: If this is no image.
    """
    image = tf.io.decode_image(contents, channels=3, expand_animations=False)
    image.set_shape([None, None, 3])
    return image


def decode_crop(
    contents: tf.Tensor, uniforms: tf.Tensor, augmentation: Augmentation
) -> tf.Tensor:
    """Decodes the box that RandomResizedCrop draws, and resizes it.

    Of a JPEG, only the box is decoded.

    Args:
        contents: Scalar string, an encoded image.
        uniforms: float32 `[NUM_UNIFORMS]` in [0, 1).
        augmentation: Ranges of the box, and the output's size.

    Returns:
        float32 `[image_size, image_size, 3]` in 0..255.
    """

    def box_of(shape):
        return crop_boxes(uniforms[None], shape[0], shape[1], augmentation)[0]

    def from_jpeg():
        box = box_of(tf.io.extract_jpeg_shape(contents))
        return tf.io.decode_and_crop_jpeg(contents, box, channels=3)

    def from_other():
        image = decode_whole(contents)
        top, left, height, width = tf.unstack(box_of(tf.shape(image)))
        return image[top : top + height, left : left + width]

    image = tf.cond(tf.io.is_jpeg(contents), from_jpeg, from_other)
    return resize(image, [augmentation.image_size] * 2)


def resize(image: tf.Tensor, size: list[int] | tf.Tensor) -> tf.Tensor:
    """Resizes with Pillow's BILINEAR: a triangle, antialiased."""
    return tf.image.resize(image, size, "bilinear", antialias=True)


def to_rgb(image: tf.Tensor) -> tf.Tensor:
    """Repeats the channel of a grey image."""
    return tf.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


def resize_and_center_crop(
    image: tf.Tensor, image_size: int, crop_fraction: float
) -> tf.Tensor:
    """Shorter side to `image_size / crop_fraction`, then the centre.

    Args:
        image: `[height, width, channels]`.
        image_size: Side of the output, in pixels.
        crop_fraction: In (0, 1].

    Returns:
        float32 `[image_size, image_size, channels]`.
    """
    shorter = round(image_size / crop_fraction)
    if image.shape[:2] == (shorter, shorter):
        image = tf.cast(image, tf.float32)
    else:
        shape = tf.cast(tf.shape(image)[:2], tf.float32)
        size = tf.round(shape * (shorter / tf.reduce_min(shape)))
        image = resize(image, tf.cast(size, tf.int32))
    top, left = tf.unstack((tf.shape(image)[:2] - image_size) // 2)
    image = image[top : top + image_size, left : left + image_size]
    return tf.ensure_shape(image, [image_size, image_size, image.shape[-1]])
