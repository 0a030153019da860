"""Encoders: from images to embeddings on the unit sphere.

An encoder is a functional Keras model of built-in layers, so its `.keras` file
loads with `keras.saving.load_model` in Keras 3.5 and later, without this
package.
"""

from collections.abc import Sequence

import keras
from keras import layers

from tf_instdisc.config import EncoderConfig, RunConfig
from tf_instdisc.config.encoder import (
    channel_values,
    default_stem,
    require_image_size,
)
from tf_instdisc.errors import UsageError
from tf_instdisc.method.encoders import (
    alexnet,
    custom_backbone,
    resnet,
    vgg,
    vit,
)
from tf_instdisc.portable import make_portable


def build_encoder(
    backbone: str | keras.Model = EncoderConfig.backbone,
    *,
    image_size: int = 224,
    embedding_dim: int = EncoderConfig.embedding_dim,
    width: int = EncoderConfig.width,
    stem: str | None = None,
    normalize: bool = True,
    mean: str | Sequence[float] = EncoderConfig.mean,
    std: str | Sequence[float] = EncoderConfig.std,
    sync_batch_norm: bool = EncoderConfig.sync_batch_norm,
    stem_width: int | None = None,
) -> keras.Model:
    """Builds f of the paper: v = f(x) / |f(x)|.

    The encoder takes RGB in 0..255, uint8 or float, and normalizes it itself.
    Its initial weights follow `keras.utils.set_random_seed`.
    Its activations `conv1` .. `conv5` are accessible by name:
    `keras.Model(encoder.input, encoder.get_layer("conv5").output)`. The input
    of the projection is `pool`, float `[batch, features]`.

    If the backbone is a Keras model, the encoder gets copies of its layers,
    with their names and weights; it then has `conv1` .. `conv5` only if the
    model does. The file loads anywhere if the layers are built-in ones.

    ```python
    encoder = tf_instdisc.build_encoder("resnet18", image_size=32, width=16)
    embeddings = encoder(np.zeros((2, 32, 32, 3), np.uint8))  # [2, 128]
    ```

    Args:
        backbone: A name in `config.encoder.BACKBONES`, or a functional or
            Sequential model from `[batch, size, size, 3]` to a feature map
            `[batch, height, width, channels]`, which is averaged, or to a
            vector `[batch, features]`.
        image_size: Side of the square input, in pixels. `alexnet` and `vgg16`
            need at least 15 and 16 (63 and 32 with the ImageNet stem),
            `vit_small` a multiple of its patch size.
        embedding_dim: Length of the embedding.
        width: Filters of the first stage, or the size of a ViT's attention
            heads; the paper uses 64.
        stem: `"cifar"` (3x3, stride 1; VGG16 does not pool after its first
            block; patches of 4 x 4) or `"imagenet"` (7x7, stride 2, max
            pooling; AlexNet 11x11, stride 4; patches of 16 x 16). By default
            `"cifar"` up to 64 pixels.
        normalize: Whether `mean` and `std` are applied. Otherwise the backbone
            gets RGB in 0..255, for models that normalize it themselves.
        mean: Mean of the three channels as fractions of 255, in [0, 1], or
            `"imagenet"` or `"cifar10"`. It is stored in the encoder's file.
        std: Standard deviation of the three channels, in the same form,
            above 0.
        sync_batch_norm: Whether batch norm is synchronized across replicas.
        stem_width: Filters of a ResNet's first convolution, by default
            `width`. The widened ResNets of CMC keep 64.

    Returns:
        A model from `[batch, image_size, image_size, 3]` to float32
        `[batch, embedding_dim]` of unit length.

    Raises:
        ValueError: If an argument is unknown or out of range.
    """
    if keras.config.image_data_format() != "channels_last":
        raise UsageError(
            "`keras.config.image_data_format` must be channels_last. Received: "
            f"{keras.config.image_data_format()}. Call "
            'keras.config.set_image_data_format("channels_last") first.'
        )
    means = channel_values("mean", mean)
    stds = channel_values("std", std)
    if image_size < 1:
        raise UsageError(
            "`image_size` must be at least 1. Received: "
            f"image_size={image_size}"
        )
    is_model = isinstance(backbone, keras.Model)
    settings = EncoderConfig(
        backbone=EncoderConfig.backbone if is_model else backbone,
        width=width,
        stem=stem,
        stem_width=stem_width,
        sync_batch_norm=sync_batch_norm,
        embedding_dim=embedding_dim,
    )
    if is_model:
        _require_defaults(settings)
        custom_backbone.require_usable(backbone, image_size)
    else:
        require_image_size(backbone, image_size, stem)
    defaults = (
        channel_values("mean", EncoderConfig.mean),
        channel_values("std", EncoderConfig.std),
    )
    if not normalize and (means, stds) != defaults:
        raise UsageError(
            "`mean` and `std` need `normalize`. Received: normalize=False, "
            f"mean={mean}, std={std}"
        )
    inputs = keras.Input((image_size, image_size, 3), name="image")
    x = inputs
    if normalize:
        x = layers.Rescaling(
            scale=[1 / (255 * s) for s in stds],
            offset=[-m / s for m, s in zip(means, stds, strict=True)],
            name="normalize",
        )(inputs)
    if isinstance(backbone, keras.Model):
        x, name = custom_backbone.apply(backbone, inputs, x), backbone.name
    else:
        x, name = _apply(settings, x, image_size), backbone
    # Even with mixed precision, the embedding is computed in full precision.
    full = keras.config.dtype_policy().variable_dtype
    if len(x.shape) == 4:
        x = layers.GlobalAveragePooling2D(name="pool", dtype=full)(x)
    else:
        x = layers.Identity(name="pool", dtype=full)(x)
    x = layers.Dense(embedding_dim, name="projection", dtype=full)(x)
    outputs = layers.UnitNormalization(name="embedding", dtype=full)(x)
    return make_portable(keras.Model(inputs, outputs, name=name))


def encoder_of(config: RunConfig) -> keras.Model:
    """Builds the encoder of a run from its settings."""
    settings = config.encoder
    return build_encoder(
        settings.backbone,
        image_size=config.data.image_size,
        embedding_dim=settings.embedding_dim,
        width=settings.width,
        stem=settings.stem,
        mean=settings.mean,
        std=settings.std,
        sync_batch_norm=settings.sync_batch_norm,
        stem_width=settings.stem_width,
    )


def _apply(
    settings: EncoderConfig, x: keras.KerasTensor, image_size: int
) -> keras.KerasTensor:
    """Applies a named backbone."""
    name, width = settings.backbone, settings.width
    stem = settings.stem or default_stem(image_size)
    synchronized = settings.sync_batch_norm
    if name == "alexnet":
        return alexnet.alexnet(x, width, stem, synchronized)
    if name == "vgg16":
        return vgg.vgg16(x, width, stem, synchronized)
    if name == "vit_small":
        return vit.vit_small(x, width, stem)
    return resnet.resnet(
        x, name, width, stem, synchronized, settings.stem_width
    )


def _require_defaults(settings: EncoderConfig) -> None:
    for name in ("width", "stem", "sync_batch_norm", "stem_width"):
        value = getattr(settings, name)
        if value != getattr(EncoderConfig, name):
            raise UsageError(
                f"`{name}` applies only to named backbones; a model is used "
                f"as it is. Received: {name}={value!r}"
            )
