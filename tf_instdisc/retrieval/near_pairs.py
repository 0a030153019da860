"""Finds exactly all pairs of rows that are closer than a distance.

The distance of two rows in some coordinates never exceeds their distance in
all coordinates. Rows are rotated so that they differ most in their first
coordinates, and only pairs that are close in those are compared in full. Each
row may have its own radius.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from keras import ops

from tf_instdisc import progress

_BLOCK = 2048
_OTHER_BLOCK = 16_384
_PREFIX = 24  # Coordinates of the first test.
SLACK = 1e-5  # Allows for float32 rounding.
_SAMPLE = 20_000  # Rows from which the rotation is estimated.
_ROWS_AT_ONCE = 64  # Rows of a block whose candidates are held.
_PAIRS_AT_ONCE = 20_000  # Candidates that are compared in full.
_PROBE = 1024  # Rows on which a prefix is tested.
_MOST_PASSING = 1e-3  # A full comparison costs about 1,000 times as much.


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

    Besides its arguments, it holds 25 values for each row (more if these do
    not suffice to distinguish rows), blocks of 2048 x 16,384 similarities, and
    the pairs.

    Args:
        rows: float `[num_rows, dim]`, of unit length.
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
    """Yields chunks of pairs whose prefixes are close enough."""
    stop = len(rows) if split is None else split
    if not stop:
        return
    prefixes = _prefix(rows, *_leading_axes(rows[:stop], radii[:stop]))
    blocks = [
        (start, other_start)
        for start in range(0, stop, _BLOCK)
        for other_start in range(
            start if split is None else split, len(rows), _OTHER_BLOCK
        )
    ]
    with progress.tracking("comparing rows, in blocks", len(blocks)) as advance:
        for start, other_start in blocks:
            block = slice(start, min(start + _BLOCK, stop))
            tail = prefixes[other_start : other_start + _OTHER_BLOCK]
            for first, second in _near_in_block(
                prefixes[block], tail, radii[block]
            ):
                first, second = first + start, second + other_start
                # A row is paired only with later rows.
                later = first < second
                yield first[later], second[later]
            advance(1)


def _leading_axes(
    rows: np.ndarray, radii: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the principal axes of the rows, `[dim, prefix]`, and their mean.

    As few axes as suffice to rule out most pairs are returned.
    """
    sample = rows[:: max(1, len(rows) // _SAMPLE)].astype(np.float64)
    center = sample.mean(axis=0)
    centered = sample - center
    _, axes = np.linalg.eigh(centered.T @ centered)
    axes = axes[:, ::-1].astype(np.float32)
    probe = np.linspace(0, len(rows) - 1, min(len(rows), _PROBE)).astype(int)
    size = _PREFIX
    while size < axes.shape[1]:
        prefix = _prefix(rows[probe], axes[:, :size], center)
        is_near = _closeness(prefix, prefix) >= _limits(radii[probe])
        np.fill_diagonal(is_near, False)
        if is_near.mean() <= _MOST_PASSING:
            break
        size *= 2
    return axes[:, :size], center


def _prefix(
    rows: np.ndarray, axes: np.ndarray, center: np.ndarray
) -> np.ndarray:
    """Returns rotated rows and half their squared lengths."""
    # Centering preserves distances and improves the precision.
    prefix = rows @ axes - (center @ axes).astype(np.float32)
    half = (prefix * prefix).sum(axis=1, keepdims=True) / 2
    return np.concatenate([prefix, half], axis=1, dtype=np.float32)


def _limits(radii: np.ndarray) -> np.ndarray:
    """Returns the minimum `_closeness`, `[num_rows, 1]`."""
    return -(radii[:, None] ** 2) / 2 - SLACK


def _closeness(head: np.ndarray, tail: np.ndarray) -> np.ndarray:
    """Returns -|a - b|² / 2 = a.b - |a|² / 2 - |b|² / 2 in one product."""
    left = np.concatenate(
        [head[:, :-1], -head[:, -1:], -np.ones_like(head[:, -1:])], axis=1
    )
    right = np.concatenate(
        [tail[:, :-1], np.ones_like(tail[:, -1:]), tail[:, -1:]], axis=1
    )
    return ops.convert_to_numpy(ops.matmul(left, ops.transpose(right)))


def _near_in_block(
    head: np.ndarray, tail: np.ndarray, radii: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    closeness = _closeness(head, tail)
    limits = _limits(radii)
    near = np.flatnonzero(closeness.max(axis=1, keepdims=True) >= limits)
    for start in range(0, len(near), _ROWS_AT_ONCE):
        some = near[start : start + _ROWS_AT_ONCE]
        first, second = np.nonzero(closeness[some] >= limits[some])
        yield some[first], second


def _confirm(
    rows: np.ndarray, radii: np.ndarray, first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the pairs whose full distance is small enough."""
    squared = np.empty([len(first)], np.float32)
    for start in range(0, len(first), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        # For close rows, the difference is more precise than the product.
        difference = rows[first[part]] - rows[second[part]]
        squared[part] = np.einsum("ij,ij->i", difference, difference)
    is_near = squared <= np.minimum(radii[first], radii[second]) ** 2
    return first[is_near], second[is_near], 1 - squared[is_near] / 2
