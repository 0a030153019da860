"""Divides the rows of a bank into partitions, of which a search reads few."""

import dataclasses
import math
from typing import Any

import numpy as np

from tf_instdisc.errors import require_extra
from tf_instdisc.runs.bank import sample_rows

# With fewer rows, exhaustive search takes a few milliseconds.
_FEWEST_ROWS = 100_000

_SAMPLE = 1000  # Rows on which the recall is measured.


@dataclasses.dataclass(frozen=True)
class Partitions:
    """The result of k-means, without empty clusters.

    Attributes:
        centroids: float32 `[num_partitions, dim]`, of unit length.
        assignment: int64 `[num_rows]`, the partition of each row.
    """

    centroids: np.ndarray
    assignment: np.ndarray


@dataclasses.dataclass(frozen=True)
class Probes:
    """How much of an index a search reads for each query.

    Attributes:
        number: Partitions, those with the nearest centroids, or candidates in
            the graph of an index of faiss.
        num_neighbors: The number of neighbors that was measured.
        recall: Fraction of the neighbors of exhaustive search that are found.
    """

    number: int
    num_neighbors: int
    recall: float


def number_of_partitions(partitions: str, num_rows: int) -> int:
    """Returns the number of partitions for the option `partitions`.

    Args:
        partitions: `"none"`, `"auto"` or a number.

    Returns:
        At most `num_rows`; 0 for exhaustive search.
    """
    if partitions == "none":
        return 0
    if partitions == "auto":
        if num_rows < _FEWEST_ROWS:
            return 0
        return number_for(num_rows)
    return min(int(partitions), num_rows)


def number_for(num_rows: int) -> int:
    """Returns a power of two near twice the square root of `num_rows`."""
    return min(2 ** round(math.log2(2 * math.sqrt(num_rows))), num_rows)


def import_faiss() -> Any:
    """Imports faiss, or raises UsageError if it is not installed."""
    require_extra("index", "faiss")
    import faiss

    return faiss


def cluster(rows: np.ndarray, number: int) -> Partitions:
    """Divides rows by spherical k-means.

    Args:
        rows: float32 `[num_rows, dim]`, of unit length.
        number: Number of partitions; at most `num_rows`. There are fewer if
            some would be empty.

    Raises:
        UsageError: If faiss is not installed.
    """
    kmeans = import_faiss().Kmeans(
        rows.shape[1],
        number,
        niter=10,
        spherical=True,
        seed=0,
        min_points_per_centroid=1,  # With fewer, faiss prints a warning.
    )
    kmeans.train(rows)
    nearest = kmeans.index.search(rows, 1)[1][:, 0]
    used, assignment = np.unique(nearest, return_inverse=True)
    return Partitions(kmeans.centroids[used], assignment)


def probes_for_recall(
    partitions: Partitions, rows: np.ndarray, num_neighbors: int, target: float
) -> Probes:
    """Chooses how many partitions to read.

    A sample of the rows serves as queries, and their neighbors are those of an
    exhaustive search, without the queries themselves. A neighbor is found if
    its partition is read.

    Args:
        partitions: The partitions of the rows.
        rows: float32 `[num_rows, dim]`.
        num_neighbors: At least 1.
        target: The least recall, in (0, 1).

    Returns:
        The smallest number of partitions that reaches the target.
    """
    if len(rows) < 2:
        return Probes(1, num_neighbors, 1.0)
    sample, nearest = sample_neighbors(rows, num_neighbors)
    order = np.argsort(-(rows[sample] @ partitions.centroids.T), axis=1)
    rank = np.argsort(order, axis=1)
    ranks = np.take_along_axis(rank, partitions.assignment[nearest], axis=1)
    ranks = np.sort(ranks[nearest != sample[:, None]])
    probes = int(ranks[math.ceil(target * len(ranks)) - 1]) + 1
    recall = float(np.mean(ranks < probes))
    return Probes(probes, num_neighbors, recall)


def sample_neighbors(
    rows: np.ndarray, num_neighbors: int
) -> tuple[np.ndarray, np.ndarray]:
    """Searches all rows for the neighbors of some of them.

    Args:
        rows: float32 `[num_rows, dim]`.
        num_neighbors: At least 1.

    Returns:
        The positions of up to 1,000 random rows, int64 `[sample]`, and of
        their nearest rows, int64 `[sample, min(num_neighbors + 1, num_rows)]`,
        one of which is usually the row itself.
    """
    faiss = import_faiss()
    sample = sample_rows(len(rows), _SAMPLE)
    number = min(num_neighbors + 1, len(rows))
    _, nearest = faiss.knn(
        rows[sample], rows, number, metric=faiss.METRIC_INNER_PRODUCT
    )
    return sample, nearest
