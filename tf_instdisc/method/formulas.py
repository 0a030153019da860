"""The mathematics of the method in `keras.ops`, for any Keras backend.

A logit is v·v_i / τ, the cosine similarity of an embedding and a row over the
temperature. Maxima are subtracted before any exponentiation, so every loss is
finite for unit vectors and temperatures from 0.01 to 1.

Source: Wu, Xiong, Yu, Lin, CVPR 2018 (arXiv 1805.01978), sections 3.1 to 3.3.
"""

import math
from typing import Any

from keras import ops

Tensor = Any  # A tensor of the backend.


def positive_logits(v: Tensor, rows: Tensor, temperature: float) -> Tensor:
    """Returns v·v_i / τ, `[batch]`, of v and its own rows `[batch, dim]`."""
    return ops.sum(v * rows, axis=-1) / temperature


def logits(v: Tensor, rows: Tensor, temperature: float) -> Tensor:
    """Returns v·v_j / τ of each v and m rows, `[batch, m]`.

    The rows are `[m, dim]` if the batch shares them, and `[batch, m, dim]`
    if each example has its own.
    """
    v = v / temperature
    if len(rows.shape) == 2:
        return ops.matmul(v, ops.transpose(rows))
    # In TensorFlow on a CPU, this product and its gradient take two thirds of
    # the time of a matmul with the rows on the left.
    return ops.einsum("bd,bmd->bm", v, rows)


def softmax_loss(
    v: Tensor, positions: Tensor, rows: Tensor, temperature: float
) -> Tensor:
    """Returns -log P(i|v) over rows `[n, dim]`, with i = `positions`."""
    all_logits = logits(v, rows, temperature)  # [batch, n]
    own = ops.take_along_axis(all_logits, positions[:, None], axis=1)[:, 0]
    return ops.logsumexp(all_logits, axis=-1) - own


def nce_loss(
    positive: Tensor, negative: Tensor, log_z: Tensor, n: int
) -> Tensor:
    """Returns -log h(i, v) - Σ_j log(1 - h(j, v)), equation 7.

    The m rows j are drawn from P_n; the paper writes v' for a drawn row. With
    P(i|v) = exp(v·v_i / τ) / Z, h(i, v) = P(i|v) / (P(i|v) + m P_n) is
    sigmoid(log P(i|v) - log(m P_n)), so both terms are softplus.
    """
    # log(Z m P_n), the logit at which h is 1/2.
    offset = log_z + math.log(negative.shape[-1]) - math.log(n)
    others = ops.sum(ops.softplus(negative - offset), axis=-1)
    return ops.softplus(offset - positive) + others


def info_nce_loss(
    positive: Tensor, negative: Tensor, is_positive: Tensor
) -> Tensor:
    """Returns -log softmax of the positive, masking where `is_positive`."""
    negative = ops.where(is_positive, -math.inf, negative)
    all_logits = ops.concatenate([positive[:, None], negative], axis=-1)
    return ops.logsumexp(all_logits, axis=-1) - positive


def proximal_term(v: Tensor, previous: Tensor) -> Tensor:
    """Returns |v - v_i|², `[batch]`, to the previous row, section 3.3."""
    return ops.sum(ops.square(v - previous), axis=-1)


def log_z_estimate(negative: Tensor, n: int) -> Tensor:
    """Estimates log Z by Monte Carlo, equation 8.

    Z is approximately n times the mean of exp(v·v_j / τ) over random j. In log
    space, because at a temperature of 0.01 Z exceeds the range of float32.

    Args:
        negative: float, any shape, the logits v·v_j / τ.
        n: The number of instances.

    Returns:
        Scalar.
    """
    count = ops.cast(ops.size(negative), negative.dtype)
    return ops.logsumexp(negative) - ops.log(count) + math.log(n)


def moving_average(log_z: Tensor, estimate: Tensor, momentum: float) -> Tensor:
    """Moves Z toward an estimate.

    Args:
        log_z: Scalar, log Z, or NaN if it is unknown.
        estimate: Scalar, an estimate of log Z.
        momentum: Weight of the old Z in the new one, in [0, 1].

    Returns:
        Scalar, the new log Z: the estimate itself if Z was unknown. An
        estimate that is not finite is ignored.
    """
    log_old, log_new = (
        math.log(fraction) if fraction > 0 else -math.inf
        for fraction in (momentum, 1.0 - momentum)
    )
    new = ops.logsumexp(ops.stack([log_z + log_old, estimate + log_new]))
    new = ops.where(ops.isfinite(log_z), new, estimate)
    return ops.where(ops.isfinite(estimate), new, log_z)


def moved_rows(old: Tensor, v: Tensor, momentum: float) -> Tensor:
    """Moves rows toward embeddings, both `[batch, dim]`, and renormalizes.

    A row whose new value is not finite is left unchanged.
    """
    new = ops.normalize(momentum * old + (1.0 - momentum) * v, axis=-1)
    is_finite = ops.all(ops.isfinite(new), axis=-1, keepdims=True)
    return ops.where(is_finite, new, old)
