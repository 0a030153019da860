"""Color transformations as torchvision defines them, on any Keras backend."""

from typing import Any

from keras import ops

Tensor = Any

# ITU-R 601-2 luma, as Pillow and torchvision use it.
LUMA = (0.299, 0.587, 0.114)


def color_jitter(
    images: Tensor,
    uniforms: Tensor,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> Tensor:
    """torchvision's ColorJitter: four changes in an order drawn per image.

    Brightness, contrast and saturation blend the image with black, with its
    mean luma and with its luma, by a factor in [1 - range, 1 + range]. The hue
    is rotated by [-hue, hue] of the circle. Each result is clipped to 0..255.

    Args:
        images: float32 `[batch, height, width, 3]`, RGB in 0..255.
        uniforms: float32 `[batch, 8]` in [0, 1): four factors, then four keys
            whose ranks give the order.
        brightness: Half-width of the factor's range, at least 0.
        contrast: As for brightness.
        saturation: As for brightness.
        hue: Half-width of the rotation, as a fraction of the color circle,
            in [0, 0.5].

    Returns:
        float32 `[batch, height, width, 3]`, RGB in 0..255.
    """
    ranges = (brightness, contrast, saturation)
    if not any(ranges) and not hue:
        return images
    # All three blends have one form: a * pixel + b * luma + c * mean luma.
    factors = ops.stack(
        [
            max(0.0, 1 - r) + (1 + r - max(0.0, 1 - r)) * uniforms[:, i]
            for i, r in enumerate(ranges)
        ],
        axis=-1,
    )  # [batch, 3]
    rest = 1.0 - factors
    zero = ops.zeros_like(rest[:, 0])
    a = factors
    b = ops.stack([zero, zero, rest[:, 2]], axis=-1)
    c = ops.stack([zero, rest[:, 1], zero], axis=-1)

    keys, hue_key = uniforms[:, 4:7], uniforms[:, 7:8]
    order = ops.argsort(keys, axis=-1)
    a, b, c, keys = (
        ops.take_along_axis(t, order, axis=-1) for t in (a, b, c, keys)
    )
    before_hue = keys < hue_key
    rotations = hue * (2.0 * uniforms[:, 3] - 1.0)

    def blend_where(planes: Tensor, chosen: Tensor) -> Tensor:
        a_ = ops.where(chosen, a, 1.0)
        b_ = ops.where(chosen, b, 0.0)
        c_ = ops.where(chosen, c, 0.0)
        for i in range(3):
            planes = _blend(planes, a_[:, i], b_[:, i], c_[:, i])
        return planes

    # One plane per channel: adjacent values are computed together.
    batch = ops.shape(images)[0]
    _, height, width, _ = images.shape
    planes = ops.transpose(
        ops.reshape(images, (batch, height * width, 3)), (0, 2, 1)
    )
    planes = blend_where(planes, before_hue)
    planes = _rotate_hue(planes, rotations)
    planes = blend_where(planes, ops.logical_not(before_hue))
    return ops.reshape(
        ops.transpose(planes, (0, 2, 1)), (batch, height, width, 3)
    )


def _luma_weights() -> Tensor:
    return ops.reshape(ops.convert_to_tensor(LUMA, dtype="float32"), (3, 1))


def _blend(planes: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Returns a * pixel + b * luma + c * mean luma of `[batch, 3, pixels]`."""
    a, b, c = (ops.reshape(t, (-1, 1, 1)) for t in (a, b, c))
    luma = ops.sum(planes * _luma_weights(), axis=1, keepdims=True)
    mean = ops.mean(luma, axis=2, keepdims=True)
    return ops.clip(a * planes + (b * luma + c * mean), 0.0, 255.0)


def _rotate_hue(planes: Tensor, rotations: Tensor) -> Tensor:
    """Rotates the hue in HSV by `[batch]` fractions of the circle."""
    red, green, blue = planes[:, 0], planes[:, 1], planes[:, 2]
    value = ops.maximum(ops.maximum(red, green), blue)
    least = ops.minimum(ops.minimum(red, green), blue)
    chroma = value - least
    safe = ops.where(chroma > 0, chroma, 1.0)
    hue = ops.where(
        value == red,
        (green - blue) / safe,
        ops.where(
            value == green,
            2.0 + (blue - red) / safe,
            4.0 + (red - green) / safe,
        ),
    )  # in sixths of the circle
    hue = hue + 6.0 * ops.reshape(rotations, (-1, 1))
    # `ops.mod` is not used, because it computes one pixel at a time.
    hue = hue - 6.0 * ops.floor(hue * (1 / 6))
    ramps = (
        ops.abs(hue - 3.0) - 1.0,
        2.0 - ops.abs(hue - 2.0),
        2.0 - ops.abs(hue - 4.0),
    )
    return ops.stack(
        [least + chroma * ops.clip(ramp, 0.0, 1.0) for ramp in ramps], axis=1
    )


def random_grayscale(
    images: Tensor, uniforms: Tensor, probability: float
) -> Tensor:
    """Replaces RGB by its luma, with a given probability.

    Args:
        images: float32 `[batch, height, width, 3]`.
        uniforms: float32 `[batch]` in [0, 1).
        probability: In [0, 1].

    Returns:
        float32 `[batch, height, width, 3]`.
    """
    chosen = ops.reshape(uniforms < probability, (-1, 1, 1, 1))
    return ops.where(chosen, ops.matmul(images, _luma_weights()), images)
