"""Embeds a data set with an encoder."""

import dataclasses
from collections.abc import Callable

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


def inference(encoder: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """Compiles an encoder for any number of `embed`."""
    # Not `predict`: on many replicas each would embed the whole batch, and on
    # many hosts it waits for all of them.
    return tf.function(
        lambda images: encoder(images, training=False), reduce_retracing=True
    )


def embed(
    encoder: keras.Model | Callable[[tf.Tensor], tf.Tensor],
    dataset: tf.data.Dataset,
) -> Embedded:
    """Embeds every image of an evaluation data set.

    Args:
        encoder: A model from images to `[batch, embedding_dim]`, or what
            `inference` has made of it, which is compiled only once.
        dataset: Gives (images, instance_ids, labels), as
            `evaluation_dataset` does.

    Returns:
        The embeddings.
    """
    encode = inference(encoder) if isinstance(encoder, keras.Model) else encoder
    columns: tuple[list, list, list] = [], [], []
    for images, instance_ids, labels in dataset:
        row = encode(images), instance_ids, labels
        for column, value in zip(columns, row, strict=True):
            column.append(np.asarray(value))
    return Embedded(*(np.concatenate(column) for column in columns))
