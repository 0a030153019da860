"""Estimates the typical distance between neighbors in a run.

After little training, all cosines are close to 1; later, they are not. In both
cases, some regions are denser than others. Therefore, a distance is compared
with the distances to the neighbors of both images, about ten of which may be
copies themselves. The number of neighbors grows with a power of the distance.
The exponent, the intrinsic dimension, is also estimated from the run (Levina
and Bickel, NIPS 2004).
"""

import dataclasses

import numpy as np

from tf_instdisc.retrieval.neighbors import top_k, without_self

_RANK = 20  # Rank of the neighbor whose distance is the scale.
_NEAREST = 6  # Nearer neighbors may be copies.
_NUM_REFERENCES = 20_000
_LEAST_QUANTILE = 0.1


@dataclasses.dataclass(frozen=True)
class LocalScale:
    """The local scale of distances around each image.

    Attributes:
        distances: float32 `[num_rows]`, the distance that defines the scale.
        count: Number of other images that are expected within that distance.
        dimension: Intrinsic dimension of the embeddings, at least 1.
    """

    distances: np.ndarray
    count: float
    dimension: float

    def expected_closer(
        self, first: np.ndarray, second: np.ndarray, cosines: np.ndarray
    ) -> np.ndarray:
        """Returns the expected number of other images as close as the pair.

        Args:
            first: int `[num_pairs]`, positions of rows, as `second`.
            second: int `[num_pairs]`.
            cosines: float `[num_pairs]`.

        Returns:
            Non-negative float32 `[num_pairs]`, the larger of the values of
            the two images.
        """
        scale = np.minimum(self.distances[first], self.distances[second])
        distances = np.sqrt(np.maximum(2 - 2 * cosines, 0))
        known = np.isfinite(scale)
        ratio = (distances > 0).astype(np.float32)
        ratio[known] = distances[known] / np.maximum(scale[known], 1e-12)
        return np.float32(self.count) * ratio ** np.float32(self.dimension)

    def radii(self, number: float) -> np.ndarray:
        """Returns the radii that should hold `number` images, `[num_rows]`."""
        share = (number / self.count) ** (1 / self.dimension)
        return self.distances * np.float32(share)


def local_scale(rows: np.ndarray) -> LocalScale:
    """Measures the distances between neighbors.

    Neighbors are searched among at most 20,000 evenly spaced rows. With fewer
    than four rows, the scale cannot be estimated: it is infinite, and one
    other image is expected as close as any two rows that differ.

    Args:
        rows: float `[num_rows, dim]`, of unit length.
    """
    num_rows = len(rows)
    if num_rows < 4:
        infinite = np.full([num_rows], np.inf, np.float32)
        return LocalScale(infinite, 1.0, 1.0)
    count = min(num_rows, _NUM_REFERENCES)
    chosen = np.linspace(0, num_rows - 1, count).astype(np.int64)
    # Subtracting the mean of the rows keeps the products precise.
    center = rows[chosen].mean(axis=0, dtype=np.float64).astype(np.float32)
    references = rows[chosen] - center
    lengths = (references * references).sum(axis=1)
    rank = min(_RANK, count - 1)
    nearest = min(_NEAREST, (rank + 1) // 2)
    kth = np.empty([num_rows], np.float32)
    ratios = np.empty([num_rows], np.float32)
    # Appending one value to each vector turns -|a - b|² / 2 into a product.
    extended = np.concatenate([references, -lengths[:, None] / 2], axis=1)
    for start in range(0, num_rows, 65_536):
        part = rows[start : start + 65_536] - center
        ones = np.ones([len(part), 1], np.float32)
        products, found = top_k(
            np.concatenate([part, ones], axis=1), extended, rank + 1
        )
        squared = (part * part).sum(axis=1, keepdims=True) - 2 * products
        own = np.arange(start, start + len(part))
        squared, _ = without_self(squared, chosen[found], own)
        distances = np.sqrt(np.maximum(squared, 1e-12))
        kth[start : start + len(part)] = distances[:, -1]
        ratios[start : start + len(part)] = (
            distances[:, -1] / distances[:, nearest - 1]
        )
    spread = np.median(np.log(np.maximum(ratios, 1)))
    most = rows.shape[1]
    dimension = np.log(rank / nearest) / max(spread, 1e-6)
    # In a large group of copies, all neighbors may be copies.
    kth = np.maximum(kth, np.quantile(kth, _LEAST_QUANTILE))
    return LocalScale(
        kth, rank * num_rows / count, float(np.clip(dimension, 1, most))
    )
