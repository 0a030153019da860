"""The objectives: the loss of each example, in log space.

An objective maps `LossInputs` to losses `[batch]`. It draws negatives and reads
the bank; the mathematics is in `formulas`.

Source: Wu, Xiong, Yu, Lin, CVPR 2018 (arXiv 1805.01978), sections 3.1 to 3.3.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf
from keras import ops
from tensorflow import Tensor

from tf_instdisc import random_streams
from tf_instdisc.keras_internals import tf_variable
from tf_instdisc.method import formulas, replicas
from tf_instdisc.method.memory_bank import MemoryBank


class LossInputs(NamedTuple):
    """Embeddings, their instance ids and the memory bank."""

    v: Tensor  # [batch, dim]
    ids: Tensor  # [batch]
    bank: MemoryBank
    step: Tensor  # The number of steps taken, which seeds the negatives.
    training: bool


Objective = Callable[[LossInputs], Tensor]


@dataclasses.dataclass(frozen=True)
class Softmax:
    """Non-parametric softmax over all instances: -log P(i|v), equation 2."""

    temperature: float

    def __call__(self, inputs: LossInputs) -> Tensor:
        v, own = inputs.v, inputs.bank.lookup(inputs.ids)
        log_sum = inputs.bank.log_sum_exp(v, self.temperature)
        return log_sum - formulas.positive_logits(v, own, self.temperature)


@dataclasses.dataclass(frozen=True)
class Parametric:
    """Softmax with trained class weights w_j in place of rows, equation 1.

    In contrast to the paper, v has unit length, and w_j·v is divided by τ.
    """

    temperature: float
    class_weights: keras.Variable

    def __call__(self, inputs: LossInputs) -> Tensor:
        v, ids, bank = inputs.v, inputs.ids, inputs.bank
        rows, positions = tf_variable(self.class_weights), ids
        if bank.instances.ids is not None:
            rows = tf.gather(rows, bank.instances.ids)
            positions = bank.instances.positions_of(ids)
        return formulas.softmax_loss(v, positions, rows, self.temperature)


@dataclasses.dataclass(frozen=True)
class _SampledObjective:
    """Negatives that the batch shares, or that are drawn for each example."""

    temperature: float
    num_negatives: int
    is_shared: bool
    seed: int

    def logits(self, inputs: LossInputs) -> tuple[Tensor, Tensor, Tensor]:
        """Returns logits `[batch]` and `[batch, m]`, and the negatives' ids."""
        v, ids, bank = inputs.v, inputs.ids, inputs.bank
        m, n = self.num_negatives, bank.instances.count
        global_batch = tf.shape(v)[0] * replicas.num_replicas()
        shape = [m] if self.is_shared else [global_batch, m]
        drawn = draw_negatives(self.seed, inputs.step, n, shape)
        negative_ids = bank.instances.ids_at(drawn)
        positive = formulas.positive_logits(
            v, bank.lookup(ids), self.temperature
        )
        negative = bank.negative_logits(v, negative_ids, self.temperature)
        if not self.is_shared:
            negative_ids = replicas.own_part(negative_ids)
        return positive, negative, negative_ids


class NCE(_SampledObjective):
    """Noise-contrastive estimation with the noise P_n = 1 / n, section 3.2.

    A draw of the example's own row remains a negative, as in the authors'
    code.
    """

    def __call__(self, inputs: LossInputs) -> Tensor:
        positive, negative, _ = self.logits(inputs)
        n = inputs.bank.instances.count
        estimate = global_log_z_estimate(tf.stop_gradient(negative), n)
        log_z = inputs.bank.update_log_z(estimate, inputs.training)
        return formulas.nce_loss(positive, negative, log_z, n)


class InfoNCE(_SampledObjective):
    """Cross-entropy of the positive against itself and the negatives.

    A draw of the example's own row is not a negative. Source: van den Oord
    et al. 2018 (arXiv 1807.03748), equation 4.
    """

    def __call__(self, inputs: LossInputs) -> Tensor:
        positive, negative, negative_ids = self.logits(inputs)
        is_positive = tf.equal(negative_ids, inputs.ids[:, None])
        return formulas.info_nce_loss(positive, negative, is_positive)


SAMPLED: dict[str, type[NCE | InfoNCE]] = {"nce": NCE, "info_nce": InfoNCE}


def draw_negatives(
    seed: int,
    step: tf.Tensor,
    num_instances: int,
    shape: list[int | tf.Tensor],
) -> tf.Tensor:
    """Draws instances uniformly with replacement: P_n = 1 / n.

    Draws depend only on the seed, the step and the position in the global
    batch, so one device, many replicas and a restarted run draw the same.

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


def global_log_z_estimate(negative: Tensor, n: int) -> Tensor:
    """Estimates log Z of the global batch from the logits of all replicas.

    Args:
        negative: float `[batch, num_negatives]`, the logits v·v_j / τ.
        n: The number of instances.

    Returns:
        Scalar, the same on every replica.
    """
    estimate = formulas.log_z_estimate(negative, n)
    estimates = replicas.gather_over_replicas(estimate[None])  # [replicas]
    return ops.logsumexp(estimates) - math.log(replicas.num_replicas())
