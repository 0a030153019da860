"""Health of a memory bank while it trains: figures and warnings."""

import math
import sys

import keras
import numpy as np

from tf_instdisc.errors import UsageError
from tf_instdisc.retrieval.bank_statistics import (
    bank_statistics,
    health_warnings,
)


def row_fingerprints(rows: np.ndarray) -> np.ndarray:
    """uint64 `[num_rows]`; another one where any bit of a row is another."""
    words = np.ascontiguousarray(rows).view(f"u{rows.dtype.itemsize}")
    odd = np.random.default_rng(0).integers(
        0, 2**64, words.shape[1], np.uint64
    ) | np.uint64(1)
    prints = np.zeros([len(rows)], np.uint64)
    for column, factor in zip(words.T, odd, strict=True):
        prints = prints * np.uint64(31) + column * factor
    return prints


class BankHealth(keras.callbacks.Callback):
    """Measures the memory bank in each epoch, and warns.

    Adds to the epoch's logs, with the prefix `bank_`: `norm`, `mean_cosine`
    and `effective_rank` (`bank_statistics`), `stale_share`, the share of rows
    that the epoch did not change, in [0, 1], and `staleness`, the most epochs
    that any row has stayed as it is; also `weight_growth`, the length of the
    encoder's weights over that of the measurement before. Put it before the
    callbacks that read the logs. It copies the bank to the host and keeps 16
    bytes a row. In a run that was restarted, what is compared with earlier
    epochs begins anew.

    Args:
        every: Epochs between two measurements; the last epoch always counts.

    Attributes:
        warnings: Sentences of the last measurement; each is also printed to
            the standard error.

    Raises:
        ValueError: If `every` is out of range.
    """

    def __init__(self, every: int = 1):
        super().__init__()
        if every < 1:
            raise UsageError(
                f"`every` must be at least 1. Received: every={every}"
            )
        self.every = every
        self.warnings: list[str] = []

    def on_train_begin(self, logs=None):
        rows = self.model.memory_bank.rows.numpy()
        self._fingerprints = row_fingerprints(rows)
        # The epoch after which a row was last found changed.
        self._changed = np.zeros([len(rows)], np.int64)
        self._begin = None
        self._weight_length = self._measure_weights()

    def on_epoch_begin(self, epoch, logs=None):
        if self._begin is None:
            self._begin = epoch
            self._changed[:] = epoch

    def on_epoch_end(self, epoch, logs=None):
        is_last = epoch + 1 == self.params.get("epochs")
        if (epoch + 1) % self.every and not is_last:
            return
        rows = self.model.memory_bank.rows.numpy()
        statistics = bank_statistics(rows)
        fingerprints = row_fingerprints(rows)
        is_changed = fingerprints != self._fingerprints
        self._fingerprints = fingerprints
        self._changed[is_changed] = epoch + 1
        logs.update({f"bank_{k}": v for k, v in statistics.items()})
        logs["bank_stale_share"] = float(1 - is_changed.mean())
        logs["bank_staleness"] = float(epoch + 1 - self._changed.min())

        length = self._measure_weights()
        logs["weight_growth"] = length / self._weight_length
        self._weight_length = length
        self.warnings = health_warnings(
            statistics, logs.get("loss"), logs["weight_growth"]
        )
        for warning in self.warnings:
            print(
                f"\nwarning: epoch {epoch + 1}: {warning}",
                file=sys.stderr,
                flush=True,
            )

    def _measure_weights(self) -> float:
        weights = self.model.encoder.trainable_weights
        squares = (
            np.square(w.numpy(), dtype=np.float64).sum() for w in weights
        )
        return math.sqrt(sum(squares))
