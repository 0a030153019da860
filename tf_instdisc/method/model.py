"""Instance discrimination: the whole method on one page.

Source: Wu, Xiong, Yu, Lin, CVPR 2018 (arXiv 1805.01978), section 3. In its
words: f is the encoder, v = f(x) the embedding of an image x, v_i row i of the
memory bank, n the number of instances, τ the temperature, Z the normalizer.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_instdisc import random_streams
from tf_instdisc.config import MethodConfig
from tf_instdisc.method import (
    batches,
    fused_batch_norm,
    objectives,
    replicas,
)
from tf_instdisc.method.instance_model import InstanceModel
from tf_instdisc.method.memory_bank import MemoryBank


@keras.saving.register_keras_serializable(package="tf_instdisc")
class InstanceDiscrimination(InstanceModel):
    """Trains an encoder to tell every image from every other.

    Create it in the scope of the strategy that trains it. `fit` takes batches
    `(images, instance_ids)`: what the encoder takes, and int `[batch]` in
    [0, num_instances); or dictionaries with `image` and `instance_id`. A third
    part, `sample_weight`, float `[batch]`, scales the losses of the examples,
    and not how their rows and Z move. `evaluate` and `validation_data` give
    the mean loss with the encoder in inference mode, and write nothing.

    The bank, log Z and the step are weights of the model: `get_weights`,
    `save_weights` and `keras.callbacks.EarlyStopping(restore_best_weights=
    True)` include them. `predict` and `export` are the encoder's.

    Args:
        encoder: f, a model from images to unit vectors
            `[batch, embedding_dim]`.
        num_instances: n, the number of training images, at least 2.
        objective: `"softmax"` (exact), `"nce"`, `"info_nce"` or
            `"parametric"`.
        num_negatives: m, the negatives of `"nce"` and `"info_nce"`.
        negatives: `"shared"` by the batch, or drawn `"per_example"`.
        temperature: τ, in [0.01, 1].
        normalizer: Z of `"nce"`: `"ema"`, or `"first_batch"` as in the
            authors' code.
        normalizer_momentum: Fraction of the old Z in its moving average.
        bank_momentum: Fraction of the old row in the new one.
        proximal_weight: λ of the proximal term, at least 0.
        bank_dtype: Of the rows as they are kept; the encoder's by default.
        bank_placement: `"device"`, or `"host"`: one copy in the memory of
            the host, for banks beyond a GPU's; not for `"softmax"`.
        jit_encoder: Whether XLA compiles the encoder. The bank's part is
            never compiled: XLA would copy the bank.
        accumulate_steps: Steps whose gradients are averaged before they are
            applied. Bank rows and Z are still written in each step.
        seed: Seeds the bank and the negatives.
        absent_ids: Ids without an image, or with one that cannot be read; no
            batch holds them, and their rows are left out of the loss.

    Raises:
        UsageError: If an argument is unknown or out of range; it is a
            ValueError.
    """

    def __init__(
        self,
        encoder: keras.Model,
        num_instances: int,
        objective: str = MethodConfig.objective,
        num_negatives: int = MethodConfig.num_negatives,
        negatives: str = MethodConfig.negatives,
        temperature: float = MethodConfig.temperature,
        normalizer: str = MethodConfig.normalizer,
        normalizer_momentum: float = MethodConfig.normalizer_momentum,
        bank_momentum: float = MethodConfig.bank_momentum,
        proximal_weight: float = MethodConfig.proximal_weight,
        bank_dtype: str | None = None,
        bank_placement: str = MethodConfig.bank_placement,
        jit_encoder: bool = False,
        accumulate_steps: int = 1,
        seed: int = 0,
        absent_ids: Sequence[int] = (),
        name: str = "instance_discrimination",
    ):
        super().__init__({**locals()})
        # f in training; `self.encoder` is the same f in inference.
        self._encode = fused_batch_norm.training_call(self.encoder, jit_encoder)
        embedding_dim = self.encoder.output_shape[-1]
        is_moving = normalizer == "ema"
        self.memory_bank = MemoryBank(
            num_instances,
            embedding_dim,
            momentum=bank_momentum,
            normalizer_momentum=normalizer_momentum if is_moving else 1.0,
            seed=seed,
            dtype=self.encoder.outputs[0].dtype,
            rows_dtype=bank_dtype,
            placement=bank_placement,
            absent_ids=absent_ids,
        )
        self.class_weights = None
        self._losses_of: Callable[..., tf.Tensor]
        if objective == "softmax":
            self._losses_of = objectives.Softmax(temperature)
        elif objective == "parametric":
            random = random_streams.class_weights(seed, embedding_dim**-0.5)
            self.class_weights = self.add_weight(
                (num_instances, embedding_dim), random, name="class_weights"
            )
            self._losses_of = objectives.Parametric(
                temperature, self.class_weights
            )
        else:
            is_nce = objective == "nce"
            sampled = objectives.NCE if is_nce else objectives.InfoNCE
            draws = num_negatives, negatives == "shared", seed
            self._losses_of = sampled(temperature, *draws)
        self.built = True

    def train_step(
        self, data: Any, applies_gradients: bool = True
    ) -> dict[str, tf.Tensor]:
        x, ids, sample_weight = batches.unpack(data, self.num_instances)
        with tf.GradientTape() as tape:
            v = self._encode(x)  # [batch, dim]
            loss = self._mean_loss(v, ids, sample_weight, training=True)
            total = loss + self.regularization()
            total = self.optimizer.scale_loss(total)
        # Before the optimizer counts the step: the rate that the step takes.
        learning_rate = tf.convert_to_tensor(self.optimizer.learning_rate)
        gradients = tape.gradient(total, self.trainable_variables)
        self.take_gradients(gradients, applies_gradients)

        self.memory_bank.update(ids, tf.stop_gradient(v))
        self.step.assign_add(1)
        logs = {
            "loss": replicas.sum_over_replicas(loss),
            "learning_rate": learning_rate,
        }
        if self.objective == "nce":
            logs["log_normalizer"] = self.memory_bank.log_normalizer.value()
        return logs

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        x, ids, sample_weight = batches.unpack(data, self.num_instances)
        v = self.encoder(x, training=False)
        loss = self._mean_loss(v, ids, sample_weight, training=False)
        return {"loss": replicas.sum_over_replicas(loss)}

    def _mean_loss(
        self,
        v: tf.Tensor,
        ids: tf.Tensor,
        sample_weight: tf.Tensor | None,
        training: bool,
    ) -> tf.Tensor:
        """This replica's part of the mean loss of the global batch."""
        v = batches.require_unit_length(v)
        bank = self.memory_bank
        losses = self._losses_of(v, ids, bank, self.step, training)  # [batch]
        if self.proximal_weight:
            distances = objectives.proximal_term(v, bank.lookup(ids))
            losses += self.proximal_weight * distances  # λ |v - v_i|²
        if sample_weight is not None:
            losses *= tf.cast(sample_weight, losses.dtype)
        # Losses and gradients are summed over replicas, each of which has as
        # many examples. In half precision, a mean has two digits.
        mean = tf.reduce_mean(tf.cast(losses, keras.config.floatx()))
        return mean / replicas.num_replicas()
