"""Negatives: rows of the bank drawn uniformly, P_n = 1 / n.

Draws depend only on the seed, the step and the position in the global batch,
so one device, many replicas and a restarted run draw the same negatives.
"""

import tensorflow as tf

from tf_instdisc import random_streams


def draw_negatives(
    seed: int,
    step: tf.Tensor,
    num_instances: int,
    shape: list[int | tf.Tensor],
) -> tf.Tensor:
    """Draws instances with replacement.

    Args:
        seed: The run's seed.
        step: int64 scalar, the number of steps taken.
        num_instances: n.
        shape: Shape of the result: `[num_negatives]`, or
            `[global_batch, num_negatives]`.

    Returns:
        int64 positions in [0, num_instances).
    """
    return tf.random.stateless_uniform(
        shape,
        seed=random_streams.seed_of(random_streams.NEGATIVES, seed, step),
        maxval=num_instances,
        dtype=tf.int64,
    )
