"""A collection that the page shows: its images, neighbors, map and pairs."""

import contextlib
import dataclasses
import hashlib
import pathlib
import threading
import unicodedata
from collections.abc import Callable
from concurrent import futures

import numpy as np

from tf_instdisc import checksums
from tf_instdisc.errors import UsageError
from tf_instdisc.retrieval import analysis
from tf_instdisc.retrieval.browse.pictures import (
    NotReadYetError,
    Pictures,
    in_background,
)
from tf_instdisc.retrieval.browse.search import Search
from tf_instdisc.retrieval.duplicates import find_duplicates
from tf_instdisc.retrieval.near_pairs import Pairs
from tf_instdisc.runs.images import RunImages

MOST_GROUPS = 20
"""Number of colors in the map."""
_MAP_STEPS = 65_535


@dataclasses.dataclass(frozen=True)
class Map:
    """Places and groups of all images.

    Attributes:
        places: uint16 `[num_images, 2]`, to fill a square.
        groups: uint8 `[num_images]`, below `MOST_GROUPS`.
        names: Names of the groups.
    """

    places: np.ndarray
    groups: np.ndarray
    names: list[str]


class Collection:
    """Images with all that can be asked about them.

    Args:
        images: The images; their bank may have no rows, if a server has them.
        embedded: Returns the images whose pairs are compared; None if the
            bank has no rows.
        memory: `.npz` file that keeps the map for the next start, if any.
    """

    def __init__(
        self,
        title: str,
        images: RunImages,
        search: Search,
        embedded: Callable[[], RunImages] | None = None,
        memory: pathlib.Path | None = None,
    ):
        self.title = title
        self.images = images
        self.bank = images.bank
        self.search = search
        self._embedded = embedded
        self._memory = memory
        self._folded = [_folded(str(name)) for name in self.bank.names]
        self._lock = threading.Lock()
        self._map: futures.Future[Map] | None = None
        self._pairs: futures.Future[Pairs] | None = None

    @property
    def has_rows(self) -> bool:
        """Whether there is a map, and a search for near-duplicates."""
        return self._embedded is not None

    def warm_up(self, pictures: Pictures) -> None:
        """Prepares in advance what the first clicks would wait for."""
        with contextlib.suppress(NotReadYetError):
            pictures.thumbnail(0)
            pictures.whole(0)
        with contextlib.suppress(UsageError):
            self.search.of_file(b"", 1)
        if self.has_rows:
            self.map()

    def find(self, text: str = "", label: int | None = None) -> np.ndarray:
        """Returns the positions of images by name and class, ascending.

        Args:
            text: Words that the name must contain, in any case and order.
            label: The class; None for all.
        """
        if label is None:
            positions = np.arange(len(self.bank.names))
        else:
            positions = np.flatnonzero(self.bank.labels == label)
        words = _folded(text).split()
        if not words:
            return positions
        names = self._folded
        found = [
            position
            for position in positions.tolist()
            if all(word in names[position] for word in words)
        ]
        return np.array(found, np.int64)

    def map(self) -> futures.Future[Map]:
        """Begins to compute the map at the first call."""
        with self._lock:
            if self._map is None:
                self._map = in_background(self._compute_map)
            return self._map

    def pairs(self) -> futures.Future[Pairs]:
        """Begins to search for near-duplicates at the first call.

        They are rows of the bank, the best pair first.
        """
        with self._lock:
            if self._pairs is None:
                self._pairs = in_background(self._find_pairs)
            return self._pairs

    def _compute_map(self) -> Map:
        rows = self.bank.rows
        places = self._places()
        groups = analysis.groups_of(
            self.bank, np.arange(len(rows)), MOST_GROUPS
        )
        low = places.min(axis=0)
        extent = max(float((places - low).max()), 1e-9)
        # The shorter axis is centered in the square.
        margin = (extent - (places.max(axis=0) - low)) / 2
        unit = (places - low + margin) / extent
        steps = np.round(unit * _MAP_STEPS)
        return Map(
            steps.astype(np.uint16),
            groups.of_rows.astype(np.uint8),
            groups.names,
        )

    def _places(self) -> np.ndarray:
        rows = self.bank.rows
        if self._memory is None:
            return analysis.map_of_all(rows)
        key = hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()
        return checksums.kept(
            self._memory, "places", key, lambda: analysis.map_of_all(rows)
        )

    def _find_pairs(self) -> Pairs:
        assert self._embedded is not None
        embedded = self._embedded()
        found = find_duplicates(embedded)
        # Images that cannot be read may be missing.
        rows = np.searchsorted(
            self.bank.instance_ids, embedded.bank.instance_ids
        )
        return dataclasses.replace(
            found.pairs,
            first=rows[found.pairs.first],
            second=rows[found.pairs.second],
            scores=found.pairs.cosines,
        )


def _folded(text: str) -> str:
    """Returns text by which names are found, in any Unicode form and case."""
    return unicodedata.normalize("NFC", text).casefold()
