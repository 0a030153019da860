"""How many numbers an encoder holds, and a step keeps of its layers."""

import dataclasses
import math

import keras

# Their outputs are not kept: they are computed within the layer behind them,
# or are the same numbers in another shape.
_NOT_KEPT = (
    keras.layers.Add,
    keras.layers.BatchNormalization,
    keras.layers.Flatten,
    keras.layers.Identity,
    keras.layers.InputLayer,
    keras.layers.Reshape,
)


@dataclasses.dataclass(frozen=True)
class EncoderSizes:
    """Numbers of an encoder.

    Attributes:
        weights: That are trained.
        statistics: Moving statistics of batch norm.
        activations: That a training step holds for each image at its peak:
            what is kept until its gradients need it, and twice the largest
            map, for gradients. Within a quarter of what TensorFlow takes.
    """

    weights: int
    statistics: int
    activations: int


def encoder_sizes(encoder: keras.Model) -> EncoderSizes:
    """Counts weights, statistics and activations of an encoder."""
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
    return EncoderSizes(
        sum(math.prod(w.shape) for w in encoder.trainable_weights),
        sum(math.prod(w.shape) for w in encoder.non_trainable_weights),
        kept + 2 * largest,
    )


def _numbers(tensor: keras.KerasTensor) -> int:
    """Numbers of one example."""
    return math.prod(tensor.shape[1:])


def _attention(layer: keras.layers.MultiHeadAttention) -> int:
    """Queries, keys, values, what is made of them, scores, their softmax."""
    _, tokens, dim = layer.output.shape
    return 5 * tokens * dim + 2 * layer.num_heads * tokens**2
