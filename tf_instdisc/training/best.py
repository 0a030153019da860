"""Keeps the encoder with the best kNN accuracy beside the last one."""

from typing import Any

import keras

from tf_instdisc import remote
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.training.saving import Progress


class KeepBest(keras.callbacks.Callback):
    """Writes `encoder_best.keras` after an epoch with the best kNN top-1.

    Put it after the `Checkpointer`. If the run ends between the two, it
    continues after that epoch, and `catch_up` then writes what is missing.
    """

    def __init__(self, run: RunDirectory):
        super().__init__()
        self.run = run

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        if logs and "knn_top1" in logs:
            _keep(self.run, self.model.encoder, epoch + 1, logs["knn_top1"])


def catch_up(
    run: RunDirectory, encoder: keras.Model, progress: Progress
) -> None:
    """Completes what a stopped process left undone after its last epoch."""
    if progress.images:
        return
    for line in run.read_metrics():
        if line["epoch"] == progress.epochs and "knn_top1" in line:
            _keep(run, encoder, progress.epochs, line["knn_top1"])


def print_kept(run: RunDirectory) -> None:
    """Prints the best encoder's file, epoch and accuracy, if there is one."""
    if kept := run.load_best():
        print(
            f"best encoder: {remote.shown_path(run.best_encoder)}, "
            f"epoch {kept['epoch']}, "
            f"kNN top-1 {kept['knn_top1']:.3f}"
        )


def _keep(
    run: RunDirectory, encoder: keras.Model, epoch: int, score: float
) -> None:
    best = run.load_best()
    # A best epoch after the current one dates from before the run returned to
    # an earlier checkpoint.
    is_better = (
        best is None
        or score > best["knn_top1"]
        or best["epoch"] > epoch
        or (best["epoch"] == epoch and score != best["knn_top1"])
    )
    if is_better:
        run.save_best(encoder, epoch, score)
