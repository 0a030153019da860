"""The names that constructors and flags accept; it imports nothing heavy."""

import math
from collections.abc import Sequence

from tf_instdisc.errors import UsageError

RESNET_STAGES = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
    "resnet152": ("bottleneck", (3, 8, 36, 3)),
}
"""Block and number of blocks in each of the four stages."""

SIZED_BACKBONES = ("alexnet", "vgg16", "vit_small")
"""Those whose weights fit one image size."""
BACKBONES = (*RESNET_STAGES, *SIZED_BACKBONES)
LARGEST_CIFAR_STEM = 64  # pixels up to which the small stem is chosen
STEMS = ("cifar", "imagenet")
ALEXNET_WIDTHS = (1, 3, 6, 4, 4)
"""Filters of conv1 .. conv5, times the width."""
VGG16_STAGES = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
"""Filters, times the width, and convolutions of each block."""
FULLY_CONNECTED = 64
"""Units of AlexNet's and VGG16's two dense layers, times the width."""
PATCH_SIZES = {"cifar": 4, "imagenet": 16}
"""Side of a ViT's patches in pixels, by stem."""
VIT_HEADS = 6
VIT_BLOCKS = 12
_LEAST_IMAGE_SIZES = {
    ("alexnet", "cifar"): 15,
    ("alexnet", "imagenet"): 63,
    ("vgg16", "cifar"): 16,
    ("vgg16", "imagenet"): 32,
}

CHANNEL_MEANS = {
    "imagenet": (0.485, 0.456, 0.406),
    "cifar10": (0.4914, 0.4822, 0.4465),
}
"""Means of R, G and B as fractions of 255; CIFAR's are the authors'."""
CHANNEL_STDS = {
    "imagenet": (0.229, 0.224, 0.225),
    "cifar10": (0.2023, 0.1994, 0.2010),
}

OBJECTIVES = ("softmax", "nce", "info_nce", "parametric")
NEGATIVES = ("shared", "per_example")
NORMALIZERS = ("ema", "first_batch")
BANK_INITS = ("random", "encode")

IMAGE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".gif",
    ".bmp",
    ".webp",
)
"""What is taken for an image in a folder, in lower case."""
FORMATS = "JPEG, PNG, GIF, BMP or WebP"
"""What is decoded, everywhere."""
MAX_PIXELS = 2**27
"""Of an image in a folder; larger ones are refused undecoded."""
CACHES = ("auto", "memory", "none")
BAD_IMAGES = ("fail", "skip")

DISTRIBUTIONS = ("auto", "one_device", "mirrored", "multi_worker")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
BANK_DTYPES = ("float32", "bfloat16", "float16")
BANK_PLACEMENTS = ("device", "host")

OPTIMIZERS = ("sgd", "adamw")
SCALINGS = ("none", "linear", "sqrt")
SCHEDULES = ("constant", "steps", "cosine")

INDEX_DTYPES = ("float32", "float16", "int8")
EXPORT_PRECISIONS = ("float32", "bfloat16")
IMAGE_DTYPES = ("uint8", "float32")
BAD_BYTES = ("mask", "error")
TFLITE = ("float32", "int8")

PROTOCOLS = (
    "knn",
    "linear",
    "svm",
    "semi_supervised",
    "finetune",
    "transfer",
    "detection",
)
KNN_ROWS = ("encoded", "training")
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "embedding")


def require(name: str, value: str | None, known: tuple[str, ...]) -> None:
    """Raises ValueError unless `value` is one of the known names."""
    if value not in known:
        raise UsageError(
            f"`{name}` must be one of {', '.join(known)}. "
            f"Received: {name}={value!r}"
        )


def channel_values(
    name: str, value: str | Sequence[float]
) -> tuple[float, float, float]:
    """Reads the mean or the standard deviation of the input's channels.

    Args:
        name: `"mean"` or `"std"`.
        value: A key of `CHANNEL_MEANS`, or three numbers, as fractions of
            255; in a text they are separated by commas.

    Returns:
        The values of R, G and B.

    Raises:
        UsageError: If it is neither, or a number is out of range.
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
    """The stem for images of this size, in pixels."""
    return "cifar" if image_size <= LARGEST_CIFAR_STEM else "imagenet"


def require_image_size(
    backbone: str,
    image_size: int,
    stem: str | None,
    train_image_size: int | None = None,
) -> None:
    """Raises ValueError unless the backbone takes images of these sizes."""
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
            f"`train_image_size` must be `image_size` for {backbone}, whose "
            "weights fit one size. Received: train_image_size="
            f"{train_image_size}, image_size={image_size}. Leave it out."
        )


def require_stem_width(backbone: str, stem_width: int | None) -> None:
    """Raises UsageError if a stem's width is given for no ResNet."""
    if stem_width is not None and backbone not in RESNET_STAGES:
        raise UsageError(
            "`stem_width` belongs to ResNets. Received: stem_width="
            f"{stem_width}, encoder={backbone}. Leave it out."
        )
