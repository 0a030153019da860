"""The weighted kNN vote of section 3.4 and its accuracy.

Monitoring and evaluation both use this implementation.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_instdisc.config import MethodConfig
from tf_instdisc.errors import UsageError
from tf_instdisc.retrieval.neighbors import top_k
from tf_instdisc.runs.embedding import gpus

_VOTING_CHUNK = 4096  # Queries whose votes are held at a time.
# More numbers are copied in parts: the training needs the memory of a GPU, too.
_ON_GPU = 2**28


def weighted_votes(
    scores: np.ndarray,
    neighbor_labels: np.ndarray,
    num_classes: int,
    temperature: float,
) -> np.ndarray:
    """Returns the votes Σ exp(cos / τ) of the neighbors for each class.

    Args:
        scores: Cosines, float `[num_queries, num_neighbors]`.
        neighbor_labels: int `[num_queries, num_neighbors]`.
        num_classes: Number of classes.
        temperature: τ, above 0.

    Returns:
        float64 `[num_queries, num_classes]`. The votes are scaled so that each
        query's nearest neighbor has a weight of 1, which prevents overflow.
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
    num_neighbors: int | Sequence[int] = (200,),
    temperature: float = MethodConfig.temperature,
) -> dict[int, dict[str, float]]:
    """Computes the weighted kNN accuracy for several numbers of neighbors.

    Rows and queries with a negative label are ignored. If classes have equal
    votes, the lowest label wins. A class without a vote is never among the top
    five, so the top-5 accuracy of a single neighbor equals its top-1 accuracy.
    Memory grows with the rows and with the queries, but not with queries x
    rows or queries x classes.

    ```python
    bank = tf_instdisc.Run("runs/photos").load_bank()
    accuracy = tf_instdisc.knn_accuracy(
        bank.rows[10:],
        bank.labels[10:],
        bank.rows[:10],
        bank.labels[:10],
        num_classes=len(bank.class_names),
        num_neighbors=(20, 1),
    )
    print(accuracy[20]["top1"], accuracy[1]["top1"])
    ```

    Args:
        rows: float `[num_rows, dim]`, of unit length.
        row_labels: int `[num_rows]`.
        queries: float `[num_queries, dim]`, of unit length.
        query_labels: int `[num_queries]`.
        num_classes: Number of classes.
        num_neighbors: One or several numbers of neighbors, each at least 1.
        temperature: τ of the weights, above 0.

    Returns:
        For each number of neighbors, `{"top1": ..., "top5": ...}` as fractions
        in [0, 1].

    Raises:
        ValueError: If there are no labeled rows or queries, if a label is not
            below `num_classes`, if there is not one label for each embedding,
            or if an embedding is not finite.
    """
    if isinstance(num_neighbors, int | np.integer):
        num_neighbors = (int(num_neighbors),)
    _require_labels("row", rows, row_labels)
    _require_labels("query", queries, query_labels)
    rows, row_labels = _labeled(rows, row_labels)
    queries, query_labels = _labeled(queries, query_labels)
    highest = max(row_labels.max(initial=-1), query_labels.max(initial=-1))
    if not len(rows) or not len(queries) or highest >= num_classes:
        raise UsageError(
            "kNN needs labeled rows and queries with labels below "
            f"`num_classes`. Received: {len(rows)} labeled rows, "
            f"{len(queries)} labeled queries, num_classes={num_classes}, "
            f"highest label {highest}"
        )
    on_device: np.ndarray | tf.Tensor = rows
    if gpus() and rows.size <= _ON_GPU:
        on_device = tf.constant(rows, tf.float32)  # Copied to the GPU once.
    hits = {number: np.zeros([2], np.int64) for number in num_neighbors}
    for start in range(0, len(queries), _VOTING_CHUNK):
        chunk = slice(start, start + _VOTING_CHUNK)
        scores, positions = top_k(queries[chunk], on_device, max(num_neighbors))
        neighbor_labels = row_labels[positions]
        for number in num_neighbors:
            votes = weighted_votes(
                scores[:, :number],
                neighbor_labels[:, :number],
                num_classes,
                temperature,
            )
            ranking = np.argsort(-votes, axis=1, kind="stable")[:, :5]
            voted = neighbor_labels[:, :number, None] == ranking[:, None]
            is_hit = ranking == query_labels[chunk, None]
            is_hit &= voted.any(axis=1)
            hits[number] += is_hit[:, 0].sum(), is_hit.sum()
    return {
        number: {
            "top1": float(top1 / len(queries)),
            "top5": float(top5 / len(queries)),
        }
        for number, (top1, top5) in hits.items()
    }


def _require_labels(
    name: str, embeddings: np.ndarray, labels: Sequence[int] | np.ndarray
) -> None:
    if np.shape(labels) != (len(embeddings),):
        raise UsageError(
            f"`{name}_labels` must have one label for each {name}. Received: "
            f"{len(embeddings)} embeddings, {name}_labels of shape "
            f"{np.shape(labels)}"
        )
    if not np.isfinite(embeddings).all():
        raise UsageError(
            f"The embedding of each {name} must be finite. Received: NaN or "
            "infinite values, which usually means that training has diverged."
        )


def _labeled(
    rows: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    labels = np.asarray(labels)
    has_label = labels >= 0
    if has_label.all():
        return rows, labels
    return rows[has_label], labels[has_label]
