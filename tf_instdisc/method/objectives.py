"""The objectives, as pure functions of logits, all in log space.

A logit is v·v_i / τ: the cosine of an embedding and a row of the memory bank,
over the temperature. Nothing is exponentiated before a maximum is taken out,
so that every loss is finite for unit vectors and temperatures from 0.01 to 1.

Source: Wu, Xiong, Yu, Lin, "Unsupervised Feature Learning via Non-Parametric
Instance-level Discrimination", CVPR 2018 (arXiv 1805.01978).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

Tensor = Any

_NUM_PARTS = 8
_LEAST_PART = 256


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


def shared_negative_logits(
    embeddings: Tensor,
    lookup: Callable[[Tensor], Tensor],
    negative_ids: Tensor,
    temperature: float,
) -> list[Tensor]:
    """`negative_logits` of negatives that the batch shares, in parts.

    What an objective computes of a part is small beside all the logits, of
    which memory then holds one copy, and not two.

    Args:
        embeddings: float `[batch, embedding_dim]`, v.
        lookup: From ids to rows.
        negative_ids: int `[num_negatives]`.
        temperature: τ, above 0.

    Returns:
        Up to 8 parts `[batch, part]` of the columns, in their order.
    """
    num_negatives = negative_ids.shape[0]
    size = max(-(-num_negatives // _NUM_PARTS), _LEAST_PART)
    return [
        negative_logits(
            embeddings, lookup(negative_ids[start : start + size]), temperature
        )
        for start in range(0, num_negatives, size)
    ]


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
    negative_logits: Tensor | Sequence[Tensor],
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
        negative_logits: float `[batch, num_negatives]`, or its columns in
            parts; m is `num_negatives`.
        log_normalizer: float scalar, log Z.
        num_instances: n.

    Returns:
        float `[batch]`.
    """
    parts, num_negatives = _in_parts(negative_logits)
    offset = log_normalizer + math.log(num_negatives) - math.log(num_instances)
    loss = ops.softplus(offset - positive_logits)
    for part in parts:
        loss = loss + ops.sum(ops.softplus(part - offset), axis=-1)
    return loss


def _in_parts(logits):
    """Parts of the columns, and how many columns there are."""
    parts = logits if isinstance(logits, Sequence) else [logits]
    return parts, sum(part.shape[-1] for part in parts)


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
    negative_logits: Tensor | Sequence[Tensor],
    weights: Tensor,
    num_instances: int,
) -> Tensor:
    """Monte Carlo estimate of log Z, section 3.2.

    Z is about n times the mean of exp(v·v_j / τ) over uniformly drawn j.

    Args:
        negative_logits: float `[batch, num_negatives]`, or its columns in
            parts.
        weights: float `[batch]`, 1 for examples that count and 0 for others;
            at least one counts.
        num_instances: n.

    Returns:
        float scalar.
    """
    parts, num_negatives = _in_parts(negative_logits)
    per_part = [ops.logsumexp(part, axis=-1) for part in parts]
    per_example = ops.logsumexp(ops.stack(per_part), axis=0)
    per_example = ops.where(weights > 0, per_example, -math.inf)
    log_count = ops.log(ops.sum(weights)) + math.log(num_negatives)
    return ops.logsumexp(per_example) - log_count + math.log(num_instances)
