"""Negatives: rows of the bank drawn uniformly, P_n = 1 / n.

Draws are a function of (seed, step, position in the global batch) alone, so
that one device, many replicas and a restarted run see the same negatives.
"""

import tensorflow as tf


def draw_negatives(
    seed: int,
    step: tf.Tensor,
    num_instances: int,
    shape: list[int | tf.Tensor],
) -> tf.Tensor:
    """Draws instance ids, with replacement.

    Args:
        seed: The run's seed.
        step: int64 scalar, the number of steps taken.
        num_instances: n.
        shape: Of the result: `[num_negatives]`, or
            `[global_batch, num_negatives]`.

    Returns:
        int64 ids in [0, num_instances).
    """
    return tf.random.stateless_uniform(
        shape,
        seed=tf.stack([tf.constant(seed, tf.int64), tf.cast(step, tf.int64)]),
        maxval=num_instances,
        dtype=tf.int64,
    )
