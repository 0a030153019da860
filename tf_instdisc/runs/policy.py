"""Converts a network to another dtype policy."""

import keras

# These remain float32, so that embeddings have unit length to seven digits.
_FULL = ("pool", "projection", "embedding")


def with_policy(encoder: keras.Model, policy: str) -> keras.Model:
    """Returns an encoder whose layers have a dtype policy of this name.

    Args:
        encoder: A functional model. Its last three layers, if it is an
            encoder of this package, remain in float32.
        policy: Such as `"mixed_bfloat16"`.

    Returns:
        A model with copies of the weights, or the given one if it already has
        the policy.
    """

    def policy_of(layer: keras.layers.Layer) -> str:
        return "float32" if layer.name in _FULL else policy

    if all(x.dtype_policy.name == policy_of(x) for x in encoder.layers):
        return encoder

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        config["dtype"] = keras.DTypePolicy(policy_of(layer))
        return layer.__class__.from_config(config)

    converted = keras.models.clone_model(encoder, clone_function=clone)
    converted.set_weights(encoder.get_weights())
    return converted
