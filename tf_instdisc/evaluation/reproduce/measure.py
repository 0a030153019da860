"""Measures a run on the recipe's data."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tf_instdisc.evaluation.evaluate import evaluate
from tf_instdisc.evaluation.reproduce.runs import Run
from tf_instdisc.evaluation.reproduce.tables import Scale, Table
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.runs.load import load_encoder

_COLUMNS = {"knn": "kNN", "svm": "SVM", "linear": "linear"}


@dataclasses.dataclass(frozen=True)
class Measured:
    """The measurements of one run.

    Attributes:
        values: The measured values by row and column of the table.
        curve: The loss of each epoch.
    """

    values: dict[tuple[str, str], float]
    curve: list[float] = dataclasses.field(default_factory=list)


def measure(
    run: Run, table: Table, scale: Scale, overrides: Mapping[str, Any]
) -> Measured:
    """Measures a finished run as its table says.

    The overrides are those of `evaluate`.
    """
    options = table.protocols(scale, run.seed)
    found = evaluate(run.directory, options, overrides)
    if table.paper:
        values = {(one.name, one.metric): one.value for one in found}
    else:
        values = {}
        for one in found:  # The first of a protocol is its top-1 accuracy.
            cell = run.row.label, _COLUMNS[one.protocol]
            values.setdefault(cell, one.value)
    for fact in table.facts:
        values[run.row.label, fact] = FACTS[fact](run.directory)
    return Measured(values, _curve(run.directory))


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


def _curve(run: RunDirectory) -> list[float]:
    return [epoch["loss"] for epoch in run.read_metrics()]


def _speed(run: RunDirectory) -> float:
    speeds = [epoch["images_per_second"] for epoch in run.read_metrics()]
    return float(np.median(speeds))


FACTS: dict[str, Callable[[RunDirectory], float]] = {
    "last loss": lambda run: _curve(run)[-1],
    "fluctuation of the loss": lambda run: fluctuation(_curve(run)),
    "parameters, millions": lambda run: (
        load_encoder(run.path).count_params() / 1e6
    ),
    "images/s": _speed,
}
"""What is read from a run itself."""
