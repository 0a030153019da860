"""Weighted kNN as in section 3.4 of the paper."""

import dataclasses
from typing import TYPE_CHECKING

from tf_instdisc.config.fields import Settings, setting
from tf_instdisc.evaluation.protocol import (
    Measurement,
    Protocol,
    baselines_setting,
    seed_setting,
)

if TYPE_CHECKING:
    from tf_instdisc.evaluation.inputs import EvaluationInputs
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
        "training, and at most all labeled rows. A single neighbor is also "
        "measured.",
        least=1,
    )
    temperature: float | None = setting(
        None, "Temperature of the votes; the run's by default.", least=1e-3
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

    def measure(self, inputs: "EvaluationInputs") -> list[Measurement]:
        from tf_instdisc.evaluation.features import EMBEDDING

        train, test = inputs.activations.of(EMBEDDING)
        found = self._vote("encoded", train, test, inputs)
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
