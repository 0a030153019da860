"""Schedules and SGD against loops, and SGD against PyTorch."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_instdisc.config import OptimizerConfig, recipes
from tf_instdisc.config.run import from_flagfile
from tf_instdisc.training.optimizer import (
    SGD,
    Warmup,
    build_optimizer,
    build_schedule,
    optimizer_of,
)


def rates(schedule, steps):
    return [float(schedule(tf.constant(step))) for step in range(steps)]


def test_steps_fall_by_ten_after_their_epochs():
    schedule = build_schedule(
        "steps",
        learning_rate=0.03,
        steps_per_epoch=5,
        epochs=6,
        schedule_epochs=[2, 4],
    )
    expected = [0.03] * 10 + [0.003] * 10 + [0.0003] * 10
    np.testing.assert_allclose(rates(schedule, 30), expected, rtol=1e-6)


def test_cosine_with_warmup():
    schedule = build_schedule(
        "cosine",
        learning_rate=0.5,
        steps_per_epoch=10,
        epochs=4,
        warmup_epochs=1,
    )
    expected = [
        0.25 * (1 + math.cos(math.pi * t / 40)) * min((t + 1) / 10, 1)
        for t in range(40)
    ]
    np.testing.assert_allclose(
        rates(schedule, 40), expected, rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("name", ["constant", "steps"])
def test_without_steps_the_rate_is_constant(name):
    schedule = build_schedule(
        name,
        learning_rate=0.1,
        steps_per_epoch=3,
        epochs=2,
        schedule_epochs=(),
    )
    np.testing.assert_allclose(rates(schedule, 6), [0.1] * 6, rtol=1e-6)


def test_a_warmup_as_long_as_the_run_is_shortened_to_half_of_it(capsys):
    config = OptimizerConfig(
        epochs=2, warmup_epochs=5.0, schedule="constant", learning_rate=0.4
    )
    schedule = optimizer_of(config, steps_per_epoch=4)._learning_rate
    np.testing.assert_allclose(
        rates(schedule, 8), [0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4], rtol=1e-6
    )
    assert capsys.readouterr().out == (
        "warmup: 1 epochs instead of 5, half of the run\n"
    )


@pytest.mark.parametrize("steps", (1, 20))
@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_has_a_schedule_of_one_epoch(name, steps):
    text = recipes.path_of(name).read_text(encoding="utf-8")
    config = from_flagfile(text, "--epochs=1").optimizer
    optimizer = optimizer_of(config, steps)
    found = rates(optimizer._learning_rate, steps)
    assert min(found) > 0
    # A cosine has fallen to a half in the middle of the run.
    assert max(found) >= 0.45 * config.learning_rate


SCHEDULES = [
    {"schedule": "constant"},
    {"schedule": "steps", "schedule_epochs": [2, 4]},
    {"schedule": "steps", "schedule_epochs": [3], "warmup_epochs": 2},
    {"schedule": "cosine"},
    {"schedule": "cosine", "warmup_epochs": 1},
]


def sgd_cases():
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(30, 4))
    return np.array([1.0, -2.0, 0.5, 3.0]), gradients


@pytest.mark.parametrize("settings", SCHEDULES)
@pytest.mark.parametrize(
    ("momentum", "decay"), [(0.9, 1e-2), (0.9, 0.0), (0.0, 1e-2), (0.5, 0.1)]
)
def test_sgd_equals_pytorchs_documented_update(settings, momentum, decay):
    start, gradients = sgd_cases()
    schedule = build_schedule(
        **settings, learning_rate=0.1, steps_per_epoch=5, epochs=6
    )
    optimizer = build_optimizer(
        learning_rate=schedule, momentum=momentum, weight_decay=decay
    )
    variable = keras.Variable(start, dtype="float64")
    weight, buffer = start.copy(), np.zeros(4)
    for rate, gradient in zip(rates(schedule, 30), gradients, strict=True):
        optimizer.apply([tf.constant(gradient)], [variable])
        buffer = momentum * buffer + gradient + decay * weight
        weight -= rate * buffer
        np.testing.assert_allclose(variable, weight, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("settings", SCHEDULES)
def test_sgd_equals_torch(settings):
    torch = pytest.importorskip("torch")
    start, gradients = sgd_cases()
    schedule = build_schedule(
        **settings, learning_rate=0.1, steps_per_epoch=5, epochs=6
    )
    optimizer = build_optimizer(learning_rate=schedule, weight_decay=1e-2)
    variable = keras.Variable(start, dtype="float64")
    weight = torch.tensor(start, requires_grad=True)
    other = torch.optim.SGD([weight], 0.1, momentum=0.9, weight_decay=1e-2)
    for rate, gradient in zip(rates(schedule, 30), gradients, strict=True):
        optimizer.apply([tf.constant(gradient)], [variable])
        other.param_groups[0]["lr"] = rate
        weight.grad = torch.tensor(gradient)
        other.step()
        np.testing.assert_allclose(
            variable, weight.detach(), rtol=1e-6, atol=1e-6
        )


def test_sgd_continues_with_the_momentum_of_keras():
    start, gradients = sgd_cases()
    variables = [keras.Variable(start, dtype="float64") for _ in range(2)]
    old = keras.optimizers.SGD(0.1, momentum=0.9)
    new = SGD(0.1, momentum=0.9)
    new.build(variables[1:])
    for gradient in gradients[:10]:
        old.apply([tf.constant(gradient)], variables[:1])
    for a, b in zip(new.variables, old.variables, strict=True):
        a.assign(b)
    variables[1].assign(variables[0])
    new.convert_keras_momentum()
    for gradient in gradients[10:]:
        old.apply([tf.constant(gradient)], variables[:1])
        new.apply([tf.constant(gradient)], variables[1:])
        # At one rate and without decay, the two are the same.
        np.testing.assert_allclose(variables[1], variables[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nesterov": True}, "Received: nesterov=True"),
        ({"weight_decay": 0.1}, "weight_decay=0.1"),
        ({"coupled_weight_decay": -1.0}, "coupled_weight_decay=-1.0"),
        ({"coupled_weight_decay": math.nan}, "coupled_weight_decay=nan"),
    ],
)
def test_sgd_refuses_unsupported_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SGD(0.1, **arguments)


def test_sgd_survives_serialization_and_loss_scaling():
    optimizer = keras.optimizers.deserialize(
        keras.optimizers.serialize(
            SGD(0.5, momentum=0.9, coupled_weight_decay=0.01)
        )
    )
    assert optimizer.coupled_weight_decay == 0.01
    assert optimizer.momentum == 0.9
    scaled = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=8.0)
    variable = keras.Variable([1.0])
    weight, buffer = 1.0, 0.0
    for _ in range(3):
        scaled.apply([8.0 * tf.ones([1])], [variable])
        buffer = 0.9 * buffer + 1.0 + 0.01 * weight
        weight -= 0.5 * buffer
    assert float(variable.value[0]) == pytest.approx(weight, rel=1e-6)


def test_adamw_and_warmup_survive_serialization():
    schedule = build_schedule(
        "cosine",
        learning_rate=1e-3,
        steps_per_epoch=10,
        epochs=3,
        warmup_epochs=1,
    )
    optimizer = build_optimizer(
        "adamw", learning_rate=schedule, weight_decay=0.05
    )
    assert optimizer.weight_decay == 0.05
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(copy._learning_rate, Warmup)
    np.testing.assert_allclose(
        rates(copy._learning_rate, 30), rates(schedule, 30)
    )
