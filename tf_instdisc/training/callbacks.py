"""Keras callbacks: kNN during training, the metrics file, and curves."""

import math
import pathlib
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_instdisc.config import TrainingConfig
from tf_instdisc.errors import UsageError
from tf_instdisc.retrieval.votes import knn_accuracy
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.runs.embedding import Embedded, embed, inference


class KNNMonitor(keras.callbacks.Callback):
    """Measures the weighted kNN accuracy of test images in each epoch.

    Adds `knn_top1` and `knn_top5` to the epoch's logs, computed from the rows
    of the memory bank. With `train_dataset`, it also adds `knn_top1_encoded`
    and `knn_top5_encoded`, computed from re-encoded training images. Put it
    before the callbacks that read the logs. It does not change the bank.

    ```python
    monitor = tf_instdisc.KNNMonitor(
        tf_instdisc.evaluation_dataset(test_source, 16, 64),
        source.labels(),
        source.num_classes,
        num_neighbors=20,
    )
    history = model.fit(
        dataset, steps_per_epoch=3, epochs=2, callbacks=[monitor]
    )
    print(history.history["knn_top1"])
    ```

    Args:
        test_dataset: Yields (images, instance_ids, labels).
        train_labels: int `[num_instances]`, by instance id; images with
            negative labels are left out.
        num_classes: Number of classes of the training set.
        num_neighbors: k; the paper uses 200.
        temperature: τ of the weights; by default that of the model.
        train_dataset: Yields (images, instance_ids, labels) of the training
            images.
        every: Epochs between two measurements; the last is always measured.
        encode: A function from a batch of images to embeddings; by default
            the encoder of the model, compiled when training begins.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        test_dataset: tf.data.Dataset,
        train_labels: Sequence[int] | np.ndarray,
        num_classes: int,
        num_neighbors: int = TrainingConfig.num_neighbors,
        temperature: float | None = None,
        train_dataset: tf.data.Dataset | None = None,
        every: int = 1,
        encode: Callable[[tf.Tensor], Any] | None = None,
    ):
        super().__init__()
        for name, value in (
            ("num_classes", num_classes),
            ("num_neighbors", num_neighbors),
            ("every", every),
        ):
            if value < 1:
                raise UsageError(
                    f"`{name}` must be at least 1. Received: {name}={value}"
                )
        self.test_dataset = test_dataset
        self.train_labels = np.asarray(train_labels)
        self.num_classes = num_classes
        self.num_neighbors = num_neighbors
        self.temperature = temperature
        self.train_dataset = train_dataset
        self.every = every
        self.encode = encode

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        num_instances = self.model.num_instances
        if self.train_labels.shape != (num_instances,):
            raise UsageError(
                f"`train_labels` must have {num_instances} labels, one for "
                "each row of the memory bank. Received: "
                f"train_labels.shape={self.train_labels.shape}"
            )
        self._encode = self.encode or inference(self.model.encoder)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        is_last = epoch + 1 == self.params.get("epochs")
        if (epoch + 1) % self.every and not is_last:
            return
        test = embed(self._encode, self.test_dataset)
        rows = self.model.memory_bank.rows.numpy()
        rows = rows.astype(np.float32, copy=False)
        logs.update(self._accuracy(rows, self.train_labels, test, ""))
        if self.train_dataset is not None:
            train = embed(self._encode, self.train_dataset)
            logs.update(
                self._accuracy(train.embeddings, train.labels, test, "_encoded")
            )

    def _accuracy(
        self, rows: np.ndarray, labels: np.ndarray, test: Embedded, suffix: str
    ) -> dict[str, float]:
        if (
            not np.isfinite(test.embeddings).all()
            or not np.isfinite(rows).all()
        ):
            warnings.warn(
                "kNN is not measured: the embeddings are not finite. Training "
                "has diverged; try a lower learning rate.",
                stacklevel=2,
            )
            return {
                f"knn_{name}{suffix}": math.nan for name in ("top1", "top5")
            }
        temperature = self.temperature or self.model.temperature
        accuracy = knn_accuracy(
            rows,
            labels,
            test.embeddings,
            test.labels,
            self.num_classes,
            [self.num_neighbors],
            temperature,
        )[self.num_neighbors]
        return {f"knn_{name}{suffix}": v for name, v in accuracy.items()}


class GatherBank(keras.callbacks.Callback):
    """Copies a sharded bank to every host after each epoch.

    Callbacks on the chief can then read it. Put this one first, on all hosts.
    """

    def on_epoch_begin(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        self.model.memory_bank.discard_host_copy()

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        self.model.memory_bank.gather_to_host()


class MetricsFile(keras.callbacks.Callback):
    """Writes one object per epoch to the run's `metrics.jsonl`."""

    def __init__(self, run: RunDirectory):
        super().__init__()
        self.run = run

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        metrics: dict[str, float] = {
            "epoch": epoch + 1,
            "step": int(self.model.step.numpy()),
        }
        metrics.update({name: float(value) for name, value in logs.items()})
        self.run.append_metrics(metrics)


class StepCurves(keras.callbacks.Callback):
    """Writes curves within each epoch for TensorBoard.

    The loss is the mean of the epoch so far.

    Args:
        directory: Where the curves are written.
        seconds: Time between two points.
    """

    def __init__(self, directory: pathlib.Path, seconds: float = 10.0):
        super().__init__()
        self.directory = directory
        self.seconds = seconds
        self._last_time = time.monotonic()
        self._writer: tf.summary.SummaryWriter | None = None

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        if not logs or time.monotonic() - self._last_time < self.seconds:
            return
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self.directory))
        step = int(self.model.step.numpy())
        with self._writer.as_default():
            for name, value in logs.items():
                tf.summary.scalar(name, float(value), step)
        self._writer.flush()
        self._last_time = time.monotonic()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._writer is not None:
            self._writer.close()


class UnreadLogs(keras.callbacks.CallbackList):
    """Callbacks that get the logs of each step as tensors.

    Keras converts the logs to numbers after each step, which waits for the
    device. These callbacks convert them when they show or check them.
    """

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        for callback in self.callbacks:
            callback.on_train_batch_end(batch, logs)

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        logs = {name: float(value) for name, value in (logs or {}).items()}
        # Only now has the device finished the steps of the epoch. Nothing is
        # counted if all of them were skipped, or only the first one was taken.
        speed = self.model.speed()
        if speed["images_per_second"]:
            logs.update(speed)
        super().on_epoch_end(epoch, logs)
