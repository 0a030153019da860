"""The names that constructors and flags accept; it imports nothing."""

RESNET_STAGES = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
    "resnet152": ("bottleneck", (3, 8, 36, 3)),
}
"""Block and number of blocks in each of the four stages."""

BACKBONES = tuple(RESNET_STAGES)
LARGEST_CIFAR_STEM = 64  # pixels up to which the small stem is chosen
STEMS = ("cifar", "imagenet")

OBJECTIVES = ("softmax", "nce", "info_nce", "parametric")
NEGATIVES = ("shared", "per_example")
NORMALIZERS = ("ema", "first_batch")
BANK_INITS = ("random", "encode")

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp")
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
KNN_ROWS = ("bank", "encoded")
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "embedding")


def require(name: str, value: str | None, known: tuple[str, ...]) -> None:
    """Raises ValueError unless `value` is one of the known names."""
    if value not in known:
        raise ValueError(
            f"`{name}` must be one of {', '.join(known)}. "
            f"Received: {name}={value!r}"
        )
