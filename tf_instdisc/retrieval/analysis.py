"""Analyzes a bank: kNN votes, confusions, a map and clusters."""

import dataclasses

import numpy as np

from tf_instdisc.config import MethodConfig
from tf_instdisc.retrieval.neighbors import top_k, without_self
from tf_instdisc.retrieval.votes import weighted_votes
from tf_instdisc.runs.bank import Bank, sample_rows

_CLUSTERS = 12
_LANDMARKS = 3000  # t-SNE of more rows takes minutes.
_NEAREST_LANDMARKS = 5
_LEAST_SPREAD = 1e-6  # Embeddings that differ less are equal but for rounding.


@dataclasses.dataclass(frozen=True)
class Votes:
    """Sampled rows, classified by their neighbors in the whole bank.

    Attributes:
        positions: int64 `[size]`, the sampled rows.
        nearest: Cosine with the nearest other row, float32 `[size]`.
        predicted: int `[size]`, the predicted label; None without labels.
        own_fraction: float `[size]` in [0, 1]. Fraction of the votes for the
            row's own label; None without labels.
    """

    positions: np.ndarray
    nearest: np.ndarray
    predicted: np.ndarray | None
    own_fraction: np.ndarray | None


def classify_rows(
    bank: Bank, positions: np.ndarray, num_neighbors: int, temperature: float
) -> Votes:
    """Classifies rows by leave-one-out kNN, weighted as in section 3.4.

    Args:
        positions: int `[size]`, the rows to classify.
    """
    found = top_k(bank.rows[positions], bank.rows, num_neighbors + 1)
    scores, neighbors = without_self(*found, positions)
    predicted = own_fraction = None
    if bank.class_names and (bank.labels >= 0).all():
        votes = weighted_votes(
            scores, bank.labels[neighbors], len(bank.class_names), temperature
        )
        predicted = votes.argmax(axis=1)
        own = votes[np.arange(len(votes)), bank.labels[positions]]
        own_fraction = own / votes.sum(axis=1)
    return Votes(positions, scores[:, 0], predicted, own_fraction)


def confusion_matrix(bank: Bank, votes: Votes) -> np.ndarray:
    """Returns int64 `[num_classes, num_classes]`; rows are the true labels."""
    assert votes.predicted is not None
    # scikit-learn's function warns if there is only one class.
    matrix = np.zeros([len(bank.class_names)] * 2, np.int64)
    np.add.at(matrix, (bank.labels[votes.positions], votes.predicted), 1)
    return matrix


def most_confused(matrix: np.ndarray, count: int) -> np.ndarray:
    """Returns the classes with the most errors in ascending order."""
    errors = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * matrix.diagonal()
    return np.sort(np.argsort(-errors, kind="stable")[:count])


def map_of(rows: np.ndarray) -> np.ndarray:
    """Returns a t-SNE map, float `[num_rows, 2]`; similar rows are close.

    Equal rows are all at the origin.
    """
    from sklearn.manifold import TSNE

    # The initial places are divided by their spread; of NaN, t-SNE crashes.
    if len(rows) < 3 or np.ptp(rows, axis=0).max() < _LEAST_SPREAD:
        return np.zeros([len(rows), 2])
    perplexity = min(30.0, (len(rows) - 1) / 3)
    method = TSNE(
        init="pca", perplexity=perplexity, random_state=0, max_iter=500
    )
    return method.fit_transform(rows)


def map_of_all(rows: np.ndarray) -> np.ndarray:
    """Returns a map of any number of rows within seconds.

    If there are many rows, t-SNE places a sample, and each row is placed
    between the sampled rows that are nearest to it.

    Args:
        rows: float32 `[num_rows, dim]`, of unit length.

    Returns:
        float `[num_rows, 2]`.
    """
    landmarks = rows[sample_rows(len(rows), _LANDMARKS)]
    places = map_of(landmarks)
    if len(landmarks) == len(rows):
        return places
    scores, nearest = top_k(rows, landmarks, _NEAREST_LANDMARKS)
    weights = np.exp((scores - scores[:, :1]) / MethodConfig.temperature)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("nk,nkd->nd", weights, places[nearest])


@dataclasses.dataclass(frozen=True)
class Groups:
    """What the colors of a map stand for: classes or clusters.

    Attributes:
        names: One for each group.
        of_rows: int `[size]`, the group of each row.
        captions: For each row, its class, or else its cluster.
        are_clusters: Whether the groups are clusters.
    """

    names: list[str]
    of_rows: np.ndarray
    captions: list[str]
    are_clusters: bool


def groups_of(bank: Bank, positions: np.ndarray, most: int) -> Groups:
    """Returns the groups by which a map of some rows is colored.

    Args:
        positions: int `[size]`, the rows.
        most: Maximum number of classes; more are replaced by clusters.
    """
    labels = bank.labels[positions]
    names = [*bank.class_names]
    if names and (labels < 0).any():
        labels = np.where(labels < 0, len(names), labels)
        names.append("no label")
    captions = [names[label] for label in labels] if names else []
    if 0 < len(names) <= most:
        return Groups(names, labels, captions, are_clusters=False)
    clusters = _clusters_of(bank.rows[positions])
    names = [f"cluster {i + 1}" for i in range(clusters.max() + 1)]
    captions = captions or [names[cluster] for cluster in clusters]
    return Groups(names, clusters, captions, are_clusters=True)


def _clusters_of(rows: np.ndarray) -> np.ndarray:
    """Returns k-means clusters, int `[num_rows]`; 0 is the largest."""
    from sklearn.cluster import MiniBatchKMeans

    count = min(_CLUSTERS, len(rows))
    method = MiniBatchKMeans(count, random_state=0, n_init=3)
    found = method.fit_predict(rows)
    ranks = np.argsort(np.argsort(-np.bincount(found), kind="stable"))
    return ranks[found]
