"""Instance discrimination: the whole method on one page.

Source: Wu, Xiong, Yu, Lin, CVPR 2018 (arXiv 1805.01978), sections 3.1 to 3.3.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from tf_instdisc.method import (
    arguments,
    batches,
    fused_batch_norm,
    objectives,
    streamed_softmax,
)
from tf_instdisc.method import negatives as sampling
from tf_instdisc.method import replicas as distribution
from tf_instdisc.method.instance_model import InstanceModel
from tf_instdisc.method.memory_bank import MemoryBank

_LENGTH_TOLERANCE = 0.02  # beyond the rounding of half precision


@keras.saving.register_keras_serializable(package="tf_instdisc")
class InstanceDiscrimination(InstanceModel):
    """Trains an encoder to tell every image from every other.

    Create it in the scope of the strategy that trains it. `fit` takes
    batches `(images, instance_ids)`: what the encoder takes, and int
    `[batch]` in [0, num_instances); or dictionaries with the keys `image` and
    `instance_id`. A negative id marks an example that has no row: it adds
    nothing to loss and bank. A third part, `sample_weight`, float `[batch]`,
    scales the losses of the examples, and not how their rows and Z move.

    `evaluate` and `validation_data` give the mean loss of such batches with
    the encoder in inference mode, and write nothing. The bank, log Z and the
    step are weights of the model: `get_weights`, `save_weights` and
    `keras.callbacks.EarlyStopping(restore_best_weights=True)` include them.
    `predict` and `export` are the encoder's.

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
        normalizer_momentum: Share of the old Z in its moving average.
        bank_momentum: Share of the old row in the new one.
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
        ValueError: If an argument is unknown or out of range.
    """

    def __init__(
        self,
        encoder: keras.Model,
        num_instances: int,
        objective: str = "nce",
        num_negatives: int = 4096,
        negatives: str = "shared",
        temperature: float = 0.07,
        normalizer: str = "ema",
        normalizer_momentum: float = 0.99,
        bank_momentum: float = 0.5,
        proximal_weight: float = 0.0,
        bank_dtype: str | None = None,
        bank_placement: str = "device",
        jit_encoder: bool = False,
        accumulate_steps: int = 1,
        seed: int = 0,
        absent_ids: Sequence[int] = (),
        name: str = "instance_discrimination",
    ):
        super().__init__(accumulate_steps=accumulate_steps, name=name)
        self._config = {
            "num_instances": num_instances,
            "objective": objective,
            "num_negatives": num_negatives,
            "negatives": negatives,
            "temperature": temperature,
            "normalizer": normalizer,
            "normalizer_momentum": normalizer_momentum,
            "bank_momentum": bank_momentum,
            "proximal_weight": proximal_weight,
            "bank_dtype": bank_dtype,
            "bank_placement": bank_placement,
            "jit_encoder": jit_encoder,
            "accumulate_steps": accumulate_steps,
            "seed": seed,
            "absent_ids": [int(i) for i in absent_ids],
        }
        arguments.validate(**self._config)
        arguments.require_encoder(encoder)

        # === Parts ===
        encoder = distribution.model_in_scope(encoder)
        self.encoder = encoder
        self._encode = fused_batch_norm.training_call(encoder, jit_encoder)
        embedding_dim = encoder.output_shape[-1]
        self.memory_bank = MemoryBank(
            num_instances,
            embedding_dim,
            momentum=bank_momentum,
            normalizer=normalizer,
            normalizer_momentum=normalizer_momentum,
            seed=seed,
            dtype=encoder.outputs[0].dtype,
            rows_dtype=bank_dtype,
            placement=bank_placement,
            absent_ids=absent_ids,
        )
        self.class_weights = None
        if objective == "parametric":
            self.class_weights = self.add_weight(
                shape=(num_instances, embedding_dim),
                initializer=keras.initializers.RandomNormal(
                    stddev=embedding_dim**-0.5, seed=seed
                ),
                name="class_weights",
            )
        self._step = self.add_weight(
            shape=(),
            initializer="zeros",
            dtype="int64",
            trainable=False,
            aggregation="only_first_replica",
            name="step",
        )
        self.loss_tracker = keras.metrics.Mean(name="loss")

        # === Config ===
        self.num_instances = num_instances
        self.objective = objective
        self.num_negatives = num_negatives
        self.negatives = negatives
        self.temperature = temperature
        self.proximal_weight = proximal_weight
        self.seed = seed
        self.built = True

    @property
    def step(self) -> tf.Variable:
        """int64, the number of steps taken."""
        return self._step.value

    def call(self, images, training=False):
        return self.encoder(images, training=training)

    def encode_bank(self, dataset: tf.data.Dataset) -> None:
        """Fills the bank with the untrained encoder's embeddings.

        Batch norm works as in training, and adapts: the moving statistics of
        an untrained encoder say nothing of its activations.

        Args:
            dataset: Gives (images, instance_ids, labels).
        """
        encode = tf.function(
            lambda images: self.encoder(images, training=True),
            reduce_retracing=True,
        )
        for images, instance_ids, _ in dataset:
            embeddings = encode(images).numpy()
            with self.distribute_strategy.scope():
                self.memory_bank.fill(instance_ids.numpy(), embeddings)

    def named_state(self):
        rows, log_normalizer = self.memory_bank.weights
        return {
            "memory_bank": rows,
            "log_normalizer": log_normalizer,
            "step": self._step,
        }

    def train_step(self, data, applies_gradients=True):
        images, instance_ids, sample_weight = batches.unpack(
            data, self.num_instances
        )
        with tf.GradientTape() as tape:
            embeddings = self._encode(images)  # v
            loss, count = self._mean_loss(
                embeddings, instance_ids, sample_weight, training=True
            )
            total = loss + self._regularization()
            total = self.optimizer.scale_loss(total)
        # Before the step is counted: the rate that this step takes.
        learning_rate = tf.convert_to_tensor(self.optimizer.learning_rate)
        gradients = tape.gradient(total, self.trainable_variables)
        self.take_gradients(gradients, applies_gradients)

        bank = self.memory_bank
        bank.update(
            tf.maximum(instance_ids, 0),
            tf.stop_gradient(embeddings),
            instance_ids >= 0,
        )
        self.step.assign_add(1)
        logs = {
            "loss": self._count_loss(loss, count),
            "learning_rate": learning_rate,
        }
        if self.objective == "nce":
            logs["log_normalizer"] = bank.log_normalizer.value()
        return logs

    def test_step(self, data):
        images, instance_ids, sample_weight = batches.unpack(
            data, self.num_instances
        )
        # A replica may be without an example, on which oneDNN fails.
        size = tf.shape(images)[0]
        ends = [[0, tf.maximum(1 - size, 0)]] + [[0, 0]] * (
            len(images.shape) - 1
        )
        embeddings = self.encoder(tf.pad(images, ends), training=False)[:size]
        return {
            "loss": self._count_loss(
                *self._mean_loss(
                    embeddings, instance_ids, sample_weight, training=False
                )
            )
        }

    def _mean_loss(self, embeddings, instance_ids, sample_weight, training):
        """This replica's part of the global mean, and the global count."""
        ids = tf.maximum(instance_ids, 0)
        previous = self.memory_bank.lookup(ids)  # [batch, embedding_dim]
        is_unit = _require_unit_length(embeddings)
        weights = tf.cast(instance_ids >= 0, previous.dtype)
        count = distribution.sum_over_replicas(tf.reduce_sum(weights))
        count = tf.maximum(count, 1.0)
        losses = self._example_losses(
            embeddings, ids, previous, weights, training
        )
        if self.proximal_weight:
            losses += self.proximal_weight * objectives.proximal_term(
                embeddings, previous
            )
        if sample_weight is not None:
            weights *= tf.cast(sample_weight, weights.dtype)
        # Gradients are summed over replicas: each divides its own sum by the
        # global count.
        with tf.control_dependencies(is_unit):
            return tf.reduce_sum(losses * weights) / count, count

    def _count_loss(self, loss, count):
        # The global mean, so that each replica's result is the run's.
        self.loss_tracker.update_state(
            distribution.sum_over_replicas(loss), sample_weight=count
        )
        return self.loss_tracker.result()

    def _example_losses(self, embeddings, ids, previous, weights, training):
        """The objective of each example, `[batch]`."""
        if self.objective == "parametric":
            rows, positions = self.class_weights.value, ids
            present_ids = self.memory_bank.present_ids
            if present_ids is not None:
                rows = tf.gather(rows, present_ids)
                positions = tf.searchsorted(present_ids, ids)
            return objectives.softmax_loss(
                embeddings, positions, rows, self.temperature
            )
        positive_logits = objectives.pair_logits(
            embeddings, previous, self.temperature
        )
        if self.objective == "softmax":
            log_sum = streamed_softmax.log_sum_exp(
                embeddings,
                self.memory_bank.lookup_present,
                self.memory_bank.num_present,
                self.temperature,
            )
            return log_sum - positive_logits
        drawn = self._draw_negatives(tf.shape(ids)[0])
        negative_ids = self.memory_bank.ids_at(drawn)
        lookup = self.memory_bank.lookup
        if self.objective == "nce" and self.negatives == "shared":
            negative_logits = objectives.shared_negative_logits(
                embeddings, lookup, negative_ids, self.temperature
            )
        else:
            negative_logits = objectives.negative_logits(
                embeddings, lookup(negative_ids), self.temperature
            )  # [batch, num_negatives]
        if self.objective == "info_nce":
            is_positive = tf.equal(negative_ids, ids[:, None])
            return objectives.info_nce_loss(
                positive_logits, negative_logits, is_positive
            )
        log_normalizer = self._log_normalizer(
            negative_logits, weights, training
        )
        return objectives.nce_loss(
            positive_logits,
            negative_logits,
            log_normalizer,
            self.memory_bank.num_present,
        )

    def _draw_negatives(self, batch_size):
        """Positions `[num_negatives]`, or `[batch, num_negatives]`."""
        shape, num_present = [self.num_negatives], self.memory_bank.num_present
        if self.negatives == "shared":
            return sampling.draw_negatives(
                self.seed, self.step, num_present, shape
            )
        first, global_batch = distribution.place_in_global_batch(batch_size)
        positions = sampling.draw_negatives(
            self.seed, self.step, num_present, [global_batch, *shape]
        )
        return positions[first : first + batch_size]

    def _log_normalizer(self, negative_logits, weights, training):
        """The log Z of this step, which training folds into Z."""
        estimate = objectives.log_normalizer_estimate(
            tf.nest.map_structure(tf.stop_gradient, negative_logits),
            weights,
            self.memory_bank.num_present,
        )
        estimates, counts = distribution.gather_over_replicas(
            estimate[None], tf.reduce_sum(weights)[None]
        )
        # The mean over replicas weighted by examples; an empty replica has
        # no estimate.
        log_shares = tf.math.log(counts) - tf.math.log(tf.reduce_sum(counts))
        weighted = tf.where(counts > 0, estimates + log_shares, -float("inf"))
        estimate = tf.reduce_logsumexp(weighted)
        if training:
            return self.memory_bank.update_normalizer(estimate)
        return self.memory_bank.normalizer_for_evaluation(estimate)

    def _regularization(self):
        if not self.losses:
            return 0.0
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        return tf.add_n(self.losses) / replicas

    # === Saving ===

    def get_config(self):
        encoder = keras.saving.serialize_keras_object(self.encoder)
        # Here in full: an encoder that describes itself for other versions
        # and backends leaves out that its batch norm is synchronized.
        encoder["config"] = type(self.encoder).get_config(self.encoder)
        return {"encoder": encoder, "name": self.name, **self._config}

    @classmethod
    def from_config(cls, config):
        encoder = keras.saving.deserialize_keras_object(config["encoder"])
        rest = {name: v for name, v in config.items() if name != "encoder"}
        return cls(encoder, **rest)


def _require_unit_length(embeddings):
    lengths = tf.cast(tf.norm(embeddings, axis=-1), tf.float32)
    # A dead or diverged encoder has zeros or NaN, of which others tell.
    is_meant = tf.math.is_finite(lengths) & (lengths > 1e-3)
    errors = tf.where(is_meant, tf.abs(lengths - 1), 0.0)
    errors = tf.concat([errors, [0.0]], axis=0)
    lengths = tf.concat([lengths, [1.0]], axis=0)
    return batches.require(
        tf.reduce_max(errors) < _LENGTH_TOLERANCE,
        "`encoder` must end in unit vectors: let keras.layers."
        "UnitNormalization() be its last layer. Received: an embedding of "
        "length",
        lengths[tf.argmax(errors)],
    )
