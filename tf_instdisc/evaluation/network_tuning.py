"""Trains a whole network with labels, from the run's weights or new ones."""

import math

import keras
import numpy as np
import tensorflow as tf

from tf_instdisc.data import pipeline
from tf_instdisc.data.augment import Augmentation
from tf_instdisc.data.sources import ImageSource
from tf_instdisc.evaluation import untrained
from tf_instdisc.evaluation.fine_tuning_protocol import FineTuneOptions
from tf_instdisc.evaluation.inputs import EvaluationInputs
from tf_instdisc.evaluation.linear_classifier import top_accuracies
from tf_instdisc.method.fused_batch_norm import training_call
from tf_instdisc.training.optimizer import build_optimizer, build_schedule


def class_balanced_ids(
    source: ImageSource, fraction: float, seed: int
) -> np.ndarray:
    """Draws a fraction of the labeled images, as many of each class.

    A larger fraction holds the smaller ones of the same seed. A class with too
    few images gives all it has.

    Args:
        source: The images.
        fraction: In (0, 1]; 1 takes all labeled images.
        seed: Seeds the draw.

    Returns:
        int64 ids, ascending; at least one of each class that has images.
    """
    labels = np.array(source.labels())
    labels[list(source.unreadable)] = -1
    ids = np.flatnonzero(labels >= 0)
    if fraction == 1:
        return ids
    classes = np.unique(labels[ids])
    wanted = max(1, round(fraction * len(ids) / len(classes)))
    rng = np.random.default_rng(seed)
    drawn = [
        rng.permutation(np.flatnonzero(labels == label))[:wanted]
        for label in classes
    ]
    return np.sort(np.concatenate(drawn))


class NetworkTuning:
    """A classifier on the encoder's backbone, trained again and again.

    The run's encoder itself stays as it is. Trainings of equal length and
    rate share one graph: to make it takes as long as hundreds of updates of
    a small network.

    Args:
        inputs: The run; its settings say size and flip of the training images.
        options: How the network is trained.

    Attributes:
        network: The model from images to logits `[batch, num_classes]`.
    """

    def __init__(self, inputs: EvaluationInputs, options: FineTuneOptions):
        self._options = options
        self._augmentation = _augmentation(inputs, options)
        backbone = untrained.fresh_copy(inputs.encoder, options.seed)
        logits = keras.layers.Dense(inputs.num_classes, dtype="float32")
        self.network = keras.Model(
            backbone.input, logits(_last_features(backbone))
        )
        self._scratch = self.network.get_weights()
        backbone.set_weights(inputs.encoder.get_weights())
        self._pretrained = self.network.get_weights()
        self._model = _Trained(self.network)
        self._compiled: tuple[float, int] | None = None
        self._classify = tf.function(
            lambda images: self.network(images, training=False),
            reduce_retracing=True,
        )

    def train(self, source: ImageSource, pretrained: bool) -> None:
        """Trains all layers, from the run's weights or from new ones.

        Args:
            source: Images, each with a label.
            pretrained: Whether to begin with the run's weights.
        """
        options = self._options
        self.network.set_weights(
            self._pretrained if pretrained else self._scratch
        )
        steps = pipeline.steps_per_epoch(source, options.batch_size)
        updates = max(options.min_updates, options.epochs * steps)
        rate = options.learning_rate
        if not pretrained and options.scratch_learning_rate is not None:
            rate = options.scratch_learning_rate
        self._compile(rate, updates)
        labels = tf.constant(source.labels())
        dataset = pipeline.training_dataset(
            source,
            self._augmentation,
            options.batch_size,
            math.ceil(updates / steps),
            options.seed,
        ).map(lambda images, ids: (images, tf.gather(labels, ids)))
        self._model.fit(
            dataset, steps_per_epoch=updates, shuffle=False, verbose=0
        )

    def accuracies(self, dataset: tf.data.Dataset) -> dict[str, float]:
        """Accuracy on (images, instance_ids, labels): `{"top1", "top5"}`."""
        logits, labels = [], []
        for images, _, batch_labels in dataset:
            is_labeled = batch_labels.numpy() >= 0
            logits.append(self._classify(images).numpy()[is_labeled])
            labels.append(batch_labels.numpy()[is_labeled])
        return top_accuracies(np.concatenate(logits), np.concatenate(labels))

    def _compile(self, rate: float, updates: int) -> None:
        if self._compiled == (rate, updates):
            for variable in self._model.optimizer.variables:
                variable.assign(keras.ops.zeros_like(variable))
            return
        self._compiled = rate, updates
        options = self._options
        schedule = build_schedule(
            options.schedule,
            learning_rate=rate,
            steps_per_epoch=updates / options.epochs,
            epochs=options.epochs,
            schedule_epochs=options.schedule_epochs,
        )
        self._model.compile(
            optimizer=build_optimizer(
                options.optimizer,
                learning_rate=schedule,
                weight_decay=options.weight_decay,
            ),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )


def _last_features(encoder: keras.Model) -> keras.KerasTensor:
    """What goes into the projection, or the output of other encoders."""
    for layer in encoder.layers:
        if layer.name == "projection":
            return layer.input
    return encoder.output


def _augmentation(
    inputs: EvaluationInputs, options: FineTuneOptions
) -> Augmentation:
    """Crops and mirrors as the run does; colors stay as they are."""
    config = inputs.config
    area = options.min_crop_area
    if area is None:
        area = config.augmentation.min_crop_area
    return Augmentation(
        image_size=config.data.train_image_size or inputs.image_size,
        crop_area=(area, 1.0),
        brightness=0.0,
        contrast=0.0,
        saturation=0.0,
        hue=0.0,
        grayscale_probability=0.0,
        flip=config.augmentation.flip,
    )


class _Trained(keras.Model):
    """Trains a network through TensorFlow's fused batch norm."""

    def __init__(self, network: keras.Model):
        super().__init__(name="fine_tuning")
        self.network = network
        self._train_network = training_call(network)

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        if training:
            return self._train_network(images)
        return self.network(images, training=False)
