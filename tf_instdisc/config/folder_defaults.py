"""Defaults for a folder of photographs, by their number, size and devices."""

from typing import Any

_MOST_FOR_SOFTMAX = 50_000
# Largest number of images, and width, batch size and epochs.
_ON_CPUS = ((500, 32, 16, 200), (2_000, 32, 32, 100), (20_000, 16, 64, 50))
_FOR_MORE_ON_CPUS = (16, 64, 20)
_ON_GPUS = ((500, 64, 32, 200), (2_000, 64, 64, 200), (20_000, 64, 128, 200))
_FOR_MORE_ON_GPUS = (64, 256, 100)


def folder_defaults(
    num_images: int, shorter_side: int, num_gpus: int = 0
) -> dict[str, Any]:
    """Returns the flags in which a folder differs from the recipe `photos`.

    On two CPU cores, 50 photographs then take a few minutes, 1,000 about half
    an hour, and 100,000 a night. The batch is rounded up to a multiple of the
    number of GPUs.

    The encoder's input has 128 pixels. Images with less than 96 pixels on
    their shorter side get 64 on a GPU, and 32 on CPUs or below 48 pixels. The
    objective is the exact softmax up to 50,000 images, and NCE with 4,096
    negatives above, whose step does not grow with the number of images. A
    tenth of the images vote in kNN, but at most 200.

    Args:
        num_images: Number of images in the folder, at least 1.
        shorter_side: A typical length of the images' shorter side, in pixels.
        num_gpus: Number of GPUs; 0 if the CPU trains.

    Returns:
        Values by the names of the flags.
    """
    sizes, more = _ON_CPUS, _FOR_MORE_ON_CPUS
    if num_gpus:
        sizes, more = _ON_GPUS, _FOR_MORE_ON_GPUS
    width, batch_size, epochs = next(
        (values for most, *values in sizes if num_images <= most), more
    )
    replicas = max(num_gpus, 1)
    image_size = 128
    if shorter_side < 96:
        image_size = 64 if num_gpus and shorter_side >= 48 else 32
    is_small = num_images <= _MOST_FOR_SOFTMAX
    return {
        "image_size": image_size,
        "width": width,
        "objective": "softmax" if is_small else "nce",
        "num_negatives": min(4096, num_images),
        "batch_size": -(-batch_size // replicas) * replicas,
        "epochs": epochs,
        "num_neighbors": min(200, max(1, num_images // 10)),
    }
