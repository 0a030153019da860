"""Encoders: images to embeddings on the unit sphere.

An encoder is a functional Keras model of built-in layers, so that its
`.keras` file loads with `keras.saving.load_model` wherever Keras 3 runs,
without this package.
"""

from collections.abc import Sequence

import keras
from keras import layers

from tf_instdisc import choices
from tf_instdisc.encoders import resnet

# Mean and deviation of ImageNet's RGB, as shares of 255.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def build_encoder(
    backbone: str = "resnet18",
    *,
    image_size: int = 224,
    embedding_dim: int = 128,
    width: int = 64,
    stem: str | None = None,
    mean: Sequence[float] = _MEAN,
    std: Sequence[float] = _STD,
    sync_batch_norm: bool = False,
) -> keras.Model:
    """Builds f of the paper: v = f(x) / |f(x)|.

    The encoder takes RGB in 0..255, uint8 or float, and normalises it itself.
    Its initial weights follow `keras.utils.set_random_seed`.
    Its activations `conv1` .. `conv5` are reached by name:
    `keras.Model(encoder.input, encoder.get_layer("conv5").output)`.

    Args:
        backbone: One of `choices.BACKBONES`.
        image_size: Side of the square input, in pixels.
        embedding_dim: Length of the embedding.
        width: Filters of the first stage; 64 is the paper's.
        stem: `"cifar"` (3x3, stride 1) or `"imagenet"` (7x7, stride 2, max
            pooling). By default `"cifar"` up to 64 pixels.
        mean: Mean of the three channels, as shares of 255.
        std: Standard deviation of the three channels, as shares of 255.
        sync_batch_norm: Whether batch norm takes its statistics over all
            replicas.

    Returns:
        A model from `[batch, image_size, image_size, 3]` to float32
        `[batch, embedding_dim]` of unit length.

    Raises:
        ValueError: If an argument is unknown or out of range.
    """
    choices.require("backbone", backbone, choices.BACKBONES)
    for name, value in (
        ("image_size", image_size),
        ("embedding_dim", embedding_dim),
        ("width", width),
    ):
        if value < 1:
            raise ValueError(
                f"`{name}` must be at least 1. Received: {name}={value}"
            )
    if stem is None:
        stem = (
            "cifar" if image_size <= choices.LARGEST_CIFAR_STEM else "imagenet"
        )
    choices.require("stem", stem, choices.STEMS)

    inputs = keras.Input((image_size, image_size, 3), name="image")
    x = layers.Rescaling(
        scale=[1 / (255 * s) for s in std],
        offset=[-m / s for m, s in zip(mean, std, strict=True)],
        name="normalize",
    )(inputs)
    x = resnet.resnet(x, backbone, width, stem, synchronized=sync_batch_norm)
    # Under mixed precision the embedding is still computed in full.
    full = keras.config.dtype_policy().variable_dtype
    x = layers.GlobalAveragePooling2D(name="pool", dtype=full)(x)
    x = layers.Dense(embedding_dim, name="projection", dtype=full)(x)
    outputs = layers.UnitNormalization(name="embedding", dtype=full)(x)
    return keras.Model(inputs, outputs, name=backbone)
