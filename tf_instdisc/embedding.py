"""Embeds a data set with an encoder."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Embeddings with what belongs to them, in the order of the data set.

    Attributes:
        embeddings: float `[size, embedding_dim]`.
        instance_ids: int64 `[size]`.
        labels: int64 `[size]`, negative where there is none.
    """

    embeddings: np.ndarray
    instance_ids: np.ndarray
    labels: np.ndarray


def embed(encoder: keras.Model, dataset: tf.data.Dataset) -> Embedded:
    """Embeds every image of an evaluation data set.

    Args:
        encoder: A model from images to `[batch, embedding_dim]`.
        dataset: Gives (images, instance_ids, labels), as
            `evaluation_dataset` does.

    Returns:
        The embeddings.
    """
    # Not `predict`: on many replicas each would embed the whole batch, and on
    # many hosts it waits for all of them.
    encode = tf.function(
        lambda images: encoder(images, training=False), reduce_retracing=True
    )
    columns: tuple[list, list, list] = [], [], []
    for images, instance_ids, labels in dataset:
        row = encode(images), instance_ids, labels
        for column, value in zip(columns, row, strict=True):
            column.append(np.asarray(value))
    return Embedded(*(np.concatenate(column) for column in columns))
