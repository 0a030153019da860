"""Instance discrimination: the whole method on one page.

Source: Wu, Xiong, Yu, Lin, CVPR 2018 (arXiv 1805.01978), sections 3.1 to 3.3.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from tf_instdisc import (
    arguments,
    distribution,
    fused_batch_norm,
    objectives,
    sampling,
    streamed_softmax,
)
from tf_instdisc.fit_loop import FitLoop
from tf_instdisc.memory_bank import MemoryBank


@keras.saving.register_keras_serializable(package="tf_instdisc")
class InstanceDiscrimination(FitLoop):
    """Trains an encoder to tell every image from every other.

    Create it in the scope of the strategy that trains it. `fit` takes
    batches `(images, instance_ids)`: what the encoder takes, and int
    `[batch]` in [0, num_instances). A negative id marks an example that has
    no row: it adds nothing to loss and bank.

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

        # === Parts ===
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
        self.step = tf.Variable(
            0,
            dtype=tf.int64,
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
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

    def training_state(self):
        return {
            **super().training_state(),
            "memory_bank": self.memory_bank.rows,
            "log_normalizer": self.memory_bank.log_normalizer,
            "step": self.step,
        }

    def train_step(self, data, applies_gradients=True):
        images, instance_ids = data
        instance_ids = tf.cast(instance_ids, tf.int64)
        valid = instance_ids >= 0
        ids = tf.maximum(instance_ids, 0)
        bank = self.memory_bank
        previous = bank.lookup(ids)  # [batch, embedding_dim]
        weights = tf.cast(valid, previous.dtype)
        count = distribution.sum_over_replicas(tf.reduce_sum(weights))
        count = tf.maximum(count, 1.0)

        with tf.GradientTape() as tape:
            embeddings = self._encode(images)  # v
            losses = self._example_losses(embeddings, ids, previous, weights)
            if self.proximal_weight:
                losses += self.proximal_weight * objectives.proximal_term(
                    embeddings, previous
                )
            # Gradients are summed over replicas: each divides its own sum by
            # the global count.
            loss = tf.reduce_sum(losses * weights) / count
            total = loss + self._regularization()
            total = self.optimizer.scale_loss(total)
        # Before the step is counted: the rate that this step takes.
        learning_rate = tf.convert_to_tensor(self.optimizer.learning_rate)
        gradients = tape.gradient(total, self.trainable_variables)
        self.take_gradients(gradients, applies_gradients)

        bank.update(ids, tf.stop_gradient(embeddings), valid)
        self.step.assign_add(1)
        # The global mean, so that each replica's result is the run's.
        self.loss_tracker.update_state(
            distribution.sum_over_replicas(loss), sample_weight=count
        )
        logs = {
            "loss": self.loss_tracker.result(),
            "learning_rate": learning_rate,
        }
        if self.objective == "nce":
            logs["log_normalizer"] = bank.log_normalizer.value()
        return logs

    def _example_losses(self, embeddings, ids, previous, weights):
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
        log_normalizer = self._estimate_normalizer(negative_logits, weights)
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

    def _estimate_normalizer(self, negative_logits, weights):
        """Folds this step into Z; returns log Z."""
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
        return self.memory_bank.update_normalizer(tf.reduce_logsumexp(weighted))

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
        encoder = keras.saving.deserialize_keras_object(config.pop("encoder"))
        return cls(encoder, **config)

    def save_own_variables(self, store):
        super().save_own_variables(store)
        # A tf.Variable is not among Keras' weights.
        store["memory_bank"] = self.memory_bank.all_rows().numpy()
        store["log_normalizer"] = self.memory_bank.log_normalizer.numpy()
        store["step"] = self.step.numpy()

    def load_own_variables(self, store):
        names = ("memory_bank", "log_normalizer", "step")
        rows, log_normalizer, step = (store[name][()] for name in names)
        rest = {k: store[k] for k in set(store.keys()) - set(names)}
        super().load_own_variables(rest)
        self.memory_bank.rows.assign(tf.cast(rows, self.memory_bank.rows.dtype))
        self.memory_bank.log_normalizer.assign(log_normalizer)
        self.step.assign(step)
