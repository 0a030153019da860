"""Convolution and batch norm as in PyTorch, from Keras' own layers."""

import keras
from keras import layers


def conv_norm(
    x: keras.KerasTensor,
    filters: int,
    kernel_size: int,
    strides: int,
    name: str,
    synchronized: bool,
    padding: int | None = None,
) -> keras.KerasTensor:
    """Applies a convolution, padded equally on all sides, and batch norm.

    Args:
        x: float `[batch, height, width, channels]`.
        filters: Number of output channels.
        kernel_size: Side of the kernel, odd.
        strides: Stride of the kernel, in pixels.
        name: The layers' names begin with it and end in `_conv` and `_bn`.
        synchronized: Whether batch norm is synchronized across replicas.
        padding: Pixels on each side; by default half the kernel.

    Returns:
        float `[batch, height, width, filters]`.
    """
    mode = "same"
    if strides > 1:
        # With "same", Keras pads strided convolutions only at the far side,
        # which would shift the images by a pixel for PyTorch's weights.
        pixels = kernel_size // 2 if padding is None else padding
        x = layers.ZeroPadding2D(pixels, name=f"{name}_conv_pad")(x)
        mode = "valid"
    x = layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding=mode,
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(
            scale=2.0, mode="fan_out", distribution="untruncated_normal"
        ),
        name=f"{name}_conv",
    )(x)
    return batch_norm(x, f"{name}_bn", synchronized)


def batch_norm(
    x: keras.KerasTensor, name: str, synchronized: bool
) -> keras.KerasTensor:
    """Applies batch norm with PyTorch's momentum and epsilon."""
    return layers.BatchNormalization(
        momentum=0.9, epsilon=1e-5, synchronized=synchronized, name=name
    )(x)


def fully_connected(
    x: keras.KerasTensor, width: int, synchronized: bool
) -> keras.KerasTensor:
    """Applies two dense layers, each with batch norm and ReLU.

    The activations are layers named `fc6` and `fc7`, `[batch, 64 * width]`.
    """
    x = layers.Flatten(name="flatten")(x)
    for name in ("fc6", "fc7"):
        x = layers.Dense(
            64 * width,
            use_bias=False,
            kernel_initializer="he_normal",
            name=f"{name}_dense",
        )(x)
        x = batch_norm(x, f"{name}_bn", synchronized)
        x = layers.ReLU(name=name)(x)
    return x
