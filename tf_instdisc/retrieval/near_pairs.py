"""Finds exactly all pairs of rows that are closer than a distance.

Each row may have its own radius.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from tf_instdisc import progress
from tf_instdisc.retrieval.neighbors import full_precision

# Blocks of similarities that stay in the cache until they are searched.
_BLOCK = 1024
_OTHER_BLOCK = 4096
SLACK = 1e-5  # Allows for float32 rounding.
_ROWS_AT_ONCE = 64  # Rows of a block whose candidates are held.
_PAIRS_AT_ONCE = 20_000  # Candidates that are compared precisely.


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of rows.

    Attributes:
        first: int64 `[num_pairs]`, positions of rows.
        second: int64 `[num_pairs]`, positions above `first`.
        cosines: float32 `[num_pairs]`.
        scores: float32 `[num_pairs]`; higher for pairs that are more likely
            near-duplicates.
        is_complete: Whether the search finished before its limit.
    """

    first: np.ndarray
    second: np.ndarray
    cosines: np.ndarray
    scores: np.ndarray
    is_complete: bool

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, chosen: np.ndarray | slice) -> "Pairs":
        columns = {
            name: column[chosen]
            for name, column in vars(self).items()
            if name != "is_complete"
        }
        return dataclasses.replace(self, **columns)


def pairs_within(
    rows: np.ndarray,
    radii: np.ndarray,
    split: int | None = None,
    max_pairs: int = 1_000_000,
) -> Pairs:
    """Finds pairs of rows that are within the radius of each other.

    Besides its arguments, it holds two values for each row, blocks of 1024 x
    4096 similarities, and the pairs.

    Args:
        rows: float32 `[num_rows, dim]`, of unit length.
        radii: Non-negative Euclidean distances, float `[num_rows]`.
        split: If given, only rows before this position are paired with rows
            from it on. By default, all rows are paired.
        max_pairs: Number of pairs at which the search stops. In a collapsed
            bank, all rows are pairs.

    Returns:
        The pairs, in the order of the blocks; their scores are the cosines.
    """
    radii = radii.astype(np.float32)
    nowhere = np.zeros([0], np.int64)
    found = [(nowhere, nowhere, np.zeros([0], np.float32))]
    count = 0
    for first, second in _candidates(rows, radii, split):
        found.append(_confirm(rows, radii, first, second))
        count += len(found[-1][0])
        if count >= max_pairs:
            break
    first, second, cosines = (
        np.concatenate(column)[:max_pairs]
        for column in zip(*found, strict=True)
    )
    return Pairs(first, second, cosines, cosines, count < max_pairs)


def _candidates(
    rows: np.ndarray, radii: np.ndarray, split: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields chunks of pairs that are close up to rounding."""
    stop = len(rows) if split is None else split
    # The squared lengths are not exactly 1, as of rows stored in float16.
    half = np.einsum("ij,ij->i", rows, rows)[:, None] / 2
    least = half - radii[:, None] ** 2 / 2 - SLACK
    blocks = [
        (slice(start, min(start + _BLOCK, stop)), other_start)
        for start in range(0, stop, _BLOCK)
        for other_start in range(
            start if split is None else split, len(rows), _OTHER_BLOCK
        )
    ]
    with progress.tracking("comparing rows, in blocks", len(blocks)) as advance:
        for block, other_start in blocks:
            tail = slice(other_start, other_start + _OTHER_BLOCK)
            # One more column gives a.b - |b|² / 2 = |a|² / 2 - |a - b|² / 2.
            left = np.column_stack([rows[block], np.ones_like(half[block])])
            right = np.column_stack([rows[tail], -half[tail]])
            with full_precision():
                closeness = tf.matmul(left, right, transpose_b=True).numpy()
            limits = least[block]
            near = closeness.max(axis=1, keepdims=True) >= limits
            near = np.flatnonzero(near)
            for start in range(0, len(near), _ROWS_AT_ONCE):
                some = near[start : start + _ROWS_AT_ONCE]
                first, second = np.nonzero(closeness[some] >= limits[some])
                first, second = some[first] + block.start, second + tail.start
                # A row is paired only with later rows.
                later = first < second
                yield first[later], second[later]
            advance(1)


def _confirm(
    rows: np.ndarray, radii: np.ndarray, first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the pairs whose precise distance is small enough."""
    squared = np.empty([len(first)], np.float32)
    for start in range(0, len(first), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        # For close rows, the difference is more precise than the product.
        difference = rows[first[part]] - rows[second[part]]
        squared[part] = np.einsum("ij,ij->i", difference, difference)
    is_near = squared <= np.minimum(radii[first], radii[second]) ** 2
    return first[is_near], second[is_near], 1 - squared[is_near] / 2
