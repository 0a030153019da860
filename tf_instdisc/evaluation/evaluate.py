"""Runs several protocols on one run."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from tf_instdisc.evaluation import results
from tf_instdisc.evaluation.features import removing
from tf_instdisc.evaluation.inputs import EvaluationInputs
from tf_instdisc.evaluation.protocol import Measurement, find
from tf_instdisc.runs import lock, opening
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.training import parts


def evaluate(
    run: RunDirectory | str | os.PathLike,
    options: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
) -> list[Measurement]:
    """Measures a finished run and keeps the results in its directory.

    The run, the labels and the options are checked before the first protocol
    begins. The results of a protocol are kept even if a later one fails. If
    data other than the run's is measured, the names of the results end with
    `, to` and the training images, `, tested on` and the test images, or both,
    so that results on different data do not replace each other.

    ```python
    for measured in tf_instdisc.evaluate(
        "runs/photos", {"knn": tf_instdisc.KNNOptions(num_neighbors=20)}
    ):
        print(measured.name, measured.metric, measured.value, measured.paper)
    ```

    Args:
        run: The path of a finished run, a `Run`, or its `directory`.
        options: The options of each protocol, such as
            `{"knn": KNNOptions()}`. The protocols run in this order.
        overrides: Fields of `DataConfig` that replace the run's, for data
            that has moved or for other data: `images`, `test_images` and
            `bad_images`; or `dataset`, `split`, `test_split`, `data_dir`,
            `image_key`, `label_key` and `cache`.

    Raises:
        RunDirectoryError: If the run has not finished.
        UsageError: If a protocol is unknown, or if the labels, images or
            options do not fit.
    """
    if not isinstance(run, RunDirectory):
        run = opening.load(os.fspath(run))
    inputs = EvaluationInputs(run, overrides or {})
    found: list[Measurement] = []
    with (
        lock.holding(run.path),
        removing(inputs.directory),
        # Not the policy of a notebook, so that results can be compared.
        parts.precision("float32"),
    ):
        run.load_results()  # Raises an error now, not after measuring.
        protocols = [find(name)(chosen) for name, chosen in options.items()]
        for protocol in protocols:
            if protocol.reads_labels:
                # Opened now, so that no measurement is lost to an error.
                _ = inputs.sources, inputs.end
            protocol.check(inputs)
        for protocol in protocols:
            measured = list(protocol.measure(inputs))
            if protocol.reads_labels:
                measured = [
                    dataclasses.replace(one, name=f"{one.name}{inputs.end}")
                    for one in measured
                ]
            results.save(run, measured)
            results.write_scalars(run, measured)
            found += measured
    return found
