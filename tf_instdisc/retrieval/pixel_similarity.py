"""Compares small pictures, which may be mirrored or slightly cropped.

An encoder that has been trained for only a few epochs confuses pictures of the
same colors with near-duplicates. Their pixels distinguish them.
"""

import numpy as np

from tf_instdisc.data.colors import LUMA

SIDE = 32  # Side of the thumbnails in pixels.
_GRID = 8  # Number of cells on each side that are compared.
_CUTS = (0.95, 0.9, 0.8)  # Relative sides of the crops.
_PAIRS_AT_ONCE = 2048
_LEAST_DEVIATION = 2.0  # Gray levels; flatter pictures have no structure.
_SAME = 1.5  # Mean difference in gray levels.


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Converts pictures of the right size to gray levels.

    Args:
        images: float `[batch, 32, 32, 3]` in 0..255.

    Returns:
        uint8 `[batch, 32, 32]`.
    """
    return np.clip(
        np.round(images @ np.array(LUMA, np.float32)), 0, 255
    ).astype(np.uint8)


def similarities(
    thumbnails: np.ndarray, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """Correlates pairs of pictures.

    Each picture, and its mirror image, is compared with the other one and with
    27 crops of the other one whose sides are 0.95, 0.9 or 0.8 of the original.
    The result does not depend on the brightness and contrast of a picture.

    Args:
        thumbnails: Gray pictures, uint8 `[num_images, 32, 32]`.
        first: int `[num_pairs]`, positions of pictures.
        second: int `[num_pairs]`, positions of pictures.

    Returns:
        The best correlation of 8 x 8 means, float32 `[num_pairs]` in [-1, 1].
        It is 1 if the pixels differ by at most 1.5 gray levels on average.
    """
    result = np.empty([len(first)], np.float32)
    for start in range(0, len(first), _PAIRS_AT_ONCE):
        chunk = slice(start, start + _PAIRS_AT_ONCE)
        places = np.stack([first[chunk], second[chunk]])
        unique, inverse = np.unique(places, return_inverse=True)
        pictures = thumbnails[unique].astype(np.float32)
        mirrored = pictures[:, :, ::-1]
        one, other = inverse.reshape(places.shape)

        views, mirrored_views = _views(pictures), _views(mirrored)
        best = np.full([len(one)], -1, np.float32)
        for i, j in ((one, other), (other, one)):
            for whole in (views[i, :1], mirrored_views[i, :1]):
                products = np.vecdot(whole, views[j])
                best = np.maximum(best, products.max(axis=1))
        for whole in (pictures, mirrored):
            difference = np.abs(whole[one] - pictures[other])
            best[difference.mean(axis=(1, 2)) <= _SAME] = 1
        result[chunk] = np.minimum(best, 1)
    return result


def _views(pictures: np.ndarray) -> np.ndarray:
    """Returns normalized cells of the picture and crops, `[batch, 28, 64]`."""
    lines = [(1.0, 0.0)] + [(cut, at) for cut in _CUTS for at in (0, 0.5, 1)]
    means = np.concatenate([_means(*line) for line in lines])
    # Crops are taken and averaged along one axis at a time.
    cells = means @ pictures @ means.T
    cells = cells.reshape([len(cells), len(lines), _GRID, len(lines), _GRID])
    rows, columns = np.array(
        [
            (i, j)
            for i, (cut, _) in enumerate(lines)
            for j, (other_cut, _) in enumerate(lines)
            if cut == other_cut
        ]
    ).T
    parts = cells[:, rows, :, columns].swapaxes(0, 1)
    parts = parts.reshape([len(cells), len(rows), _GRID**2])
    parts -= parts.mean(axis=2, keepdims=True)
    lengths = np.linalg.norm(parts, axis=2, keepdims=True)
    return parts / np.maximum(lengths, _LEAST_DEVIATION * _GRID)


def _means(size: float, place: float) -> np.ndarray:
    """Returns a matrix that averages pixels to cells, `[grid, side]`."""
    start = place * (1 - size) * SIDE
    edges = start + np.linspace(0, size * SIDE, _GRID + 1)
    pixels = np.arange(SIDE)
    covered = np.minimum(edges[1:, None], pixels + 1)
    covered = covered - np.maximum(edges[:-1, None], pixels)
    covered = np.maximum(covered, 0)
    return (covered / covered.sum(axis=1, keepdims=True)).astype(np.float32)
