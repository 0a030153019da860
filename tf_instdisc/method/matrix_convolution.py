"""Convolutions in bfloat16 on CPUs, partly computed as matrix products.

In the last layers of a ResNet, with many filters and few pixels, oneDNN
(TensorFlow 2.21, CPUs with AMX) takes several times as long as a matrix
product for each element of the kernel: up to ten times for the gradient of the
filters, and three times for a convolution of 512 filters and its gradient of
the inputs (`python -m benchmarks.step`).
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

# Sizes from which matrix products are faster: for the gradient of the filters,
# and for all other computations.
_MIN_FILTERS, _MAX_PIXELS = 256, 256
_MIN_FILTERS_OF_ALL, _MAX_PIXELS_OF_ALL = 512, 9


def applies_to(layer: keras.layers.Layer) -> bool:
    """Returns whether `convolve` may take the place of a layer's call."""
    return (
        type(layer) is keras.layers.Conv2D
        and layer.compute_dtype == "bfloat16"
        and layer.data_format == "channels_last"
        and layer.groups == 1
        and layer.dilation_rate == (1, 1)
        and layer.padding in ("same", "valid")
        and layer.filters >= _MIN_FILTERS
        and max(layer.kernel_size) > 1
        and layer.activity_regularizer is None
        and not tf.config.list_logical_devices("GPU")
    )


def convolve(layer: keras.layers.Conv2D, inputs: tf.Tensor) -> tf.Tensor:
    """Calls a layer, using matrix products where they are faster.

    Args:
        layer: A layer that `applies_to` accepts.
        inputs: bfloat16 `[batch, height, width, channels]`.

    Returns:
        What the layer returns, up to rounding.
    """
    outputs = _convolution(layer, tuple(inputs.shape[1:3]))(
        inputs, tf.cast(layer.kernel, inputs.dtype)
    )
    if layer.use_bias:
        outputs += tf.cast(layer.bias, outputs.dtype)
    return layer.activation(outputs)


_Gradient = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def _convolution(
    layer: keras.layers.Conv2D, static: tuple[int | None, ...]
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Returns a function of inputs and kernel, for images of this size."""
    strides, padding = layer.strides, layer.padding.upper()
    sides = [side for side in static if side is not None]
    shape = layer.compute_output_shape((None, *static, layer.kernel.shape[2]))
    size = list(shape[1:3]) if len(sides) == 2 else []
    has_few = bool(size) and np.prod(size) <= _MAX_PIXELS
    has_very_few = (
        has_few
        and np.prod(size) <= _MAX_PIXELS_OF_ALL
        and layer.filters >= _MIN_FILTERS_OF_ALL
        and strides == (1, 1)
    )
    # Zero padding before each axis. The padding after it is equal or one
    # larger.
    before = [
        max((output - 1) * stride + kernel - side, 0) // 2
        for side, output, kernel, stride in zip(
            sides,
            size,
            layer.kernel_size,
            strides,
            strict=False,
        )
    ]

    @tf.custom_gradient
    def call(
        inputs: tf.Tensor, kernel: tf.Tensor
    ) -> tuple[tf.Tensor, _Gradient]:
        def of_inputs(upstream: tf.Tensor) -> tf.Tensor:
            if not has_very_few:
                return tf.raw_ops.Conv2DBackpropInput(
                    input_sizes=tf.shape(inputs),
                    filter=kernel,
                    out_backprop=upstream,
                    strides=(1, *strides, 1),
                    padding=padding,
                )
            first = [
                k - 1 - pad
                for k, pad in zip(layer.kernel_size, before, strict=True)
            ]
            parts = _windows(upstream, first, sides, layer)
            matrices = tf.unstack(
                tf.reshape(kernel, [-1, *kernel.shape[2:]])[::-1]
            )
            products = [
                tf.matmul(part, matrix, transpose_b=True)
                for part, matrix in zip(parts, matrices, strict=True)
            ]
            return tf.reshape(tf.add_n(products), tf.shape(inputs))

        def of_kernel(upstream: tf.Tensor) -> tf.Tensor:
            if not has_few:
                return tf.raw_ops.Conv2DBackpropFilter(
                    input=inputs,
                    filter_sizes=kernel.shape,
                    out_backprop=upstream,
                    strides=(1, *strides, 1),
                    padding=padding,
                )
            upstream = tf.reshape(upstream, [-1, layer.filters])
            products = [
                tf.matmul(part, upstream, transpose_a=True)
                for part in _windows(inputs, before, size, layer)
            ]
            return tf.reshape(tf.stack(products), kernel.shape)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return of_inputs(upstream), of_kernel(upstream)

        if not has_very_few:
            return tf.nn.conv2d(inputs, kernel, strides, padding), gradient
        patches = tf.concat(_windows(inputs, before, size, layer), -1)
        outputs = tf.matmul(patches, tf.reshape(kernel, [-1, layer.filters]))
        return tf.reshape(outputs, [-1, *size, layer.filters]), gradient

    return call


def _windows(
    images: tf.Tensor,
    before: list[int],
    size: list[int],
    layer: keras.layers.Conv2D,
) -> list[tf.Tensor]:
    """Returns the pixels below each element of the kernel.

    `tf.image.extract_patches` alone takes longer in bfloat16 than the gradient
    of the filters does from these (TensorFlow 2.21).

    Args:
        images: `[batch, height, width, channels]`.
        before: Number of rows and columns of zeros in front of them.
        size: Height and width of the output.
        layer: The layer, for its kernel size and strides.

    Returns:
        A tensor `[batch * height * width, channels]` of the output's height
        and width for each element, in the order of the kernel.
    """
    pads, blocks = [(0, 0)], [-1]
    for side, output, kernel, stride, first in zip(
        images.shape[1:3],
        size,
        layer.kernel_size,
        layer.strides,
        before,
        strict=True,
    ):
        number = output + (kernel - 1) // stride
        pads.append((first, max(number * stride - side - first, 0)))
        blocks += [number, stride]
    _, rows, row_stride, columns, column_stride = blocks
    channels = images.shape[-1]
    padded = tf.pad(images, [*pads, (0, 0)])
    padded = padded[:, : rows * row_stride, : columns * column_stride]
    # Slices with strides are slow, in contrast to slices of another shape.
    padded = tf.reshape(padded, [*blocks, channels])
    windows = []
    for i, j in np.ndindex(*layer.kernel_size):
        top, row = divmod(i, row_stride)
        left, column = divmod(j, column_stride)
        window = padded[
            :, top : top + size[0], row, left : left + size[1], column
        ]
        windows.append(tf.reshape(window, [-1, channels]))
    return windows
