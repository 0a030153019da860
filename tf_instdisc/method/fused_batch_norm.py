"""The training call of an encoder, with faster kernels for some layers.

Keras 3.15 computes batch normalization from elementary ops (moments, then
scale and offset). On a CPU, this makes a ResNet's training step 25 to 40%
slower than with the fused kernel. The encoder keeps Keras' own layers, so that
its file loads anywhere; only the training step uses the kernel, and, on
processors, the convolutions of `matrix_convolution`.
"""

import threading
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tf_instdisc import keras_internals
from tf_instdisc.method import matrix_convolution


def training_call(
    encoder: keras.Model, jit_compile: bool = False
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the encoder's call with `training=True` and fused batch norm.

    It reads and writes the encoder's own variables. Layers that the kernel
    does not support (synchronized, renormalized, frozen, masked, float64, with
    weights of half precision, with an activity regularizer, or another axis
    than the last) are left unchanged. An encoder without layers that depend on
    the input size accepts images of any size here.

    Args:
        encoder: A functional or Sequential model. A subclass with a `call`
            of its own is called unchanged.
        jit_compile: Whether XLA compiles the encoder. The moving statistics
            are written outside, where replicas can be synchronized.

    Returns:
        A function from images to embeddings.
    """
    if not keras_internals.is_functional(encoder):
        if type(encoder).call is not keras.Sequential.call:
            return tf.function(
                lambda images: encoder(images, training=True),
                jit_compile=jit_compile,
                autograph=False,
            )
        encoder = keras.Model(encoder.inputs[0], encoder.outputs[0])
    statistics = _Statistics()
    written: list[keras.Variable] = []
    # A layer that is called several times has one replacement.
    replacements: dict[int, keras.layers.Layer] = {}

    def call(
        layer: keras.layers.Layer, *args: Any, **kwargs: Any
    ) -> keras.KerasTensor:
        key = id(layer)
        if key not in replacements:
            if _is_fusible(layer):
                layer = _Fused(layer, statistics)
            elif matrix_convolution.applies_to(layer):
                layer = _Convolution(layer)
            replacements[key] = layer
        return replacements[key](*args, **kwargs)

    def clone(input_tensors: keras.KerasTensor | None) -> keras.Model:
        return keras.models.clone_model(
            encoder,
            input_tensors=input_tensors,
            clone_function=lambda layer: layer,
            call_function=call,
        )

    image = encoder.inputs[0]
    any_size = keras.Input(
        (None,) * (len(image.shape) - 2) + image.shape[-1:], dtype=image.dtype
    )
    try:
        fused = clone(any_size)
    except Exception:  # A layer of the user's own may fail in any way.
        fused = clone(None)

    def run(images: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        statistics.new.clear()
        embeddings = fused(images, training=True)
        written[:] = [variable for variable, _ in statistics.new]
        return embeddings, [new for _, new in statistics.new]

    if jit_compile:
        run = tf.function(run, jit_compile=True, autograph=False)

    def call_and_write(images: tf.Tensor) -> tf.Tensor:
        embeddings, values = run(images)
        for variable, value in zip(list(written), values, strict=True):
            variable.assign(value)
        return embeddings

    return call_and_write


def _is_fusible(layer: keras.layers.Layer) -> bool:
    return (
        type(layer) is keras.layers.BatchNormalization
        and not layer.synchronized
        and not layer.renorm
        and layer.scale
        and layer.center
        and layer.axis in (-1, 3)
        and len(layer.input.shape) == 4
        and layer.variable_dtype == "float32"
        and layer.compute_dtype != "float64"
        and layer.activity_regularizer is None
    )


class _Replacement(keras.layers.Layer):
    """Computes with the weights of another layer, which it holds."""

    def __init__(self, layer: keras.layers.Layer, suffix: str):
        super().__init__(
            name=f"{layer.name}_{suffix}", dtype=layer.dtype_policy
        )
        self.layer = layer
        self.built = True

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        return self.layer.compute_output_shape(input_shape)


class _Convolution(_Replacement):
    """Runs a Conv2D layer by `matrix_convolution`."""

    def __init__(self, layer: keras.layers.Conv2D):
        super().__init__(layer, "in_matrices")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return matrix_convolution.convolve(self.layer, inputs)


class _Statistics(threading.local):
    """The statistics of a call, in the order of the layers.

    Replicas are traced in threads, which take turns at each synchronized layer.
    """

    def __init__(self) -> None:
        self.new: list[tuple[keras.Variable, tf.Tensor]] = []


class _Fused(_Replacement):
    """Runs a BatchNormalization layer through the fused kernel."""

    def __init__(
        self,
        layer: keras.layers.BatchNormalization,
        statistics: _Statistics,
    ):
        super().__init__(layer, "fused")
        self._statistics = statistics

    def call(
        self,
        inputs: tf.Tensor,
        training: bool | None = None,
        mask: tf.Tensor | None = None,
    ) -> tf.Tensor:
        layer = self.layer
        if not training or not layer.trainable or mask is not None:
            return layer(inputs, training=training, mask=mask)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.cast(layer.gamma, tf.float32),
            offset=tf.cast(layer.beta, tf.float32),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=layer.epsilon,
            is_training=True,
        )
        # The kernel divides by count - 1, Keras divides by count.
        count = tf.cast(tf.size(inputs) // tf.size(mean), tf.float32)
        variance *= (count - 1.0) / count
        earlier = {id(moving): new for moving, new in self._statistics.new}
        for moving, new in (
            (layer.moving_mean, mean),
            (layer.moving_variance, variance),
        ):
            kept = layer.momentum
            before = earlier.get(id(moving), moving)
            moved = before * kept + new * (1.0 - kept)
            self._statistics.new.append((moving, moved))
        return outputs
