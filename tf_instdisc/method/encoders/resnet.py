"""ResNets (He et al. 2016) from Keras' own layers.

The layout is torchvision's and therefore the paper's: explicit padding before
strided convolutions, batch norm with momentum 0.9 and epsilon 1e-5, and the
stride of a bottleneck on its 3x3 convolution.
"""

from collections.abc import Sequence

import keras
from keras import layers

from tf_instdisc.method.encoders import parts

STAGES = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
    "resnet152": ("bottleneck", (3, 8, 36, 3)),
}
"""Block type, and number of blocks in each of the four stages."""

_BOTTLENECK_EXPANSION = 4


def resnet(
    images: keras.KerasTensor,
    name: str,
    width: int,
    stem: str,
    synchronized: bool = False,
    stem_width: int | None = None,
) -> keras.KerasTensor:
    """Applies a ResNet, up to the last feature map.

    The activations at the end of the stem and of the four stages are layers
    named `conv1` .. `conv5`.

    Args:
        images: float `[batch, size, size, 3]`, normalized.
        name: A key of `STAGES`.
        width: Filters of the first stage; the paper uses 64.
        stem: `"imagenet"` (7x7 stride 2, then 3x3 max pooling stride 2) or
            `"cifar"` (3x3 stride 1).
        synchronized: Whether batch norm is synchronized across replicas.
        stem_width: Filters of the stem, by default `width`.

    Returns:
        float `[batch, size / 32, size / 32, channels]`; `size / 8` with the
        CIFAR stem.
    """
    kind, stage_sizes = STAGES[name]
    is_imagenet = stem == "imagenet"
    kernel_size, strides = (7, 2) if is_imagenet else (3, 1)
    x = parts.conv_norm(
        images,
        stem_width or width,
        kernel_size,
        strides,
        "conv1",
        synchronized,
    )
    x = layers.ReLU(name="conv1")(x)
    if is_imagenet:
        x = layers.ZeroPadding2D(1, name="conv1_pool_pad")(x)
        x = layers.MaxPooling2D(3, 2, name="conv1_pool")(x)
    for stage, num_blocks in enumerate(stage_sizes):
        filters = width * 2**stage
        for index in range(num_blocks):
            strides = 2 if stage > 0 and index == 0 else 1
            convs = block_convs(kind, filters, strides)
            is_last = index == num_blocks - 1
            prefix = f"conv{stage + 2}_block{index + 1}"
            x = _block(x, convs, strides, prefix, synchronized)
            x = layers.ReLU(
                name=f"conv{stage + 2}" if is_last else f"{prefix}_out"
            )(x)
    return x


def block_convs(
    kind: str, filters: int, strides: int
) -> list[tuple[int, int, int]]:
    """Returns filters, kernel size and strides of a block's convolutions."""
    if kind == "bottleneck":
        expanded = filters * _BOTTLENECK_EXPANSION
        return [(filters, 1, 1), (filters, 3, strides), (expanded, 1, 1)]
    return [(filters, 3, strides), (filters, 3, 1)]


def _block(
    x: keras.KerasTensor,
    convs: Sequence[tuple[int, int, int]],
    strides: int,
    prefix: str,
    synchronized: bool,
) -> keras.KerasTensor:
    """Applies a block: convolutions of (filters, kernel size, strides)."""
    shortcut = _shortcut(x, convs[-1][0], strides, prefix, synchronized)
    for number, conv in enumerate(convs, start=1):
        if number > 1:
            x = layers.ReLU(name=f"{prefix}_{number - 1}_relu")(x)
        x = parts.conv_norm(x, *conv, f"{prefix}_{number}", synchronized)
    return layers.Add(name=f"{prefix}_add")([x, shortcut])


def _shortcut(
    x: keras.KerasTensor,
    filters: int,
    strides: int,
    prefix: str,
    synchronized: bool,
) -> keras.KerasTensor:
    if strides == 1 and x.shape[-1] == filters:
        return x
    if strides > 1:
        # Selects every other pixel, then applies a convolution without a
        # stride; the result is the same. TensorFlow 2.21 with oneDNN corrupts
        # the heap in the filter gradient of a strided 1x1 convolution with
        # fewer than 16 channels.
        x = layers.AveragePooling2D(1, strides, name=f"{prefix}_0_pixels")(x)
    return parts.conv_norm(x, filters, 1, 1, f"{prefix}_0", synchronized)
