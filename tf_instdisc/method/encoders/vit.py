"""ViT-small (arXiv 2010.11929, 2012.12877) from Keras' own layers.

There is no class token: the embedding is computed from the mean over all
patches. The position embedding is the bias of the patch projection, with one
row per patch. The sum is the same as in the papers, and no custom layer is
needed.
"""

import keras
from keras import layers

from tf_instdisc.config.encoder import PATCH_SIZES

_HEADS = 6
_BLOCKS = 12
_EPSILON = 1e-6
_PROBED_BLOCKS = {3: "conv2", 6: "conv3", 9: "conv4", 12: "conv5"}


def vit_small(
    images: keras.KerasTensor, width: int, stem: str
) -> keras.KerasTensor:
    """Applies a ViT of 12 blocks with 6 heads, up to its last normalization.

    For the probes of the convolutional networks, `conv1` is the grid of
    embedded patches, and `conv2` .. `conv5` are the grids after 3, 6, 9 and
    12 blocks (`conv5` after the last normalization).

    Args:
        images: float `[batch, size, size, 3]`, normalized.
        width: Size of a head; with 64, as in ViT-S, a patch has 384
            features.
        stem: `"imagenet"` uses patches of 16 x 16 pixels, `"cifar"` of 4 x 4.

    Returns:
        float `[batch, size / patch, size / patch, 6 * width]`.
    """
    patch = PATCH_SIZES[stem]
    side = images.shape[1] // patch
    num_patches = side * side
    dim = _HEADS * width

    x = layers.Reshape((side, patch, side, patch * 3), name="rows")(images)
    x = layers.Permute((1, 3, 2, 4), name="patches")(x)
    x = layers.Reshape((num_patches, patch**2 * 3), name="pixels")(x)
    x = layers.EinsumDense(
        "bpi,id->bpd",
        output_shape=(num_patches, dim),
        bias_axes="pd",
        bias_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
        name="patch_embedding",
    )(x)
    grid = (side, side, dim)
    x = layers.Reshape(grid, name="conv1")(x)
    x = layers.Reshape((num_patches, dim), name="conv1_tokens")(x)
    for block in range(1, _BLOCKS + 1):
        x = _block(x, width, f"block{block}")
        if block == _BLOCKS:
            x = _norm(x, "norm")
        if block in _PROBED_BLOCKS:
            name = _PROBED_BLOCKS[block]
            x = layers.Reshape(grid, name=name)(x)
        if block in _PROBED_BLOCKS and block < _BLOCKS:
            x = layers.Reshape((num_patches, dim), name=f"{name}_tokens")(x)
    return x


def _block(x: keras.KerasTensor, width: int, prefix: str) -> keras.KerasTensor:
    dim = x.shape[-1]
    y = _norm(x, f"{prefix}_1_norm")
    y = layers.MultiHeadAttention(_HEADS, width, name=f"{prefix}_attention")(
        y, y
    )
    x = layers.Add(name=f"{prefix}_1_add")([x, y])
    y = _norm(x, f"{prefix}_2_norm")
    y = layers.Dense(4 * dim, activation="gelu", name=f"{prefix}_1_dense")(y)
    y = layers.Dense(dim, name=f"{prefix}_2_dense")(y)
    return layers.Add(name=f"{prefix}_2_add")([x, y])


def _norm(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return layers.LayerNormalization(epsilon=_EPSILON, name=name)(x)
