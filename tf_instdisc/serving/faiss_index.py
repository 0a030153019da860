"""Indexes in the file format of faiss, which `faiss.read_index` opens."""

import itertools
from typing import Any

import numpy as np

from tf_instdisc.errors import UsageError
from tf_instdisc.serving.partitions import (
    Probes,
    import_faiss,
    number_for,
    sample_neighbors,
)

KINDS = ("ivfpq", "hnsw")

_FEWEST_ROWS = 1000  # A codebook has 256 entries to learn.
_LEAST_GAIN = 0.005  # Of the recall, for twice the time.


def build(
    kind: str, rows: np.ndarray, num_neighbors: int, target: float
) -> tuple[Any, Probes]:
    """Builds an index that searches as much as the target recall needs.

    Args:
        kind: `"ivfpq"` for partitions with rows of `dim / 2` bytes (fewer if
            `dim` is odd), or `"hnsw"` for a graph in which each row has 32
            neighbors.
        rows: float32 `[num_rows, dim]`, of unit length; `dim` is at least 2.
        num_neighbors: The number of neighbors whose recall is measured.
        target: The least recall, in (0, 1). It may not be reached: the codes
            of `"ivfpq"` are inexact, and the graph of `"hnsw"` does not lead
            to each row.

    Returns:
        The index, whose inner products are cosines, and what it searches:
        partitions, or candidates.

    Raises:
        UsageError: If there are fewer than 1,000 rows, or if faiss is not
            installed.
    """
    faiss = import_faiss()
    num_rows, dim = rows.shape
    if num_rows < _FEWEST_ROWS:
        raise UsageError(
            f"The kind {kind} needs at least {_FEWEST_ROWS:,} rows. Received: "
            f"{num_rows} rows. Choose exact."
        )
    form = "HNSW32"
    if kind == "ivfpq":
        num_codes = max(m for m in range(1, dim // 2 + 1) if dim % m == 0)
        form = f"IVF{number_for(num_rows)},PQ{num_codes}"
    index = faiss.index_factory(dim, form, faiss.METRIC_INNER_PRODUCT)
    if kind == "ivfpq":
        # It would take most of the time, for a kind of search not used here.
        index.do_polysemous_training = False
        index.pq.cp.niter = index.cp.niter
        for clustering in (index.cp, index.pq.cp):
            clustering.min_points_per_centroid = 1  # Below, faiss warns.
    index.train(rows)
    index.add(rows)
    return index, _tune(index, rows, num_neighbors, target)


def _tune(
    index: Any, rows: np.ndarray, num_neighbors: int, target: float
) -> Probes:
    """Doubles what is searched until the target, or until it gains little."""
    sample, exact = sample_neighbors(rows, num_neighbors)
    is_other = exact != sample[:, None]
    name, _, most = _effort(index)
    start = exact.shape[1] if name == "efSearch" else 1
    best = Probes(start, num_neighbors, -1.0)
    for number in map(lambda n: start * 2**n, itertools.count()):
        _set_effort(index, number)
        _, found = index.search(rows[sample], exact.shape[1])
        is_found = (exact[:, :, None] == found[:, None]).any(axis=-1)
        recall = float(is_found[is_other].mean())
        if recall < best.recall + _LEAST_GAIN:
            break
        best = Probes(number, num_neighbors, recall)
        if recall >= target or 2 * number > most:
            break
    _set_effort(index, best.number)
    return best


def search(
    index: Any, queries: np.ndarray, num_neighbors: int
) -> tuple[np.ndarray, np.ndarray]:
    """Searches an index, and more of it if too few rows are found.

    Args:
        index: What `faiss.read_index` returns.
        queries: float32 `[num_queries, dim]`.
        num_neighbors: At least 1; it is limited to the number of rows.

    Returns:
        Cosines, float32 `[num_queries, num_neighbors]`, in descending order,
        and the positions of their rows, int64 of the same shape.
    """
    number = min(num_neighbors, index.ntotal)
    before, most = _effort(index)[1:]
    effort = before
    scores, positions = index.search(queries, number)
    while (positions < 0).any() and effort < most:
        effort = min(2 * effort, most)
        _set_effort(index, effort)
        scores, positions = index.search(queries, number)
    _set_effort(index, before)
    # A graph of many equal rows has parts that no search reaches.
    unanswered = (positions < 0).any(axis=1)
    if unanswered.any():
        cosines = queries[unanswered] @ index.reconstruct_n(0, index.ntotal).T
        nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :number]
        positions[unanswered] = nearest
        scores[unanswered] = np.take_along_axis(cosines, nearest, axis=1)
    return scores, positions


def _effort(index: Any) -> tuple[str, int, int]:
    """Returns the name of what limits a search, its value and the largest."""
    if isinstance(index, import_faiss().IndexHNSW):
        return "efSearch", index.hnsw.efSearch, index.ntotal
    return "nprobe", index.nprobe, index.nlist


def _set_effort(index: Any, value: int) -> None:
    import_faiss().ParameterSpace().set_index_parameter(
        index, _effort(index)[0], value
    )
