"""Finds exactly all pairs of rows that are closer than a distance.

The distance of two rows in some coordinates never exceeds their distance in
all coordinates. Rows are rotated so that they differ most in their first
coordinates, and only pairs that are close in those are compared in full. Each
row may have its own radius.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from keras import ops

from tf_instdisc import progress
from tf_instdisc.errors import UsageError

_BLOCK = 2048
_OTHER_BLOCK = 16_384
_PREFIX = 24  # Coordinates of the first test.
_SLACK = 1e-5  # Allows for float32 rounding.
_SAMPLE = 20_000  # Rows from which the rotation is estimated.
_ROWS_AT_ONCE = 64  # Rows of a block whose candidates are held.
_PAIRS_AT_ONCE = 20_000  # Candidates that are compared in full.
_PROBE = 1024  # Rows on which a prefix is tested.
_MOST_PASSING = 1e-3  # A full comparison costs about 1,000 times as much.


@dataclasses.dataclass(frozen=True)
class NearPairs:
    """Pairs of rows.

    Attributes:
        first: int64 `[num_pairs]`, positions in the rows.
        second: int64 `[num_pairs]`, positions in the others; or in the rows,
            where they are above `first`.
        scores: Cosines, float32 `[num_pairs]`.
        is_complete: Whether the search finished before `max_pairs`.
    """

    first: np.ndarray
    second: np.ndarray
    scores: np.ndarray
    is_complete: bool


def pairs_above(
    rows: np.ndarray,
    threshold: float,
    others: np.ndarray | None = None,
    max_pairs: int = 1_000_000,
) -> NearPairs:
    """Finds pairs of rows with a cosine of at least a threshold.

    Args:
        rows: float `[num_rows, dim]`, of unit length.
        threshold: The minimum cosine, in (0, 1].
        others: float `[num_others, dim]`, to compare the rows with. By
            default, the rows are compared with each other.
        max_pairs: Number of pairs at which the search stops. In a collapsed
            bank, all rows are pairs.

    Returns:
        The pairs, in the order of the blocks.

    Raises:
        UsageError: If the threshold is out of range.
    """
    if not 0 < threshold <= 1:
        raise UsageError(
            f"`threshold` must be in (0, 1]. Received: threshold={threshold}"
        )
    radius = np.sqrt(2 * (1 - threshold + _SLACK))
    return pairs_within(
        rows,
        np.full([len(rows)], radius),
        others,
        None if others is None else np.full([len(others)], radius),
        max_pairs,
    )


def pairs_within(
    rows: np.ndarray,
    radii: np.ndarray,
    others: np.ndarray | None = None,
    other_radii: np.ndarray | None = None,
    max_pairs: int = 1_000_000,
) -> NearPairs:
    """Finds pairs of rows that are within the radius of each other.

    Besides its arguments, it holds 25 values for each row (more if these do
    not suffice to distinguish rows), blocks of 2048 x 16,384 similarities, and
    the pairs.

    Args:
        rows: float `[num_rows, dim]`, of unit length.
        radii: Non-negative Euclidean distances, float `[num_rows]`.
        others: float `[num_others, dim]`, to compare the rows with. By
            default, the rows are compared with each other.
        other_radii: float `[num_others]`, if `others` is given.
        max_pairs: Number of pairs at which the search stops.

    Returns:
        The pairs, in the order of the blocks.
    """
    among = others is None
    if others is None or other_radii is None:
        others, other_radii = rows, radii
    radii = radii.astype(np.float32)
    other_radii = other_radii.astype(np.float32)
    if not len(rows) or not len(others):
        return _join([], max_pairs, is_complete=True)
    axes, center = _leading_axes(rows, radii)
    heads = _prefix(rows, axes, center)
    tails = heads if among else _prefix(others, axes, center)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    count = 0
    for first, second in _candidates(heads, tails, radii, among):
        limits = np.minimum(radii[first], other_radii[second])
        pairs = _confirm(rows, others, first, second, limits)
        found.append(pairs)
        count += len(pairs[0])
        if count >= max_pairs:
            return _join(found, max_pairs, is_complete=False)
    return _join(found, max_pairs, is_complete=True)


def _candidates(
    heads: np.ndarray, tails: np.ndarray, radii: np.ndarray, among: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields chunks of pairs whose prefixes are close enough."""
    # Within the rows, each row is paired only with later rows.
    blocks = [
        (start, other_start)
        for start in range(0, len(heads), _BLOCK)
        for other_start in range(
            start if among else 0, len(tails), _OTHER_BLOCK
        )
    ]
    with progress.tracking("comparing rows, in blocks", len(blocks)) as advance:
        for start, other_start in blocks:
            block = slice(start, start + _BLOCK)
            tail = tails[other_start : other_start + _OTHER_BLOCK]
            for first, second in _near_in_block(
                heads[block], tail, radii[block]
            ):
                first, second = first + start, second + other_start
                if among:
                    later = first < second
                    first, second = first[later], second[later]
                yield first, second
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
    return -(radii[:, None] ** 2) / 2 - _SLACK


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
    rows: np.ndarray,
    others: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    limits: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the pairs whose full distance is small enough."""
    squared = np.empty([len(first)], np.float32)
    for start in range(0, len(first), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        # For close rows, the difference is more precise than the product.
        difference = rows[first[part]] - others[second[part]]
        squared[part] = np.einsum("ij,ij->i", difference, difference)
    is_near = squared <= limits**2
    scores = 1 - squared[is_near] / 2
    return first[is_near], second[is_near], scores


def _join(
    found: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    max_pairs: int,
    is_complete: bool,
) -> NearPairs:
    if not found:
        none = np.zeros([0], np.int64)
        return NearPairs(none, none, np.zeros([0], np.float32), is_complete)
    first, second, scores = (
        np.concatenate(column)[:max_pairs]
        for column in zip(*found, strict=True)
    )
    return NearPairs(first, second, scores, is_complete)
