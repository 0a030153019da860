"""What Keras calls on any model, for one whose targets are instance ids."""

import inspect
import os
import warnings

import keras

from tf_instdisc.errors import UsageError
from tf_instdisc.method import batches, replicas
from tf_instdisc.method.training_loop import FitLoop


class InstanceModel(FitLoop):
    """Compiles, fits and evaluates a model without labels.

    Every argument of Keras' methods either works or is refused with what to
    do instead. A subclass has `encoder` and `num_instances`.
    """

    def compile(
        self,
        optimizer="rmsprop",
        loss=None,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        run_eagerly=False,
        steps_per_execution=1,
        jit_compile="auto",
        auto_scale_loss=True,
    ):
        _refuse(
            "The loss is the model's own: choose it with `objective`.",
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
        super().compile(
            optimizer=optimizer,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            jit_compile=jit_compile,
            auto_scale_loss=auto_scale_loss,
        )

    def compile_from_config(self, config):
        config = keras.saving.deserialize_keras_object(config)
        self.compile(**config)
        self.build_training_state()

    def fit(self, x=None, y=None, *args, **kwargs):
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

    def evaluate(self, x=None, y=None, *args, return_dict=False, **kwargs):
        # Within `fit`, the data set of the first epoch is used again.
        if not kwargs.get("_use_cached_eval_dataset"):
            y = batches.checked_ids(x, y, self.num_instances)
        logs = super().evaluate(x, y, *args, return_dict=True, **kwargs)
        return logs if return_dict else logs["loss"]

    def train_on_batch(
        self,
        x,
        y=None,
        sample_weight=None,
        class_weight=None,
        return_dict=False,
    ):
        _refuse_class_weight(class_weight)
        logs = super().train_on_batch(x, y, sample_weight, return_dict=True)
        return logs if return_dict else logs["loss"]

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        logs = super().test_on_batch(x, y, sample_weight, return_dict=True)
        return logs if return_dict else logs["loss"]

    def predict_step(self, data):
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return self(batches.images_of(x), training=False)

    def export(self, filepath: str | os.PathLike, *args, **kwargs):
        """Exports the encoder, which is what a call of the model runs.

        Args:
            filepath: As `keras.Model.export` takes it.
            *args: Likewise.
            **kwargs: Likewise.
        """
        return self.encoder.export(filepath, *args, **kwargs)

    def see_first_batch(self, batch):
        local = keras.tree.map_structure(
            lambda part: replicas.first_replica(self.distribute_strategy, part),
            batch,
        )
        _, ids, _ = batches.unpack(local, self.num_instances)
        batches.warn_of_labels(ids.numpy())


def _refuse(cure, **arguments):
    for name, value in arguments.items():
        if value is not None:
            raise UsageError(
                f"`{name}` must be left out. {cure} Received: {name}={value!r}"
            )


def _refuse_class_weight(class_weight):
    _refuse(
        "There are no classes; weigh examples with `sample_weight`.",
        class_weight=class_weight,
    )
