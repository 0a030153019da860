"""What an encoder must be, to be trained by instance discrimination."""

import keras
import tensorflow as tf

from tf_instdisc import keras_internals
from tf_instdisc.errors import UsageError


def require_encoder(encoder: keras.Model) -> None:
    """Raises UsageError unless the model maps images to embeddings."""
    wanted = (
        "`encoder` must be a functional or Sequential Keras model from images "
        "to embeddings [batch, embedding_dim] of unit length."
    )
    if not isinstance(encoder, keras.Model):
        raise UsageError(f"{wanted} Received: encoder={encoder!r}")
    inputs = getattr(encoder, "inputs", None)
    outputs = getattr(encoder, "outputs", None)
    if not inputs or not outputs:
        raise UsageError(
            f"{wanted} Received: a {type(encoder).__name__} without an input "
            "shape; begin it with keras.Input((size, size, 3))."
        )
    if len(inputs) != 1 or len(outputs) != 1:
        raise UsageError(
            f"{wanted} Received: {len(inputs)} inputs, {len(outputs)} outputs"
        )
    shape = tuple(outputs[0].shape)
    if len(shape) != 2 or shape[1] is None:
        raise UsageError(
            f"{wanted} Received: an output of shape {shape}. End it with "
            "pooling, keras.layers.Dense(embedding_dim) and "
            "keras.layers.UnitNormalization(), or use "
            "tf_instdisc.build_encoder(backbone)."
        )


def with_one_input(encoder: keras.Model) -> keras.Model:
    """Returns a model of the same layers whose input is no list or dict."""
    is_functional = keras_internals.is_functional(encoder)
    if not is_functional or isinstance(encoder.input, keras.KerasTensor):
        return encoder
    return keras.Model(encoder.inputs[0], encoder.outputs[0], name=encoder.name)


def require_compilable(encoder: keras.Model) -> None:
    """Raises UsageError if XLA cannot compile a layer."""
    num_replicas = tf.distribute.get_strategy().num_replicas_in_sync
    for layer in keras_internals.all_layers(encoder):
        communicates = num_replicas > 1 and getattr(
            layer, "synchronized", False
        )
        if communicates or getattr(layer, "activity_regularizer", None):
            raise UsageError(
                "`jit_encoder` cannot be combined with an activity regularizer "
                "or, on several replicas, with synchronized batch "
                f"normalization. Received: layer {layer.name}. Leave one of "
                "them out."
            )


def computes_in_half(encoder: keras.Model) -> bool:
    """Returns whether a layer computes in float16."""
    layers = keras_internals.all_layers(encoder)
    return any(layer.compute_dtype == "float16" for layer in layers)
