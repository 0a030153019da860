"""All pairs of rows that are closer than a threshold, exactly.

A pair's distance in some of its coordinates is never more than its whole
distance. Rows are turned so that their first coordinates tell most, and only
pairs that are near in those are compared in full.
"""

import dataclasses

import numpy as np
from keras import ops

_BLOCK = 2048
_OTHER_BLOCK = 16_384
_PREFIX = 24  # coordinates of the first test
_SLACK = 1e-5  # rounding of float32
_SAMPLE = 20_000  # rows from which the turn is estimated
_ROWS_AT_ONCE = 64  # rows of a block whose candidates are held
_PAIRS_AT_ONCE = 20_000  # candidates that are compared in full


@dataclasses.dataclass(frozen=True)
class NearPairs:
    """Pairs of rows.

    Attributes:
        first: int64 `[num_pairs]`, positions in the rows.
        second: int64 `[num_pairs]`, positions in the others, or in the rows,
            then above `first`.
        scores: Cosines, float32 `[num_pairs]`.
        is_complete: False where the search stopped at `max_pairs`.
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

    Besides its arguments it holds 25 numbers for each row, blocks of
    2048 x 16,384 similarities, and the pairs.

    Args:
        rows: float `[num_rows, dim]`, of unit length.
        threshold: In (0, 1].
        others: float `[num_others, dim]`, to compare the rows with; by default
            they are compared among themselves.
        max_pairs: Where to stop; a collapsed bank has nothing but pairs.

    Returns:
        The pairs, in the order of the blocks.

    Raises:
        ValueError: If the threshold or a shape is out of range.
    """
    if not 0 < threshold <= 1:
        raise ValueError(
            f"`threshold` must be in (0, 1]. Received: threshold={threshold}"
        )
    among = others is None
    others = rows if others is None else others
    if rows.ndim != 2 or others.ndim != 2 or rows.shape[1] != others.shape[1]:
        raise ValueError(
            "`rows` and `others` must be matrices of one width. Received: "
            f"rows.shape={rows.shape}, others.shape={others.shape}"
        )
    axes = _leading_axes(rows)
    heads, tails = _prefix(rows, axes), _prefix(others, axes)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    count = 0
    for first, second in _candidates(heads, tails, threshold, among):
        pairs = _confirm(rows, others, first, second, threshold)
        found.append(pairs)
        count += len(pairs[0])
        if count >= max_pairs:
            return _join(found, max_pairs, is_complete=False)
    return _join(found, max_pairs, is_complete=True)


def _candidates(heads, tails, threshold, among):
    """Yields pairs whose prefixes are near enough, some at a time."""
    for start in range(0, len(heads), _BLOCK):
        head = heads[start : start + _BLOCK]
        # Of pairs among the rows, only those with a later row.
        first_other = start if among else 0
        for other_start in range(first_other, len(tails), _OTHER_BLOCK):
            tail = tails[other_start : other_start + _OTHER_BLOCK]
            for first, second in _near_in_block(head, tail, threshold):
                first, second = first + start, second + other_start
                if among:
                    later = first < second
                    first, second = first[later], second[later]
                yield first, second


def _leading_axes(rows: np.ndarray) -> np.ndarray:
    """The axes along which rows differ most, `[dim, prefix]`."""
    sample = rows[:: max(1, len(rows) // _SAMPLE)].astype(np.float64)
    centered = sample - sample.mean(axis=0)
    _, axes = np.linalg.eigh(centered.T @ centered)
    return axes[:, ::-1][:, :_PREFIX].astype(np.float32)


def _prefix(rows, axes):
    """Turned rows and half their squared length, `[num_rows, prefix + 1]`."""
    prefix = rows @ axes
    half = (prefix * prefix).sum(axis=1, keepdims=True) / 2
    return np.concatenate([prefix, half], axis=1, dtype=np.float32)


def _near_in_block(head, tail, threshold):
    # -|a - b|² / 2 = a.b - |a|² / 2 - |b|² / 2 in one product.
    left = np.concatenate(
        [head[:, :-1], -head[:, -1:], -np.ones_like(head[:, -1:])], axis=1
    )
    right = np.concatenate(
        [tail[:, :-1], np.ones_like(tail[:, -1:]), tail[:, -1:]], axis=1
    )
    closeness = ops.matmul(left, ops.transpose(right))
    limit = threshold - 1 - _SLACK
    nearest = ops.convert_to_numpy(ops.max(closeness, axis=1))
    near = np.flatnonzero(nearest >= limit)
    for start in range(0, len(near), _ROWS_AT_ONCE):
        some = near[start : start + _ROWS_AT_ONCE]
        part = ops.convert_to_numpy(ops.take(closeness, some, axis=0))
        first, second = np.nonzero(part >= limit)
        yield some[first], second


def _confirm(rows, others, first, second, threshold):
    """Pairs whose whole cosine is large enough, and the cosine."""
    scores = np.empty([len(first)], np.float32)
    for start in range(0, len(first), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        scores[part] = np.einsum(
            "ij,ij->i", rows[first[part]], others[second[part]]
        )
    is_near = scores >= threshold - _SLACK
    return first[is_near], second[is_near], scores[is_near]


def _join(found, max_pairs, is_complete):
    if not found:
        none = np.zeros([0], np.int64)
        return NearPairs(none, none, np.zeros([0], np.float32), is_complete)
    first, second, scores = (
        np.concatenate(column)[:max_pairs]
        for column in zip(*found, strict=True)
    )
    return NearPairs(first, second, scores, is_complete)


def groups(pairs: NearPairs) -> list[np.ndarray]:
    """Joins pairs among rows into groups: whatever hangs together.

    Args:
        pairs: Pairs of rows among themselves.

    Returns:
        Positions of the rows of each group, ascending; the largest group
        first.
    """
    from scipy import sparse

    members = np.unique(np.concatenate([pairs.first, pairs.second]))
    links = sparse.coo_array(
        (
            np.ones(len(pairs.first), bool),
            (
                np.searchsorted(members, pairs.first),
                np.searchsorted(members, pairs.second),
            ),
        ),
        shape=(len(members), len(members)),
    )
    if not len(members):
        return []
    _, group_of = sparse.csgraph.connected_components(links, directed=False)
    order = np.argsort(group_of, kind="stable")
    cuts = np.flatnonzero(np.diff(group_of[order])) + 1
    found = np.split(members[order], cuts)
    return sorted(found, key=lambda group: (-len(group), group[0]))
