"""The Keras interface of a model whose targets are instance ids."""

import dataclasses
import inspect
import os
import warnings
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from tf_instdisc.config.method import MethodConfig
from tf_instdisc.errors import UsageError, require_tensorflow_backend
from tf_instdisc.method import accepted_encoders, batches, replicas
from tf_instdisc.method.training_loop import FitLoop


class InstanceModel(FitLoop):
    """Compiles, fits and evaluates a model without labels.

    Every argument of Keras' methods either works, or is rejected with a
    message that says what to do instead. A subclass has a `memory_bank`.

    Args:
        arguments: The local variables at the beginning of the subclass's
            constructor: its arguments, which `get_config` returns.

    Attributes:
        encoder: The encoder, in the scope of the strategy.
        num_instances: n.
        objective: The name of the objective.
        negatives: `"shared"` or `"per_example"`.
        temperature: τ.
        proximal_weight: λ.
    """

    def __init__(self, arguments: dict[str, Any]):
        require_tensorflow_backend(keras.config.backend())
        config = {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in arguments.items()
            if name not in ("self", "__class__", "encoder")
        }
        super().__init__(
            accumulate_steps=config["accumulate_steps"], name=config["name"]
        )
        method = MethodConfig(
            **{
                field.name: config[field.name]
                for field in dataclasses.fields(MethodConfig)
                if config.get(field.name) is not None
            }
        )
        accepted_encoders.require_encoder(arguments["encoder"])
        encoder = replicas.model_in_scope(
            accepted_encoders.with_one_input(arguments["encoder"])
        )
        if config["jit_encoder"]:
            accepted_encoders.require_compilable(encoder)
        self.encoder = encoder
        self.num_instances = config["num_instances"]
        self.objective = method.objective
        self.negatives = method.negatives
        self.temperature = method.temperature
        self.proximal_weight = method.proximal_weight
        config["absent_ids"] = [int(i) for i in config["absent_ids"]]
        self._config = config

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "encoder" and hasattr(self, "encoder"):
            raise UsageError(
                "`encoder` cannot be replaced: the training step belongs to "
                "it. Create a new InstanceDiscrimination(encoder, "
                "num_instances)."
            )
        super().__setattr__(name, value)

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.encoder(images, training=training)

    def encode_bank(self, dataset: tf.data.Dataset) -> None:
        """Fills the bank with the untrained encoder's embeddings.

        Batch normalization works as in training and is updated: an untrained
        encoder's moving statistics do not describe its activations.

        Args:
            dataset: Yields (images, instance_ids, labels).
        """
        encode = tf.function(
            lambda images: self.encoder(images, training=True),
            reduce_retracing=True,
            autograph=False,
        )
        for images, instance_ids, _ in dataset:
            embeddings = encode(images).numpy()
            with self.distribute_strategy.scope():
                self.memory_bank.fill(instance_ids.numpy(), embeddings)

    # === Keras' methods ===

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "rmsprop",
        loss: object = None,
        loss_weights: object = None,
        metrics: object = None,
        weighted_metrics: object = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: bool | str = "auto",
        auto_scale_loss: bool = True,
    ) -> None:
        _refuse(
            "The model has its own loss: choose it with `objective`.",
            loss=loss,
            loss_weights=loss_weights,
        )
        _refuse(
            "There are no labels to compare predictions with. Measure the "
            "encoder with a callback, such as tf_instdisc.KNNMonitor.",
            metrics=metrics,
            weighted_metrics=weighted_metrics,
        )
        if jit_compile is True:
            raise UsageError(
                "`jit_compile` must be left out: XLA would copy the memory "
                "bank in each step. Use InstanceDiscrimination(jit_encoder="
                "True), which compiles the encoder. Received: "
                "jit_compile=True"
            )
        optimizer = keras.optimizers.get(optimizer)
        self._require_usable(optimizer)
        is_half = accepted_encoders.computes_in_half(self.encoder)
        scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        if auto_scale_loss and is_half and not scales:
            # Not by Keras, which asks for the policy of the session.
            optimizer = keras.optimizers.LossScaleOptimizer(
                optimizer, name="loss_scale_optimizer"
            )
        super().compile(
            optimizer=optimizer,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            jit_compile=jit_compile,
            auto_scale_loss=auto_scale_loss,
        )

    def _require_usable(self, optimizer: keras.optimizers.Optimizer) -> None:
        if self.distribute_strategy.num_replicas_in_sync == 1:
            return
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        _refuse(
            "Keras does not run it on several replicas. Use "
            "InstanceDiscrimination(accumulate_steps=...).",
            gradient_accumulation_steps=optimizer.gradient_accumulation_steps,
        )
        _refuse(
            "Keras does not run it on several replicas. Use the callback "
            "keras.callbacks.SwapEMAWeights.",
            ema_overwrite_frequency=optimizer.ema_overwrite_frequency,
        )

    def compile_from_config(self, config: dict[str, Any]) -> None:
        config = keras.saving.deserialize_keras_object(config)
        self.compile(**config)
        self.build_training_state()

    def fit(
        self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any
    ) -> keras.callbacks.History:
        signature = inspect.signature(super().fit)
        given = signature.bind(x, y, *args, **kwargs).arguments
        _refuse_class_weight(given.get("class_weight"))
        if given.get("validation_split"):
            raise UsageError(
                "`validation_split` would leave images whose rows are never "
                "trained. Train on all images, and measure the encoder with a "
                "callback, such as tf_instdisc.KNNMonitor. Received: "
                f"validation_split={given['validation_split']}"
            )
        if not self.trainable_variables:
            warnings.warn(
                "The encoder is frozen: `fit` fills the memory bank and trains "
                "nothing. Set encoder.trainable = True and compile again to "
                "train it.",
                stacklevel=2,
            )
        given["y"] = batches.checked_ids(x, y, self.num_instances)
        return super().fit(**given)

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        *args: Any,
        return_dict: bool = False,
        **kwargs: Any,
    ) -> float | dict[str, float]:
        # Within `fit`, the dataset of the first epoch is reused.
        if not kwargs.get("_use_cached_eval_dataset"):
            y = batches.checked_ids(x, y, self.num_instances)
        logs = super().evaluate(x, y, *args, return_dict=True, **kwargs)
        if "loss" not in logs:
            raise UsageError(
                "`x` must have batches. Received: an empty dataset"
            )
        return logs if return_dict else logs["loss"]

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: object = None,
        return_dict: bool = False,
    ) -> float | dict[str, float]:
        _refuse_class_weight(class_weight)
        logs = super().train_on_batch(x, y, sample_weight, return_dict=True)
        return logs if return_dict else logs["loss"]

    def test_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        return_dict: bool = False,
    ) -> float | dict[str, float]:
        # Keras would list the loss twice: `compile` adds a tracker of its own.
        logs = super().test_on_batch(x, y, sample_weight, return_dict=True)
        return logs if return_dict else logs["loss"]

    def predict_step(self, data: Any) -> tf.Tensor:
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return self(batches.images_of(x), training=False)

    def export(
        self, filepath: str | os.PathLike, *args: Any, **kwargs: Any
    ) -> None:
        """Exports the encoder, which is what calling the model runs."""
        self.encoder.export(filepath, *args, **kwargs)

    # === Saving ===

    def named_state(self) -> dict[str, keras.Variable]:
        rows, log_normalizer = self.memory_bank.weights
        return {
            "memory_bank": rows,
            "log_normalizer": log_normalizer,
            "step": self._step,
        }

    def get_config(self) -> dict[str, Any]:
        encoder = keras.saving.serialize_keras_object(self.encoder)
        # The full configuration: an encoder that describes itself for other
        # versions and backends omits that its batch norm is synchronized.
        encoder["config"] = type(self.encoder).get_config(self.encoder)
        return {"encoder": encoder, **self._config}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        encoder = keras.saving.deserialize_keras_object(config["encoder"])
        rest = {name: v for name, v in config.items() if name != "encoder"}
        return cls(encoder, **rest)

    def see_first_batch(self, batch: Any) -> None:
        local = keras.tree.map_structure(
            lambda part: replicas.first_replica(self.distribute_strategy, part),
            batch,
        )
        _, ids, _ = batches.unpack(local, self.num_instances)
        batches.warn_of_labels(ids.numpy())


def _refuse(cure: str, **arguments: object) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise UsageError(
                f"`{name}` must be left out. {cure} Received: {name}={value!r}"
            )


def _refuse_class_weight(class_weight: object) -> None:
    _refuse(
        "There are no classes; weight examples with `sample_weight`.",
        class_weight=class_weight,
    )
