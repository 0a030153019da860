"""Embeds a dataset with an encoder."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_instdisc import progress
from tf_instdisc.errors import UsageError, require_tensorflow_backend
from tf_instdisc.keras_internals import is_functional

BATCH_SIZE = 256
"""Images per batch where no training depends on it."""


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Embeddings with their ids and labels, in the order of the dataset.

    Attributes:
        embeddings: float `[size, embedding_dim]`.
        instance_ids: int64 `[size]`.
        labels: int64 `[size]`, negative for unlabeled images.
    """

    embeddings: np.ndarray
    instance_ids: np.ndarray
    labels: np.ndarray


def gpus() -> list[str]:
    """Returns the names of the GPUs of this host."""
    return [device.name for device in tf.config.list_logical_devices("GPU")]


def on_devices(
    model: keras.Model, devices: Sequence[str] | None = None
) -> keras.Model:
    """Copies a model to several devices, among which `inference` divides.

    Args:
        model: A model. Later changes of its weights do not reach the copies.
        devices: Their names; by default all GPUs of this host.

    Returns:
        The copy; or `model` itself if there is only one device, if a
        distribution strategy has placed it or is in use, or if it is not a
        functional model, which might not have a configuration to copy.
    """
    devices = gpus() if devices is None else devices
    if (
        len(devices) < 2
        or not is_functional(model)
        or tf.distribute.has_strategy()
        or model.distribute_strategy.num_replicas_in_sync > 1
    ):
        return model
    strategy = tf.distribute.MirroredStrategy(
        devices, cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    with strategy.scope():
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
    return copy


def inference(model: keras.Model) -> Callable[[tf.Tensor], Any]:
    """Compiles a model once, for any number of calls of `embed`.

    A model that was built or loaded in the scope of a `MirroredStrategy`, such
    as the output of `on_devices`, processes a part of each batch on each
    device.

    Args:
        model: A model of images, `[batch, ...]`.

    Returns:
        A function from images to what the model returns: a tensor
        `[batch, ...]`, or a structure of them.
    """

    require_tensorflow_backend(keras.config.backend())

    # Not `predict`: each replica would embed the whole batch, and with many
    # hosts it waits for all of them.
    def encode(images: tf.Tensor) -> Any:
        return model(images, training=False)

    strategy = model.distribute_strategy
    if not isinstance(strategy, tf.distribute.MirroredStrategy):
        return tf.function(encode, reduce_retracing=True, autograph=False)
    run = tf.function(
        lambda images: strategy.run(encode, args=(images,)),
        reduce_retracing=True,
        autograph=False,
    )

    def encode_parts(images: tf.Tensor) -> Any:
        size, replicas = len(images), strategy.num_replicas_in_sync
        # Each replica gets as many images; the first one fills the gaps.
        missing = [images[:1]] * (-size % replicas)
        parts = tf.split(tf.concat([images, *missing], axis=0), replicas)
        distributed = strategy.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group]
        )
        return tf.nest.map_structure(
            lambda output: tf.concat(
                strategy.experimental_local_results(output), axis=0
            )[:size],
            run(distributed),
        )

    return encode_parts


def embed(
    encoder: keras.Model | Callable[[tf.Tensor], tf.Tensor],
    dataset: tf.data.Dataset,
    num_images: int | None = None,
) -> Embedded:
    """Embeds every image of an evaluation dataset.

    ```python
    encoder = tf_instdisc.load_encoder("runs/photos")
    source = tf_instdisc.folder_source("photos")
    embedded = tf_instdisc.embed(
        encoder,
        tf_instdisc.evaluation_dataset(source, encoder.input_shape[1], 64),
    )
    print(embedded.embeddings.shape, embedded.labels)
    ```

    Args:
        encoder: A model from images to `[batch, embedding_dim]`, which is
            copied to all GPUs of this host; or the output of `inference`,
            which is compiled only once.
        dataset: Yields (images, instance_ids, labels), as
            `evaluation_dataset` does.
        num_images: Number of its images, if known: the embeddings are then
            held once in memory, and otherwise twice at the end.

    Raises:
        ValueError: If the dataset has a different number of images.
    """
    if isinstance(encoder, keras.Model):
        encoder = inference(on_devices(encoder))
    batches: list[np.ndarray] = []
    ids_and_labels: tuple[list, list] = [], []
    rows = np.empty([0, 0])
    size = 0
    with progress.tracking("encoding images", num_images) as advance:
        for images, *rest in dataset:
            batch = np.asarray(encoder(images))
            # NumPy's files and most of its functions have no bfloat16.
            dtype = np.promote_types(batch.dtype, np.float32)
            batch = batch.astype(dtype, copy=False)
            for column, value in zip(ids_and_labels, rest, strict=True):
                column.append(np.asarray(value))
            first, size = size, size + len(batch)
            advance(len(batch))
            if num_images is None:
                batches.append(batch)
                continue
            if not first:
                rows = np.empty([num_images, batch.shape[1]], batch.dtype)
            if size <= num_images:
                rows[first:size] = batch
    if num_images is None:
        rows = np.concatenate(batches)
    elif size != num_images:
        raise UsageError(
            "`num_images` must be the number of images in `dataset`. "
            f"Received: num_images={num_images}, {size} images"
        )
    return Embedded(rows, *(np.concatenate(c) for c in ids_and_labels))
