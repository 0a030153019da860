"""What training prints: a summary, a line for each epoch, and what follows."""

import shlex
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import keras
import tensorflow as tf

from tf_instdisc.text import shown
from tf_instdisc.training.parts import Work

_TERMINAL_SECONDS = 0.2
_LOG_SECONDS = 300.0


class EpochLines(keras.callbacks.Callback):
    """Prints one line of at most 80 columns for each epoch.

    Within an epoch, a terminal shows the current step, and a log file gets a
    line every five minutes. `input` is the fraction of the time that training
    waits for images. Put it after the callbacks that measure.

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
        self._first_epoch: int | None = None

    def on_epoch_begin(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        self._epoch = epoch
        self._begin = self._last_write = self._clock()
        if self._first_epoch is None:
            self._first_epoch, self._train_begin = epoch, self._begin

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        now, steps = self._clock(), self.params["steps"]
        is_last = batch + 1 == steps
        if is_last and self._is_terminal:
            self._output.write("\r\033[K")
        elif not is_last and now - self._last_write >= self._pause:
            self._last_write = now
            seconds = (now - self._begin) / (batch + 1) * (steps - batch - 1)
            step = f"step {batch + 1}/{steps}"
            line = self._line(step, logs or {}, seconds)
            end = "" if self._is_terminal else "\n"
            start = "\r\033[K" if self._is_terminal else ""
            self._output.write(f"{start}{line}{end}")
            self._output.flush()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        done = epoch + 1 - (self._first_epoch or 0)
        left = self.params["epochs"] - epoch - 1
        seconds = (self._clock() - self._train_begin) / done * left
        print(self._line("", logs, seconds), file=self._output, flush=True)

    def _line(self, step: str, logs: dict[str, Any], seconds: float) -> str:
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
        if seconds:
            parts.append(f"{_duration(seconds)} left")
        return "  ".join(filter(None, parts))[:79]


def print_summary(work: Work) -> None:
    """Prints what is trained, and on what."""
    config, encoder = work.config, work.model.encoder
    source = work.source
    classes = f" of {source.num_classes} classes" if source.num_classes else ""
    replicas = work.strategy.num_replicas_in_sync
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    print(
        f"images:  {source.num_readable:,}{classes}, "
        f"{work.steps:,} steps an epoch, {work.batch_size} images a step\n"
        f"encoder: {config.encoder.backbone}, "
        f"{encoder.count_params():,} parameters, {config.encoder.precision}\n"
        f"device:  {replicas} x {kind}\n"
        f"run:     {shown(str(work.run.path))}",
        flush=True,
    )


def print_next(run_dir: str) -> None:
    """Prints the commands that usually follow a training."""
    path = shlex.quote(shown(run_dir))
    print(
        "next:\n"
        f"  instdisc neighbors --run_dir={path}\n"
        f"  instdisc report --run_dir={path}\n"
        f"  instdisc export --run_dir={path} --export_dir=models/encoder"
    )


def _duration(seconds: float) -> str:
    """Returns a duration as h:mm:ss or m:ss."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minute:02}:{second:02}"
    return f"{minute}:{second:02}"
