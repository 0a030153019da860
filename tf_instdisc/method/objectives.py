"""The objectives: the loss of each example, in log space.

An objective takes a `Batch` and returns losses `[batch]`. A logit is v·v_i / τ,
the cosine similarity of an embedding and a row over the temperature. Maxima
are subtracted before any exponentiation, so every loss is finite for unit
vectors and temperatures from 0.01 to 1.

Source: Wu, Xiong, Yu, Lin, CVPR 2018 (arXiv 1805.01978), sections 3.1 to 3.3.
"""

import dataclasses
import math
from typing import NamedTuple

import keras
import tensorflow as tf
from tensorflow import Tensor

from tf_instdisc.keras_internals import tf_variable
from tf_instdisc.method import negatives, streamed_softmax
from tf_instdisc.method.memory_bank import MemoryBank
from tf_instdisc.method.normalizer import estimate_log_z


class Batch(NamedTuple):
    """What an objective sees: embeddings, their ids and the memory bank."""

    v: Tensor  # [batch, dim]
    ids: Tensor  # [batch]
    bank: MemoryBank
    step: Tensor  # The number of steps taken, which seeds the negatives.
    training: bool


@dataclasses.dataclass(frozen=True)
class Softmax:
    """Non-parametric softmax over all instances: -log P(i|v), equation 2."""

    temperature: float

    def __call__(self, batch: Batch) -> Tensor:
        v, ids, bank = batch.v, batch.ids, batch.bank
        log_sum = streamed_softmax.log_sum_exp(
            v,
            lambda positions: bank.lookup(bank.instances.ids_at(positions)),
            bank.instances.count,
            self.temperature,
        )
        return log_sum - pair_logits(v, bank.lookup(ids), self.temperature)


@dataclasses.dataclass(frozen=True)
class Parametric:
    """Softmax with trained class weights w_j instead of rows, equation 1."""

    temperature: float
    class_weights: keras.Variable

    def __call__(self, batch: Batch) -> Tensor:
        v, ids, bank = batch.v, batch.ids, batch.bank
        rows, positions = tf_variable(self.class_weights), ids
        if bank.instances.ids is not None:
            rows = tf.gather(rows, bank.instances.ids)
            positions = bank.instances.positions_of(ids)
        return softmax_loss(v, positions, rows, self.temperature)


@dataclasses.dataclass(frozen=True)
class _Sampled:
    """Negatives that the batch shares, or that are drawn for each example."""

    temperature: float
    num_negatives: int
    is_shared: bool
    seed: int

    def logits(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Returns logits `[batch]` and `[batch, m]`, and the negatives' ids."""
        v, ids, bank = batch.v, batch.ids, batch.bank
        m, n = self.num_negatives, bank.instances.count
        size = None if self.is_shared else tf.shape(v)[0]
        drawn = negatives.draw_for_replica(self.seed, batch.step, n, m, size)
        negative_ids = bank.instances.ids_at(drawn)  # [m] or [batch, m]
        own, others = bank.lookup(ids), bank.lookup(negative_ids)
        positive = pair_logits(v, own, self.temperature)
        negative = negative_logits(v, others, self.temperature)
        return positive, negative, negative_ids


class NCE(_Sampled):
    """Noise-contrastive estimation with the noise P_n = 1 / n, section 3.2."""

    def __call__(self, batch: Batch) -> Tensor:
        positive, negative, _ = self.logits(batch)
        n = batch.bank.instances.count
        estimate = estimate_log_z(tf.stop_gradient(negative), n)
        log_z = batch.bank.normalize(estimate, batch.training)
        return nce_loss(positive, negative, log_z, n)


class InfoNCE(_Sampled):
    """Cross-entropy of the positive against itself and the negatives.

    A draw of the example's own row is not a negative. Source: van den Oord
    et al. 2018 (arXiv 1807.03748), equation 4.
    """

    def __call__(self, batch: Batch) -> Tensor:
        positive, negative, negative_ids = self.logits(batch)
        is_positive = tf.equal(negative_ids, batch.ids[:, None])
        return info_nce_loss(positive, negative, is_positive)


# === Formulas ===


def pair_logits(v: Tensor, rows: Tensor, temperature: float) -> Tensor:
    """Returns v·v_i / τ, `[batch]`, of v and its own rows `[batch, dim]`."""
    return tf.reduce_sum(v * rows, axis=-1) / temperature


def negative_logits(v: Tensor, rows: Tensor, temperature: float) -> Tensor:
    """Returns v·v_j / τ of each v and its negatives, `[batch, m]`.

    The rows are `[m, dim]` if the batch shares them, and `[batch, m, dim]`
    if each example has its own.
    """
    v = v / temperature
    if rows.shape.rank == 2:
        return tf.matmul(v, tf.transpose(rows))
    # The vector is on the left: in TensorFlow on a CPU, this product and its
    # gradient take two thirds of the time of the opposite order.
    return tf.matmul(v[:, None, :], rows, transpose_b=True)[:, 0]


def softmax_loss(
    v: Tensor, positions: Tensor, rows: Tensor, temperature: float
) -> Tensor:
    """Returns -log P(i|v) over rows `[n, dim]`, with i = `positions`."""
    logits = negative_logits(v, rows, temperature)  # [batch, n]
    positive = tf.gather(logits, positions, axis=1, batch_dims=1)
    return tf.reduce_logsumexp(logits, axis=-1) - positive


def nce_loss(
    positive: Tensor, negative: Tensor, log_z: Tensor, n: int
) -> Tensor:
    """Returns -log h(i, v) - Σ log(1 - h(i, v')), m negatives, equation 7.

    P(i|v) = exp(v·v_i / τ) / Z and h(i, v) = P(i|v) / (P(i|v) + m P_n). With
    a = log P(i|v) - log(m P_n), h is sigmoid(a): both terms are softplus.
    """
    offset = log_z + math.log(negative.shape[-1]) - math.log(n)
    others = tf.reduce_sum(tf.math.softplus(negative - offset), axis=-1)
    return tf.math.softplus(offset - positive) + others


def info_nce_loss(
    positive: Tensor, negative: Tensor, is_positive: Tensor
) -> Tensor:
    """Returns -log softmax of the positive, masking where `is_positive`."""
    impossible = tf.constant(-math.inf, negative.dtype)
    negative = tf.where(is_positive, impossible, negative)
    logits = tf.concat([positive[:, None], negative], axis=-1)
    return tf.reduce_logsumexp(logits, axis=-1) - positive


def proximal_term(v: Tensor, previous: Tensor) -> Tensor:
    """Returns |v - v_i|², `[batch]`, to the previous row, section 3.3."""
    return tf.reduce_sum(tf.square(v - previous), axis=-1)
