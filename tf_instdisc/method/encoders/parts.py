"""Convolution and batch norm as PyTorch has them, from Keras' own layers."""

import keras
from keras import layers


def conv(
    x: keras.KerasTensor,
    filters: int,
    kernel_size: int,
    strides: int,
    name: str,
    padding: int | None = None,
) -> keras.KerasTensor:
    """A convolution without bias, padded alike on all sides.

    Args:
        x: float `[batch, height, width, channels]`.
        filters: Channels of the result.
        kernel_size: Side of the kernel, odd.
        strides: Pixels between two places of the kernel.
        name: Of the layer.
        padding: Pixels on each side, half the kernel by default.

    Returns:
        float `[batch, height, width, filters]`.
    """
    mode = "same"
    if strides > 1:
        # Keras' "same" pads strided convolutions at the far side only, so
        # that PyTorch's weights would see images moved by a pixel.
        pixels = kernel_size // 2 if padding is None else padding
        x = layers.ZeroPadding2D(pixels, name=f"{name}_pad")(x)
        mode = "valid"
    return layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding=mode,
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(
            scale=2.0, mode="fan_out", distribution="untruncated_normal"
        ),
        name=name,
    )(x)


def batch_norm(
    x: keras.KerasTensor, name: str, synchronized: bool
) -> keras.KerasTensor:
    """Batch norm with PyTorch's momentum and epsilon, over the last axis."""
    return layers.BatchNormalization(
        momentum=0.9, epsilon=1e-5, synchronized=synchronized, name=name
    )(x)


def fully_connected(
    x: keras.KerasTensor, units: int, name: str, synchronized: bool
) -> keras.KerasTensor:
    """A dense layer, batch norm and ReLU; the last of them has the name."""
    x = layers.Dense(
        units,
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_dense",
    )(x)
    x = batch_norm(x, f"{name}_bn", synchronized)
    return layers.ReLU(name=name)(x)
