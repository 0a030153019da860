"""Instance discrimination: the whole method on one page.

For images x with instance ids i and the rows v_1 .. v_n of the memory bank:

    v    =  f(x)                              encoder, |v| = 1
    loss =  -log P(i|v) + λ |v - v_i|²        P(i|v) = exp(v·v_i / τ) / Z
    θ    <- optimizer step                    weights of f
    v_i  <- normalize(μ v_i + (1 - μ) v)      μ = bank_momentum

Source: Wu, Xiong, Yu, Lin, CVPR 2018 (arXiv 1805.01978), section 3. The losses
are in `objectives.py`, and their mathematics is in `formulas.py`.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow import Tensor

from tf_instdisc import random_streams
from tf_instdisc.config import MethodConfig
from tf_instdisc.method import batches, formulas, objectives, replicas
from tf_instdisc.method.fused_batch_norm import training_call
from tf_instdisc.method.instance_model import InstanceModel
from tf_instdisc.method.sharded_bank import bank_type


@keras.saving.register_keras_serializable(package="tf_instdisc")
class InstanceDiscrimination(InstanceModel):
    """Trains an encoder to distinguish every image from all others.

    Create it in the scope of the strategy that trains it. `fit` takes batches
    `(images, instance_ids)`, where the ids are int `[batch]` in
    [0, num_instances), or dictionaries with `image` and `instance_id`. A third
    part, `sample_weight`, float `[batch]`, scales the losses of the examples,
    but not the updates of their rows and Z. `evaluate` and `validation_data`
    give the mean loss with the encoder in inference mode and update nothing.

    The bank, log Z and the step are weights of the model: `get_weights`,
    `save_weights` and `keras.callbacks.EarlyStopping(restore_best_weights=
    True)` include them. `predict` and `export` use only the encoder.

    Args:
        encoder: f, a model from images to unit vectors
            `[batch, embedding_dim]`.
        num_instances: n, the number of training images, at least 2.
        objective: `"softmax"` (exact), `"nce"`, `"info_nce"` or
            `"parametric"`.
        num_negatives: m, the number of negatives of `"nce"` and `"info_nce"`.
        negatives: `"shared"` by the batch, or drawn `"per_example"`.
        temperature: τ, in [0.01, 1].
        normalizer: Z of `"nce"`: `"ema"`, or `"first_batch"`, which keeps the
            first estimate. The authors do so, but average over positives too.
        normalizer_momentum: Weight of the old Z in its moving average.
        bank_momentum: Weight of the old row in its update.
        proximal_weight: λ of the proximal term, at least 0.
        bank_dtype: Type of the stored rows; by default at least float32.
        bank_placement: `"device"`; `"sharded"`, divided among the replicas;
            or `"host"`, in the memory of the host, not with `"softmax"`.
        jit_encoder: Whether XLA compiles the encoder. The bank is never
            compiled, because XLA would copy it.
        accumulate_steps: Number of steps whose gradients are averaged into
            one update. Bank rows and Z are still updated in each step.
        seed: Seed of the bank and the negatives.
        absent_ids: Ids without a readable image. No batch may contain them,
            and the losses ignore their rows.

    Raises:
        UsageError: A ValueError, if an argument is unknown or out of range.
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
        # `InstanceModel` checks the arguments; `get_config` returns them.
        super().__init__({**locals()})
        # f in training; `self.encoder` is the same f in inference.
        self._encode = training_call(self.encoder, jit_encoder)
        dim, dtype = (
            self.encoder.output_shape[-1],
            self.encoder.outputs[0].dtype,
        )
        is_moving = normalizer == "ema"
        self.memory_bank = bank_type(bank_placement)(
            num_instances,
            dim,
            momentum=bank_momentum,
            # A momentum of 1 keeps the first estimate of Z.
            normalizer_momentum=normalizer_momentum if is_moving else 1.0,
            seed=seed,
            # The sums of a loss exceed what half precision can represent.
            dtype=keras.backend.result_type(dtype, "float32"),
            rows_dtype=bank_dtype,
            placement=bank_placement,
            absent_ids=absent_ids,
        )
        self.class_weights = None
        self._losses_of: objectives.Objective
        if objective == "softmax":
            self._losses_of = objectives.Softmax(temperature)
        elif objective == "parametric":
            random = random_streams.class_weights(seed, dim**-0.5)
            self.class_weights = self.add_weight(
                (num_instances, dim), random, name="class_weights"
            )
            self._losses_of = objectives.Parametric(
                temperature, self.class_weights
            )
        else:
            self._losses_of = objectives.SAMPLED[objective](
                temperature, num_negatives, negatives == "shared", seed
            )
        self.built = True

    def train_step(
        self, data: Any, applies_gradients: bool = True
    ) -> dict[str, Tensor]:
        x, ids, sample_weight = batches.unpack(data, self.num_instances)
        with tf.GradientTape() as tape:
            v = self._encode(x)  # [batch, dim]
            loss = self._mean_loss(v, ids, sample_weight, training=True)
            total = loss + self.regularization(loss.dtype)
            total = self.optimizer.scale_loss(total)
        # Read before the optimizer counts the step: the rate of this step.
        learning_rate = tf.convert_to_tensor(self.optimizer.learning_rate)
        gradients = tape.gradient(total, self.trainable_variables)
        self.take_gradients(gradients, applies_gradients)

        self.memory_bank.update(ids, tf.stop_gradient(v))
        self.step.assign_add(1)
        logs = {"loss": replicas.sum_over_replicas(loss)}
        logs["learning_rate"] = learning_rate
        if self.objective == "nce":
            logs["log_normalizer"] = self.memory_bank.log_normalizer.value()
        return logs

    def test_step(self, data: Any) -> dict[str, Tensor]:
        x, ids, sample_weight = batches.unpack(data, self.num_instances)
        v = self.encoder(x, training=False)
        loss = self._mean_loss(v, ids, sample_weight, training=False)
        return {"loss": replicas.sum_over_replicas(loss)}

    def _mean_loss(
        self,
        v: Tensor,
        ids: Tensor,
        sample_weight: Tensor | None,
        training: bool,
    ) -> Tensor:
        """Returns this replica's part of the global batch's mean loss."""
        bank = self.memory_bank
        v = batches.unit_vectors(v, bank.compute_dtype)
        inputs = objectives.LossInputs(v, ids, bank, self.step, training)
        losses = self._losses_of(inputs)  # [batch]
        if self.proximal_weight:
            distances = formulas.proximal_term(v, bank.lookup(ids))
            losses += self.proximal_weight * distances  # λ |v - v_i|²
        if sample_weight is not None:
            losses *= tf.cast(sample_weight, losses.dtype)
        # Summed over replicas, all of which have equally many examples.
        mean = tf.reduce_mean(tf.cast(losses, keras.config.floatx()))
        return mean / replicas.num_replicas()
