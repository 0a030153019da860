"""Resizing equals TensorFlow's own antialiased resize, whole and shifted."""

import numpy as np
import pytest
import tensorflow as tf

from tf_instdisc.data import scaling

SHAPES = [(1, 1), (1, 90), (61, 45), (45, 61), (300, 7)]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_resize_equals_tensorflow(shape, channels, dtype):
    image = np.random.default_rng(0).integers(0, 256, [*shape, channels])
    image = tf.constant(image.astype(dtype))
    for size in [(1, 1), (32, 32), (90, 20), (20, 90), shape]:
        expected = tf.image.resize(image, size, antialias=True)
        for form in (list(size), tf.constant(size)):
            actual = scaling.resize(image, form)
            assert actual.dtype == tf.float32
            np.testing.assert_allclose(actual, expected, atol=1e-3)


def test_sizes_may_be_known_only_in_the_graph():
    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, 3], tf.uint8),
            tf.TensorSpec([2], tf.int32),
        ]
    )
    def resized(image, size):
        return scaling.resize(image, size)

    image = tf.constant(
        np.random.default_rng(1).integers(0, 256, [50, 70, 3]), tf.uint8
    )
    for size in [(20, 30), (99, 5)]:
        expected = tf.image.resize(image, size, antialias=True)
        actual = resized(image, tf.constant(size))
        np.testing.assert_allclose(actual, expected, atol=1e-3)


@pytest.mark.parametrize("offset", [0.0, -3.5, 2.25])
@pytest.mark.parametrize("factor", [0.3, 1.0, 2.2])
def test_scale_equals_the_op_along_both_axes(factor, offset):
    image = np.random.default_rng(2).integers(0, 256, [40, 30, 3])
    image = tf.constant(image, tf.float32)
    scales = tf.constant([factor, 0.9 * factor])
    offsets = tf.constant([offset, 0.5 - offset])
    expected = tf.raw_ops.ScaleAndTranslate(
        images=image[None],
        size=[16, 20],
        scale=scales,
        translation=offsets,
        kernel_type="triangle",
        antialias=True,
    )[0]
    actual = scaling.scale(image, [16, 20], scales, offsets)
    np.testing.assert_allclose(actual, expected, atol=1e-3)
