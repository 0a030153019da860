"""The values that a training step keeps of an encoder."""

import math

import keras

# Their outputs are not kept: they are computed within the next layer, or hold
# the same values in another shape.
_NOT_KEPT = (
    keras.layers.Add,
    keras.layers.BatchNormalization,
    keras.layers.Flatten,
    keras.layers.Identity,
    keras.layers.InputLayer,
    keras.layers.Reshape,
)


def activations(encoder: keras.Model) -> int:
    """Returns how many values a training step holds per image at its peak.

    That is what is kept until its gradients need it, and twice the largest
    map, for gradients. It is within a quarter of what TensorFlow uses.
    """
    kept, largest = _numbers(encoder.input), 0
    for layer in encoder.layers:
        if isinstance(layer, keras.layers.MultiHeadAttention):
            kept += _attention(layer)
        elif not isinstance(layer, _NOT_KEPT):
            kept += _numbers(layer.output)
        if isinstance(layer, keras.layers.Dense | keras.layers.Conv2D):
            largest = max(largest, _numbers(layer.output))
            if getattr(layer.activation, "__name__", "") == "gelu":
                kept += _numbers(layer.output)
    return kept + 2 * largest


def _numbers(tensor: keras.KerasTensor) -> int:
    """Returns the number of values of one example."""
    return math.prod(tensor.shape[1:])


def _attention(layer: keras.layers.MultiHeadAttention) -> int:
    """Counts queries, keys, values, their products, scores and softmax."""
    _, tokens, dim = layer.output.shape
    return 5 * tokens * dim + 2 * layer.num_heads * tokens**2
