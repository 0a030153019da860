"""Starts a run from the encoder and the rows of a finished one."""

import keras
import numpy as np

from tf_instdisc.errors import UsageError
from tf_instdisc.method.model import InstanceDiscrimination
from tf_instdisc.runs import opening
from tf_instdisc.runs.load import load_encoder


def begin_with(init_run: str, model: InstanceDiscrimination) -> None:
    """Copies the weights and the rows of a finished run into a new model.

    Raises:
        UsageError: If the run's encoder or ids do not fit the model.
    """
    run = opening.load(init_run)
    trained = load_encoder(run.path)
    shapes, wanted = (
        [tuple(weight.shape) for weight in encoder.weights]
        for encoder in (trained, model.encoder)
    )
    bank = run.load_bank()
    if shapes != wanted or bank.instance_ids.max() >= model.num_instances:
        raise UsageError(
            "`init_run` must hold an encoder of the same kind, and ids below "
            f"{model.num_instances}. Received: init_run={run.path}, with "
            f"{trained.count_params()} parameters instead of "
            f"{model.encoder.count_params()} and the highest id "
            f"{bank.instance_ids.max()}"
        )
    normalized, wanted_normalized = map(
        _normalization, (trained, model.encoder)
    )
    if not np.allclose(normalized, wanted_normalized, rtol=1e-3):
        raise UsageError(
            "`mean` and `std` must be those of `init_run`. Received: "
            f"init_run={run.path}, with scale and offset "
            f"{normalized.tolist()} instead of {wanted_normalized.tolist()}"
        )
    model.encoder.set_weights(trained.get_weights())
    with model.distribute_strategy.scope():
        model.memory_bank.fill(bank.instance_ids, bank.rows)


def _normalization(encoder: keras.Model) -> np.ndarray:
    """Returns scale and offset of the channels, `[2, 3]`."""
    for layer in encoder.layers:
        if layer.name == "normalize":
            return np.stack(np.broadcast_arrays(layer.scale, layer.offset))
    return np.array([[1.0] * 3, [0.0] * 3])
