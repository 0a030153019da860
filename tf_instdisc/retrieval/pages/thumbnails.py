"""Small pictures for pages: JPEG data URIs and sprite sheets."""

import base64
import io

import numpy as np
from PIL import Image


def data_uri(image: np.ndarray, quality: int = 85) -> str:
    """Returns an image as the `data:` URI of a JPEG.

    Args:
        image: uint8 `[height, width, 3]`.
        quality: JPEG quality, 1..95.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, optimize=True)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/jpeg;base64,{encoded}"


def sheet(images: np.ndarray) -> np.ndarray:
    """Arranges pictures row by row in a square.

    Args:
        images: uint8 `[count, size, size, 3]`.

    Returns:
        uint8 `[side * size, side * size, 3]` with `side` = ceil(sqrt(count));
        picture i is in row i // side and column i % side.
    """
    count, size = images.shape[:2]
    side = max(1, int(np.ceil(np.sqrt(count))))
    cells = np.zeros([side * side, size, size, 3], np.uint8)
    cells[:count] = images
    cells = cells.reshape(side, side, size, size, 3)
    return cells.transpose(0, 2, 1, 3, 4).reshape(side * size, side * size, 3)
