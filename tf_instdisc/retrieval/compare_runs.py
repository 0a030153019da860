"""Compares two runs over the same images."""

import dataclasses

import numpy as np
from scipy import linalg

from tf_instdisc.errors import UsageError
from tf_instdisc.retrieval.neighbors import top_k, without_self
from tf_instdisc.runs.bank import Bank, sample_rows

_MOST_IMAGES = 10_000


@dataclasses.dataclass(frozen=True)
class Diff:
    """The difference of two runs, whose images are matched by name.

    Attributes:
        names: str `[size]`, the names of the compared images.
        shared_neighbors: float `[size]`, the fraction of an image's neighbors
            that are the same in both runs, in [0, 1].
        drift: float `[size]`, 1 - cosine of an image's two rows after the best
            rotation of one bank onto the other; NaN if the banks have
            different widths.
        num_common: Number of images in both runs.
        num_only: Numbers of images only in the first and only in the second.
    """

    names: np.ndarray
    shared_neighbors: np.ndarray
    drift: np.ndarray
    num_common: int
    num_only: tuple[int, int]


def compare(first: Bank, second: Bank, num_neighbors: int) -> Diff:
    """Compares two banks.

    The embeddings of two runs may differ by a rotation of the sphere, which
    does not change any neighbors. It is removed first (orthogonal Procrustes).
    If there are more than 10,000 common images, this number is drawn at
    random; their neighbors are searched among all.

    Raises:
        UsageError: If there are fewer than two common images.
    """
    names, in_first, in_second = np.intersect1d(
        first.names, second.names, return_indices=True
    )
    if len(names) < 2:
        raise UsageError(
            "The runs must have images in common, by name. Received: "
            f"{len(names)} common names of {len(first.names)} and "
            f"{len(second.names)}"
        )
    rows = first.rows[in_first], second.rows[in_second]
    picked = sample_rows(len(names), _MOST_IMAGES)
    found = [
        without_self(*top_k(part[picked], part, num_neighbors + 1), picked)[1]
        for part in rows
    ]
    shared = [
        len(np.intersect1d(a, b)) / len(a) for a, b in zip(*found, strict=True)
    ]
    return Diff(
        names=names[picked],
        shared_neighbors=np.array(shared),
        drift=_drift(*rows)[picked],
        num_common=len(names),
        num_only=(
            len(first.names) - len(names),
            len(second.names) - len(names),
        ),
    )


def _drift(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    if first.shape != second.shape:
        return np.full([len(first)], np.nan)
    rotation, _ = linalg.orthogonal_procrustes(first, second)
    return 1 - np.einsum("ij,ij->i", first @ rotation, second)
