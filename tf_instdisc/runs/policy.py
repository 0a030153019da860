"""Converts a network to another dtype policy."""

import keras

from tf_instdisc.keras_internals import all_layers

# These remain float32, so that embeddings have unit length to seven digits.
_FULL = ("pool", "projection", "embedding")


def with_policy(encoder: keras.Model, policy: str) -> keras.Model:
    """Returns an encoder whose layers have a dtype policy of this name.

    Args:
        encoder: A functional model, which may contain others. The last three
            layers of an encoder of this package, or the last layer of any
            other one, remain in float32.
        policy: Such as `"mixed_bfloat16"`.

    Returns:
        A model with copies of the weights, or the given one if it already has
        the policy.
    """

    full = [layer for layer in encoder.layers if layer.name in _FULL]
    if len(full) < len(_FULL):
        last = encoder
        while isinstance(last, keras.Model):
            last = last.layers[-1]
        full = [last]

    def policy_of(layer: keras.layers.Layer) -> str:
        return "float32" if any(layer is one for one in full) else policy

    computing = (
        layer
        for layer in all_layers(encoder)
        if not isinstance(layer, keras.Model | keras.layers.InputLayer)
    )
    if all(x.dtype_policy.name == policy_of(x) for x in computing):
        return encoder

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        # An operator, such as `x / 255`, has no policy.
        if isinstance(layer, keras.layers.Layer):
            config["dtype"] = policy_of(layer)
        return layer.__class__.from_config(config)

    converted = keras.models.clone_model(
        encoder, clone_function=clone, recursive=True
    )
    converted.set_weights(encoder.get_weights())
    return converted


def without_float16(encoder: keras.Model) -> keras.Model:
    """Returns an encoder that can be trained without loss scaling.

    It is in float32 if a layer of the given one computes in float16, and
    otherwise the given one.
    """
    if any(x.compute_dtype == "float16" for x in all_layers(encoder)):
        return with_policy(encoder, "float32")
    return encoder
