"""Optimizers and learning rate schedules."""

from collections.abc import Sequence
from typing import Any, Self

import keras
from keras import ops

from tf_instdisc.config import OptimizerConfig
from tf_instdisc.errors import UsageError


def build_optimizer(
    optimizer: str = "sgd",
    *,
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
) -> keras.optimizers.Optimizer:
    """Builds an optimizer.

    `"sgd"` is PyTorch's SGD (see `SGD`), as used by the authors' code.
    `"adamw"` (Loshchilov, Hutter 2019) learns more from few steps; its weight
    decay is that of the paper.

    Args:
        optimizer: `"sgd"` or `"adamw"`.
        learning_rate: A rate, or the output of `build_schedule`.
        momentum: Momentum of `"sgd"`, in [0, 1).
        weight_decay: As in PyTorch's optimizer of this name, at least 0.
    """
    if optimizer == "adamw":
        return keras.optimizers.AdamW(learning_rate, weight_decay=weight_decay)
    return SGD(
        learning_rate, momentum=momentum, coupled_weight_decay=weight_decay
    )


def build_schedule(
    schedule: str = "steps",
    *,
    learning_rate: float,
    steps_per_epoch: float,
    epochs: int,
    schedule_epochs: Sequence[int] = (120, 160),
    warmup_epochs: float = 0.0,
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Builds a learning rate schedule.

    Args:
        schedule: `"constant"`, `"steps"` (a tenth after each of
            `schedule_epochs`) or `"cosine"` (to 0 at the end).
        learning_rate: The highest rate.
        steps_per_epoch: Number of steps in an epoch.
        epochs: Number of epochs of the run.
        schedule_epochs: Increasing; those after the run have no effect.
        warmup_epochs: Epochs in which the rate rises linearly from 0, fewer
            than `epochs`.
    """
    warmup_steps = round(warmup_epochs * steps_per_epoch)
    rate: keras.optimizers.schedules.LearningRateSchedule | float
    rate = learning_rate
    if schedule == "steps" and schedule_epochs:
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(
            # Keras keeps a value up to and including its boundary.
            [epoch * steps_per_epoch - 1 for epoch in schedule_epochs],
            [learning_rate * 0.1**i for i in range(len(schedule_epochs) + 1)],
        )
    elif schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(
            learning_rate, epochs * steps_per_epoch
        )
    if warmup_steps or rate is learning_rate:
        # A plain constant would become a variable, and a checkpoint would
        # restore the old rate.
        rate = Warmup(rate, max(warmup_steps, 1))
    return rate


def optimizer_of(
    config: OptimizerConfig, steps_per_epoch: int
) -> keras.optimizers.Optimizer:
    """Builds the optimizer of a run from its settings.

    A warmup that is as long as the run is shortened to half of it, so that a
    recipe can be tried for one epoch. This and a scaled learning rate are
    printed.

    Args:
        config: The settings.
        steps_per_epoch: Number of batches in an epoch; with accumulation,
            there are fewer updates.
    """
    learning_rate = config.learning_rate
    if config.learning_rate_scaling == "linear":
        # Goyal et al. 2017, arXiv 1706.02677.
        images_per_update = config.batch_size * config.accumulate_steps
        factor = images_per_update / 256
        learning_rate *= factor
        print(
            f"learning rate: {config.learning_rate:g} x {factor:g} = "
            f"{learning_rate:g}, linear scaling to {images_per_update} images "
            "per update"
        )
    epochs = max(1, config.epochs)  # Without epochs, it is not used.
    warmup_epochs = config.warmup_epochs if config.epochs else 0.0
    if warmup_epochs >= epochs:
        warmup_epochs = epochs / 2
        print(
            f"warmup: {warmup_epochs:g} epochs instead of "
            f"{config.warmup_epochs:g}, half of the run"
        )
    schedule = build_schedule(
        config.schedule,
        learning_rate=learning_rate,
        steps_per_epoch=steps_per_epoch / config.accumulate_steps,
        epochs=epochs,
        schedule_epochs=config.schedule_epochs,
        warmup_epochs=warmup_epochs,
    )
    return build_optimizer(
        config.optimizer,
        learning_rate=schedule,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )


@keras.saving.register_keras_serializable(package="tf_instdisc")
class SGD(keras.optimizers.SGD):
    """SGD with momentum and weight decay as defined by `torch.optim.SGD`.

    Update rule for parameter `w` with gradient `g`:

    ```python
    velocity = momentum * velocity + g + coupled_weight_decay * w
    w = w - learning_rate * velocity
    ```

    Keras (3.15) multiplies by the learning rate before the momentum, so that
    after a decay of the rate its velocity still follows the old one, and its
    weight decay bypasses the momentum.

    Args:
        learning_rate: A float or a schedule.
        momentum: In [0, 1].
        coupled_weight_decay: Fraction of the weight that is added to the
            gradient, at least 0.
        **kwargs: Other arguments of `keras.optimizers.SGD`, of which
            `nesterov` and `weight_decay` must keep their defaults.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        learning_rate: float
        | keras.optimizers.schedules.LearningRateSchedule = 0.01,
        momentum: float = 0.0,
        coupled_weight_decay: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, momentum=float(momentum), **kwargs)
        if self.nesterov or self.weight_decay:
            raise UsageError(
                "`nesterov` and `weight_decay` are not supported; the decay "
                "of PyTorch is `coupled_weight_decay`. Received: "
                f"nesterov={self.nesterov}, weight_decay={self.weight_decay}"
            )
        if not coupled_weight_decay >= 0:
            raise UsageError(
                "`coupled_weight_decay` must be at least 0. Received: "
                f"coupled_weight_decay={coupled_weight_decay}"
            )
        self.coupled_weight_decay = coupled_weight_decay

    def update_step(
        self, gradient: Any, variable: keras.Variable, learning_rate: Any
    ) -> None:
        rate = ops.cast(learning_rate, variable.dtype)
        step = ops.cast(gradient, variable.dtype)
        if self.coupled_weight_decay:
            decay = ops.cast(self.coupled_weight_decay, variable.dtype)
            step = step + decay * ops.convert_to_tensor(variable)
        if self.momentum:
            velocity = self.momentums[self._get_variable_index(variable)]
            step = ops.cast(self.momentum, variable.dtype) * velocity + step
            self.assign(velocity, step)
        self.assign_sub(variable, rate * step)

    def convert_keras_momentum(self) -> None:
        """Converts velocities of `keras.optimizers.SGD` to this class' units.

        They hold -learning_rate times the gradients. The current rate is used
        for all the rates at which they were accumulated.
        """
        rate = float(ops.convert_to_numpy(self.learning_rate))
        for velocity in self.momentums if self.momentum else ():
            velocity.assign(velocity * (-1 / rate if rate else 0.0))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "coupled_weight_decay": self.coupled_weight_decay,
        }


@keras.saving.register_keras_serializable(package="tf_instdisc")
class Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """Scales a schedule by step / warmup_steps until the factor reaches 1.

    Args:
        schedule: A schedule, or a constant rate.
        warmup_steps: Number of steps, at least 1.
    """

    def __init__(
        self,
        schedule: keras.optimizers.schedules.LearningRateSchedule | float,
        warmup_steps: int,
    ):
        super().__init__()
        self.schedule = schedule
        self.warmup_steps = warmup_steps

    def __call__(self, step: Any) -> Any:
        rate = self.schedule
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            rate = rate(step)
        fraction = (ops.cast(step, "float32") + 1.0) / self.warmup_steps
        return rate * ops.minimum(fraction, 1.0)

    def get_config(self) -> dict[str, Any]:
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "warmup_steps": self.warmup_steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule, config["warmup_steps"])
