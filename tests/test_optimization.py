"""Schedules against loops, and SGD's weight decay against PyTorch's rule."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_instdisc.optimization import Warmup, build_optimizer


def rates(optimizer, steps):
    schedule = optimizer._learning_rate
    if isinstance(schedule, keras.Variable):
        return [float(schedule.value)] * steps
    return [float(schedule(tf.constant(step))) for step in range(steps)]


def test_steps_fall_by_ten_after_their_epochs():
    optimizer = build_optimizer(
        learning_rate=0.03,
        steps_per_epoch=5,
        epochs=6,
        schedule="steps",
        schedule_epochs=[2, 4],
    )
    expected = [0.03] * 10 + [0.003] * 10 + [0.0003] * 10
    np.testing.assert_allclose(rates(optimizer, 30), expected, rtol=1e-6)


def test_cosine_with_warmup():
    optimizer = build_optimizer(
        learning_rate=0.5,
        steps_per_epoch=10,
        epochs=4,
        schedule="cosine",
        warmup_epochs=1,
    )
    expected = [
        0.25 * (1 + math.cos(math.pi * t / 40)) * min((t + 1) / 10, 1)
        for t in range(40)
    ]
    np.testing.assert_allclose(
        rates(optimizer, 40), expected, rtol=1e-5, atol=1e-7
    )


def test_constant_is_constant():
    optimizer = build_optimizer(
        learning_rate=0.1, steps_per_epoch=3, epochs=2, schedule="constant"
    )
    np.testing.assert_allclose(rates(optimizer, 6), [0.1] * 6, rtol=1e-6)


def test_sgd_decays_weights_as_fast_as_pytorch():
    # With no gradient but the decay, PyTorch's momentum buffer makes each
    # step 1 / (1 - momentum) as large once it has filled.
    rate, decay, momentum = 0.01, 0.01, 0.9
    variable = keras.Variable([1.0])
    optimizer = build_optimizer(
        learning_rate=rate,
        steps_per_epoch=1,
        epochs=1,
        schedule="constant",
        momentum=momentum,
        weight_decay=decay,
    )
    weight, buffer = 1.0, 0.0
    for _ in range(2000):
        optimizer.apply([tf.zeros([1])], [variable])
        buffer = momentum * buffer + decay * weight
        weight -= rate * buffer
    assert float(variable.value[0]) == pytest.approx(weight, rel=0.02)
    assert weight < 0.2  # It did decay.


def test_adamw_and_warmup_survive_serialization():
    optimizer = build_optimizer(
        "adamw",
        learning_rate=1e-3,
        steps_per_epoch=10,
        epochs=3,
        schedule="cosine",
        warmup_epochs=1,
        weight_decay=0.05,
    )
    assert optimizer.weight_decay == 0.05
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(copy._learning_rate, Warmup)
    np.testing.assert_allclose(rates(copy, 30), rates(optimizer, 30))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "lamb"}, "sgd, adamw. Received: optimizer='lamb'"),
        ({"schedule": "poly"}, "constant, steps, cosine"),
        ({"warmup_epochs": 2}, "Received: warmup_epochs=2, epochs=2"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    arguments = {"learning_rate": 0.1, "steps_per_epoch": 1, "epochs": 2}
    with pytest.raises(ValueError, match=message):
        build_optimizer(**{**arguments, **change})
