"""AlexNet in one tower, with batch norm, from Keras' own layers.

The convolutions are torchvision's (64, 192, 384, 256, 256 filters; Krizhevsky
2014, arXiv 1404.5997). The authors have released no AlexNet. As in later
unsupervised AlexNets, batch norm follows every layer and replaces dropout,
whose random numbers would not belong to any image.
"""

import keras
from keras import layers

from tf_instdisc.method.encoders import parts

_WIDTHS = (1, 3, 6, 4, 4)
"""Filters of conv1 .. conv5, multiplied by the width."""


def alexnet(
    images: keras.KerasTensor,
    width: int,
    stem: str,
    synchronized: bool = False,
) -> keras.KerasTensor:
    """Applies AlexNet, up to its second dense layer.

    The activations of the convolutions, before any pooling, are layers named
    `conv1` .. `conv5`; those of the dense layers are `fc6` and `fc7`.

    Args:
        images: float `[batch, size, size, 3]`, normalized.
        width: Filters of the first convolution; the paper uses 64.
        stem: `"imagenet"` (11x11, stride 4) or `"cifar"` (3x3, stride 1).
        synchronized: Whether batch norm is synchronized across replicas.

    Returns:
        float `[batch, 64 * width]`.
    """
    x = images
    for index, filters in enumerate(_WIDTHS, start=1):
        name = f"conv{index}"
        kernel_size, strides, padding = 3, 1, None
        if index == 1 and stem == "imagenet":
            kernel_size, strides, padding = 11, 4, 2
        elif index == 2:
            kernel_size = 5
        x = parts.conv_norm(
            x,
            width * filters,
            kernel_size,
            strides,
            name,
            synchronized,
            padding,
        )
        x = layers.ReLU(name=name)(x)
        if index in (1, 2, 5):
            x = layers.MaxPooling2D(3, 2, name=f"{name}_pool")(x)
    return parts.fully_connected(x, width, synchronized)
