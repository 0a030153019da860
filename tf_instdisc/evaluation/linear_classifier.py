"""A linear classifier, trained on features of one layer."""

import keras
import numpy as np

from tf_instdisc.evaluation.features import Features
from tf_instdisc.evaluation.linear_protocol import LinearOptions
from tf_instdisc.training.optimizer import build_optimizer, build_schedule

_CHUNK = 1024
_EPSILON = 1e-5  # of a batch norm


def accuracy(
    train: Features,
    test: Features,
    layer: str,
    options: LinearOptions,
) -> dict[str, float]:
    """Accuracy of a linear classifier on one layer, `{"top1", "top5"}`."""
    num_classes = 1 + int(max(train.labels.max(), test.labels.max()))
    classifier = train_classifier(
        train.values[layer], train.labels, num_classes, options
    )
    logits = np.concatenate(
        [
            classifier(
                test.values[layer][i : i + _CHUNK].astype(np.float32)
            ).numpy()
            for i in range(0, len(test.labels), _CHUNK)
        ]
    )
    return top_accuracies(logits, test.labels)


def train_classifier(
    values: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    options: LinearOptions,
) -> keras.Model:
    """Trains a softmax classifier on standardized features, by SGD.

    The features go through a batch norm without scale and offset whose
    statistics are those of all training images. Memory holds a batch, so
    that the features may be mapped from the disk.

    Args:
        values: float `[size, num_features]`.
        labels: int `[size]`, below `num_classes`.
        num_classes: Number of classes.
        options: How it is trained; its layers play no part.

    Returns:
        A model from `[batch, num_features]` to logits
        `[batch, num_classes]`.
    """
    mean, variance = _moments(values)
    dense = keras.layers.Dense(
        num_classes,
        kernel_initializer=keras.initializers.RandomNormal(
            stddev=0.01, seed=options.seed
        ),
    )
    model = keras.Sequential(
        [
            keras.Input([values.shape[1]]),
            keras.layers.Normalization(mean=mean, variance=variance + _EPSILON),
            dense,
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
    optimizer = build_optimizer(
        learning_rate=schedule,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
    )
    optimizer.exclude_from_weight_decay(var_list=[dense.bias])
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(rows, epochs=options.epochs, shuffle=False, verbose=0)
    return model


def top_accuracies(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Fractions of images whose label is first, and among the first five.

    Args:
        logits: float `[size, num_classes]`; of equal ones the lower label
            comes first.
        labels: int `[size]`.
    """
    ranking = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    hits = ranking == labels[:, None]
    return {
        "top1": float(hits[:, 0].mean()),
        "top5": float(hits.any(axis=1).mean()),
    }


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each column, float32."""
    total = np.zeros(values.shape[1])
    squares = np.zeros(values.shape[1])
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK].astype(np.float64)
        total += chunk.sum(axis=0)
        squares += np.square(chunk).sum(axis=0)
    mean = total / len(values)
    variance = np.maximum(squares / len(values) - np.square(mean), 0)
    return mean.astype(np.float32), variance.astype(np.float32)


class _Rows(keras.utils.PyDataset):
    """Batches of rows in a new order in each epoch."""

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
