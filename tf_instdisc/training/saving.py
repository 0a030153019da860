"""Saves a run during training, and restores it."""

import contextlib
import dataclasses
import math
import os
import pathlib
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator
from typing import Any, NoReturn

import keras
import tensorflow as tf

from tf_instdisc import remote
from tf_instdisc.errors import NonFiniteError, RunStoppedError, StorageError
from tf_instdisc.method.training_loop import FitLoop
from tf_instdisc.runs import checkpoints
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.training import optimizer as optimization
from tf_instdisc.training import strategy as strategies

_FORMAT_VERSION = 2
_SECONDS_OF_CHECKS = 5.0  # Each check waits for the device.
_STOPPING = (
    b"\nstopping: the run is saved after this step; Ctrl-C again ends it at "
    b"once\n"
)


@dataclasses.dataclass(frozen=True)
class Progress:
    """The progress of a run.

    Attributes:
        epochs: Number of finished epochs.
        images: Number of images of the next epoch that were already seen.
        batch_size: The batch size so far.
        metrics: State of the metrics in the current epoch.
        baselines: Measurements from before training.
        format_version: Version of the variables' meaning: in version 1, the
            momentum of SGD held gradients times -learning_rate.
    """

    epochs: int = 0
    images: int = 0
    batch_size: int = 0
    metrics: list[float] = dataclasses.field(default_factory=list)
    baselines: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    format_version: int = _FORMAT_VERSION

    def in_whole_batches(self, num_images: int, batch_size: int) -> "Progress":
        """Skips to the next epoch if no full batch is left of this one.

        This happens only if the batch size was changed.
        """
        if not self.images or num_images - self.images >= batch_size:
            return self
        return dataclasses.replace(
            self, epochs=self.epochs + 1, images=0, metrics=[]
        )


def restore_newest(run: RunDirectory, model: FitLoop) -> Progress | None:
    """Restores a model from the newest valid checkpoint, if there is one.

    Raises:
        StorageError: If all checkpoints are damaged, or do not fit.
    """
    saved, damages = checkpoints.find_newest(run.checkpoints)
    for damage in damages:
        warning = f"warning: {damage}; using the previous one."
        print(remote.named(warning), file=sys.stderr)
    if saved is None:
        return None
    model.build_training_state()
    model.restore_training_state(
        lambda state: checkpoints.restore(saved, state)
    )
    progress = _in_present_format(
        Progress(**{"format_version": 1, **saved.progress}), model
    )
    print(
        f"continuing from {remote.named(str(saved.path))}: "
        f"{progress.epochs} epochs and "
        f"{progress.images} images of the next one are done"
    )
    return progress


def _in_present_format(progress: Progress, model: FitLoop) -> Progress:
    if progress.format_version >= _FORMAT_VERSION:
        return progress
    optimizer = model.optimizer
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    if isinstance(optimizer, optimization.SGD):
        optimizer.convert_keras_momentum()
        print(
            "An older version started this run with a momentum in other units; "
            "it was converted at the current learning rate."
        )
    return dataclasses.replace(progress, format_version=_FORMAT_VERSION)


def require_same_checkpoint(
    strategy: tf.distribute.Strategy, progress: Progress, model: FitLoop
) -> None:
    """Raises StorageError unless all hosts have read the same checkpoint."""
    mine = [progress.epochs, progress.images, int(model.step.numpy())]
    hosts = strategies.num_hosts(strategy)
    with strategies.raising_worker_lost(strategy):
        total = strategies.sum_over_hosts(strategy, mine)
    if total != [hosts * value for value in mine]:
        raise StorageError(
            "The hosts found different checkpoints; this one is at epoch, "
            f"image, step {mine}. `run_dir` must be at a URL or on a "
            "file system that all hosts share."
        )


class Checkpointer(keras.callbacks.Callback):
    """Saves the run after each epoch, every few minutes, and when stopped.

    Put it after the callbacks whose output belongs to the epoch.

    Args:
        progress: Where training begins.
        batch_size: Images in a global batch.
        num_images: Number of images in an epoch.
        minutes: Minutes between two checkpoints within an epoch.
        keep: Number of checkpoints to keep.
        writes: Whether this host writes checkpoints.
    """

    def __init__(
        self,
        run: RunDirectory,
        progress: Progress,
        batch_size: int,
        num_images: int,
        minutes: float = 15.0,
        keep: int = 3,
        writes: bool = True,
    ):
        super().__init__()
        self.run = run
        self.progress = dataclasses.replace(progress, batch_size=batch_size)
        self.num_images = num_images
        self.minutes = minutes
        self.keep = keep
        self.writes = writes

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        steps = self.params["steps"]
        left = self.num_images - self.progress.images
        skipped = steps - left // self.progress.batch_size
        self.model.skip_steps = skipped
        self._first_step = skipped
        self._images_before = self.progress.images
        self._last_time = self._last_check = time.monotonic()
        # Many hosts must stop at the same step, and each knows another time.
        hosts = strategies.num_hosts(self.model.distribute_strategy)
        self._pause = _SECONDS_OF_CHECKS if hosts == 1 else 0.0

    def on_epoch_begin(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        # Keras has just reset them.
        if self.progress.metrics:
            self.model.set_metric_values(self.progress.metrics)

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        if batch < self._first_step:
            return
        now, is_last = time.monotonic(), batch + 1 == self.params["steps"]
        if not is_last and now - self._last_time >= 60 * self.minutes:
            self.model.request_save()
        saves = self.model.stopped or self.model.saving
        # The mean of the epoch stays infinite or NaN, once it is.
        if is_last or saves or now - self._last_check >= self._pause:
            self._last_check = now
            _require_finite(self.model, logs)
        if is_last:
            return
        steps = batch + 1 - self._first_step
        self.progress = dataclasses.replace(
            self.progress,
            images=self._images_before + steps * self.progress.batch_size,
        )
        if self.model.stopped:
            self._stop()
        elif self.model.saving:
            self._save()

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        self.progress = dataclasses.replace(
            self.progress, epochs=epoch + 1, images=0, metrics=[]
        )
        self._first_step = self._images_before = 0
        if self.model.stopped:
            self._stop()
        self._save()

    def _stop(self) -> NoReturn:
        path = self._save()
        raise RunStoppedError(
            f"The run was stopped after {self.progress.epochs} epochs and "
            f"{self.progress.images} images, and saved in "
            f"{path or self.run.checkpoints}. Start the same command again to "
            "continue."
        )

    def _save(self) -> pathlib.Path | None:
        state = tf.train.Checkpoint(**self.model.training_state())
        path = self._write(state) if self.writes else None
        self.model.save_requested = self.model.saving = False
        self._last_time = time.monotonic()
        return path

    def _write(self, state: tf.train.Checkpoint) -> pathlib.Path:
        _require_finite_weights(self.model)
        if self.progress.images:
            metrics = self.model.metric_values()
            self.progress = dataclasses.replace(self.progress, metrics=metrics)
        path = checkpoints.write(
            self.run.checkpoints,
            state,
            dataclasses.asdict(self.progress),
            self.keep,
        )
        try:
            remote.push(self.run.path)
        except StorageError as error:
            # The next checkpoint is sent together with this one.
            print(f"warning: {error} Training continues.", file=sys.stderr)
        return path


def _require_finite(model: FitLoop, logs: dict[str, Any] | None) -> None:
    if logs and not math.isfinite(float(logs["loss"])):
        _raise_not_finite(model, "The loss")


def _require_finite_weights(model: FitLoop) -> None:
    for variable in model.trainable_variables:
        if not bool(tf.reduce_all(tf.math.is_finite(variable.value))):
            _raise_not_finite(model, f"The weight {variable.path}")


def _raise_not_finite(model: FitLoop, what: str) -> NoReturn:
    raise NonFiniteError(
        f"{what} is not finite after step {int(model.step.numpy())}, at a "
        f"learning rate of {float(model.optimizer.learning_rate):.3g}. The "
        "checkpoints are older. Try a lower --learning_rate, a longer "
        "--warmup_epochs, a higher --temperature or --precision=float32."
    )


@contextlib.contextmanager
def stop_on_signals(model: FitLoop) -> Iterator[None]:
    """Within the context, SIGTERM and SIGINT stop training after the step.

    A second SIGINT has the effect that it had before the context.
    """
    if threading.current_thread() is not threading.main_thread():
        # Python handles signals only in the main thread.
        yield
        return

    def stop(number: int, _: types.FrameType | None) -> None:
        model.request_stop()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT])
            os.write(2, _STOPPING)

    before = {
        number: signal.signal(number, stop)
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
