"""Losses and gradients of the objectives against loops over the formulas."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tf_instdisc.method import formulas
from tf_instdisc.method.objectives import global_log_z_estimate

DIM = 16
NUM_NEGATIVES = 7
TEMPERATURES = (0.01, 0.07, 1.0)


# === The formulas, in float64, one example and one row at a time ===
#
# exp(1 / 0.01) is 2.7e43, which float64 holds, so that nothing is rearranged.
# Each oracle returns the losses and their gradients.


def softmax_oracle(v, ids, rows, t):
    losses, dv, drows = np.zeros(len(v)), np.zeros_like(v), np.zeros_like(rows)
    for b, i in enumerate(ids):
        scores = [math.exp(v[b] @ row / t) for row in rows]
        z = math.fsum(scores)
        losses[b] = -math.log(scores[i] / z)
        for j, row in enumerate(rows):
            slope = scores[j] / z - (1 if j == i else 0)
            dv[b] += slope * row / t
            drows[j] += slope * v[b] / t
    return losses, dv, drows


def nce_oracle(v, own, negatives, t, log_z, n):
    losses, dv = np.zeros(len(v)), np.zeros_like(v)
    m = negatives.shape[1]
    for b in range(len(v)):
        p = math.exp(v[b] @ own[b] / t) / math.exp(log_z)
        h = p / (p + m / n)
        losses[b] = -math.log(h)
        dv[b] = -((m / n) / (p + m / n)) * own[b] / t
        for row in negatives[b]:
            p = math.exp(v[b] @ row / t) / math.exp(log_z)
            # 1 - h', without the cancellation.
            losses[b] -= math.log((m / n) / (p + m / n))
            dv[b] += p / (p + m / n) * row / t
    return losses, dv


def info_nce_oracle(v, own, negatives, t, is_positive):
    losses, dv = np.zeros(len(v)), np.zeros_like(v)
    for b in range(len(v)):
        rows = [own[b]]
        rows += [
            r
            for r, p in zip(negatives[b], is_positive[b], strict=True)
            if not p
        ]
        loss, slope, _ = softmax_oracle(v[b : b + 1], [0], np.stack(rows), t)
        losses[b], dv[b] = loss[0], slope[0]
    return losses, dv


def log_z_oracle(v, negatives, t, n):
    scores = []
    for b in range(len(v)):
        scores += [math.exp(v[b] @ row / t) for row in negatives[b]]
    return math.log(n * math.fsum(scores) / len(scores))


# === Cases ===


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


class Case:
    """Embeddings, a bank, and negatives drawn from it."""

    def __init__(self, dtype, n, batch, sharing, identical):
        rng = np.random.default_rng(n + batch)
        rows = unit(rng.normal(size=(n, DIM)))
        if identical:
            rows[:] = rows[0]
        self.ids = rng.integers(n, size=batch)
        # Near their own rows, as in training: the logits span a wide range.
        v = unit(rows[self.ids] + 0.2 * rng.normal(size=(batch, DIM)))
        shape = [NUM_NEGATIVES]
        if sharing == "per_example":
            shape = [batch, NUM_NEGATIVES]
        self.negative_ids = rng.integers(n, size=shape)
        # What the oracle sees is what the library sees, rounding included.
        self.rows, self.v = (x.astype(dtype) for x in (rows, v))
        self.oracle_rows = self.rows.astype(np.float64)
        self.oracle_v = self.v.astype(np.float64)
        self.own = self.oracle_rows[self.ids]
        every = np.broadcast_to(self.negative_ids, (batch, NUM_NEGATIVES))
        self.oracle_negatives = self.oracle_rows[every]
        self.collisions = every == self.ids[:, None]

    def logits(self, v, t):
        rows = tf.constant(self.rows)
        positive = formulas.positive_logits(v, tf.gather(rows, self.ids), t)
        negative = formulas.logits(v, tf.gather(rows, self.negative_ids), t)
        return positive, negative


def grid(function):
    for name, values in (
        ("dtype", ("float64", "float32")),
        ("temperature", TEMPERATURES),
        ("n", (2, 10, 1000)),
        ("batch", (1, 5)),
        ("identical", (False, True)),
    ):
        function = pytest.mark.parametrize(name, values)(function)
    return function


def both_sharings(function):
    return pytest.mark.parametrize("sharing", ("shared", "per_example"))(
        function
    )


def loss_and_gradients(loss, *inputs):
    inputs = [tf.constant(x) for x in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        losses = loss(*inputs)
        total = tf.reduce_sum(losses)
    assert losses.dtype == inputs[0].dtype
    return losses, *tape.gradient(total, inputs)


def assert_equal(actual, expected, dtype, temperature, n, gradient=False):
    """Relative 1e-5 in float32, 1e-10 in float64.

    The absolute term is for results that are differences of larger numbers,
    whose rounding remains: a loss of logits up to 1 / t and of log n, a
    gradient of slopes that are off by as much, times rows over t. Eight unit
    roundoffs of those cover the sums over 16 products and up to 1000 rows.
    """
    roundoff = {"float64": 2**-53, "float32": 2**-24}[dtype]
    rtol = {"float64": 1e-10, "float32": 1e-5}[dtype]
    atol = 8 * roundoff * (1 / temperature + math.log(n))
    if gradient:
        atol /= temperature
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


# === Losses and gradients ===


@grid
def test_softmax_equals_formula(dtype, temperature, n, batch, identical):
    # With rows that are trained, this is the parametric softmax.
    case = Case(dtype, n, batch, "shared", identical)
    actual = loss_and_gradients(
        lambda v, rows: formulas.softmax_loss(
            v, tf.constant(case.ids), rows, temperature
        ),
        case.v,
        case.rows,
    )
    expected = softmax_oracle(
        case.oracle_v, case.ids, case.oracle_rows, temperature
    )
    assert_equal(actual[0], expected[0], dtype, temperature, n)
    assert_equal(actual[1], expected[1], dtype, temperature, n, True)
    assert_equal(actual[2], expected[2], dtype, temperature, n, True)


@grid
@both_sharings
def test_nce_equals_formula(dtype, temperature, n, batch, identical, sharing):
    case = Case(dtype, n, batch, sharing, identical)
    # A normalizer of the magnitude that occurs in training.
    log_z = log_z_oracle(case.oracle_v, case.oracle_negatives, temperature, n)
    log_z = float(np.asarray(log_z, dtype))
    actual = loss_and_gradients(
        lambda v: formulas.nce_loss(
            *case.logits(v, temperature), tf.constant(log_z, dtype), n
        ),
        case.v,
    )
    expected = nce_oracle(
        case.oracle_v, case.own, case.oracle_negatives, temperature, log_z, n
    )
    assert_equal(actual[0], expected[0], dtype, temperature, n)
    assert_equal(actual[1], expected[1], dtype, temperature, n, True)


@grid
@both_sharings
@pytest.mark.parametrize("masks", (False, True))
def test_info_nce_equals_formula(
    dtype, temperature, n, batch, identical, sharing, masks
):
    case = Case(dtype, n, batch, sharing, identical)
    # With n = 2 about half of the draws collide with the example's own row.
    mask = tf.constant(case.collisions & masks)
    actual = loss_and_gradients(
        lambda v: formulas.info_nce_loss(*case.logits(v, temperature), mask),
        case.v,
    )
    expected = info_nce_oracle(
        case.oracle_v,
        case.own,
        case.oracle_negatives,
        temperature,
        case.collisions & masks,
    )
    assert_equal(actual[0], expected[0], dtype, temperature, n)
    assert_equal(actual[1], expected[1], dtype, temperature, n, True)


def test_info_nce_without_any_negative_is_zero():
    losses, dv = loss_and_gradients(
        lambda v: formulas.info_nce_loss(
            v[:, 0], tf.stack([v[:, 0]] * 3, 1), tf.ones([2, 3], tf.bool)
        ),
        np.array([[100.0], [-100.0]], np.float32),
    )
    assert losses.numpy().tolist() == [0, 0]
    assert dv.numpy().tolist() == [[0], [0]]


@pytest.mark.parametrize("dtype", ("float64", "float32"))
def test_proximal_term_equals_formula(dtype):
    case = Case(dtype, 10, 5, "shared", False)
    losses, dv, _ = loss_and_gradients(
        formulas.proximal_term, case.v, case.rows[case.ids]
    )
    difference = case.oracle_v - case.own
    expected = [sum(x * x for x in row) for row in difference]
    assert_equal(losses, expected, dtype, 1.0, 10)
    assert_equal(dv, 2 * difference, dtype, 1.0, 10, True)


@grid
@both_sharings
def test_log_normalizer_estimate_equals_formula(
    dtype, temperature, n, batch, identical, sharing
):
    case = Case(dtype, n, batch, sharing, identical)
    _, negative = case.logits(tf.constant(case.v), temperature)
    actual = global_log_z_estimate(negative, n)
    expected = log_z_oracle(
        case.oracle_v, case.oracle_negatives, temperature, n
    )
    assert_equal(actual, expected, dtype, temperature, n)


# On the sphere in 128 dimensions, E exp(cos / t) by numerical integration.
@pytest.mark.parametrize(("temperature", "mean"), ((0.07, 2.209), (0.1, 1.476)))
def test_normalizer_of_random_rows_is_known(temperature, mean):
    rng = np.random.default_rng(0)
    n = 100_000
    v, rows = (unit(rng.normal(size=(k, 128))) for k in (64, 4096))
    logits = formulas.logits(
        *(tf.constant(x, tf.float32) for x in (v, rows)), temperature
    )
    estimate = global_log_z_estimate(logits, n)
    assert math.exp(estimate) == pytest.approx(n * mean, rel=0.05)


# === Nothing overflows ===


@pytest.mark.parametrize("temperature", (0.01, 0.02, 0.05, 0.1, 0.3, 1.0))
@pytest.mark.parametrize("rows_are", ("random", "identical", "antipodal"))
@pytest.mark.parametrize("positive", (1.0, -1.0))
def test_float32_is_finite(temperature, rows_are, positive):
    rng = np.random.default_rng(0)
    v = unit(rng.normal(size=(4, 128))).astype(np.float32)
    v[:] = v[0]
    # The worst cases: rows as far from, or as near to, v as they can be.
    rows = unit(rng.normal(size=(50, 128))).astype(np.float32)
    if rows_are != "random":
        rows[:] = v[0] if rows_are == "identical" else -v[0]
    rows[0] = positive * v[0]
    ids = np.zeros(4, np.int64)
    t = temperature

    def all_losses(v, rows):
        positive = formulas.positive_logits(v, tf.gather(rows, ids), t)
        negative = formulas.logits(v, rows, t)
        estimate = global_log_z_estimate(negative, 50)
        losses = [
            formulas.softmax_loss(v, tf.constant(ids), rows, t),
            formulas.info_nce_loss(
                positive, negative, tf.zeros_like(negative, tf.bool)
            ),
            formulas.proximal_term(v, tf.gather(rows, ids)),
        ]
        # From too small by exp(200) to too large by as much.
        for log_z in (estimate, 0.0, 110.0, -100.0):
            losses.append(formulas.nce_loss(positive, negative, log_z, 50))
        return tf.stack(losses)

    for result in loss_and_gradients(all_losses, v, rows):
        assert np.isfinite(result.numpy()).all()
