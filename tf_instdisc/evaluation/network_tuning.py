"""Trains a whole network with labels, from pre-trained or new weights."""

import math

import keras
import numpy as np
import tensorflow as tf

from tf_instdisc.data import pipeline
from tf_instdisc.data.augment import NO_COLOR_CHANGES, Augmentation
from tf_instdisc.data.sources import ImageSource
from tf_instdisc.evaluation import untrained
from tf_instdisc.evaluation.fine_tuning_protocol import FineTuneOptions
from tf_instdisc.evaluation.inputs import EvaluationInputs
from tf_instdisc.evaluation.linear_classifier import top_accuracies
from tf_instdisc.runs.embedding import embed, inference
from tf_instdisc.training.optimizer import build_optimizer, build_schedule
from tf_instdisc.training.supervised import FusedTraining, fit, require_finite


def class_balanced_ids(
    source: ImageSource, fraction: float, seed: int
) -> np.ndarray:
    """Draws a class-balanced fraction of the labeled images.

    With the same seed, a larger fraction contains the smaller ones. If a class
    has too few images, all of them are drawn.

    Args:
        fraction: In (0, 1]; 1 takes all labeled images.

    Returns:
        int64 ids in ascending order, with at least one image of each class
        that has images.
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
    """A classifier on the encoder's backbone that can be retrained.

    The run's encoder is not modified.

    Args:
        inputs: The run; its settings give the image size and flipping.
        options: The training settings.

    Attributes:
        network: A model that maps images to logits `[batch, num_classes]`.
    """

    def __init__(self, inputs: EvaluationInputs, options: FineTuneOptions):
        self._options = options
        # The run's crops and flips, without color jitter.
        config = inputs.config
        self._augmentation = Augmentation(
            image_size=config.data.train_image_size or inputs.image_size,
            min_crop_area=config.augmentation.min_crop_area,
            **NO_COLOR_CHANGES,
            flip=config.augmentation.flip,
        )
        encoder = inputs.trainable_encoder
        backbone = untrained.fresh_copy(encoder, options.seed)
        logits = keras.layers.Dense(inputs.source.num_classes, dtype="float32")
        self.network = keras.Model(
            backbone.inputs[0], logits(_last_features(backbone))
        )
        self._scratch = self.network.get_weights()
        backbone.set_weights(encoder.get_weights())
        self._pretrained = self.network.get_weights()
        self._model = FusedTraining(self.network)
        self._classify = inference(self.network)

    def train(self, source: ImageSource, pretrained: bool) -> None:
        """Trains all layers, from the run's weights or from new ones.

        All images of the source must be labeled.
        """
        options = self._options
        self.network.set_weights(
            self._pretrained if pretrained else self._scratch
        )
        steps = pipeline.steps_per_epoch(source, options.batch_size)
        updates = max(options.min_updates, options.epochs * steps)
        schedule = build_schedule(
            options.schedule,
            learning_rate=options.learning_rate,
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
        labels = tf.constant(source.labels())
        dataset = pipeline.training_dataset(
            source,
            self._augmentation,
            options.batch_size,
            math.ceil(updates / steps),
            options.seed,
        ).map(lambda images, ids: (images, tf.gather(labels, ids)))
        fit(
            self._model,
            dataset,
            "training the network",
            updates,
            steps_per_epoch=updates,
        )

    def accuracies(self, dataset: tf.data.Dataset) -> dict[str, float]:
        """Returns `{"top1", "top5"}` on (images, instance_ids, labels).

        Raises:
            NonFiniteError: If the training diverged.
        """
        found = embed(self._classify, dataset)
        require_finite(
            found.embeddings,
            "the network",
            "finetune_learning_rate",
            self._options.learning_rate,
        )
        is_labeled = found.labels >= 0
        return top_accuracies(
            found.embeddings[is_labeled], found.labels[is_labeled]
        )


def _last_features(encoder: keras.Model) -> keras.KerasTensor:
    """Returns the projection's input, or the output if there is none."""
    for layer in encoder.layers:
        if layer.name == "projection":
            return layer.input
    return encoder.outputs[0]
