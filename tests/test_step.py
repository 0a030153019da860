"""A step of `fit` against a loop: loss, gradient, Z and bank, all at once.

The formulas are those of `test_objectives`, on the rows that the model holds
and the negatives that it draws; the encoder is one matrix, so that its
gradient fits into a line.
"""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_instdisc
from tests.test_objectives import (
    info_nce_oracle,
    log_z_oracle,
    nce_oracle,
    softmax_oracle,
    unit,
)
from tests.test_replicas import OBJECTIVES
from tf_instdisc.method import objectives

INPUTS, DIM, NUM_NEGATIVES, SEED = 6, 16, 7, 5
RATE = 0.01  # of SGD


@pytest.fixture(autouse=True)
def float32_again():
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def matrix_encoder(dim=DIM, inputs=INPUTS):
    vector = keras.Input((inputs,))
    x = keras.layers.Dense(dim, use_bias=False)(vector)
    return keras.Model(vector, keras.layers.UnitNormalization()(x))


class Expected:
    """The method as the paper writes it, an example at a time."""

    def __init__(self, model, absent_ids):
        self.model = model
        self.matrix = model.encoder.get_weights()[0].astype(float)
        self.bank = model.memory_bank.rows.numpy().astype(float)
        if model.class_weights is not None:
            self.class_weights = model.class_weights.numpy().astype(float)
        self.z = None
        self.steps = 0
        self.present = np.setdiff1d(np.arange(len(self.bank)), absent_ids)

    def negative_ids(self, batch):
        shape = [NUM_NEGATIVES]
        if self.model.negatives == "per_example":
            shape = [batch, NUM_NEGATIVES]
        drawn = objectives.draw_negatives(
            SEED, tf.constant(self.steps, tf.int64), len(self.present), shape
        )
        drawn = np.broadcast_to(drawn.numpy(), (batch, NUM_NEGATIVES))
        return self.present[drawn]

    def objective(self, v, ids):
        """Losses, gradients for v, and one for the class weights."""
        t, n = self.model.temperature, len(self.present)
        places = [list(self.present).index(i) for i in ids]
        if self.model.objective == "softmax":
            rows = self.bank[self.present]
            return *softmax_oracle(v, places, rows, t)[:2], None
        if self.model.objective == "parametric":
            rows = self.class_weights[self.present]
            return softmax_oracle(v, places, rows, t)
        negative_ids = self.negative_ids(len(v))
        negatives = self.bank[negative_ids]
        own = self.bank[ids]
        if self.model.objective == "info_nce":
            is_positive = negative_ids == ids[:, None]
            return *info_nce_oracle(v, own, negatives, t, is_positive), None
        new = math.exp(log_z_oracle(v, negatives, t, n))
        self.z = new if self.z is None else 0.75 * self.z + 0.25 * new
        log_z = math.log(self.z)
        return *nce_oracle(v, own, negatives, t, log_z, n), None

    def step(self, x, ids, bank_momentum, proximal_weight):
        """Takes the step; returns the loss and the matrix's gradient."""
        u = x.astype(float) @ self.matrix
        v = unit(u)
        losses, dv, drows = self.objective(v, ids)
        difference = v - self.bank[ids]
        losses = losses + proximal_weight * (difference**2).sum(axis=1)
        dv = dv + proximal_weight * 2 * difference
        gradient = np.zeros_like(self.matrix)
        for b in range(len(v)):
            du = dv[b] - v[b] * (v[b] @ dv[b])
            gradient += np.outer(x[b], du / np.linalg.norm(u[b])) / len(v)
        self.matrix = self.matrix - RATE * gradient
        if drows is not None:
            self.class_weights[self.present] -= RATE * drows / len(v)
        for b, i in enumerate(ids):
            mixed = bank_momentum * self.bank[i] + (1 - bank_momentum) * v[b]
            self.bank[i] = unit(mixed)
        self.steps += 1
        return losses.mean(), gradient


@pytest.mark.exhaustive_variants("float32-1000*")
@pytest.mark.parametrize(("objective", "negatives"), OBJECTIVES)
@pytest.mark.parametrize(
    (
        "dtype",
        "n",
        "batch",
        "temperature",
        "identical",
        "absent",
        "proximal",
        "momentum",
    ),
    (
        ("float64", 2, 1, 0.01, False, (), 0.0, 0.5),
        ("float64", 10, 5, 0.07, True, (), 2.0, 0.0),
        ("float64", 1000, 5, 0.01, False, (0, 7, 999), 0.5, 0.9),
        ("float32", 1000, 5, 0.01, False, (0, 7, 999), 0.5, 0.9),
    ),
)
def test_two_steps_equal_the_formulas(
    dtype,
    objective,
    negatives,
    n,
    batch,
    temperature,
    identical,
    absent,
    proximal,
    momentum,
):
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    keras.utils.set_random_seed(1)
    model = tf_instdisc.InstanceDiscrimination(
        matrix_encoder(),
        n,
        objective=objective,
        num_negatives=NUM_NEGATIVES,
        negatives=negatives,
        temperature=temperature,
        normalizer_momentum=0.75,
        bank_momentum=momentum,
        proximal_weight=proximal,
        seed=SEED,
        absent_ids=absent,
    )
    # Graphs take a second each: float32 has them, float64 runs eagerly.
    model.compile(
        optimizer=keras.optimizers.SGD(RATE), run_eagerly=dtype == "float64"
    )
    if identical:
        rows = np.repeat(model.memory_bank.rows.numpy()[:1], n, axis=0)
        model.memory_bank.fill(np.arange(n), rows)
    rng = np.random.default_rng(2)
    expected = Expected(model, absent)
    # float32 knows logits of up to 1 / t to 2**-24 of that; a gradient is as
    # far off, times 1 / t.
    roundoff = {"float64": 1e-14, "float32": 2**-24}[dtype]
    atol = 16 * roundoff / temperature
    for _ in range(2):
        x = rng.normal(size=(batch, INPUTS)).astype(dtype)
        ids = rng.choice(expected.present, batch, replace=False)
        # So that the second step starts from the same weights.
        expected.matrix = model.encoder.get_weights()[0].astype(float)
        before = expected.matrix
        loss, gradient = expected.step(x, ids, momentum, proximal)
        history = model.fit(
            x, ids, batch_size=batch, shuffle=False, verbose=0
        ).history
        assert history["loss"][0] == pytest.approx(loss, rel=1e-5, abs=atol)
        np.testing.assert_allclose(
            (before - model.encoder.get_weights()[0]) / RATE,
            gradient,
            rtol=1e-5,
            atol=atol / temperature,
        )
        np.testing.assert_allclose(
            model.memory_bank.rows, expected.bank, atol=1e-6
        )
        if objective == "parametric":
            np.testing.assert_allclose(
                model.class_weights,
                expected.class_weights,
                rtol=1e-5,
                atol=atol / temperature,
            )
        if objective == "nce":
            log_z = float(model.memory_bank.log_normalizer)
            assert log_z == pytest.approx(math.log(expected.z), abs=atol)


def test_absent_ids_survive_a_file_and_are_checked(tmp_path):
    model = tf_instdisc.InstanceDiscrimination(
        matrix_encoder(), 9, absent_ids=np.array([3, 4])
    )
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    assert copy.memory_bank.instances.ids.numpy().tolist() == [
        *range(3),
        *range(5, 9),
    ]
    for absent_ids, message in (
        ([9], r"in \[0, 9\)"),
        (range(8), "leave at least 2"),
    ):
        with pytest.raises(ValueError, match=message):
            tf_instdisc.InstanceDiscrimination(
                matrix_encoder(), 9, absent_ids=absent_ids
            )
