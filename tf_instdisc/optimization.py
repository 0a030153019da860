"""Optimizers, and how the learning rate falls."""

from collections.abc import Sequence

import keras
from keras import ops

from tf_instdisc import choices


def build_optimizer(
    optimizer: str = "sgd",
    *,
    learning_rate: float,
    steps_per_epoch: int,
    epochs: int,
    schedule: str = "steps",
    schedule_epochs: Sequence[int] = (120, 160),
    warmup_epochs: float = 0.0,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
) -> keras.optimizers.Optimizer:
    """Builds an optimizer with its schedule.

    `"sgd"` is PyTorch's, as the authors' code uses it. PyTorch adds
    weight_decay * w to the gradient, so that momentum magnifies the decay by
    1 / (1 - momentum); Keras subtracts it from the weights. Keras is
    therefore given weight_decay / (1 - momentum), which decays as fast.
    `"adamw"` (Loshchilov, Hutter 2019) learns more from few steps; its weight
    decay is that of the paper's own form.

    Args:
        optimizer: `"sgd"` or `"adamw"`.
        learning_rate: The highest rate.
        steps_per_epoch: Steps of one epoch.
        epochs: Epochs of the run.
        schedule: `"constant"`, `"steps"` (a tenth after each of
            `schedule_epochs`) or `"cosine"` (to 0 at the end).
        schedule_epochs: Rising; those beyond the run have no effect.
        warmup_epochs: Epochs in which the rate rises from 0, linearly.
        momentum: Of `"sgd"`, in [0, 1).
        weight_decay: As PyTorch's optimizer of this name has it, at least 0.

    Returns:
        The optimizer.

    Raises:
        ValueError: If a name is unknown, or the warm-up is as long as the
            run.
    """
    choices.require("optimizer", optimizer, choices.OPTIMIZERS)
    choices.require("schedule", schedule, choices.SCHEDULES)
    if not 0 <= warmup_epochs < epochs:
        raise ValueError(
            "`warmup_epochs` must be at least 0 and below `epochs`. "
            f"Received: warmup_epochs={warmup_epochs}, epochs={epochs}"
        )
    warmup_steps = round(warmup_epochs * steps_per_epoch)
    rate: keras.optimizers.schedules.LearningRateSchedule | float
    rate = learning_rate
    if schedule == "steps":
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(
            # Keras keeps a value up to and with its boundary.
            [epoch * steps_per_epoch - 1 for epoch in schedule_epochs],
            [learning_rate * 0.1**i for i in range(len(schedule_epochs) + 1)],
        )
    elif schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(
            learning_rate, epochs * steps_per_epoch
        )
    if warmup_steps or schedule == "constant":
        # A constant by itself would be a variable: a checkpoint would bring
        # the old one back.
        rate = Warmup(rate, max(warmup_steps, 1))
    if optimizer == "adamw":
        return keras.optimizers.AdamW(rate, weight_decay=weight_decay)
    return keras.optimizers.SGD(
        rate,
        momentum=momentum,
        weight_decay=weight_decay / (1 - momentum) or None,
    )


def scaled_learning_rate(
    learning_rate: float, scaling: str, images_per_update: int
) -> float:
    """Learning rate of a batch that is not of 256 images.

    Args:
        learning_rate: That of 256 images.
        scaling: `"none"`, `"linear"` (Goyal et al. 2017, arXiv 1706.02677)
            or `"sqrt"`.
        images_per_update: Global batch times accumulated steps.

    Returns:
        The rate; a scaled one is printed.

    Raises:
        ValueError: If `scaling` is unknown.
    """
    choices.require("learning_rate_scaling", scaling, choices.SCALINGS)
    if scaling == "none":
        return learning_rate
    factor = images_per_update / 256
    if scaling == "sqrt":
        factor **= 0.5
    print(
        f"learning rate: {learning_rate:g} x {factor:g} = "
        f"{learning_rate * factor:g}, {scaling} scaling to "
        f"{images_per_update} images an update"
    )
    return learning_rate * factor


@keras.saving.register_keras_serializable(package="tf_instdisc")
class Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """Scales a schedule by step / warmup_steps until that reaches 1.

    Args:
        schedule: A schedule, or a constant rate.
        warmup_steps: At least 1.
    """

    def __init__(
        self,
        schedule: keras.optimizers.schedules.LearningRateSchedule | float,
        warmup_steps: int,
    ):
        super().__init__()
        self.schedule = schedule
        self.warmup_steps = warmup_steps

    def __call__(self, step):
        rate = self.schedule
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            rate = rate(step)
        share = (ops.cast(step, "float32") + 1.0) / self.warmup_steps
        return rate * ops.minimum(share, 1.0)

    def get_config(self):
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "warmup_steps": self.warmup_steps}

    @classmethod
    def from_config(cls, config):
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule, config["warmup_steps"])
