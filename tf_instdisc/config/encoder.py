"""Settings of the encoder."""

import dataclasses
import math
import os
from collections.abc import Sequence

from tf_instdisc.config.fields import Settings, require_defaults, setting
from tf_instdisc.errors import UsageError

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
SIZED_BACKBONES = ("alexnet", "vgg16", "vit_small")
"""Backbones whose weights fit only one image size."""
BACKBONES = (*RESNETS, *SIZED_BACKBONES)
LARGEST_CIFAR_STEM = 64  # The largest image size for the small stem.
PATCH_SIZES = {"cifar": 4, "imagenet": 16}
"""Side of a ViT's patches, in pixels, for each stem."""
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "embedding")

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
"""Precisions of an encoder's computations."""

CHANNEL_MEANS = {
    "imagenet": (0.485, 0.456, 0.406),
    "cifar10": (0.4914, 0.4822, 0.4465),
}
"""Means of R, G and B, divided by 255; CIFAR's are those of the authors."""
CHANNEL_STDS = {
    "imagenet": (0.229, 0.224, 0.225),
    "cifar10": (0.2023, 0.1994, 0.2010),
}

_LEAST_IMAGE_SIZES = {
    ("alexnet", "cifar"): 15,
    ("alexnet", "imagenet"): 63,
    ("vgg16", "cifar"): 16,
    ("vgg16", "imagenet"): 32,
}


@dataclasses.dataclass(frozen=True)
class EncoderConfig(Settings):
    """Encoder

    ```python
    encoder = tf_instdisc.EncoderConfig(
        backbone="resnet50", precision="mixed_bfloat16"
    )
    ```
    """

    backbone: str = setting(
        "resnet18",
        "Backbone of the encoder.",
        choices=BACKBONES,
        flag="encoder",
    )
    width: int = setting(
        64,
        "Filters of the first stage, or the size of a ViT's attention heads; "
        "the paper uses 64.",
        least=1,
    )
    stem_width: int | None = setting(
        None,
        "Filters of a ResNet's first convolution; by default --width.",
        least=1,
    )
    stem: str | None = setting(
        None,
        "First layers; by default cifar up to 64 pixels, imagenet above.",
        choices=("cifar", "imagenet"),
    )
    mean: str = setting(
        "imagenet",
        "Mean of the input channels: imagenet, cifar10 or three numbers "
        "R,G,B, divided by 255.",
    )
    std: str = setting(
        "imagenet",
        "Standard deviation of the input channels, in the same form.",
    )
    precision: str = setting(
        "float32",
        "Precision of the encoder's computations. Weights, embeddings and "
        "losses are float32. mixed_float16 uses loss scaling. auto: "
        "mixed_bfloat16 if a short trial on this device gains from it, "
        "otherwise float32.",
        choices=(*PRECISIONS, "auto"),
    )
    jit_encoder: bool = setting(
        False, "Compile the encoder, and nothing else, with XLA."
    )
    sync_batch_norm: bool = setting(
        False, "Synchronize batch normalization across all replicas."
    )
    embedding_dim: int = setting(128, "Length of the embedding.", least=1)

    init_encoder: str | None = setting(
        None,
        "Begin with this network and its weights: a run, an encoder.keras or "
        "the name of shipped weights such as cifar10-resnet18 (each for any "
        "image size), or the name of a function that returns a Keras "
        "model, such as keras.applications.ResNet50, which then has its "
        "ImageNet weights. Keep it until the run has finished.",
    )

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = getattr(self, name)
            if isinstance(value, list | tuple):
                text = ",".join(map(str, value))
                object.__setattr__(self, name, text)
        if isinstance(self.init_encoder, os.PathLike):
            named = os.fspath(self.init_encoder)
            object.__setattr__(self, "init_encoder", named)
        super().__post_init__()
        if self.init_encoder is not None:
            require_defaults(self, _OF_A_NETWORK, "init_encoder")
        channel_values("mean", self.mean)
        channel_values("std", self.std)
        if self.stem_width is not None and self.backbone not in RESNETS:
            raise UsageError(
                "`stem_width` applies only to ResNets. Received: stem_width="
                f"{self.stem_width}, encoder={self.backbone}. Leave it out."
            )
        if self.jit_encoder and self.sync_batch_norm:
            raise UsageError(
                "`jit_encoder` cannot be combined with `sync_batch_norm`: XLA "
                "cannot compile the communication between replicas. Received: "
                "jit_encoder=True, sync_batch_norm=True. Leave one of them "
                "out."
            )


_OF_A_NETWORK = (
    "backbone",
    "width",
    "stem",
    "stem_width",
    "sync_batch_norm",
)


def channel_values(
    name: str, value: str | Sequence[float]
) -> tuple[float, float, float]:
    """Reads the mean or the standard deviation of the input channels.

    Args:
        name: `"mean"` or `"std"`.
        value: A key of `CHANNEL_MEANS`, or three numbers, as fractions of
            255; a string separates them by commas.

    Returns:
        The values of R, G and B.

    Raises:
        UsageError: If `value` is neither, or a number is out of range.
    """
    known = CHANNEL_MEANS if name == "mean" else CHANNEL_STDS
    parts: Sequence = value
    if isinstance(value, str):
        if value in known:
            return known[value]
        parts = value.split(",")
    try:
        red, green, blue = (float(part) for part in parts)
    except (TypeError, ValueError):
        red = green = blue = math.nan
    numbers = (red, green, blue)
    least = 0 if name == "mean" else 1e-3
    if not all(least <= number <= 1 for number in numbers):
        raise UsageError(
            f"`{name}` must be {' or '.join(known)}, or three numbers in "
            f"[{least}, 1], as fractions of 255 (divide values of 0..255 by "
            f"255). Received: {name}={value}"
        )
    return numbers


def default_stem(image_size: int) -> str:
    """Returns the default stem for images of this size, in pixels."""
    return "cifar" if image_size <= LARGEST_CIFAR_STEM else "imagenet"


def require_image_size(
    backbone: str,
    image_size: int,
    stem: str | None,
    train_image_size: int | None = None,
) -> None:
    """Raises UsageError unless the backbone accepts images of these sizes."""
    stem = stem or default_stem(image_size)
    least = _LEAST_IMAGE_SIZES.get((backbone, stem), 1)
    if image_size < least:
        raise UsageError(
            f"`image_size` must be at least {least} for {backbone} with the "
            f"{stem} stem. Received: image_size={image_size}"
        )
    patch_size = PATCH_SIZES[stem]
    if backbone == "vit_small" and image_size % patch_size:
        raise UsageError(
            f"`image_size` must be a multiple of {patch_size}, the side of a "
            f"patch with the {stem} stem. Received: image_size={image_size}"
        )
    is_bound = backbone in SIZED_BACKBONES
    if is_bound and train_image_size not in (None, image_size):
        raise UsageError(
            f"`train_image_size` must equal `image_size` for {backbone}, whose "
            "weights fit only one size. Received: train_image_size="
            f"{train_image_size}, image_size={image_size}. Leave it out."
        )
