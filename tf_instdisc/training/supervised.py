"""Trains networks with labels, by Keras' own `fit`."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_instdisc import progress
from tf_instdisc.errors import NonFiniteError
from tf_instdisc.method.fused_batch_norm import training_call


class FusedTraining(keras.Model):
    """Trains a network with TensorFlow's fused batch normalization."""

    def __init__(self, network: keras.Model):
        super().__init__(name="fused_training")
        self.network = network
        self._train_network = training_call(network)

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        if training:
            return self._train_network(images)
        return self.network(images, training=False)


def fit(
    model: keras.Model, batches: Any, what: str, steps: int, **options: Any
) -> None:
    """Calls `fit`, and shows the progress of long trainings.

    Args:
        model: A compiled model.
        batches: The first argument of `fit`, already shuffled.
        what: What is trained, such as "training a network".
        steps: Number of steps of all epochs.
        **options: Other arguments of `fit`.
    """
    with progress.tracking(what, steps) as advance:
        model.fit(
            batches,
            shuffle=False,
            verbose=0,
            callbacks=[advancing(advance)],
            **options,
        )


def advancing(advance: Callable[[int], object]) -> keras.callbacks.Callback:
    """Returns a callback that counts each step as progress."""
    return keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: advance(1)
    )


def require_finite(
    values: np.ndarray, what: str, flag: str, learning_rate: float
) -> None:
    """Raises NonFiniteError if a training has diverged.

    Args:
        values: Losses, or outputs of the trained network.
        what: What was trained, such as "the network".
        flag: The flag of the learning rate.
        learning_rate: Its value.
    """
    if not np.isfinite(values).all():
        raise NonFiniteError(
            f"The training of {what} must not diverge. Received: "
            f"{flag}={learning_rate}, after which outputs are not finite. "
            f"Give a lower --{flag}."
        )
