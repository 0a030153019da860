"""Exact nearest neighbours and the weighted vote of section 3.4.

The one implementation for monitoring, evaluation and whatever else ranks rows
of a bank.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from keras import ops

Tensor = Any  # Of the Keras backend.

_QUERY_CHUNK = 512
_ROW_CHUNK = 65_536


def top_k(
    queries: np.ndarray, rows: np.ndarray, num_neighbors: int
) -> tuple[np.ndarray, np.ndarray]:
    """The most similar rows of each query.

    Works in chunks: besides its arguments and results it holds at most
    512 x 65,536 similarities.

    Args:
        queries: float `[num_queries, dim]`.
        rows: float `[num_rows, dim]`.
        num_neighbors: At least 1; more than `num_rows` gives `num_rows`.

    Returns:
        The inner products, float32 `[num_queries, num_neighbors]`, from the
        largest to the smallest, and the positions of their rows, int64 of the
        same shape. Of equal rows the first comes first.

    Raises:
        ValueError: If `num_neighbors` or a shape is out of range.
    """
    if num_neighbors < 1:
        raise ValueError(
            "`num_neighbors` must be at least 1. "
            f"Received: num_neighbors={num_neighbors}"
        )
    if queries.ndim != 2 or rows.ndim != 2 or queries.shape[1] != rows.shape[1]:
        raise ValueError(
            "`queries` and `rows` must be matrices of one width. Received: "
            f"queries.shape={queries.shape}, rows.shape={rows.shape}"
        )
    num_neighbors = min(num_neighbors, len(rows))
    scores = np.empty([len(queries), num_neighbors], np.float32)
    positions = np.empty([len(queries), num_neighbors], np.int64)
    for start in range(0, len(queries), _QUERY_CHUNK):
        chunk = slice(start, start + _QUERY_CHUNK)
        row_chunks = (rows[part] for part in row_slices(len(rows)))
        best = top_k_of_chunks(queries[chunk], row_chunks, num_neighbors)
        scores[chunk], positions[chunk] = map(ops.convert_to_numpy, best)
    return scores, positions


def row_slices(num_rows: int) -> list[slice]:
    """The parts in which rows are searched: 65,536 at a time."""
    return [
        slice(start, min(start + _ROW_CHUNK, num_rows))
        for start in range(0, num_rows, _ROW_CHUNK)
    ]


def top_k_of_chunks(
    queries: Tensor, row_chunks: Iterable[Tensor], num_neighbors: int
) -> tuple[Tensor, Tensor]:
    """As `top_k`, of rows that come in parts; in `keras.ops`, traceable.

    Args:
        queries: float `[num_queries, dim]`.
        row_chunks: Parts of the rows, float `[rows of the part, dim]` of
            known shape.
        num_neighbors: At least 1, and at most the number of all rows.

    Returns:
        The inner products, float `[num_queries, num_neighbors]`, from the
        largest to the smallest, and the positions of their rows, int64 of the
        same shape.
    """
    best_scores = best_positions = None
    start = 0
    for row_chunk in row_chunks:
        row_chunk = ops.convert_to_tensor(row_chunk)
        similarities = ops.matmul(queries, ops.transpose(row_chunk))
        wanted = min(num_neighbors, row_chunk.shape[0])
        scores, positions = ops.top_k(similarities, wanted)
        positions = ops.cast(positions, "int64") + start
        start += row_chunk.shape[0]
        if best_scores is not None:
            # Earlier rows first, so that ties go to them.
            scores = ops.concatenate([best_scores, scores], axis=-1)
            positions = ops.concatenate([best_positions, positions], axis=-1)
            wanted = min(num_neighbors, scores.shape[-1])
            scores, picked = ops.top_k(scores, wanted)
            positions = ops.take_along_axis(positions, picked, axis=-1)
        best_scores, best_positions = scores, positions
    return best_scores, best_positions


def weighted_votes(
    scores: np.ndarray,
    neighbor_labels: np.ndarray,
    num_classes: int,
    temperature: float,
) -> np.ndarray:
    """Votes of the neighbours: Σ exp(cos / τ) for each class, section 3.4.

    Args:
        scores: float `[num_queries, num_neighbors]`, cosines.
        neighbor_labels: int `[num_queries, num_neighbors]`.
        num_classes: Number of classes.
        temperature: τ, above 0.

    Returns:
        float64 `[num_queries, num_classes]`; each query's nearest neighbour
        weighs 1, which changes no order and cannot overflow.
    """
    num_queries = len(scores)
    best = scores.max(axis=1, keepdims=True)
    weights = np.exp((scores.astype(np.float64) - best) / temperature)
    cells = np.arange(num_queries)[:, None] * num_classes + neighbor_labels
    votes = np.bincount(
        cells.ravel(), weights.ravel(), minlength=num_queries * num_classes
    )
    return votes.reshape(num_queries, num_classes)


def knn_accuracy(
    rows: np.ndarray,
    row_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    num_classes: int,
    num_neighbors: Sequence[int] = (200,),
    temperature: float = 0.07,
) -> dict[int, dict[str, float]]:
    """Weighted kNN accuracy for several numbers of neighbours.

    Rows and queries with a negative label are left out. Of classes with equal
    votes the lowest label wins.

    Args:
        rows: float `[num_rows, dim]`, of unit length.
        row_labels: int `[num_rows]`.
        queries: float `[num_queries, dim]`, of unit length.
        query_labels: int `[num_queries]`.
        num_classes: Number of classes.
        num_neighbors: Numbers of neighbours, each at least 1.
        temperature: τ of the weights, above 0.

    Returns:
        For each number of neighbours `{"top1": ..., "top5": ...}`, shares in
        [0, 1].

    Raises:
        ValueError: If there are no labelled rows or queries, or a label is
            outside of the classes.
    """
    rows, row_labels = _labelled(rows, row_labels)
    queries, query_labels = _labelled(queries, query_labels)
    highest = max(row_labels.max(initial=-1), query_labels.max(initial=-1))
    if not len(rows) or not len(queries) or highest >= num_classes:
        raise ValueError(
            "kNN needs labelled rows and queries with labels below "
            f"`num_classes`. Received: {len(rows)} labelled rows, "
            f"{len(queries)} labelled queries, num_classes={num_classes}, "
            f"highest label {highest}"
        )
    scores, positions = top_k(queries, rows, max(num_neighbors))
    neighbor_labels = row_labels[positions]
    accuracies = {}
    for number in num_neighbors:
        votes = weighted_votes(
            scores[:, :number],
            neighbor_labels[:, :number],
            num_classes,
            temperature,
        )
        ranking = np.argsort(-votes, axis=1, kind="stable")[:, :5]
        hits = ranking == query_labels[:, None]
        accuracies[number] = {
            "top1": float(hits[:, 0].mean()),
            "top5": float(hits.any(axis=1).mean()),
        }
    return accuracies


def _labelled(rows, labels):
    labels = np.asarray(labels)
    has_label = labels >= 0
    if has_label.all():
        return rows, labels
    return rows[has_label], labels[has_label]
