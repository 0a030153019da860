"""The signatures of a served model, which take images or bytes."""

import functools
from typing import TypeAlias

import keras
import tensorflow as tf

from tf_instdisc.serving import image_bytes
from tf_instdisc.serving.bank_index import BankIndex
from tf_instdisc.serving.options import ExportOptions

Function: TypeAlias = tf.types.experimental.PolymorphicFunction

graph_function = functools.partial(tf.function, autograph=False)

# How long the graph waits to batch concurrent requests, if it batches.
_BATCH_TIMEOUT_MICROS = 2000


# Batches that wait; the request after them is refused.
_MAX_WAITING = 1000


def most_in_request(options: ExportOptions) -> int:
    """Returns the most images in a request, if the graph batches requests.

    They are divided into batches of the allowed sizes.
    """
    return max(1024, options.batch_sizes[-1])


def build_serving(
    encoder: keras.Model, index: BankIndex | None, options: ExportOptions
) -> tuple[dict[str, Function], tf.Module]:
    """Builds the signatures of an encoder and its bank.

    If a SavedModel tracks a Keras 3 model, session loaders such as TF
    Serving's restore one set of variables and read another (keras issue
    20095). Therefore, the raw variables are tracked here, and the model itself
    is only captured by the functions.

    Args:
        encoder: A model that maps images `[batch, size, size, 3]` to
            embeddings of unit length.
        index: The bank, or None for the encoder alone.

    Returns:
        The signatures by name, and a module that holds their variables. Each
        signature takes one tensor and returns a dictionary of tensors, whose
        first dimension is the batch.
    """
    variables = tf.Module(name="instdisc")
    variables.encoder = [variable.value for variable in encoder.variables]
    variables.bank = index
    return _functions(encoder, index, options), variables


def _functions(
    encoder: keras.Model, index: BankIndex | None, options: ExportOptions
) -> dict[str, Function]:
    image_size = encoder.input_shape[1]
    image_spec = tf.TensorSpec(
        [None, image_size, image_size, 3], options.image_dtype, "images"
    )
    bytes_spec = tf.TensorSpec([None], tf.string, "image_bytes")

    # All signatures call this function, so its graph is stored only once.
    @graph_function(
        input_signature=[tf.TensorSpec(image_spec.shape, tf.float32, "images")]
    )
    def embed(images: tf.Tensor) -> tf.Tensor:
        # With oneDNN, TensorFlow 2.21 fails on a batch without images.
        return tf.cond(
            tf.shape(images)[0] > 0,
            lambda: tf.cast(encoder(images, training=False), tf.float32),
            lambda: tf.zeros([0, encoder.output_shape[1]]),
        )

    embed_decoded = embed
    decode_batch = image_bytes.decode_batch
    if options.bad_bytes == "error":
        # A request with a bad image fails during decoding, before requests are
        # batched, so the others are not affected.
        decode_batch = image_bytes.decode_batch_or_fail
        embed_decoded = tf.nondifferentiable_batch_function(
            num_batch_threads=2,
            max_batch_size=most_in_request(options),
            batch_timeout_micros=_BATCH_TIMEOUT_MICROS,
            allowed_batch_sizes=list(options.batch_sizes),
            max_enqueued_batches=_MAX_WAITING,
            enable_large_batch_splitting=True,
            autograph=False,
        )(embed)

    def embed_images(images: tf.Tensor) -> tf.Tensor:
        return embed(tf.cast(images, tf.float32))

    def embed_bytes(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, valid = decode_batch(
            contents, image_size, options.crop_fraction, options.max_pixels
        )
        # A batch function gives [0] for a batch without images.
        embedding = embed_decoded(images)
        embedding = tf.reshape(embedding, [-1, encoder.output_shape[1]])
        return tf.where(valid[:, None], embedding, 0.0), valid

    def serving_default(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"embedding": embed_images(images)}

    def from_bytes(contents: tf.Tensor) -> dict[str, tf.Tensor]:
        embedding, valid = embed_bytes(contents)
        return {"embedding": embedding, "valid": valid}

    on_images = functools.partial(graph_function, input_signature=[image_spec])
    on_bytes = functools.partial(graph_function, input_signature=[bytes_spec])
    functions = {
        "serving_default": on_images(serving_default),
        "image_bytes": on_bytes(from_bytes),
    }
    if index is None:
        return functions

    functions["neighbors"] = on_images(
        lambda images: neighbors_of(
            index, embed_images(images), options.num_neighbors
        )
    )
    functions["neighbors_bytes"] = on_bytes(
        lambda contents: _neighbors_bytes(
            index, options.num_neighbors, *embed_bytes(contents)
        )
    )
    if index.num_classes and index.num_labeled:
        functions["classify_bytes"] = on_bytes(
            lambda contents: _classify(index, options, *embed_bytes(contents))
        )
    return functions


def _neighbors_bytes(
    index: BankIndex,
    num_neighbors: int,
    embedding: tf.Tensor,
    valid: tf.Tensor,
) -> dict[str, tf.Tensor]:
    found = neighbors_of(index, embedding, num_neighbors)
    nothing = {
        "instance_ids": tf.constant(-1, tf.int64),
        "names": "",
        "scores": 0.0,
        "labels": tf.constant(-1, tf.int64),
    }
    found = {
        name: tf.where(valid[:, None], value, nothing[name])
        for name, value in found.items()
    }
    return {**found, "valid": valid}


def _classify(
    index: BankIndex,
    options: ExportOptions,
    embedding: tf.Tensor,
    valid: tf.Tensor,
) -> dict[str, tf.Tensor]:
    scores, positions = index.search(embedding, options.num_votes, labeled=True)
    shares = index.vote(scores, positions, options.temperature)
    return {
        "classes": tf.repeat(index.class_names[None], tf.size(valid), axis=0),
        "scores": tf.where(valid[:, None], shares, 0.0),
        "valid": valid,
    }


def neighbors_of(
    index: BankIndex, embedding: tf.Tensor, num_neighbors: int
) -> dict[str, tf.Tensor]:
    """Returns what the signature `neighbors` returns, for embeddings."""
    scores, positions = index.search(embedding, num_neighbors)
    return {
        "instance_ids": tf.gather(index.instance_ids, positions),
        "names": tf.gather(index.names, positions),
        "scores": scores,
        "labels": tf.gather(index.labels, positions),
    }
