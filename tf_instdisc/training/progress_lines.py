"""What training prints: a summary, a line for each epoch, and what follows."""

import shlex
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import keras
import tensorflow as tf

from tf_instdisc import remote
from tf_instdisc.config import MethodConfig, RunConfig
from tf_instdisc.progress import duration
from tf_instdisc.text import shown
from tf_instdisc.training.parts import Work
from tf_instdisc.training.saving import Progress

_TERMINAL_SECONDS = 0.2
_LOG_SECONDS = 300.0


class EpochLines(keras.callbacks.Callback):
    """Prints one line of at most 80 columns for each epoch.

    Within an epoch, a terminal shows the current step, and a log file gets a
    line every five minutes. `input` is the fraction of the time that training
    waits for images, and the time left is that of all epochs. Put it after the
    callbacks that measure, and close it after `fit`, which may end within an
    epoch.

    Args:
        output: Where the lines are written; by default the standard output.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        output: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__()
        self._output = output or sys.stdout
        self._clock = clock
        self._is_terminal = self._output.isatty()
        self._pause = _TERMINAL_SECONDS if self._is_terminal else _LOG_SECONDS
        self._is_open = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._begin = self._last_write = self._clock()
        self._done = 0  # Steps of this process.

    def on_epoch_begin(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        self._epoch = epoch
        # Steps that an earlier process has done are passed over.
        self._done -= getattr(self.model, "skip_steps", 0)

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        now, steps = self._clock(), self.params["steps"]
        if batch + 1 == steps:
            self.close()
        elif now - self._last_write >= self._pause:
            self._last_write = now
            line = self._line(
                batch + 1, f"step {batch + 1}/{steps}", logs or {}
            )
            if self._is_terminal:
                self.close()
                self._is_open = True
            print(
                line,
                end="" if self._is_terminal else "\n",
                file=self._output,
                flush=True,
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        line = self._line(self.params["steps"], "", logs)
        print(line, file=self._output, flush=True)
        self._done += self.params["steps"]

    def close(self) -> None:
        """Removes the line of an unfinished epoch from a terminal."""
        if self._is_open:
            print("\r\033[K", end="", file=self._output, flush=True)
            self._is_open = False

    def _line(self, steps: int, step: str, logs: dict[str, Any]) -> str:
        epochs = self.params["epochs"]
        parts = [f"epoch {self._epoch + 1:{len(str(epochs))}}/{epochs}", step]
        for name, form in (
            ("loss", "loss {:.4f}"),
            ("knn_top1", "kNN {:.1%}"),
            ("images_per_second", "{:,.0f} images/s"),
            ("input_wait", "input {:.0%}"),
        ):
            if name in logs:
                parts.append(form.format(float(logs[name])))
        done = self._done + steps
        left = (epochs - self._epoch) * self.params["steps"] - steps
        if left and done > 0:
            seconds = (self._clock() - self._begin) / done * left
            parts.append(f"{duration(seconds)} left")
        return "  ".join(filter(None, parts))[:79]


def print_summary(work: Work) -> None:
    """Prints what is trained, and on what."""
    config, encoder = work.config, work.model.encoder
    source = work.source
    epochs = config.optimizer.epochs
    classes = f" of {source.num_classes} classes" if source.num_classes else ""
    replicas = work.strategy.num_replicas_in_sync
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    print(
        f"images:  {source.num_readable:,}{classes}, "
        f"{work.steps:,} steps an epoch, {work.batch_size} images a step\n"
        f"method:  {_objective(config.method)}, "
        f"{epochs:,} epoch{'s' * (epochs != 1)}\n"
        f"encoder: {_encoder(config)}, {encoder.count_params():,} parameters, "
        f"{config.encoder.precision}\n"
        f"device:  {replicas} x {kind}\n"
        f"run:     {remote.shown_path(work.run.path)}",
        flush=True,
    )


def _encoder(config: RunConfig) -> str:
    size = f"{config.data.image_size} pixels"
    if config.encoder.init_encoder:
        return f"{config.encoder.init_encoder}, {size}"
    return f"{config.encoder.backbone}, width {config.encoder.width}, {size}"


def _objective(method: MethodConfig) -> str:
    if method.objective in ("nce", "info_nce"):
        return f"{method.objective} with {method.num_negatives:,} negatives"
    return method.objective


def print_next(run_dir: str) -> None:
    """Prints a run's directory, and the commands that usually follow."""
    path = shlex.quote(run_dir if run_dir.isprintable() else shown(run_dir))
    print(
        f"run directory: {shown(run_dir)}\n"
        "next:\n"
        f"  instdisc neighbors --run_dir={path}\n"
        f"  instdisc report --run_dir={path}\n"
        f"  instdisc export --run_dir={path} --export_dir=models/encoder"
    )


def finished_line(run_dir: str, progress: Progress, epochs: int) -> str:
    """Returns how far a finished run was trained, and how to continue."""
    path = remote.named(run_dir)
    if progress.epochs >= epochs:
        return (
            f"The run in {path} is finished after {progress.epochs} "
            f"epoch{'s' * (progress.epochs != 1)}. To continue, raise --epochs."
        )
    more = f" and {progress.images} images of the next" * bool(progress.images)
    return (
        f"The run in {path} was finished early: {progress.epochs} of "
        f"{epochs} epochs{more}. To continue, leave --finish out."
    )
