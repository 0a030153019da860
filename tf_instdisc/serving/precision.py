"""Converts an encoder to another precision."""

import keras

from tf_instdisc.config.fields import require_choice
from tf_instdisc.runs.policy import with_policy
from tf_instdisc.serving.options import PRECISIONS

_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


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
    return with_policy(encoder, _POLICIES[precision])
