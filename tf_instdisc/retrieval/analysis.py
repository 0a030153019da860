"""Analyzes a bank: kNN votes, confusions, a map and clusters."""

import dataclasses

import numpy as np

from tf_instdisc.config import MethodConfig, TrainingConfig
from tf_instdisc.retrieval.neighbors import top_k
from tf_instdisc.retrieval.votes import weighted_votes
from tf_instdisc.runs.bank import Bank

_CLUSTERS = 12
_LANDMARKS = 3000  # t-SNE of more rows takes minutes.
_NEAREST_LANDMARKS = 5


@dataclasses.dataclass(frozen=True)
class Votes:
    """Sampled rows, classified by their neighbors in the whole bank.

    Attributes:
        positions: int64 `[size]`, the sampled rows.
        nearest: Cosine with the nearest other row, float32 `[size]`.
        predicted: int `[size]`, the predicted label; None without labels.
        margin: float `[size]`, the fraction of the votes for the row's own
            label, in [0, 1]; None without labels.
    """

    positions: np.ndarray
    nearest: np.ndarray
    predicted: np.ndarray | None
    margin: np.ndarray | None


def classify_rows(
    bank: Bank,
    positions: np.ndarray,
    num_neighbors: int = TrainingConfig.num_neighbors,
    temperature: float = MethodConfig.temperature,
) -> Votes:
    """Classifies rows by leave-one-out kNN, weighted as in section 3.4.

    Args:
        bank: The bank.
        positions: int `[size]`, the rows to classify.
        num_neighbors: Number of neighbors that vote.
        temperature: Temperature of the weights.
    """
    wanted = min(num_neighbors + 1, len(bank.rows))
    scores, neighbors = top_k(bank.rows[positions], bank.rows, wanted)
    is_self = neighbors == positions[:, None]
    is_self[~is_self.any(axis=1), -1] = True
    shape = [len(positions), wanted - 1]
    scores = scores[~is_self].reshape(shape)
    neighbors = neighbors[~is_self].reshape(shape)
    predicted = margin = None
    if bank.class_names and (bank.labels >= 0).all():
        votes = weighted_votes(
            scores, bank.labels[neighbors], len(bank.class_names), temperature
        )
        predicted = votes.argmax(axis=1)
        own = votes[np.arange(len(votes)), bank.labels[positions]]
        margin = own / votes.sum(axis=1)
    return Votes(positions, scores[:, 0], predicted, margin)


def confusion_matrix(bank: Bank, votes: Votes) -> np.ndarray:
    """Returns int64 `[num_classes, num_classes]`; rows are the true labels."""
    size = len(bank.class_names)
    matrix = np.zeros([size, size], np.int64)
    predicted = np.asarray(votes.predicted)
    np.add.at(matrix, (bank.labels[votes.positions], predicted), 1)
    return matrix


def most_confused(matrix: np.ndarray, count: int) -> np.ndarray:
    """Returns the classes with the most errors in ascending order.

    Args:
        matrix: The result of `confusion_matrix`.
        count: Maximum number of classes.
    """
    errors = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * matrix.diagonal()
    return np.sort(np.argsort(-errors, kind="stable")[:count])


def map_of(rows: np.ndarray, seed: int = 0) -> np.ndarray:
    """Returns a t-SNE map, float `[num_rows, 2]`; similar rows are close."""
    from sklearn.manifold import TSNE

    if len(rows) < 3:
        return np.zeros([len(rows), 2])
    perplexity = min(30.0, (len(rows) - 1) / 3)
    method = TSNE(
        init="pca", perplexity=perplexity, random_state=seed, max_iter=500
    )
    return method.fit_transform(rows)


def map_of_all(rows: np.ndarray, seed: int = 0) -> np.ndarray:
    """Returns a map of any number of rows within seconds.

    If there are many rows, t-SNE places a sample, and each row is placed
    between the sampled rows that are nearest to it.

    Args:
        rows: float32 `[num_rows, dim]`, of unit length.
        seed: Random seed of the sample and the layout.

    Returns:
        float `[num_rows, 2]`.
    """
    if len(rows) <= _LANDMARKS:
        return map_of(rows, seed)
    chosen = np.random.default_rng(seed).choice(
        len(rows), _LANDMARKS, replace=False
    )
    landmarks = rows[np.sort(chosen)]
    places = map_of(landmarks, seed)
    scores, nearest = top_k(rows, landmarks, _NEAREST_LANDMARKS)
    weights = np.exp((scores - scores[:, :1]) / MethodConfig.temperature)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("nk,nkd->nd", weights, places[nearest])


def groups_of(
    bank: Bank, positions: np.ndarray, most: int, seed: int = 0
) -> tuple[np.ndarray, list[str]]:
    """Returns the groups by which a map is colored: classes or clusters.

    Args:
        bank: The bank.
        positions: int `[count]`, the rows.
        most: Maximum number of classes; more are replaced by clusters.
        seed: Random seed of the clusters.

    Returns:
        The group of each row, int `[count]`, and the names of the groups.
    """
    labels = bank.labels[positions]
    names = [*bank.class_names]
    if names and (labels < 0).any():
        labels = np.where(labels < 0, len(names), labels)
        names.append("no label")
    if 0 < len(names) <= most:
        return labels, names
    clusters = clusters_of(bank.rows[positions], seed)
    return clusters, [f"cluster {i + 1}" for i in range(clusters.max() + 1)]


def clusters_of(rows: np.ndarray, seed: int = 0) -> np.ndarray:
    """Returns k-means clusters, int `[num_rows]`; 0 is the largest."""
    from sklearn.cluster import MiniBatchKMeans

    count = min(_CLUSTERS, len(rows))
    method = MiniBatchKMeans(count, random_state=seed, n_init=3)
    found = method.fit_predict(rows)
    ranks = np.argsort(np.argsort(-np.bincount(found), kind="stable"))
    return ranks[found]
