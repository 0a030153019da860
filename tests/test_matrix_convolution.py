"""Convolutions computed as matrix products."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_instdisc
from tf_instdisc.method import matrix_convolution
from tf_instdisc.method.fused_batch_norm import training_call

pytestmark = pytest.mark.slow


def layer_of(kernel=3, strides=1, padding="same", filters=256, **more):
    more = {"dtype": "mixed_bfloat16", **more}
    return keras.layers.Conv2D(filters, kernel, strides, padding, **more)


def gradients(call, layer, images):
    """The outputs and the gradients of a random combination of them."""
    with tf.GradientTape() as tape:
        tape.watch(images)
        outputs = call(images)
        weights = tf.random.stateless_normal(outputs.shape, [0, 1])
        total = tf.reduce_sum(tf.cast(outputs, tf.float32) * weights)
    variables = [v.value for v in layer.trainable_variables]
    return outputs, *tape.gradient(total, [images, *variables])


def require_close(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        one, other = (tf.cast(x, tf.float32).numpy() for x in (one, other))
        atol = 0.05 * np.abs(other).max()
        np.testing.assert_allclose(one, other, atol=atol)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("strides", [1, 2, 3, (1, 2)])
@pytest.mark.parametrize("kernel", [2, 3, (1, 3), 5])
@pytest.mark.parametrize(
    ("filters", "size"), [(256, (9, 8)), (512, (3, 3)), (512, (5, 6))]
)
def test_a_layer_and_its_gradients(filters, size, kernel, strides, padding):
    if padding == "valid" and kernel == 5 and min(size) < 5:
        pytest.skip("the kernel is larger than the image")
    layer = layer_of(kernel, strides, padding, filters, activation="tanh")
    images = tf.random.stateless_normal([3, *size, 5], [0, 0])
    images = tf.cast(images, tf.bfloat16)
    assert layer(images).shape  # Builds it.
    layer.bias.assign(tf.random.stateless_normal([filters], [0, 2]))
    assert matrix_convolution.applies_to(layer)
    found = gradients(
        lambda x: matrix_convolution.convolve(layer, x), layer, images
    )
    expected = gradients(layer, layer, images)
    require_close(found, expected)


def test_unknown_sizes_and_many_pixels_are_left_to_the_library():
    layer = layer_of()
    images = tf.cast(tf.random.normal([2, 17, 17, 4]), tf.bfloat16)
    expected = gradients(layer, layer, images)
    call = tf.function(
        lambda x: matrix_convolution.convolve(layer, x),
        input_signature=[tf.TensorSpec([None, None, None, 4], tf.bfloat16)],
    )
    found = gradients(call, layer, images)
    require_close(found, expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "float32"},
        {"filters": 255},
        {"kernel": 1},
        {"dilation_rate": 2},
        {"groups": 2},
        {"data_format": "channels_first"},
        {"activity_regularizer": "l2"},
    ],
    ids=str,
)
def test_other_layers_are_left_as_they_are(changes):
    assert not matrix_convolution.applies_to(layer_of(**changes))


@pytest.mark.parametrize(
    ("filters", "kinds"),
    [
        (256, {"Conv2D", "Conv2DBackpropInput"}),
        (512, set()),
    ],
)
def test_training_uses_it(filters, kinds):
    inputs = keras.Input([3, 3, 4])
    encoder = keras.Model(inputs, layer_of(filters=filters)(inputs))
    images = tf.random.normal([2, 3, 3, 4])
    call = training_call(encoder)
    graph = tf.function(lambda: gradients(call, encoder, images))
    operations = graph.get_concrete_function().graph.get_operations()
    assert {o.type for o in operations if "Conv2D" in o.type} == kinds


def test_a_layer_may_be_called_twice():
    inputs = keras.Input([3, 3, 256])
    convolution = layer_of(use_bias=False)
    norm = keras.layers.BatchNormalization(dtype="mixed_bfloat16")
    encoder = keras.Model(inputs, norm(convolution(norm(convolution(inputs)))))
    images = tf.random.stateless_normal([4, 3, 3, 256], [0, 0])
    start = encoder.get_weights()
    expected = gradients(lambda x: encoder(x, training=True), encoder, images)
    moved = encoder.get_weights()
    encoder.set_weights(start)
    found = gradients(training_call(encoder), encoder, images)
    require_close(found, expected)
    require_close(encoder.get_weights(), moved)


@pytest.mark.parametrize("layer", [layer_of, keras.layers.BatchNormalization])
def test_the_losses_of_layers_are_kept(layer):
    inputs = keras.Input([3, 3, 4])
    layer = layer(activity_regularizer="l2", dtype="mixed_bfloat16")
    x = keras.layers.GlobalAveragePooling2D()(layer(inputs))
    outputs = keras.layers.UnitNormalization(dtype="float32")(x)
    encoder = keras.Model(inputs, outputs)
    model = tf_instdisc.InstanceDiscrimination(encoder, 2, objective="softmax")
    model.compile(optimizer="sgd")
    data = tf.data.Dataset.from_tensors((tf.ones([2, 3, 3, 4]), tf.range(2)))
    model.fit(data, verbose=0)
    assert len(encoder.losses) == 1


@pytest.mark.exhaustive
def test_replicas_and_xla_train_with_it(two_replicas):
    images = tf.random.stateless_uniform([8, 6, 6, 4], [0, 0]) * 255
    data = tf.data.Dataset.from_tensors((images, tf.range(8))).repeat(3)
    losses = []
    for scope, jit in (
        (contextlib.nullcontext(), False),
        (contextlib.nullcontext(), True),
        (two_replicas.scope(), False),
    ):
        keras.utils.set_random_seed(0)
        with scope:
            inputs = keras.Input([6, 6, 4])
            x = keras.layers.Rescaling(1 / 255)(inputs)
            x = layer_of(filters=512)(layer_of(strides=2)(x))
            x = keras.layers.GlobalAveragePooling2D()(x)
            outputs = keras.layers.UnitNormalization(dtype="float32")(x)
            model = tf_instdisc.InstanceDiscrimination(
                keras.Model(inputs, outputs),
                8,
                objective="softmax",
                jit_encoder=jit,
            )
            model.compile(optimizer="sgd")
        history = model.fit(data, epochs=1, verbose=0)
        losses.append(history.history["loss"][-1])
    np.testing.assert_allclose(losses, losses[0], rtol=1e-2)
