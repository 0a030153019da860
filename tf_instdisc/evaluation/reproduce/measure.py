"""Measures a run on the recipe's data."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from tf_instdisc.evaluation.fine_tuning_protocol import (
    FineTuneOptions,
    SemiSupervised,
)
from tf_instdisc.evaluation.inputs import EvaluationInputs
from tf_instdisc.evaluation.knn_protocol import KNN, KNNOptions
from tf_instdisc.evaluation.linear_protocol import Linear, LinearOptions
from tf_instdisc.evaluation.protocol import Measurement, Protocol
from tf_instdisc.evaluation.reproduce.runs import Run
from tf_instdisc.evaluation.reproduce.tables import Scale
from tf_instdisc.evaluation.svm_protocol import SVM, SVMOptions


@dataclasses.dataclass(frozen=True)
class Measured:
    """The measurements of one run.

    Attributes:
        values: The measured values by row and column of the table.
        curve: The loss of each epoch, if the table shows it.
    """

    values: dict[tuple[str, str], float]
    curve: list[float] = dataclasses.field(default_factory=list)


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


def _knn(run: Run, inputs: EvaluationInputs, scale: Scale) -> Measured:
    del scale
    top1 = _measured(KNN(KNNOptions()), inputs)[0].value
    return Measured({(run.row.label, "kNN"): top1})


def _knn_and_svm(run: Run, inputs: EvaluationInputs, scale: Scale) -> Measured:
    values = _knn(run, inputs, scale).values
    svm = SVM(SVMOptions(keep_features=False))
    top1 = _measured(svm, inputs)[0].value
    return Measured({**values, (run.row.label, "SVM"): top1})


def _loss_curve(run: Run, inputs: EvaluationInputs, scale: Scale) -> Measured:
    curve = [epoch["loss"] for epoch in run.directory.read_metrics()]
    line = run.row.label
    return Measured(
        {
            **_knn(run, inputs, scale).values,
            (line, "last loss"): curve[-1],
            (line, "fluctuation of the loss"): fluctuation(curve),
        },
        curve,
    )


def _linear(run: Run, inputs: EvaluationInputs, scale: Scale) -> Measured:
    options = LinearOptions(
        baselines=True, keep_features=False, seed=run.seed, **scale.linear
    )
    found = _measured(Linear(options), inputs)
    return Measured({(one.name, one.metric): one.value for one in found})


def _network(run: Run, inputs: EvaluationInputs, scale: Scale) -> Measured:
    options = LinearOptions(
        layers=("conv5",), keep_features=False, seed=run.seed, **scale.linear
    )
    line, top1 = run.row.label, _measured(Linear(options), inputs)[0].value
    speeds = [e["images_per_second"] for e in run.directory.read_metrics()]
    return Measured(
        {
            **_knn(run, inputs, scale).values,
            (line, "linear"): top1,
            (line, "parameters, millions"): inputs.encoder.count_params() / 1e6,
            (line, "images/s"): float(np.median(speeds)),
        }
    )


def _semi_supervised(
    run: Run, inputs: EvaluationInputs, scale: Scale
) -> Measured:
    options = FineTuneOptions(seed=run.seed, **scale.fine_tuning)
    found = _measured(SemiSupervised(options), inputs)
    return Measured({(one.name, one.metric): one.value for one in found})


def _measured(
    protocol: Protocol, inputs: EvaluationInputs
) -> Sequence[Measurement]:
    protocol.check(inputs)
    return protocol.measure(inputs)


PROTOCOLS: dict[str, Callable[[Run, EvaluationInputs, Scale], Measured]] = {
    "knn": _knn,
    "knn_and_svm": _knn_and_svm,
    "loss_curve": _loss_curve,
    "linear": _linear,
    "network": _network,
    "semi_supervised": _semi_supervised,
}
"""How a run is measured on the recipe's images."""
