"""Weighted kNN as in section 3.4 of the paper."""

import dataclasses
from typing import TYPE_CHECKING

from tf_instdisc.config.fields import Settings, setting
from tf_instdisc.errors import UsageError
from tf_instdisc.evaluation.protocol import (
    Measurement,
    Protocol,
    baselines_setting,
    seed_setting,
)
from tf_instdisc.text import listed

if TYPE_CHECKING:
    from tf_instdisc.evaluation.inputs import EvaluationInputs
    from tf_instdisc.runs.bank import Bank
    from tf_instdisc.runs.embedding import Embedded


@dataclasses.dataclass(frozen=True)
class KNNOptions(Settings):
    """kNN

    ```python
    run = tf_instdisc.Run("runs/photos")
    run.evaluate(knn=tf_instdisc.KNNOptions(num_neighbors=20))
    ```
    """

    num_neighbors: int | None = setting(
        None,
        "Number of neighbors that vote; by default that of the run's "
        "training, and at most all labeled rows. One neighbor is measured "
        "too.",
        least=1,
    )
    temperature: float | None = setting(
        None, "Temperature of the votes; the run's by default.", least=1e-3
    )
    rows: tuple[str, ...] = setting(
        ("encoded",),
        "Rows that vote: encoded, the trained encoder's embeddings of the "
        "whole images; training, the memory bank of the newest training "
        "checkpoint; or both.",
        choices=("encoded", "training"),
        is_filled=True,
        flag="knn_rows",
    )
    baselines: bool = baselines_setting()
    seed: int = seed_setting()


class KNN(Protocol):
    """Top-1 and top-5 accuracy of a vote of the nearest rows.

    For each kind of rows, it measures top-1 accuracy with `num_neighbors`
    neighbors and with one, and top-5 accuracy with `num_neighbors`. If there
    are fewer labeled rows, all of them vote, and the result names their number.
    """

    name = "knn"
    options_kind = KNNOptions
    options: KNNOptions

    def check(self, inputs: "EvaluationInputs") -> None:
        from tf_instdisc.evaluation.features import EMBEDDING

        inputs.activations.announce([EMBEDDING])
        if self.options.baselines:
            inputs.untrained(self.options.seed).announce([EMBEDDING])
        if "training" in self.options.rows:
            from tf_instdisc.training.finishing import training_rows

            bank = training_rows(inputs.run)
            if bank.class_names != inputs.test_source.class_names:
                known = listed(bank.class_names) or "of which there are none"
                raise UsageError(
                    "The test images must have the classes of the run's "
                    f"images, {known}. "
                    "Received: "
                    f"{listed(inputs.test_source.class_names or ())}. Leave "
                    "rows='training' (--knn_rows=training) out."
                )

    def measure(self, inputs: "EvaluationInputs") -> list[Measurement]:
        from tf_instdisc.evaluation.features import EMBEDDING
        from tf_instdisc.training.finishing import training_rows

        train, test = inputs.activations.of(EMBEDDING)
        found = []
        if "training" in self.options.rows:
            rows = _rows_of(training_rows(inputs.run))
            found += self._vote("training", rows, test, inputs)
        if "encoded" in self.options.rows:
            found += self._vote("encoded", train, test, inputs)
        if self.options.baselines:
            untrained = inputs.untrained(self.options.seed)
            train, test = untrained.of(EMBEDDING)
            found += self._vote("untrained", train, test, inputs)
        return found

    def _vote(
        self,
        name: str,
        rows: "Embedded",
        test: "Embedded",
        inputs: "EvaluationInputs",
    ) -> list[Measurement]:
        from tf_instdisc.retrieval.votes import knn_accuracy

        temperature = self.options.temperature
        if temperature is None:
            temperature = inputs.config.method.temperature
        wanted = self.options.num_neighbors
        wanted = wanted or inputs.config.training.num_neighbors
        num_rows = int((rows.labels >= 0).sum())
        accuracies = knn_accuracy(
            rows.embeddings,
            rows.labels,
            test.embeddings,
            test.labels,
            inputs.source.num_classes,
            sorted({min(wanted, num_rows), 1}, reverse=True),
            temperature,
        )
        found = []
        for k, values in accuracies.items():
            if k == 1:  # A single neighbor votes for a single class.
                del values["top5"]
            is_papers = k == 200 and name != "untrained"
            found += self.accuracies(
                inputs,
                f"kNN, {name}, k = {k}",
                values,
                top1="knn" if is_papers else None,
            )
        return found


def _rows_of(bank: "Bank") -> "Embedded":
    from tf_instdisc.runs.embedding import Embedded

    return Embedded(bank.rows, bank.instance_ids, bank.labels)
