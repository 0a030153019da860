"""Runs several protocols on one run."""

import os
from collections.abc import Mapping
from typing import Any

from tf_instdisc.evaluation import results
from tf_instdisc.evaluation.inputs import UnopenedRun
from tf_instdisc.evaluation.protocol import Measurement, find
from tf_instdisc.runs import lock, opening
from tf_instdisc.runs.directory import RunDirectory


def evaluate(
    run: RunDirectory | str | os.PathLike,
    options: Mapping[str, Any],
    overrides: Mapping[str, str] | None = None,
) -> list[Measurement]:
    """Measures a finished run and keeps the results in its directory.

    The run, the labels and the options are checked before the first protocol
    begins. The results of a protocol are kept even if a later one fails.

    ```python
    for measured in tf_instdisc.evaluate(
        "runs/photos", {"knn": tf_instdisc.KNNOptions(num_neighbors=20)}
    ):
        print(measured.name, measured.metric, measured.value, measured.paper)
    ```

    Args:
        run: A finished run, or the path of its directory.
        options: The options of each protocol, such as
            `{"knn": KNNOptions()}`. The protocols run in this order.
        overrides: As in `open_inputs`.

    Raises:
        RunDirectoryError: If the run has not finished.
        UsageError: If a protocol is unknown, or if the labels, images or
            options do not fit.
    """
    if not isinstance(run, RunDirectory):
        run = opening.load(os.fspath(run))
    found: list[Measurement] = []
    with lock.holding(run.path):
        run.load_results()  # Raises an error now, not after measuring.
        unopened = UnopenedRun(run, overrides or {})
        steps = []
        for name, chosen in options.items():
            protocol = find(name)(chosen)
            inputs = protocol.open(unopened)
            protocol.check(inputs)
            for num_features, names in protocol.layers(inputs).items():
                inputs.layers[num_features].update(names)
            steps.append((protocol, inputs))
        for protocol, inputs in steps:
            measured = list(protocol.measure(inputs))
            results.save(run, measured)
            results.write_scalars(run, measured)
            found += measured
    return found
