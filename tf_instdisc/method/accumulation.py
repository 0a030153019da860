"""Gradients: sums over replicas and steps, and the update."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from tf_instdisc import keras_internals
from tf_instdisc.errors import UsageError
from tf_instdisc.keras_internals import CustomLoopModel
from tf_instdisc.method import replicas

_Gradient: TypeAlias = tf.Tensor | tf.IndexedSlices | None


class Accumulation(CustomLoopModel):
    """A Keras model that averages the gradients of several steps.

    Args:
        accumulate_steps: Number of steps whose gradients are averaged into
            one update, at least 1.

    Attributes:
        gradient_sums: The sums of the gradients since the last update, one
            for each trainable variable; empty without accumulation. They are
            saved in the checkpoints of a run, but not in Keras files.
    """

    def __init__(self, accumulate_steps: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        if accumulate_steps < 1:
            raise UsageError(
                "`accumulate_steps` must be at least 1. Received: "
                f"accumulate_steps={accumulate_steps}"
            )
        self.accumulate_steps = accumulate_steps
        self.gradient_sums: list[tf.Variable] = []

    def build_training_state(self) -> None:
        shapes = [tuple(v.shape) for v in self.trainable_variables]
        sums = [tuple(v.shape) for v in self.gradient_sums]
        with self.distribute_strategy.scope():
            if not self.optimizer.built and shapes:
                self.optimizer.build(self.trainable_variables)
            # The shapes change if layers were frozen or unfrozen since.
            if self.accumulate_steps > 1 and sums != shapes:
                self.gradient_sums = [
                    tf.Variable(
                        tf.zeros(variable.shape, variable.dtype),
                        trainable=False,
                        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                        name="gradient_sum",
                    )
                    for variable in self.trainable_variables
                ]

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables(store)
        self._forget_sums()

    def set_weights(self, weights: list[Any]) -> None:
        super().set_weights(weights)
        self._forget_sums()

    def _forget_sums(self) -> None:
        """Sets the sums to zero: they are the gradients of other weights."""
        for total in self.gradient_sums:
            total.assign(tf.zeros_like(total))

    def regularization(self, dtype: tf.DType) -> tf.Tensor:
        """Returns this replica's part of the losses that layers add."""
        # A layer in bfloat16 adds a loss in bfloat16.
        losses = [tf.cast(loss, dtype) for loss in self.losses]
        return sum(losses, tf.zeros([], dtype)) / replicas.num_replicas()

    def take_gradients(
        self, gradients: Sequence[_Gradient], applies_gradients: bool
    ) -> None:
        """Applies gradients, or adds them to the sums for a later step.

        There is one for each trainable variable, None for a variable that the
        loss does not depend on: the optimizer warns and leaves it unchanged.
        The gradient of the batch is their sum over the replicas.
        """
        if not self.trainable_variables:
            return
        is_summed = self._needs_sums()
        if is_summed:
            gradients = _each(_summed_over_replicas, gradients)
        if self.gradient_sums:
            gradients = self._with_accumulated(gradients, applies_gradients)
        if applies_gradients:
            self._apply(gradients, is_summed)

    def _needs_sums(self) -> bool:
        """Returns whether gradients are summed before Keras sums them."""
        # The sums of several steps must be the same on all replicas so that
        # they can be saved, and restored on another number of replicas. Keras'
        # loss scaling (3.15) checks only the first replica for finite values.
        scales_loss = isinstance(
            self.optimizer, keras.optimizers.LossScaleOptimizer
        )
        return self.distribute_strategy.num_replicas_in_sync > 1 and (
            bool(self.gradient_sums) or scales_loss or _clips(self.optimizer)
        )

    def _with_accumulated(
        self, gradients: Sequence[_Gradient], applies_gradients: bool
    ) -> list[_Gradient]:
        """Adds the gradients of earlier steps, and keeps the new sums.

        If they are applied, the sums start again at zero.
        """
        summed: list[_Gradient] = []
        for total, gradient in zip(self.gradient_sums, gradients, strict=True):
            if gradient is not None:
                gradient = tf.convert_to_tensor(gradient) + total
                zeros = tf.zeros_like(gradient)
                total.assign(zeros if applies_gradients else gradient)
            summed.append(gradient)
        return summed

    def _apply(self, gradients: Sequence[_Gradient], is_summed: bool) -> None:
        """Applies the mean of the steps' gradients."""
        gradients = _divided(gradients, self.accumulate_steps)
        if is_summed:
            if _clips(self.optimizer):
                gradients = keras_internals.clip_gradients(
                    self.optimizer, gradients
                )
            # Keras sums over the replicas a second time.
            num_replicas = self.distribute_strategy.num_replicas_in_sync
            gradients = _divided(gradients, num_replicas)
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_variables, strict=True)
        )


def _summed_over_replicas(gradient: tf.Tensor | tf.IndexedSlices) -> tf.Tensor:
    return replicas.sum_over_replicas(tf.convert_to_tensor(gradient))


def _clips(optimizer: keras.optimizers.Optimizer) -> bool:
    """Returns whether an optimizer clips gradients."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    settings = (
        optimizer.clipnorm,
        optimizer.global_clipnorm,
        optimizer.clipvalue,
    )
    return any(settings)


def _each(
    function: Callable[[Any], Any], gradients: Sequence[_Gradient]
) -> list[_Gradient]:
    """Returns `function` of each gradient; None stays None."""
    return [g if g is None else function(g) for g in gradients]


def _divided(
    gradients: Sequence[_Gradient], divisor: int
) -> Sequence[_Gradient]:
    if divisor == 1:
        return gradients
    return _each(lambda gradient: gradient * (1.0 / divisor), gradients)
