"""The estimate of the normalizer Z in the global batch."""

import math

import tensorflow as tf
from keras import ops

from tf_instdisc.method import formulas, replicas


def estimate_log_z(negative: tf.Tensor, n: int) -> tf.Tensor:
    """Estimates log Z from the logits of all replicas.

    Args:
        negative: float `[batch, num_negatives]`, the logits v·v_j / τ.
        n: The number of instances.

    Returns:
        Scalar, the same on every replica.
    """
    estimate = formulas.log_z_estimate(negative, n)
    estimates = replicas.gather_over_replicas(estimate[None])  # [replicas]
    return ops.logsumexp(estimates) - math.log(replicas.num_replicas())
