"""Trains a linear classifier on the features of one layer."""

import keras
import numpy as np
from sklearn.preprocessing import StandardScaler

from tf_instdisc.evaluation.linear_protocol import LinearOptions
from tf_instdisc.runs.embedding import Embedded
from tf_instdisc.training.optimizer import build_optimizer, build_schedule
from tf_instdisc.training.supervised import fit, require_finite

_CHUNK = 1024
_EPSILON = 1e-5  # As in batch normalization.


def accuracy(
    train: Embedded, test: Embedded, options: LinearOptions
) -> dict[str, float]:
    """Returns `{"top1", "top5"}` of a linear classifier on one layer.

    Raises:
        NonFiniteError: If the classifier diverges.
    """
    num_classes = 1 + int(max(train.labels.max(), test.labels.max()))
    classifier = train_classifier(
        train.embeddings, train.labels, num_classes, options
    )
    logits = np.concatenate(
        [
            classifier(
                test.embeddings[i : i + _CHUNK].astype(np.float32)
            ).numpy()
            for i in range(0, len(test.labels), _CHUNK)
        ]
    )
    require_finite(
        logits,
        "a linear classifier",
        "linear_learning_rate",
        options.learning_rate,
    )
    return top_accuracies(logits, test.labels)


def train_classifier(
    values: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    options: LinearOptions,
) -> keras.Model:
    """Trains a softmax classifier on standardized features with SGD.

    The features are normalized with the mean and variance of all training
    images, without a learned scale or offset. Only one batch is held in
    memory at a time, so the features may be memory-mapped from disk.

    Args:
        values: float `[size, num_features]`.
        labels: int `[size]`, below `num_classes`.
        options: `layers` is ignored.

    Returns:
        A model that maps `[batch, num_features]` to logits of shape
        `[batch, num_classes]`.
    """
    mean, variance = _moments(values)
    model = keras.Sequential(
        [
            keras.Input([values.shape[1]]),
            keras.layers.Normalization(mean=mean, variance=variance + _EPSILON),
            keras.layers.Dense(
                num_classes,
                kernel_initializer=keras.initializers.RandomNormal(
                    stddev=0.01, seed=options.seed
                ),
            ),
        ]
    )
    rows = _Rows(values, labels, options.batch_size, options.seed)
    schedule = build_schedule(
        "steps",
        learning_rate=options.learning_rate,
        steps_per_epoch=len(rows),
        epochs=options.epochs,
        schedule_epochs=options.schedule_epochs,
    )
    model.compile(
        optimizer=build_optimizer(
            learning_rate=schedule,
            weight_decay=options.weight_decay,
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    steps = options.epochs * len(rows)
    what = "training a linear classifier"
    fit(model, rows, what, steps, epochs=options.epochs)
    return model


def top_accuracies(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns the top-1 and top-5 accuracy.

    Args:
        logits: float `[size, num_classes]`, without NaN. Ties are broken in
            favor of the lower label.
        labels: int `[size]`.

    Returns:
        `{"top1", "top5"}`, as fractions in [0, 1].
    """
    ranking = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    hits = ranking == labels[:, None]
    return {
        "top1": float(hits[:, 0].mean()),
        "top5": float(hits.any(axis=1).mean()),
    }


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the float32 mean and variance of each column."""
    scaler = StandardScaler()
    for start in range(0, len(values), _CHUNK):
        scaler.partial_fit(values[start : start + _CHUNK].astype(np.float64))
    return scaler.mean_.astype(np.float32), scaler.var_.astype(np.float32)


class _Rows(keras.utils.PyDataset):
    """Batches of rows, reshuffled in each epoch."""

    def __init__(
        self, values: np.ndarray, labels: np.ndarray, batch_size: int, seed: int
    ):
        super().__init__()
        self.values = values
        self.labels = labels
        self.batch_size = batch_size
        self.rng = np.random.default_rng(seed)
        self.order = self.rng.permutation(len(labels))

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        start = index * self.batch_size
        rows = np.sort(self.order[start : start + self.batch_size])
        return self.values[rows].astype(np.float32), self.labels[rows]

    def on_epoch_end(self) -> None:
        self.order = self.rng.permutation(len(self.labels))
