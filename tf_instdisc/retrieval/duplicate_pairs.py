"""Finds candidate pairs by their embeddings and tests them by their pixels.

`places` are one or two collections. Positions in the second one are offset by
the size of the first one.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tf_instdisc.retrieval import near_pairs, pixel_similarity
from tf_instdisc.retrieval.local_scale import local_scale
from tf_instdisc.retrieval.neighbors import top_k

if TYPE_CHECKING:
    from tf_instdisc.retrieval.duplicates import EmbeddedImages

_MOST_CLOSER = 2.0  # Expected number of other images as close as a pair.
_CANDIDATES_A_ROW = 10
_BY_CHANCE = 0.05  # Fraction of pairs, if no pictures are compared.
_LEAST_SIMILARITY = 0.94
_MOST_SIMILARITY = 0.99
_ALIKE_BY_CHANCE = 0.002
_NUM_PROBES = 300
_RANKS = range(10, 41, 3)  # Neighbors assumed to be different images.


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of near-duplicates.

    Attributes:
        first: int64 `[num_pairs]`, positions in the collection.
        second: int64 `[num_pairs]`, positions above `first`; those in a second
            collection are offset by the size of the first one.
        scores: float32 `[num_pairs]`: 1 / (1 + expected_closer), or the cosine
            if a threshold was given.
        cosines: float32 `[num_pairs]`.
        expected_closer: float32 `[num_pairs]`. Expected number of other images
            at least as close as the pair; NaN if a threshold was given.
        similarities: float32 `[num_pairs]` of the pictures, as computed by
            `pixel_similarity`; NaN if they were not compared.
    """

    first: np.ndarray
    second: np.ndarray
    scores: np.ndarray
    cosines: np.ndarray
    expected_closer: np.ndarray
    similarities: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, chosen: np.ndarray | slice) -> "Pairs":
        columns = dataclasses.astuple(self)
        return Pairs(*(column[chosen] for column in columns))


def _rows(places: Sequence["EmbeddedImages"]) -> np.ndarray:
    rows = [place.bank.rows for place in places]
    return rows[0] if len(rows) == 1 else np.concatenate(rows)


def above(
    places: Sequence["EmbeddedImages"], threshold: float, max_pairs: int
) -> tuple[Pairs, bool]:
    """Returns the pairs above a cosine, and whether these are all."""
    rows, *others = (place.bank.rows for place in places)
    found = near_pairs.pairs_above(
        rows, threshold, others[0] if others else None, max_pairs
    )
    unknown = np.full([len(found.first)], np.nan, np.float32)
    second = found.second + (len(rows) if others else 0)
    pairs = Pairs(
        found.first, second, found.scores, found.scores, unknown, unknown
    )
    return pairs, found.is_complete


def candidates(
    places: Sequence["EmbeddedImages"], max_pairs: int
) -> tuple[Pairs, np.ndarray, bool]:
    """Finds unusually close pairs: those within the radii of both rows.

    Returns:
        The pairs, the radius of each row, and whether these are all pairs.
    """
    rows = _rows(places)
    scale = local_scale(rows)
    radii = scale.radii(_MOST_CLOSER)
    split = len(places[0].bank.rows)
    among = len(places) == 1
    found = near_pairs.pairs_within(
        rows[:split],
        radii[:split],
        None if among else rows[split:],
        None if among else radii[split:],
        # Most of them are not near-duplicates.
        max_pairs + _CANDIDATES_A_ROW * len(rows),
    )
    second = found.second + (0 if among else split)
    closer = scale.expected_closer(found.first, second, found.scores)
    unknown = np.full([len(closer)], np.nan, np.float32)
    pairs = Pairs(
        found.first, second, 1 / (1 + closer), found.scores, closer, unknown
    )
    return pairs, radii, found.is_complete


def is_significant(
    expected_closer: np.ndarray, places: Sequence["EmbeddedImages"]
) -> np.ndarray:
    """Returns which pairs are near-duplicates at a false discovery rate of 5%.

    The expected number of pairs by chance is compared with the number of all
    pairs (Benjamini and Hochberg, 1995).
    """
    sizes = [len(place.bank.rows) for place in places]
    order = np.argsort(expected_closer, kind="stable")
    count = np.arange(1, len(order) + 1)
    if len(sizes) == 1:
        by_chance = expected_closer[order] * sizes[0] / 2
    else:
        by_chance = expected_closer[order] * sizes[0] * sizes[1] / sum(sizes)
    enough = np.flatnonzero(by_chance <= _BY_CHANCE * count)
    is_near = np.zeros([len(order)], bool)
    is_near[order[: enough.max(initial=-1) + 1]] = True
    return is_near


def compare(
    places: Sequence["EmbeddedImages"], pairs: Pairs
) -> tuple[Pairs, np.ndarray, float | None]:
    """Adds the similarities of pictures that can be read.

    Returns:
        The pairs, whether both pictures of each could be read, and the minimum
        similarity; None if there are no pictures.
    """
    members = np.unique(np.concatenate([pairs.first, pairs.second]))
    thumbnails, found = _thumbnails(places, members)
    first = np.searchsorted(members, pairs.first)
    second = np.searchsorted(members, pairs.second)
    pictured = found[first] & found[second]
    similarities = pairs.similarities.copy()
    similarities[pictured] = pixel_similarity.similarities(
        thumbnails, first[pictured], second[pictured]
    )
    least = None
    if pictured.any():
        rows = _rows(places)[members]
        least = _least_similarity(rows[found], thumbnails[found])
    return (
        dataclasses.replace(pairs, similarities=similarities),
        pictured,
        least,
    )


def _thumbnails(
    places: Sequence["EmbeddedImages"], members: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns small gray pictures, and which ones were found."""
    side = pixel_similarity.SIDE
    thumbnails = np.zeros([len(members), side, side], np.uint8)
    found = np.zeros([len(members)], bool)
    start = 0
    for place in places:
        stop = start + len(place.bank.rows)
        here = np.flatnonzero((members >= start) & (members < stop))
        for slots, batch in place.images.batches(members[here] - start, side):
            thumbnails[here[slots]] = pixel_similarity.thumbnails(batch)
            found[here[slots]] = True
        start = stop
    return thumbnails, found


def _least_similarity(rows: np.ndarray, thumbnails: np.ndarray) -> float:
    """Returns a similarity that pictures of mere neighbors rarely reach.

    Neighbors that are not among the nearest are taken as different images. In
    data sets such as digits or faces, even these are similar.
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
