"""The method as a Keras model: a step against NumPy, replicas, saving."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_instdisc
from tests.small_run import linear_encoder
from tf_instdisc.data import pipeline
from tf_instdisc.method.fused_batch_norm import training_call
from tf_instdisc.training.strategy import mirrored_cpus


def toy_batches(size=10, batch_size=4, epochs=2, side=2):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (size, side, side, 3), np.uint8)
    source = tf_instdisc.array_source(images)
    augmentation = tf_instdisc.Augmentation(side)
    dataset = pipeline.training_dataset(
        source, augmentation, batch_size, epochs
    )
    return dataset, pipeline.steps_per_epoch(source, batch_size)


def fitted(strategy=None, epochs=2, **arguments):
    keras.utils.set_random_seed(0)
    dataset, steps = toy_batches(epochs=epochs)
    with (strategy or tf.distribute.get_strategy()).scope():
        model = tf_instdisc.InstanceDiscrimination(
            linear_encoder(), 10, **{"num_negatives": 6, **arguments}
        )
        model.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    history = model.fit(
        dataset, steps_per_epoch=steps, epochs=epochs, verbose=0, shuffle=False
    )
    return model, history.history


def test_accumulated_gradients_are_averaged_and_rows_written_in_each_step():
    model = tf_instdisc.InstanceDiscrimination(
        linear_encoder(),
        7,
        objective="softmax",
        temperature=0.5,
        accumulate_steps=3,
    )
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    images = np.random.default_rng(0).uniform(0, 255, (6, 2, 2, 3))
    images = images.astype(np.float32)
    bank = model.memory_bank.rows.numpy()
    before = model.encoder.get_weights()
    seen = []

    class Seen(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            rows = model.memory_bank.rows.numpy()
            seen.append((rows, model.encoder.get_weights()))

    expected = []
    gradients = []
    for ids in ([0, 1], [2, 3], [4, 5]):
        with tf.GradientTape() as tape:
            v = model.encoder(images[ids])
            logits = v @ bank.T / 0.5
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(ids, logits)
            )
        gradients.append(tape.gradient(loss, model.encoder.trainable_weights))
        rows = 0.5 * bank[ids] + 0.5 * v.numpy()
        bank[ids] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        expected.append(bank.copy())
    dataset = tf.data.Dataset.from_tensor_slices((images, np.arange(6)))
    model.fit(dataset.batch(2), verbose=0, callbacks=[Seen()])
    for (rows, _), expected_rows in zip(seen, expected, strict=True):
        np.testing.assert_allclose(rows, expected_rows, atol=1e-6)
    for _, weights in seen[:2]:
        for a, b in zip(weights, before, strict=True):
            np.testing.assert_array_equal(a, b)
    for old, new, *each in zip(before, seen[2][1], *gradients, strict=True):
        assert np.abs(new - old).max() > 1e-4
        np.testing.assert_allclose(
            new, old - 0.1 * np.mean(each, axis=0), atol=1e-6
        )


@pytest.mark.parametrize("objective", ["softmax", "nce", "info_nce"])
def test_every_objective_learns_and_keeps_unit_rows(objective):
    model, history = fitted(objective=objective, epochs=12, temperature=0.2)
    assert history["loss"][-1] < history["loss"][0]
    norms = np.linalg.norm(model.memory_bank.rows.numpy(), axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-5)


def test_parametric_trains_its_weights_and_still_fills_the_bank():
    model, history = fitted(objective="parametric", epochs=12, temperature=1.0)
    assert history["loss"][-1] < history["loss"][0]
    assert any(v is model.class_weights for v in model.trainable_variables)
    fresh = tf_instdisc.InstanceDiscrimination(linear_encoder(), 10)
    assert not np.allclose(model.memory_bank.rows, fresh.memory_bank.rows)


def test_fit_distributes_any_data_set_by_itself():
    one, one_history = fitted()
    two, two_history = fitted(mirrored_cpus(["CPU:0", "CPU:1"]))
    np.testing.assert_allclose(
        one_history["loss"], two_history["loss"], rtol=1e-4
    )
    np.testing.assert_allclose(
        one.memory_bank.rows, two.memory_bank.rows, atol=1e-4
    )


def test_the_same_seed_repeats_a_fit_bit_for_bit():
    (one, first), (two, second) = fitted(seed=3), fitted(seed=3)
    assert first["loss"] == second["loss"]
    np.testing.assert_array_equal(one.memory_bank.rows, two.memory_bank.rows)
    other, _ = fitted(seed=4)
    assert not np.array_equal(one.memory_bank.rows, other.memory_bank.rows)


def test_logs_contain_speed_rate_and_input_wait():
    _, history = fitted()
    assert set(history) == {
        "loss",
        "learning_rate",
        "log_normalizer",
        "images_per_second",
        "input_wait",
    }
    assert all(speed > 0 for speed in history["images_per_second"])
    assert all(0 <= share <= 1 for share in history["input_wait"])
    assert history["learning_rate"] == pytest.approx([0.1, 0.1])


def test_learning_rate_is_that_of_the_epochs_last_step():
    dataset, steps = toy_batches(epochs=3)
    model = tf_instdisc.InstanceDiscrimination(linear_encoder(), 10)
    # Keras keeps a value up to and with its boundary.
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [steps - 1, 2 * steps - 1], [0.3, 0.2, 0.1]
    )
    model.compile(optimizer=keras.optimizers.SGD(schedule))
    history = model.fit(dataset, steps_per_epoch=steps, epochs=3, verbose=0)
    assert history.history["learning_rate"] == pytest.approx([0.3, 0.2, 0.1])


def test_a_later_fit_may_use_batches_of_another_form():
    encoder = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4),
            keras.layers.UnitNormalization(),
        ]
    )
    model = tf_instdisc.InstanceDiscrimination(encoder, 4, num_negatives=3)
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    for side, dtype in ((4, "float32"), (6, "float32"), (6, "uint8")):
        images = np.full((4, side, side, 3), 7, dtype)
        model.fit(images, np.arange(4), batch_size=2, verbose=0)
    assert int(model.step) == 6


def test_input_wait_sees_a_slow_pipeline():
    dataset, steps = toy_batches()

    def slow(images, ids):
        tf.py_function(lambda: __import__("time").sleep(0.2), [], [])
        return images, ids

    model, _ = fitted()
    history = model.fit(
        dataset.map(slow), steps_per_epoch=steps, epochs=2, verbose=0
    ).history
    assert history["input_wait"][-1] > 0.5


def test_encode_bank_fills_rows_with_embeddings():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (7, 2, 2, 3), np.uint8)
    source = tf_instdisc.array_source(images)
    model = tf_instdisc.InstanceDiscrimination(linear_encoder(), 7)
    model.encode_bank(tf_instdisc.evaluation_dataset(source, 2, 3))
    expected = model.encoder(images.astype(np.float32))
    np.testing.assert_allclose(model.memory_bank.rows, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objective": "triplet"}, "Received: objective='triplet'"),
        ({"negatives": "hard"}, "shared, per_example"),
        ({"normalizer": "exact"}, "ema, first_batch"),
        ({"num_instances": 1}, "at least 2. Received: num_instances=1"),
        ({"temperature": 0.001}, r"in \[0.01, 1\]. Received: temperature"),
        ({"bank_momentum": 1.0}, "Received: bank_momentum=1.0"),
        ({"proximal_weight": -1.0}, "Received: proximal_weight=-1.0"),
        ({"num_negatives": 0}, "Received: num_negatives=0"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tf_instdisc.InstanceDiscrimination(
            linear_encoder(), **{"num_instances": 4, **arguments}
        )


@pytest.mark.parametrize("backbone", ["resnet18", "alexnet"])
def test_fused_batch_norm_equals_keras_layers(backbone):
    keras.utils.set_random_seed(0)
    encoder = tf_instdisc.build_encoder(backbone, image_size=32, width=4)
    weights = encoder.get_weights()
    images = np.random.default_rng(0).uniform(0, 255, (6, 32, 32, 3))
    images = images.astype(np.float32)

    def run(call):
        encoder.set_weights(weights)
        with tf.GradientTape() as tape:
            embeddings = call(images)
            loss = tf.reduce_sum(embeddings[:, :3] ** 2)
        gradients = tape.gradient(loss, encoder.trainable_variables)
        return [embeddings, *gradients, *encoder.get_weights()]

    plain = run(lambda images: encoder(images, training=True))
    fused = run(training_call(encoder))
    # Batch norm's gradient is a small difference of large sums.
    for a, b in zip(plain, fused, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4)
    # The encoder itself holds nothing but plain layers.
    assert all(
        type(layer).__module__.startswith("keras.") for layer in encoder.layers
    )
    if backbone == "resnet18":  # AlexNet's dense layers fix the size.
        smaller = training_call(encoder)(np.zeros((2, 24, 24, 3), np.float32))
        assert smaller.shape == (2, 128)
