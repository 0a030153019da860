"""The normalizer Z of P(i|v) = exp(v·v_i / τ) / Z, in log space, section 3.2.

At a temperature of 0.01, Z exceeds the range of float32.
"""

import math

import tensorflow as tf

from tf_instdisc.method import replicas


def estimate_log_z(negative: tf.Tensor, n: int) -> tf.Tensor:
    """Estimates log Z by Monte Carlo, equation 8.

    Z is approximately n times the mean of exp(v·v_j / τ) over random j.

    Args:
        negative: float `[batch, num_negatives]`, the logits v·v_j / τ.
        n: The number of instances.

    Returns:
        Scalar: the estimate from the global batch, the same on every replica.
    """
    count = tf.cast(tf.size(negative), negative.dtype)
    log_mean = tf.reduce_logsumexp(negative) - tf.math.log(count)
    log_means = replicas.gather_over_replicas(log_mean[None])  # [replicas]
    log_mean = tf.reduce_logsumexp(log_means) - math.log(
        replicas.num_replicas()
    )
    return log_mean + math.log(n)


def moving_average(
    log_z: tf.Tensor, estimate: tf.Tensor, momentum: float
) -> tf.Tensor:
    """Moves Z toward an estimate.

    Args:
        log_z: Scalar, log Z, or NaN if it is unknown.
        estimate: Scalar, an estimate of log Z.
        momentum: Weight of the old Z in the new one, in [0, 1].

    Returns:
        Scalar, the new log Z: the estimate itself if Z was unknown. An
        estimate that is not finite is ignored.
    """
    # In Python's float64: in half precision, 1 - 0.99 is off by 20%.
    log_old, log_new = (
        math.log(fraction) if fraction > 0 else -math.inf
        for fraction in (momentum, 1.0 - momentum)
    )
    new = tf.reduce_logsumexp(tf.stack([log_z + log_old, estimate + log_new]))
    new = tf.where(tf.math.is_finite(log_z), new, estimate)
    return tf.where(tf.math.is_finite(estimate), new, log_z)
