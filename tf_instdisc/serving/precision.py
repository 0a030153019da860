"""The same encoder in another precision."""

import keras

from tf_instdisc.config.fields import require_choice
from tf_instdisc.serving.options import PRECISIONS

_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}

# Always float32, so that the embedding's length is 1 to seven digits.
_FULL = ("pool", "projection", "embedding")


def with_precision(encoder: keras.Model, precision: str) -> keras.Model:
    """Computes an encoder in another precision; its weights stay float32.

    Args:
        encoder: As `build_encoder` gives it.
        precision: `"float32"`, or `"bfloat16"` for all layers but the last
            three.

    Returns:
        An encoder with copies of the weights, or the same one if nothing is
        to be changed.

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
