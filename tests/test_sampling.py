"""Draws of negatives: reproducible, in range and uniform."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tf_instdisc.method import objectives


def draw(seed=0, step=0, n=1000, shape=(4096,)):
    ids = objectives.draw_negatives(
        seed, tf.constant(step, tf.int64), n, list(shape)
    )
    assert ids.dtype == tf.int64
    return ids.numpy()


@pytest.mark.parametrize("shape", ((4096,), (8, 512)))
def test_same_seed_and_step_draw_the_same(shape):
    np.testing.assert_array_equal(
        draw(3, 5, shape=shape), draw(3, 5, shape=shape)
    )


def test_graph_draws_as_eager():
    # The step is a variable there, and the batch size is not known.
    step = tf.Variable(5, dtype=tf.int64)

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32)])
    def in_graph(batch):
        return objectives.draw_negatives(3, step, 1000, [batch, 512])

    np.testing.assert_array_equal(
        in_graph(tf.constant(8)), draw(3, 5, shape=(8, 512))
    )


@pytest.mark.parametrize("other", ((3, 6), (4, 5), (5, 3)))
def test_another_seed_or_step_draws_other_ids(other):
    same = np.mean(draw(3, 5) == draw(*other))
    # By chance 1 in 1000 agrees; 4096 draws make 1 in 100 impossible.
    assert same < 0.01


@pytest.mark.parametrize("n", (2, 3, 1000, 1_281_167))
def test_ids_are_in_range_and_reach_its_ends(n):
    ids = draw(n=n, shape=(256, 4096))
    assert ids.min() >= 0
    assert ids.max() < n
    # 2**20 draws come within this distance of both ends, but for exp(-20).
    assert ids.min() <= 20 * n / ids.size
    assert ids.max() >= n - 1 - 20 * n / ids.size


@pytest.mark.parametrize("n", (2, 10, 1000, 1_281_167))
def test_ids_are_uniform(n):
    ids = draw(seed=1, n=n, shape=(100_000,))
    counts, _ = np.histogram(ids, bins=min(n, 1000), range=(0, n))
    assert counts.sum() == ids.size
    # A bin of whole ids; where n is no multiple of 1000 they hold one more or
    # less of 1281, far below what 100 draws in a bin can show.
    assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("axis", ("position", "example", "step"))
def test_draws_are_independent(axis):
    if axis == "step":
        first, second = (draw(step=s, n=10, shape=(40_000,)) for s in (0, 1))
    else:
        ids = draw(n=10, shape=(200, 200))
        first, second = ids[:, :-1], ids[:, 1:]
        if axis == "example":
            first, second = ids[:-1], ids[1:]
    table = np.zeros((10, 10))
    np.add.at(table, (first.ravel(), second.ravel()), 1)
    assert stats.chi2_contingency(table).pvalue > 0.01


def test_draw_of_an_example_depends_on_its_position_alone():
    # A smaller batch sees the first of the same draws.
    full = draw(shape=(8, 100))
    assert full.shape == (8, 100)
    np.testing.assert_array_equal(draw(shape=(5, 100)), full[:5])
