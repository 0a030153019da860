"""The paper's four augmentations, as torchvision defines them.

Every function is a pure function of the images and of uniform numbers drawn by
the caller, one row per image. An image is therefore augmented identically on
any replica, worker or restart, and the same code runs on every Keras backend.

Definitions: torchvision.transforms RandomResizedCrop, ColorJitter,
RandomGrayscale and RandomHorizontalFlip. `keras_cv` draws crops and jitter
from different distributions (BUILD_NOTES.md); where the definitions agree, the
tests compare the two pixel by pixel.
"""

import dataclasses
import math
from typing import Any

from keras import ops

from tf_instdisc.config import AugmentationConfig, RunConfig
from tf_instdisc.data.colors import color_jitter, random_grayscale
from tf_instdisc.errors import UsageError

Tensor = Any

_CROP_ATTEMPTS = 10
_CROP_DRAWS = 2 * _CROP_ATTEMPTS + 2
_JITTER_DRAWS = 8
NUM_UNIFORMS = _CROP_DRAWS + _JITTER_DRAWS + 2
"""Number of uniform values in [0, 1) that one image needs."""


@dataclasses.dataclass(frozen=True)
class Augmentation(AugmentationConfig):
    """The random changes to each image, and their ranges.

    ```python
    augmentation = tf_instdisc.Augmentation(
        image_size=32, min_crop_area=0.4, hue=0.1, flip=False
    )
    ```

    The other attributes are those of `tf_instdisc.AugmentationConfig`, with the
    same defaults.

    Attributes:
        image_size: Side of the square output, in pixels.
        crop_aspect_ratio: Range of width / height of the crop; sampled
            uniformly on a logarithmic scale.

    Raises:
        UsageError: If an attribute is out of range.
    """

    image_size: int
    _: dataclasses.KW_ONLY
    crop_aspect_ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size < 1:
            raise UsageError(
                "`image_size` must be at least 1. Received: "
                f"image_size={self.image_size}"
            )
        low, high = self.crop_aspect_ratio
        if not 0 < low <= high:
            raise UsageError(
                "`crop_aspect_ratio` must be positive and in ascending order. "
                f"Received: crop_aspect_ratio={self.crop_aspect_ratio}"
            )


NO_COLOR_CHANGES: dict[str, Any] = {
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue": 0.0,
    "grayscale_probability": 0.0,
}
"""Arguments of an `Augmentation` that changes only the geometry."""


def augmentation_of(config: RunConfig) -> Augmentation:
    """Returns the random changes to each training image of a run."""
    size = config.data.train_image_size or config.data.image_size
    return Augmentation(size, **vars(config.augmentation))


def augment(
    images: Tensor,
    uniforms: Tensor,
    augmentation: Augmentation,
    crop: bool = True,
) -> Tensor:
    """Crops, jitters, converts to grayscale and flips a batch.

    Args:
        images: uint8 or float `[batch, height, width, 3]`, RGB in 0..255.
        uniforms: float32 `[batch, NUM_UNIFORMS]` in [0, 1), drawn
            independently.
        augmentation: The random changes, and their ranges.
        crop: False if the images were cropped when they were decoded, by
            `crop_boxes` with the same uniforms.

    Returns:
        float32 `[batch, image_size, image_size, 3]`, RGB in 0..255.
    """
    images = ops.cast(images, "float32")
    if crop:
        _, height, width, _ = images.shape
        boxes = crop_boxes(uniforms, height, width, augmentation)
        images = crop_and_resize(images, boxes, augmentation.image_size)
    jitter = uniforms[:, _CROP_DRAWS : _CROP_DRAWS + _JITTER_DRAWS]
    images = color_jitter(
        images,
        jitter,
        augmentation.brightness,
        augmentation.contrast,
        augmentation.saturation,
        augmentation.hue,
    )
    images = random_grayscale(
        images, uniforms[:, -2], augmentation.grayscale_probability
    )
    if augmentation.flip:
        images = random_flip(images, uniforms[:, -1])
    return images


def crop_boxes(
    uniforms: Tensor,
    height: Tensor,
    width: Tensor,
    augmentation: Augmentation,
) -> Tensor:
    """Draws the boxes of torchvision's RandomResizedCrop.

    An area and an aspect ratio are drawn up to ten times until the box fits
    into the image. If none fits, the largest centered box with an allowed
    aspect ratio is used.

    Args:
        uniforms: float32 `[batch, >= 22]` in [0, 1).
        height: int, a scalar or `[batch]`, in pixels.
        width: int, a scalar or `[batch]`, in pixels.
        augmentation: Ranges of area and aspect ratio.

    Returns:
        int32 `[batch, 4]`: top, left, height, width, in pixels.
    """
    height = ops.expand_dims(ops.cast(height, "float32"), -1)
    width = ops.expand_dims(ops.cast(width, "float32"), -1)
    least = augmentation.min_crop_area
    ratio_low, ratio_high = augmentation.crop_aspect_ratio

    areas = least + (1 - least) * uniforms[:, :_CROP_ATTEMPTS]
    areas = areas * height * width
    ratios = ops.exp(
        math.log(ratio_low)
        + math.log(ratio_high / ratio_low)
        * uniforms[:, _CROP_ATTEMPTS : 2 * _CROP_ATTEMPTS]
    )
    widths = ops.round(ops.sqrt(areas * ratios))  # [batch, attempts]
    heights = ops.round(ops.sqrt(areas / ratios))
    fits = (widths > 0) & (widths <= width) & (heights > 0)
    fits = fits & (heights <= height)
    first = ops.cast(ops.argmax(ops.cast(fits, "int32"), axis=-1), "int32")
    first = ops.expand_dims(first, -1)
    crop_height = ops.take_along_axis(heights, first, axis=-1)
    crop_width = ops.take_along_axis(widths, first, axis=-1)

    u_top = uniforms[:, 2 * _CROP_ATTEMPTS : 2 * _CROP_ATTEMPTS + 1]
    u_left = uniforms[:, 2 * _CROP_ATTEMPTS + 1 : 2 * _CROP_ATTEMPTS + 2]
    # u * (slack + 1) can round up to slack + 1 in float32.
    top = ops.minimum(
        ops.floor(u_top * (height - crop_height + 1)), height - crop_height
    )
    left = ops.minimum(
        ops.floor(u_left * (width - crop_width + 1)), width - crop_width
    )

    none_fits = ops.logical_not(ops.any(fits, axis=-1, keepdims=True))
    # At least one pixel, which torchvision's fallback does not guarantee.
    full_height = ops.minimum(height, ops.round(width / ratio_low))
    full_height = ops.maximum(full_height, 1.0)
    full_width = ops.minimum(width, ops.round(height * ratio_high))
    full_width = ops.maximum(full_width, 1.0)
    crop_height = ops.where(none_fits, full_height, crop_height)
    crop_width = ops.where(none_fits, full_width, crop_width)
    top = ops.where(none_fits, ops.floor((height - full_height) / 2), top)
    left = ops.where(none_fits, ops.floor((width - full_width) / 2), left)
    boxes = ops.concatenate([top, left, crop_height, crop_width], axis=-1)
    return ops.cast(boxes, "int32")


def crop_and_resize(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crops a box from each image and resizes it, using matrix products.

    The filter is the triangle of Pillow's BILINEAR, widened when it shrinks
    (antialiasing). It ignores everything outside the box.

    Args:
        images: float32 `[batch, height, width, channels]`.
        boxes: int32 `[batch, 4]`: top, left, height, width, in pixels.
        size: Side of the output, in pixels.

    Returns:
        float32 `[batch, size, size, channels]`.
    """
    batch = ops.shape(images)[0]
    _, height, width, channels = images.shape
    boxes = ops.cast(boxes, "float32")
    rows = _resize_matrix(boxes[:, 0], boxes[:, 2], height, size)
    columns = _resize_matrix(boxes[:, 1], boxes[:, 3], width, size)
    flat = ops.reshape(images, (batch, height, width * channels))
    flat = ops.matmul(rows, flat)  # [batch, size, width * channels]
    flat = ops.reshape(flat, (batch, size, width, channels))
    flat = ops.reshape(
        ops.transpose(flat, (0, 2, 1, 3)), (batch, width, size * channels)
    )
    flat = ops.matmul(columns, flat)  # [batch, size, size * channels]
    flat = ops.reshape(flat, (batch, size, size, channels))
    return ops.transpose(flat, (0, 2, 1, 3))


def _resize_matrix(
    start: Tensor, length: Tensor, full_length: int, size: int
) -> Tensor:
    """Returns the weights `[batch, size, full_length]` of one axis."""
    start = start[:, None, None]
    length = length[:, None, None]
    scale = length / size
    support = ops.maximum(scale, 1.0)
    centers = (ops.arange(size, dtype="float32") + 0.5)[None, :, None] * scale
    positions = ops.arange(full_length, dtype="float32")[None, None, :] - start
    weights = 1.0 - ops.abs(positions + 0.5 - centers) / support
    inside = (positions >= 0) & (positions < length)
    weights = ops.where(inside, ops.maximum(weights, 0.0), 0.0)
    return weights / ops.sum(weights, axis=-1, keepdims=True)


def random_flip(images: Tensor, uniforms: Tensor) -> Tensor:
    """Flips an image left to right if its uniform is below one half.

    Args:
        images: `[batch, height, width, channels]`.
        uniforms: float32 `[batch]` in [0, 1).

    Returns:
        The flipped images, in the form of `images`.
    """
    chosen = ops.reshape(uniforms < 0.5, (-1, 1, 1, 1))
    return ops.where(chosen, ops.flip(images, axis=2), images)
