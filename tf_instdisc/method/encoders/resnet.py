"""ResNets (He et al. 2016) from Keras' own layers.

The layout is torchvision's and therefore the paper's: explicit padding before
strided convolutions, batch norm with momentum 0.9 and epsilon 1e-5, and the
stride of a bottleneck on its 3x3 convolution.
"""

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
    block_name, stage_sizes = STAGES[name]
    block = {"basic": _basic_block, "bottleneck": _bottleneck_block}[block_name]
    norm = {"synchronized": synchronized}
    stem_width = stem_width or width
    if stem == "imagenet":
        x = parts.conv(images, stem_width, 7, 2, "conv1_conv")
        x = parts.batch_norm(x, "conv1_bn", **norm)
        x = layers.ReLU(name="conv1")(x)
        x = layers.ZeroPadding2D(1, name="conv1_pool_pad")(x)
        x = layers.MaxPooling2D(3, 2, name="conv1_pool")(x)
    else:
        x = parts.conv(images, stem_width, 3, 1, "conv1_conv")
        x = parts.batch_norm(x, "conv1_bn", **norm)
        x = layers.ReLU(name="conv1")(x)
    for stage, num_blocks in enumerate(stage_sizes):
        for index in range(num_blocks):
            is_last = index == num_blocks - 1
            prefix = f"conv{stage + 2}_block{index + 1}"
            x = block(
                x,
                filters=width * 2**stage,
                strides=2 if stage > 0 and index == 0 else 1,
                prefix=prefix,
                output_name=f"conv{stage + 2}" if is_last else f"{prefix}_out",
                norm=norm,
            )
    return x


def _basic_block(
    x: keras.KerasTensor,
    filters: int,
    strides: int,
    prefix: str,
    output_name: str,
    norm: dict[str, bool],
) -> keras.KerasTensor:
    shortcut = _shortcut(x, filters, strides, prefix, norm)
    x = parts.conv(x, filters, 3, strides, f"{prefix}_1_conv")
    x = parts.batch_norm(x, f"{prefix}_1_bn", **norm)
    x = layers.ReLU(name=f"{prefix}_1_relu")(x)
    x = parts.conv(x, filters, 3, 1, f"{prefix}_2_conv")
    x = parts.batch_norm(x, f"{prefix}_2_bn", **norm)
    x = layers.Add(name=f"{prefix}_add")([x, shortcut])
    return layers.ReLU(name=output_name)(x)


def _bottleneck_block(
    x: keras.KerasTensor,
    filters: int,
    strides: int,
    prefix: str,
    output_name: str,
    norm: dict[str, bool],
) -> keras.KerasTensor:
    expanded = filters * _BOTTLENECK_EXPANSION
    shortcut = _shortcut(x, expanded, strides, prefix, norm)
    x = parts.conv(x, filters, 1, 1, f"{prefix}_1_conv")
    x = parts.batch_norm(x, f"{prefix}_1_bn", **norm)
    x = layers.ReLU(name=f"{prefix}_1_relu")(x)
    x = parts.conv(x, filters, 3, strides, f"{prefix}_2_conv")
    x = parts.batch_norm(x, f"{prefix}_2_bn", **norm)
    x = layers.ReLU(name=f"{prefix}_2_relu")(x)
    x = parts.conv(x, expanded, 1, 1, f"{prefix}_3_conv")
    x = parts.batch_norm(x, f"{prefix}_3_bn", **norm)
    x = layers.Add(name=f"{prefix}_add")([x, shortcut])
    return layers.ReLU(name=output_name)(x)


def _shortcut(
    x: keras.KerasTensor,
    filters: int,
    strides: int,
    prefix: str,
    norm: dict[str, bool],
) -> keras.KerasTensor:
    if strides == 1 and x.shape[-1] == filters:
        return x
    if strides > 1:
        # Selects every other pixel, then applies a convolution without a
        # stride; the result is the same. TensorFlow 2.21 with oneDNN corrupts
        # the heap in the filter gradient of a strided 1x1 convolution with
        # fewer than 16 channels.
        x = layers.AveragePooling2D(1, strides, name=f"{prefix}_0_pixels")(x)
    x = parts.conv(x, filters, 1, 1, f"{prefix}_0_conv")
    return parts.batch_norm(x, f"{prefix}_0_bn", **norm)
