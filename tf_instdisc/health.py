"""Health of a memory bank: figures, and warnings in plain words."""

import math
import sys

import keras
import numpy as np

from tf_instdisc.errors import UsageError

_CHUNK = 65_536
_COLLAPSED_COSINE = 0.95
_COLLAPSED_RANK = 2.0
_EXPLODED_GROWTH = 10.0  # healthy epochs stay below 2


def bank_statistics(rows: np.ndarray) -> dict[str, float]:
    """How a bank's rows lie on the sphere; linear in their number.

    Args:
        rows: float `[num_rows, dim]`.

    Returns:
        `norm`: mean length, 1 in a healthy bank. `mean_cosine`: of all pairs
        of rows; near 0 in a healthy bank, 1 where all are equal.
        `effective_rank`: exp of the entropy of the normalised singular values
        (Roy, Vetterli 2007), in [1, dim]; 1 where all rows lie on one line.
        All are NaN where a row is not finite.
    """
    num_rows, dim = rows.shape
    total, gram, length = np.zeros(dim), np.zeros([dim, dim]), 0.0
    for start in range(0, num_rows, _CHUNK):
        chunk = rows[start : start + _CHUNK].astype(np.float64)
        total += chunk.sum(axis=0)
        gram += chunk.T @ chunk
        length += np.linalg.norm(chunk, axis=1).sum()
    if not math.isfinite(length):
        return dict.fromkeys(
            ("norm", "mean_cosine", "effective_rank"), math.nan
        )
    pairs = max(1, num_rows * (num_rows - 1))
    singular = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0))
    shares = singular[singular > 0] / singular.sum()
    return {
        "norm": length / num_rows,
        "mean_cosine": float((total @ total - np.trace(gram)) / pairs),
        "effective_rank": float(np.exp(-(shares * np.log(shares)).sum())),
    }


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


def health_warnings(
    statistics: dict[str, float],
    loss: float | None = None,
    weight_growth: float | None = None,
) -> list[str]:
    """What is wrong with a run, and what to do.

    The loss alone says little: from a random bank it rises at first in
    healthy runs too.

    Args:
        statistics: As `bank_statistics` gives them.
        loss: Mean loss of the epoch, if known.
        weight_growth: Length of all weights after the epoch, over that before
            it, if known.

    Returns:
        Sentences; none for a healthy run.
    """
    found = []
    cosine = statistics["mean_cosine"]
    rank = statistics["effective_rank"]
    if not all(
        math.isfinite(value)
        for value in (cosine, loss, weight_growth)
        if value is not None
    ):
        return [
            "Training has diverged: loss, weights or memory bank hold numbers "
            "that are not finite. Nothing can be learned from here on. Start "
            "again with a lower learning_rate, or more warmup_epochs."
        ]
    if cosine > _COLLAPSED_COSINE or rank < _COLLAPSED_RANK:
        found.append(
            "The embeddings have collapsed: images are hardly told apart "
            f"(mean cosine of two rows {cosine:.3f}, 1 if all are equal; "
            f"effective rank {rank:.1f}). Start again with a lower "
            "learning_rate, and check that the images differ."
        )
    if weight_growth is not None and weight_growth > _EXPLODED_GROWTH:
        found.append(
            "Training diverges: the encoder's weights have grown "
            f"{weight_growth:.0f}-fold in one epoch. Start again with a lower "
            "learning_rate, or more warmup_epochs."
        )
    return found


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
