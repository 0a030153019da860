"""The kNN accuracy that a run measures in addition to its training."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_instdisc.data.sources import ImageSource
from tf_instdisc.errors import UsageError
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.runs.embedding import Embedded
from tf_instdisc.text import markdown_table


def table(num_neighbors: int, measured: dict[str, list[float]]) -> str:
    """Returns a Markdown table of top-1 accuracies, `[many, one]` by name."""
    columns = (f"kNN top-1, k = {k}" for k in (num_neighbors, 1))
    rows = (
        (name, *(f"{value:.3f}" for value in values))
        for name, values in measured.items()
    )
    return "\n" + markdown_table(("embeddings", *columns), rows)


def has_knn(source: ImageSource, test_source: ImageSource | None) -> bool:
    """Returns whether training and test images have labels.

    Raises:
        ValueError: If their classes differ.
    """
    if test_source is None:
        return False
    if source.class_names != test_source.class_names:
        raise UsageError(
            "The test images must have the classes of the training images. "
            f"Received: {test_source.class_names} for training classes "
            f"{source.class_names}"
        )
    return source.num_classes > 0


class KeepBest(keras.callbacks.Callback):
    """Writes `encoder_best.keras` after an epoch with the best kNN top-1.

    Put it before the `MetricsFile`, where it marks the epoch by `is_best`, and
    before the `Checkpointer`: if the run is killed between them, the epoch is
    repeated and writes the same file.
    """

    def __init__(self, run: RunDirectory):
        super().__init__()
        self.run = run

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        best = best_epoch(self.run)
        # No comparison holds for NaN, of an encoder that has diverged.
        if logs.get("knn_top1", -1) > (best["knn_top1"] if best else -1):
            self.run.save_encoder(self.model.encoder, best=True)
            logs["is_best"] = 1


def best_epoch(run: RunDirectory) -> dict[str, float] | None:
    """Returns the metrics of the epoch whose encoder is kept as the best."""
    if not run.best_encoder.exists():
        return None
    measured = [line for line in run.read_metrics() if "knn_top1" in line]
    marked = [line for line in measured if "is_best" in line]
    if marked:
        return marked[-1]
    # Earlier versions did not mark the epoch.
    return max(measured, key=lambda line: line["knn_top1"], default=None)


def pixels(dataset: tf.data.Dataset) -> Embedded:
    """Returns raw pixels, normalized to unit length, as embeddings."""
    # Centered at mid-gray: with positive pixels, all cosines are close to 1.
    columns = [
        (
            images.numpy().reshape(len(images), -1) - 127.5,
            ids.numpy(),
            labels.numpy(),
        )
        for images, ids, labels in dataset
    ]
    values, ids, labels = map(np.concatenate, zip(*columns, strict=True))
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return Embedded(values / np.maximum(norms, 1e-12), ids, labels)
