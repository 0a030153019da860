"""Mixed precision, XLA around the encoder, and how the bank is kept."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_instdisc
from tests.small_run import linear_encoder
from tf_instdisc import errors
from tf_instdisc.data import pipeline
from tf_instdisc.method.fused_batch_norm import training_call
from tf_instdisc.training import strategy

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]


@pytest.fixture(autouse=True)
def float32_again():
    yield
    keras.config.set_dtype_policy("float32")


def sgd(initial_scale):
    """Its first scale causes no overflow, so that no step is skipped."""
    return keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1, momentum=0.9), initial_scale=initial_scale
    )


def fitted(built=None, optimizer=None, **arguments):
    built = built or tf.distribute.get_strategy()
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (17, 2, 2, 3), np.uint8)
    source = tf_instdisc.array_source(images)
    with built.scope():
        model = tf_instdisc.InstanceDiscrimination(
            linear_encoder(), 17, **{"num_negatives": 6, **arguments}
        )
        sgd_alone = keras.optimizers.SGD(0.1, momentum=0.9)
        model.compile(optimizer=optimizer() if optimizer else sgd_alone)
    history = model.fit(
        strategy.distribute(
            built,
            lambda share: pipeline.training_dataset(
                source, tf_instdisc.Augmentation(2), 8, epochs=4, share=share
            ),
        ),
        steps_per_epoch=2,
        epochs=4,
        verbose=0,
        shuffle=False,
    ).history
    return model, history["loss"]


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_keeps_the_loss(precision):
    _, expected = fitted()
    keras.config.set_dtype_policy(precision)
    scaled = precision == "mixed_float16"
    model, losses = fitted(
        strategy.mirrored_cpus(["CPU:0", "CPU:1"]),
        optimizer=(lambda: sgd(16.0)) if scaled else None,
    )
    assert model.encoder.get_layer("projection").compute_dtype == (
        precision.removeprefix("mixed_")
    )
    # bfloat16 has three digits, and eight steps at this rate follow them.
    np.testing.assert_allclose(losses, expected, rtol=0.05)


def test_overflowing_gradients_of_one_replica_change_no_weight():
    keras.config.set_dtype_policy("mixed_float16")
    built = strategy.mirrored_cpus(["CPU:0", "CPU:1"])
    with built.scope():
        model = tf_instdisc.InstanceDiscrimination(
            linear_encoder(), 8, num_negatives=6
        )
        model.compile(optimizer=sgd(2.0))
    weights = model.encoder.get_weights()
    assert weights
    images = np.full((4, 2, 2, 3), 100, np.float32)
    images[3] = np.inf  # On the second replica.
    model.fit(tf.data.Dataset.from_tensors((images, np.arange(4))), verbose=0)
    assert model.step.numpy() == 1
    for before, after in zip(weights, model.encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    scale = model.optimizer.dynamic_scale.value
    for copy in built.experimental_local_results(scale):
        assert copy.numpy() == 1.0
    assert np.isfinite(model.memory_bank.rows.numpy()).all()


def test_xla_around_the_encoder_changes_nothing():
    keras.utils.set_random_seed(0)
    encoder = tf_instdisc.build_encoder(image_size=16, width=4)
    weights = encoder.get_weights()
    images = np.random.default_rng(0).uniform(0, 255, (6, 16, 16, 3))
    images = tf.constant(images, tf.float32)

    def run(jit_compile):
        encoder.set_weights(weights)
        call = training_call(encoder, jit_compile)
        with tf.GradientTape() as tape:
            embeddings = call(images)
            loss = tf.reduce_sum(embeddings[:, :3] ** 2)
        gradient = tape.gradient(loss, encoder.trainable_variables[0])
        return [embeddings, gradient, *encoder.get_weights()]

    for plain, compiled in zip(run(False), run(True), strict=True):
        np.testing.assert_allclose(plain, compiled, rtol=1e-3, atol=5e-4)


@pytest.mark.parametrize("bank_dtype", ["bfloat16", "float16"])
def test_a_bank_in_half_precision_keeps_the_loss(bank_dtype):
    _, expected = fitted()
    model, losses = fitted(bank_dtype=bank_dtype)
    assert model.memory_bank.rows.dtype == bank_dtype
    np.testing.assert_allclose(losses, expected, rtol=0.01)
    norms = np.linalg.norm(model.memory_bank.lookup(np.arange(17)), axis=1)
    np.testing.assert_allclose(norms, 1, atol=0.01)


@pytest.mark.parametrize("negatives", ["shared", "per_example"])
def test_a_bank_on_the_host_is_one_copy_and_changes_nothing(negatives):
    one, expected = fitted(negatives=negatives)
    built = strategy.mirrored_cpus(["CPU:0", "CPU:1"])
    model, losses = fitted(
        built, negatives=negatives, bank_placement="host", jit_encoder=True
    )
    rows = model.memory_bank.rows
    assert len(built.experimental_local_results(rows)) == 1
    assert rows.device.endswith("CPU:0")
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    np.testing.assert_allclose(rows, one.memory_bank.rows, atol=1e-4)


def test_a_step_reads_only_the_rows_it_needs_from_a_bank_on_the_host():
    model = tf_instdisc.InstanceDiscrimination(
        linear_encoder(), 1000, num_negatives=6, bank_placement="host"
    )
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    model.build_training_state()
    graph = (
        tf.function(lambda images, ids: model.train_step((images, ids)))
        .get_concrete_function(
            tf.TensorSpec([8, 2, 2, 3]), tf.TensorSpec([8], tf.int64)
        )
        .graph
    )
    sizes = [
        (operation.type, output.shape[0])
        for operation in graph.get_operations()
        for output in operation.outputs
        if output.shape.rank == 2
    ]
    # Only the rows of its batch and its negatives; no tensor has all rows.
    assert {("ResourceGather", 8), ("ResourceGather", 6)} <= {*sizes}
    assert all(size != 1000 for _, size in sizes)


def test_softmax_refuses_a_bank_on_the_host():
    with pytest.raises(ValueError, match="Received: bank_placement='host'"):
        tf_instdisc.InstanceDiscrimination(
            linear_encoder(), 9, objective="softmax", bank_placement="host"
        )


def test_the_bank_is_never_written_with_a_row_that_is_not_finite():
    model = tf_instdisc.InstanceDiscrimination(linear_encoder(), 4)
    before = model.memory_bank.rows.numpy()
    new = np.ones((3, 4), np.float32) / 2
    new[0, 1], new[1, 2] = np.nan, np.inf
    model.memory_bank.update(tf.constant([0, 1, 2], tf.int64), tf.constant(new))
    after = model.memory_bank.rows.numpy()
    np.testing.assert_array_equal(after[[0, 1, 3]], before[[0, 1, 3]])
    assert np.isfinite(after).all()
    assert (after[2] != before[2]).any()
    with pytest.raises(errors.NonFiniteError, match="must be finite"):
        model.memory_bank.fill(np.arange(3), new)
    np.testing.assert_array_equal(model.memory_bank.rows, after)
