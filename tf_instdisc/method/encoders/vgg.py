"""VGG16 with batch norm (Simonyan, Zisserman 2015), from Keras' own layers.

The convolutions are torchvision's `vgg16_bn`. Batch norm also follows the two
dense layers, instead of dropout; see `alexnet.py`.
"""

import keras
from keras import layers

from tf_instdisc.method.encoders import parts

_STAGES = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
"""Filters, multiplied by the width, and number of convolutions per block."""


def vgg16(
    images: keras.KerasTensor,
    width: int,
    stem: str,
    synchronized: bool = False,
) -> keras.KerasTensor:
    """Applies VGG16, up to its second dense layer.

    The activations at the end of the five blocks, before pooling, are layers
    named `conv1` .. `conv5`; those of the dense layers are `fc6` and `fc7`.

    Args:
        images: float `[batch, size, size, 3]`, normalized.
        width: Filters of the first block; the paper uses 64.
        stem: `"imagenet"` pools after each block, `"cifar"` after all but the
            first.
        synchronized: Whether batch norm is synchronized across replicas.

    Returns:
        float `[batch, 64 * width]`.
    """
    x = images
    for block, (filters, convs) in enumerate(_STAGES, start=1):
        for index in range(1, convs + 1):
            prefix = f"conv{block}_{index}"
            name = f"conv{block}" if index == convs else f"{prefix}_relu"
            x = parts.conv_norm(x, width * filters, 3, 1, prefix, synchronized)
            x = layers.ReLU(name=name)(x)
        if block > 1 or stem == "imagenet":
            x = layers.MaxPooling2D(2, 2, name=f"conv{block}_pool")(x)
    return parts.fully_connected(x, width, synchronized)
