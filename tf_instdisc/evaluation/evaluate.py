"""Runs several protocols on one run."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tf_instdisc import choices
from tf_instdisc.evaluation import (
    fine_tuning,
    knn,
    linear,
    results,
    svm,
    transfer,
)
from tf_instdisc.evaluation.inputs import open_inputs
from tf_instdisc.evaluation.measurement import Measurement
from tf_instdisc.runs import lock, opening
from tf_instdisc.runs.directory import RunDirectory

# check(inputs, options), measure(inputs, options)
_ON_LABELLED_IMAGES: dict[str, tuple[Callable, Callable]] = {
    "knn": (knn.check, knn.measure),
    "linear": (linear.check, linear.measure),
    "svm": (svm.check, svm.measure),
    "semi_supervised": (fine_tuning.check, fine_tuning.measure),
    "finetune": (fine_tuning.check, fine_tuning.measure_all_labels),
}


def evaluate(
    run: RunDirectory | str | os.PathLike,
    options: Mapping[str, Any],
    overrides: Mapping[str, str] | None = None,
) -> list[Measurement]:
    """Measures a finished run and keeps the results in its directory.

    Everything that can be wrong with the run, the labels or the options is
    found before the first protocol begins. What a protocol has measured is
    kept, even if a later one fails.

    Args:
        run: A finished run, or the path of its directory.
        options: The options of each protocol, in the order in which they are
            to be run: `{"knn": KNNOptions()}`.
        overrides: As in `open_inputs`.

    Returns:
        All that was measured.

    Raises:
        RunDirectoryError: If the run has not finished.
        ValueError: If labels, images or options do not fit.
    """
    if not isinstance(run, RunDirectory):
        run = opening.load(os.fspath(run))
    with lock.holding(run.path):
        return _evaluate(run, options, overrides)


def _evaluate(run, options, overrides) -> list[Measurement]:
    run.load_results()  # Raises now, and not after measuring.
    steps: list[Callable[[], Sequence[Measurement]]] = []
    inputs = None
    for protocol, chosen in options.items():
        choices.require("protocol", protocol, choices.PROTOCOLS)
        if protocol == "detection":
            # It needs keras_cv, which takes seconds to import.
            from tf_instdisc.evaluation import detection

            data_dir = (overrides or {}).get("data_dir")
            steps.append(
                functools.partial(
                    detection.measure, run, chosen, data_dir=data_dir
                )
            )
            continue
        if protocol == "transfer":
            check, measure = transfer.check, transfer.measure
            images = transfer.open_transfer(run, chosen, overrides)
        else:
            check, measure = _ON_LABELLED_IMAGES[protocol]
            images = inputs = inputs or open_inputs(run, overrides)
        check(images, chosen)
        steps.append(functools.partial(measure, images, chosen))
    found: list[Measurement] = []
    for step in steps:
        measured = list(step())
        results.save(run, measured)
        results.write_scalars(run, measured)
        found += measured
    return found
