"""What is measured of a run, on the recipe's data."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from tf_instdisc.config import RunConfig
from tf_instdisc.data.sources import ImageSource
from tf_instdisc.evaluation.fine_tuning_protocol import (
    FineTuneOptions,
    SemiSupervised,
)
from tf_instdisc.evaluation.inputs import EvaluationInputs, open_labeled
from tf_instdisc.evaluation.linear_protocol import Linear, LinearOptions
from tf_instdisc.evaluation.measurement import Measurement
from tf_instdisc.evaluation.protocol import Protocol
from tf_instdisc.evaluation.reproduce.runs import Run
from tf_instdisc.evaluation.reproduce.tables import Scale
from tf_instdisc.evaluation.svm_protocol import SVM, SVMOptions
from tf_instdisc.retrieval.knn import KNNMeasure
from tf_instdisc.runs.embedding import Embedded, embed


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What every run of a table is measured on.

    Attributes:
        source: The recipe's training images, all of them also for runs that
            were trained on a fraction.
        test_source: Its test images.
        config: The recipe's settings.
        scale: Its options of fine-tuning and linear classifiers.
    """

    source: ImageSource
    test_source: ImageSource
    config: RunConfig
    scale: Scale

    def of(self, run: Run) -> EvaluationInputs:
        """The inputs of the protocols, for one run."""
        return EvaluationInputs(
            run.directory, self.config, self.source, self.test_source
        )

    def embed(self, run: Run) -> tuple[Embedded, Embedded]:
        """Embeddings of training and test images."""
        inputs = self.of(run)
        train, test = (
            embed(inputs.encoder, inputs.images(source))
            for source in (self.source, self.test_source)
        )
        return train, test


@dataclasses.dataclass(frozen=True)
class Measured:
    """Numbers of one run.

    Attributes:
        values: By line and column of the table.
        curve: The loss of each epoch, where it is asked for.
    """

    values: dict[tuple[str, str], float]
    curve: list[float] = dataclasses.field(default_factory=list)


def open_inputs(config: RunConfig, scale: Scale) -> Inputs:
    """Opens the images of a recipe.

    Raises:
        ValueError: If there are no labels to measure with.
    """
    return Inputs(*open_labeled(config.data), config, scale)


def fluctuation(curve: Sequence[float]) -> float:
    """How far epochs lie from their neighbors.

    Args:
        curve: The loss of each epoch; the first quarter, where it falls
            fast, is left out.

    Returns:
        Mean of |loss - (loss before + loss after) / 2|; 0 for a line.
    """
    late = np.asarray(curve)[len(curve) // 4 :]
    if len(late) < 3:
        return 0.0
    return float(np.abs(late[1:-1] - (late[:-2] + late[2:]) / 2).mean())


def _knn(run: Run, inputs: Inputs) -> Measured:
    knn = KNNMeasure(
        inputs.config.training.num_neighbors,
        inputs.source.num_classes,
        inputs.config.method.temperature,
    )
    with_many, _ = knn(*inputs.embed(run))
    return Measured({(run.row.label, "kNN"): with_many})


def _knn_and_svm(run: Run, inputs: Inputs) -> Measured:
    svm = SVM(SVMOptions(keep_features=False))
    top1 = _measured(svm, run, inputs)[0].value
    values = _knn(run, inputs).values
    return Measured({**values, (run.row.label, "SVM"): top1})


def _loss_curve(run: Run, inputs: Inputs) -> Measured:
    curve = [epoch["loss"] for epoch in run.directory.read_metrics()]
    line = run.row.label
    return Measured(
        {
            **_knn(run, inputs).values,
            (line, "last loss"): curve[-1],
            (line, "fluctuation of the loss"): fluctuation(curve),
        },
        curve,
    )


def _linear(run: Run, inputs: Inputs) -> Measured:
    options = LinearOptions(
        baselines=True, seed=run.seed, **inputs.scale.linear
    )
    found = _measured(Linear(options), run, inputs)
    return Measured({(one.name, one.metric): one.value for one in found})


def _semi_supervised(run: Run, inputs: Inputs) -> Measured:
    options = FineTuneOptions(seed=run.seed, **inputs.scale.fine_tuning)
    found = _measured(SemiSupervised(options), run, inputs)
    return Measured({(one.name, one.metric): one.value for one in found})


def _measured(
    protocol: Protocol, run: Run, inputs: Inputs
) -> Sequence[Measurement]:
    given = inputs.of(run)
    protocol.check(given)
    return protocol.measure(given)


PROTOCOLS: dict[str, Callable[[Run, Inputs], Measured]] = {
    "knn": _knn,
    "knn_and_svm": _knn_and_svm,
    "loss_curve": _loss_curve,
    "linear": _linear,
    "semi_supervised": _semi_supervised,
}
