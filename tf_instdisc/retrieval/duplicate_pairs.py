"""Finds candidate pairs by their embeddings and tests them by their pixels."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats

from tf_instdisc.retrieval import pixel_similarity
from tf_instdisc.retrieval.local_scale import local_scale
from tf_instdisc.retrieval.near_pairs import Pairs, pairs_within
from tf_instdisc.retrieval.neighbors import top_k
from tf_instdisc.runs.images import RunImages

_MOST_CLOSER = 2.0  # Expected number of other images as close as a pair.
_CANDIDATES_A_ROW = 10
_BY_CHANCE = 0.05  # Fraction of pairs, if no pictures are compared.
_LEAST_SIMILARITY = 0.94
_MOST_SIMILARITY = 0.99
_ALIKE_BY_CHANCE = 0.002
_NUM_PROBES = 300
_RANKS = range(10, 41, 3)  # Neighbors assumed to be different images.


def judged(
    places: Sequence[RunImages],
    rows: np.ndarray,
    split: int | None,
    max_pairs: int,
) -> tuple[Pairs, np.ndarray, float | None]:
    """Finds pairs that are unusually close, and whose pictures agree.

    Args:
        places: One or two collections.
        rows: float32 `[num_rows, dim]`, those of a second collection last.
        split: Position of the second collection's first row; None without one.
        max_pairs: Number of near-duplicates that must be found, if there are
            as many.

    Returns:
        The pairs, whose scores are 1 / (1 + expected number of other images at
        least as close); the radius of each row, float32 `[num_rows]`; and the
        minimum similarity of two pictures, None if no pictures can be read.
    """
    scale = local_scale(rows)
    radii = scale.radii(_MOST_CLOSER)
    # Most candidates are not near-duplicates.
    most = max_pairs + _CANDIDATES_A_ROW * len(rows)
    pairs = pairs_within(rows, radii, split, most)
    closer = scale.expected_closer(pairs.first, pairs.second, pairs.cosines)
    kept = _is_significant(closer, len(rows), split)

    members = np.unique(np.concatenate([pairs.first, pairs.second]))
    thumbnails, found = _thumbnails(places, members)
    first = np.searchsorted(members, pairs.first)
    second = np.searchsorted(members, pairs.second)
    pictured = found[first] & found[second]
    least = None
    if pictured.any():
        least = _least_similarity(rows[members[found]], thumbnails[found])
        kept[pictured] = least <= pixel_similarity.similarities(
            thumbnails, first[pictured], second[pictured]
        )
    pairs = dataclasses.replace(pairs, scores=1 / (1 + closer))
    return pairs[kept], radii, least


def _is_significant(
    expected_closer: np.ndarray, num_rows: int, split: int | None
) -> np.ndarray:
    """Returns which pairs are near-duplicates at a false discovery rate of 5%.

    The expected number of pairs by chance is compared with the number of all
    pairs (Benjamini and Hochberg, 1995).
    """
    by_chance = expected_closer * num_rows / 2
    if split is not None:
        by_chance = expected_closer * split * (num_rows - split) / num_rows
    p_values = np.minimum(by_chance / max(len(by_chance), 1), 1)
    return stats.false_discovery_control(p_values) <= _BY_CHANCE


def _thumbnails(
    places: Sequence[RunImages], members: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns small gray pictures, and which ones were found."""
    side = pixel_similarity.SIDE
    thumbnails = np.zeros([len(members), side, side], np.uint8)
    found = np.zeros([len(members)], bool)
    start = 0
    for place in places:
        stop = start + len(place.bank.rows)
        here = np.flatnonzero((members >= start) & (members < stop))
        for slots, batch in place.batches(members[here] - start, side):
            thumbnails[here[slots]] = pixel_similarity.thumbnails(batch)
            found[here[slots]] = True
        start = stop
    return thumbnails, found


def _least_similarity(rows: np.ndarray, thumbnails: np.ndarray) -> float:
    """Returns a similarity that pictures of mere neighbors rarely reach.

    Neighbors that are not among the nearest are taken as different images. In
    datasets such as digits or faces, even these are similar.
    """
    if len(rows) <= _RANKS[0]:
        return _LEAST_SIMILARITY
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), _NUM_PROBES))
    chosen = chosen.astype(np.int64)
    _, neighbors = top_k(rows[chosen], rows, _RANKS[-1] + 1)
    neighbors = neighbors[:, [rank for rank in _RANKS if rank < len(rows)]]
    similarities = pixel_similarity.similarities(
        thumbnails,
        np.repeat(chosen, neighbors.shape[1]),
        neighbors.reshape([-1]),
    )
    reached = np.quantile(similarities, 1 - _ALIKE_BY_CHANCE)
    return float(np.clip(reached, _LEAST_SIMILARITY, _MOST_SIMILARITY))
