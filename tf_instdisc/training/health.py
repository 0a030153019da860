"""The health of a memory bank during training: metrics and warnings."""

import math
import re
import sys
from typing import Any

import keras
import numpy as np

from tf_instdisc.retrieval.bank_statistics import (
    bank_statistics,
    health_warnings,
)

_NUMBERS = re.compile(r"\d[\d.]*")


class BankHealth(keras.callbacks.Callback):
    """Measures the memory bank in each epoch, and warns of problems.

    Adds to the epoch's logs `bank_mean_cosine` and `bank_effective_rank` (see
    `bank_statistics`), and `weight_growth`, the norm of the encoder's weights
    divided by that after the previous epoch or the restart. Put it before the
    callbacks that read the logs. It copies the bank to the host.

    ```python
    health = tf_instdisc.BankHealth()
    model.fit(dataset, steps_per_epoch=3, epochs=2, callbacks=[health])
    for warning in health.warnings:
        print(warning)
    ```

    Attributes:
        warnings: Sentences of the last measurement. Each kind is printed to
            standard error when it appears, and not again while it lasts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []
        self._printed: set[str] = set()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._weight_length = self._measure_weights()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        rows = self.model.memory_bank.rows.numpy()
        statistics = bank_statistics(rows)
        logs.update({f"bank_{k}": v for k, v in statistics.items()})

        length = self._measure_weights()
        before = self._weight_length
        # A frozen encoder has no weights to measure.
        logs["weight_growth"] = length / before if before else 1.0
        self._weight_length = length
        self.warnings = health_warnings(
            statistics, logs.get("loss"), logs["weight_growth"]
        )
        kinds = {_NUMBERS.sub("", text): text for text in self.warnings}
        for kind, warning in kinds.items():
            # A warning is printed when it first appears, and again only after
            # an epoch without it.
            if kind not in self._printed:
                print(
                    f"warning: epoch {epoch + 1}: {warning}",
                    file=sys.stderr,
                    flush=True,
                )
        self._printed = set(kinds)

    def _measure_weights(self) -> float:
        weights = self.model.encoder.trainable_weights
        squares = (
            np.square(w.numpy(), dtype=np.float64).sum() for w in weights
        )
        return math.sqrt(sum(squares))
