"""Builds networks of the same architecture with new weights."""

import keras
import tensorflow as tf

from tf_instdisc.data import pipeline
from tf_instdisc.data.augment import NO_COLOR_CHANGES, Augmentation
from tf_instdisc.data.sources import ImageSource
from tf_instdisc.runs.embedding import BATCH_SIZE
from tf_instdisc.training.initial_encoder import PREPROCESS

# Enough for a moving average of momentum 0.9 to forget its initial value.
_CALIBRATION_BATCHES = 40


def encoder_like(
    encoder: keras.Model, source: ImageSource, seed: int = 0
) -> keras.Model:
    """Builds an untrained network of the same architecture as a baseline.

    Its batch normalization uses the statistics of the images. With the initial
    statistics, the deeper layers hardly distinguish images, which would make
    an untrained network look worse than it is.
    """
    fresh = fresh_copy(encoder, seed)
    whole = Augmentation(
        image_size=int(encoder.input_shape[1]),
        min_crop_area=1.0,
        crop_aspect_ratio=(1.0, 1.0),
        **NO_COLOR_CHANGES,
        flip=False,
    )
    dataset = pipeline.training_dataset(
        source, whole, BATCH_SIZE, _CALIBRATION_BATCHES, seed
    )
    update = tf.function(
        lambda images: fresh(images, training=True),
        reduce_retracing=True,
        autograph=False,
    )
    for images, _ in dataset.take(_CALIBRATION_BATCHES):
        update(images)
    return fresh


def fresh_copy(model: keras.Model, seed: int) -> keras.Model:
    """Builds a model of the same architecture with new initial weights.

    A preprocessing that is stored as weights is part of the architecture.
    """
    keras.utils.set_random_seed(seed)
    copy = keras.models.clone_model(model)
    for old, new in zip(model.layers, copy.layers, strict=True):
        if old.name == PREPROCESS:
            new.set_weights(old.get_weights())
    return copy
