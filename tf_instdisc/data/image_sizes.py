"""The size of the images of a folder, as their headers state it."""

import os
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image

_MOST_READ = 64


def typical_shorter_side(folder: str, names: Sequence[str]) -> int | None:
    """Returns the median shorter side of up to 64 images, in pixels.

    It does not use TensorFlow, whose devices can no longer be configured after
    the first operation.

    Args:
        folder: Path of the folder.
        names: Paths relative to the folder.

    Returns:
        The median; None if none of these files is an image.
    """
    step = -(-len(names) // _MOST_READ)
    sides = []
    for name in names[::step]:
        try:
            with (
                warnings.catch_warnings(action="ignore"),
                Image.open(os.path.join(folder, name)) as image,
            ):
                sides.append(min(image.size))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue  # Which files can be read is reported later.
    return int(np.median(sides)) if sides else None
