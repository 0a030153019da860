"""The objectives, as pure functions of logits, all in log space.

A logit is v·v_i / τ: the cosine of an embedding and a row of the memory bank,
over the temperature. Nothing is exponentiated before a maximum is taken out,
so that every loss is finite for unit vectors and temperatures from 0.01 to 1.

Source: Wu, Xiong, Yu, Lin, "Unsupervised Feature Learning via Non-Parametric
Instance-level Discrimination", CVPR 2018 (arXiv 1805.01978).
"""

import math
from typing import Any

from keras import ops

Tensor = Any


def pair_logits(embeddings: Tensor, rows: Tensor, temperature: float) -> Tensor:
    """Logits of each embedding with its own row.

    Args:
        embeddings: float `[batch, embedding_dim]`, v.
        rows: float `[batch, embedding_dim]`, v_i.
        temperature: τ, above 0.

    Returns:
        float `[batch]`.
    """
    return ops.sum(embeddings * rows, axis=-1) / temperature


def negative_logits(
    embeddings: Tensor, rows: Tensor, temperature: float
) -> Tensor:
    """Logits of each embedding with its negatives.

    Args:
        embeddings: float `[batch, embedding_dim]`, v.
        rows: float, the negatives: `[num_negatives, embedding_dim]` where the
            batch shares them, `[batch, num_negatives, embedding_dim]` where
            each example has its own.
        temperature: τ, above 0.

    Returns:
        float `[batch, num_negatives]`.
    """
    embeddings = embeddings / temperature
    if len(rows.shape) == 2:
        return ops.matmul(embeddings, ops.transpose(rows))
    # The vector on the left: this product and its gradient take two thirds of
    # the time that the other order takes in TensorFlow on a CPU.
    products = ops.matmul(
        embeddings[:, None, :], ops.transpose(rows, (0, 2, 1))
    )
    return ops.squeeze(products, axis=1)


def softmax_loss(
    embeddings: Tensor,
    instance_ids: Tensor,
    rows: Tensor,
    temperature: float,
) -> Tensor:
    """Exact softmax over all instances: -log P(i|v), section 3.1.

    With the memory bank as `rows` this is the non-parametric softmax; with
    trained weights as `rows`, the parametric baseline of equation 1.

    Args:
        embeddings: float `[batch, embedding_dim]`, v.
        instance_ids: int `[batch]`, i.
        rows: float `[num_instances, embedding_dim]`.
        temperature: τ, above 0.

    Returns:
        float `[batch]`.
    """
    logits = negative_logits(embeddings, rows, temperature)
    positive = ops.take_along_axis(logits, instance_ids[:, None], axis=-1)
    return ops.logsumexp(logits, axis=-1) - ops.squeeze(positive, axis=-1)


def nce_loss(
    positive_logits: Tensor,
    negative_logits: Tensor,
    log_normalizer: Tensor,
    num_instances: int,
) -> Tensor:
    """Noise-contrastive estimation, section 3.2.

    P(i|v) = exp(v·v_i / τ) / Z, noise P_n = 1 / n, and
    h(i, v) = P(i|v) / (P(i|v) + m P_n); the loss is
    -log h(i, v) - Σ log(1 - h(i, v')) over the m negatives. With
    a = log P(i|v) - log(m P_n), h is sigmoid(a), so both terms are softplus.

    Args:
        positive_logits: float `[batch]`.
        negative_logits: float `[batch, num_negatives]`; m is `num_negatives`.
        log_normalizer: float scalar, log Z.
        num_instances: n.

    Returns:
        float `[batch]`.
    """
    num_negatives = negative_logits.shape[-1]
    offset = log_normalizer + math.log(num_negatives) - math.log(num_instances)
    data_term = ops.softplus(offset - positive_logits)
    noise_term = ops.sum(ops.softplus(negative_logits - offset), axis=-1)
    return data_term + noise_term


def info_nce_loss(
    positive_logits: Tensor,
    negative_logits: Tensor,
    is_positive: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of the positive among itself and the negatives.

    Source: van den Oord et al. 2018 (arXiv 1807.03748), equation 4.

    Args:
        positive_logits: float `[batch]`.
        negative_logits: float `[batch, num_negatives]`.
        is_positive: bool `[batch, num_negatives]`, true where a draw hit the
            example's own row, which is then no negative.

    Returns:
        float `[batch]`.
    """
    if is_positive is not None:
        negative_logits = ops.where(is_positive, -math.inf, negative_logits)
    positive = positive_logits[:, None]
    logits = ops.concatenate([positive, negative_logits], axis=-1)
    return ops.logsumexp(logits, axis=-1) - positive_logits


def proximal_term(embeddings: Tensor, previous: Tensor) -> Tensor:
    """|v - v_i|² to the row of the step before, section 3.3 without λ.

    Args:
        embeddings: float `[batch, embedding_dim]`, v.
        previous: float `[batch, embedding_dim]`, v_i of the step before.

    Returns:
        float `[batch]`.
    """
    return ops.sum(ops.square(embeddings - previous), axis=-1)


def log_normalizer_estimate(
    negative_logits: Tensor, weights: Tensor, num_instances: int
) -> Tensor:
    """Monte Carlo estimate of log Z, section 3.2.

    Z is about n times the mean of exp(v·v_j / τ) over uniformly drawn j.

    Args:
        negative_logits: float `[batch, num_negatives]`.
        weights: float `[batch]`, 1 for examples that count and 0 for others;
            at least one counts.
        num_instances: n.

    Returns:
        float scalar.
    """
    num_negatives = negative_logits.shape[-1]
    per_example = ops.logsumexp(negative_logits, axis=-1)
    per_example = ops.where(weights > 0, per_example, -math.inf)
    log_count = ops.log(ops.sum(weights)) + math.log(num_negatives)
    return ops.logsumexp(per_example) - log_count + math.log(num_instances)
