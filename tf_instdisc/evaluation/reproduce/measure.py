"""Measures a run on the recipe's data."""

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
    """The data on which every run of a table is measured.

    Attributes:
        source: All training images of the recipe, even for runs that were
            trained on a fraction of them.
        test_source: Its test images.
        config: The recipe's settings.
        scale: The scale, for its options of fine-tuning and linear
            classifiers.
    """

    source: ImageSource
    test_source: ImageSource
    config: RunConfig
    scale: Scale

    def of(self, run: Run) -> EvaluationInputs:
        """Returns the inputs of the protocols for one run."""
        return EvaluationInputs(
            run.directory, self.config, self.source, self.test_source
        )

    def embed(self, run: Run) -> tuple[Embedded, Embedded]:
        """Returns the embeddings of the training and test images."""
        inputs = self.of(run)
        train, test = (
            embed(inputs.encoder, inputs.images(source))
            for source in (self.source, self.test_source)
        )
        return train, test


@dataclasses.dataclass(frozen=True)
class Measured:
    """The measurements of one run.

    Attributes:
        values: The measured values by row and column of the table.
        curve: The loss of each epoch, if the table shows it.
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
    """Returns how much the loss of an epoch differs from its neighbors'.

    Args:
        curve: The loss of each epoch. The first quarter, in which it falls
            quickly, is ignored.

    Returns:
        The mean of |loss - (previous loss + next loss) / 2|, which is 0 for a
        straight line.
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
