"""Negatives: rows of the bank drawn uniformly, P_n = 1 / n.

Draws depend only on the seed, the step and the position in the global batch,
so one device, many replicas and a restarted run draw the same negatives.
"""

import tensorflow as tf

from tf_instdisc import random_streams
from tf_instdisc.method import replicas


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


def draw_for_replica(
    seed: int,
    step: tf.Tensor,
    num_instances: int,
    num_negatives: int,
    batch_size: int | tf.Tensor | None = None,
) -> tf.Tensor:
    """Draws the negatives of a replica.

    Args:
        seed: As in `draw_negatives`.
        step: As in `draw_negatives`.
        num_instances: As in `draw_negatives`.
        num_negatives: m.
        batch_size: Number of the replica's examples, if each has its own
            negatives; None if all examples share them.

    Returns:
        int64 `[num_negatives]`, the same on every replica, or
        `[batch, num_negatives]`, the replica's rows of one draw for the
        global batch.
    """
    if batch_size is None:
        return draw_negatives(seed, step, num_instances, [num_negatives])
    first, global_batch = replicas.place_in_global_batch(batch_size)
    shape = [global_batch, num_negatives]
    drawn = draw_negatives(seed, step, num_instances, shape)
    return drawn[first : first + batch_size]
