"""Converts an encoder to another precision."""

import keras

from tf_instdisc.config.fields import require_choice
from tf_instdisc.serving.options import PRECISIONS

_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}

# These remain float32, so that embeddings have unit length to seven digits.
_FULL = ("pool", "projection", "embedding")


def with_precision(encoder: keras.Model, precision: str) -> keras.Model:
    """Returns an encoder in another precision with float32 weights.

    Args:
        encoder: An encoder from `build_encoder`.
        precision: `"float32"`, or `"bfloat16"` for all layers except the last
            three.

    Returns:
        An encoder with copies of the weights, or the given one if it already
        has the precision.

    Raises:
        ValueError: If the precision is unknown.
    """
    require_choice("precision", precision, PRECISIONS)

    def policy_of(layer: keras.layers.Layer) -> str:
        return "float32" if layer.name in _FULL else _POLICIES[precision]

    if all(x.dtype_policy.name == policy_of(x) for x in encoder.layers):
        return encoder

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        config["dtype"] = keras.DTypePolicy(policy_of(layer))
        return layer.__class__.from_config(config)

    converted = keras.models.clone_model(encoder, clone_function=clone)
    converted.set_weights(encoder.get_weights())
    return converted
