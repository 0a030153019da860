"""Decodes images to pixels as viewers show them, with stock TensorFlow ops.

Every image of the package is decoded here: in training, evaluation, figures
and exported models. The structure of a file is read first (`data/formats`), so
that the cost of decoding it is known and bounded in advance.
"""

import tensorflow as tf

from tf_instdisc.config.data import MAX_PIXELS
from tf_instdisc.data.augment import Augmentation, crop_boxes
from tf_instdisc.data.formats import exif, image_file, jpeg
from tf_instdisc.data.formats.file_bytes import Stored
from tf_instdisc.data.formats.image_file import FORMATS as FORMATS
from tf_instdisc.data.scaling import resize, scale

# A JPEG is decoded at a fraction of its size as long as at least this many of
# its pixels, along each axis, contribute to one pixel of the result.
_OVERSAMPLING = 2.0

# Pixels decoded around a crop, because chroma is interpolated at its border.
_MARGIN = 8


def decode_whole(contents: tf.Tensor) -> tf.Tensor:
    """Decodes an image as viewers show it.

    EXIF orientation is applied, and a PNG or WebP with alpha is composited on
    white. Of 16-bit images the upper 8 bits are used, and of an animation the
    first frame.

    Args:
        contents: Scalar string, one of `FORMATS`.

    Returns:
        uint8 `[height, width, 3]`.

    Raises:
        tf.errors.InvalidArgumentError: At run time, if the image has another
            format, is too large, is broken, or costs more than its pixels.
    """
    kind, stored = image_file.read(contents, MAX_PIXELS)
    box = tf.concat([[0, 0], _shape(stored)], 0)
    return exif.orient(
        image_file.decode_box(kind, stored, box, tf.constant(1)),
        stored.orientation,
    )


def decode_smallest(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes a whole image as cheaply as possible, to test if it decodes.

    Args:
        contents: Scalar string.

    Returns:
        Height and width of the image as it is shown, int32 `[2]`; and the
        number of decoded values, int32 scalar. If it is not used, the graph
        may skip the decoding.

    Raises:
        tf.errors.InvalidArgumentError: As in `decode_whole`.
    """
    kind, stored = image_file.read(contents, MAX_PIXELS)
    ratio = tf.where(kind == image_file.JPEG, jpeg.RATIOS[-1], 1)
    sides = -(-_shape(stored) // ratio)
    box = tf.concat([[0, 0], sides], 0)
    image = image_file.decode_box(kind, stored, box, ratio)
    return _shown_shape(stored), tf.size(image)


def decode_crop(
    contents: tf.Tensor, uniforms: tf.Tensor, augmentation: Augmentation
) -> tf.Tensor:
    """Decodes the box that RandomResizedCrop draws, and resizes it.

    Only the box of a JPEG is decoded, at a fraction of its size if it is much
    larger than the result.

    Args:
        contents: Scalar string, an encoded image that `decode_smallest` has
            accepted. Otherwise the cost of a large PNG is not bounded.
        uniforms: float32 `[NUM_UNIFORMS]` in [0, 1).
        augmentation: Ranges of the box, and the output's size.

    Returns:
        float32 `[image_size, image_size, 3]` in 0..255.

    Raises:
        tf.errors.InvalidArgumentError: As in `decode_whole`.
    """
    kind, stored = image_file.read(contents, MAX_PIXELS, is_trusted=True)
    shape = _shown_shape(stored)
    box = crop_boxes(uniforms[None], shape[0], shape[1], augmentation)[0]
    box = _stored_box(box, stored)
    sides = tf.cast(box[2:], tf.float32)
    scales = augmentation.image_size / sides
    ratio = _ratio(kind, scales)
    # The smallest box of whole pixels, at this ratio, that contains the box.
    first = box[:2] // ratio
    last = -(-(box[:2] + box[2:]) // ratio)
    image = image_file.decode_box(
        kind, stored, tf.concat([first, last - first], 0), ratio
    )
    offsets = tf.cast(first * ratio - box[:2], tf.float32) * scales
    image = scale(
        image,
        [augmentation.image_size] * 2,
        scales * tf.cast(ratio, tf.float32),
        offsets,
    )
    return exif.orient(image, stored.orientation)


def decode_center(
    contents: tf.Tensor,
    image_size: int,
    crop_fraction: float,
    max_pixels: int = MAX_PIXELS,
) -> tf.Tensor:
    """Decodes, resizes and crops an image for evaluation.

    The result equals `resize_and_center_crop` of the whole image, but only the
    crop is decoded from a JPEG, and only the crop is resized.

    Args:
        contents: Scalar string, an encoded image.
        image_size: Side of the output, in pixels.
        crop_fraction: In (0, 1].
        max_pixels: Larger images are rejected without being decoded.

    Returns:
        float32 `[image_size, image_size, 3]` in 0..255.

    Raises:
        tf.errors.InvalidArgumentError: As in `decode_whole`.
    """
    kind, stored = image_file.read(contents, max_pixels)
    shape = _shape(stored)
    flips = tf.stack(exif.flips(stored.orientation))
    # TensorFlow 2.21 logs an error about flips[::-1].
    is_transposed = exif.is_transposed(stored.orientation)
    flips = tf.where(is_transposed, tf.reverse(flips, [0]), flips)
    scales, starts = _center(shape, image_size, crop_fraction, flips)
    ratio = _ratio(kind, scales)
    first, last = _needed(shape, image_size, scales, starts)
    first, last = first // ratio, -(-last // ratio)
    image = image_file.decode_box(
        kind, stored, tf.concat([first, last - first], 0), ratio
    )
    scales *= tf.cast(ratio, tf.float32)
    offsets = tf.cast(first, tf.float32) * scales - starts
    image = scale(image, [image_size] * 2, scales, offsets)
    return exif.orient(image, stored.orientation)


def center(
    image: tf.Tensor, image_size: int, crop_fraction: float
) -> tf.Tensor:
    """Returns an image of a source, encoded or not, as evaluation sees it.

    Args:
        image: Scalar string, or uint8 `[height, width, 1 or 3]`.
        image_size: Side of the output, in pixels.
        crop_fraction: In (0, 1].

    Returns:
        float32 `[image_size, image_size, 3]` in 0..255.
    """
    if image.dtype == tf.string:
        return decode_center(image, image_size, crop_fraction)
    return resize_and_center_crop(to_rgb(image), image_size, crop_fraction)


def crop_decoded(
    image: tf.Tensor, uniforms: tf.Tensor, augmentation: Augmentation
) -> tf.Tensor:
    """Crops and resizes a decoded image as `decode_crop` does.

    Args:
        image: `[height, width, channels]`.
        uniforms: As in `decode_crop`.
        augmentation: As in `decode_crop`.

    Returns:
        float32 `[image_size, image_size, channels]`.
    """
    shape = tf.shape(image)
    box = crop_boxes(uniforms[None], shape[0], shape[1], augmentation)[0]
    top, left, height, width = tf.unstack(box)
    cropped = image[top : top + height, left : left + width]
    return resize(cropped, [augmentation.image_size] * 2)


def to_rgb(image: tf.Tensor) -> tf.Tensor:
    """Repeats the channel of a grayscale image."""
    return tf.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


def resize_and_center_crop(
    image: tf.Tensor, image_size: int, crop_fraction: float
) -> tf.Tensor:
    """Resizes the shorter side to `image_size / crop_fraction`, then crops.

    Only what is visible in the center is resized, so that long images cost no
    more than square ones.

    Args:
        image: `[height, width, channels]`.
        image_size: Side of the output, in pixels.
        crop_fraction: In (0, 1].

    Returns:
        float32 `[image_size, image_size, channels]`.
    """
    shape = tf.shape(image)[:2]
    no_flips = tf.constant([False, False])
    scales, starts = _center(shape, image_size, crop_fraction, no_flips)
    first, last = _needed(shape, image_size, scales, starts)
    part = image[first[0] : last[0], first[1] : last[1]]
    offsets = tf.cast(first, tf.float32) * scales - starts
    return scale(part, [image_size] * 2, scales, offsets)


def _center(
    shape: tf.Tensor, image_size: int, crop_fraction: float, flips: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the scale of each axis and the center's first scaled pixel."""
    shorter = round(image_size / crop_fraction)
    sides = tf.cast(shape, tf.float32)
    scaled = tf.round(sides * (shorter / tf.reduce_min(sides)))
    starts = (tf.cast(scaled, tf.int32) - image_size) // 2
    # Where the image is mirrored, the center is counted from the other end.
    mirrored = tf.cast(scaled, tf.int32) - image_size - starts
    starts = tf.where(flips, mirrored, starts)
    return scaled / sides, tf.cast(starts, tf.float32)


def _needed(
    shape: tf.Tensor, image_size: int, scales: tf.Tensor, starts: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the first and last pixel that the center needs, on each axis."""
    radius = tf.maximum(1.0, 1.0 / scales) + _MARGIN
    first = tf.floor(starts / scales - radius)
    last = tf.math.ceil((starts + image_size) / scales + radius)
    first, last = (tf.cast(edge, tf.int32) for edge in (first, last))
    return tf.maximum(first, 0), tf.minimum(last, shape)


def _ratio(kind: tf.Tensor, scales: tf.Tensor) -> tf.Tensor:
    """Returns the ratio at which a JPEG is decoded; 1 for other formats."""
    most = 1 / (_OVERSAMPLING * tf.reduce_max(scales))
    fits = tf.cast(jpeg.RATIOS, tf.float32) <= most
    ratio = tf.reduce_max(tf.where(fits, jpeg.RATIOS, 1))
    return tf.where(kind == image_file.JPEG, ratio, 1)


def _shape(stored: Stored) -> tf.Tensor:
    return tf.cast(tf.stack([stored.height, stored.width]), tf.int32)


def _shown_shape(stored: Stored) -> tf.Tensor:
    shape = _shape(stored)
    is_transposed = exif.is_transposed(stored.orientation)
    return tf.where(is_transposed, shape[::-1], shape)


def _stored_box(box: tf.Tensor, stored: Stored) -> tf.Tensor:
    """Converts a box of the shown image to coordinates of the stored one."""
    vertical, horizontal = exif.flips(stored.orientation)
    shape = _shown_shape(stored)
    corner, sides = box[:2], box[2:]
    flips = tf.stack([vertical, horizontal])
    corner = tf.where(flips, shape - corner - sides, corner)
    is_transposed = exif.is_transposed(stored.orientation)
    corner = tf.where(is_transposed, corner[::-1], corner)
    sides = tf.where(is_transposed, sides[::-1], sides)
    return tf.concat([corner, sides], 0)
