"""Encoders, optimizers and data in the forms that Keras users give them."""

import pickle
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_instdisc
from tests.small_run import linear_encoder
from tests.test_keras_calls import (
    IDS,
    IMAGES,
    N,
    assert_same,
    build,
    strategy_of,
)
from tf_instdisc import keras_internals
from tf_instdisc.errors import UsageError
from tf_instdisc.training import parts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:`shuffle=True` was passed", "ignore:.*ran out of data"
    ),
]

# === Optimizers ===


def _moved(replicas, arguments, wrap=lambda optimizer: optimizer, **options):
    """Weights before and after training with a rate of 1, and the losses."""
    with strategy_of(replicas).scope():
        keras.utils.set_random_seed(0)
        model = tf_instdisc.InstanceDiscrimination(
            linear_encoder(), N, objective="softmax", **options
        )
        model.compile(wrap(keras.optimizers.SGD(1.0, **arguments)))
    before = [v.numpy() for v in model.trainable_variables]
    fit = model.fit(
        IMAGES[:8], IDS[:8], batch_size=4, epochs=3, shuffle=False, verbose=0
    )
    after = [v.numpy() for v in model.trainable_variables]
    return before, after, fit.history["loss"]


@pytest.mark.exhaustive_variants("global", "norm", "scaled_value", "value")
@pytest.mark.parametrize(
    ("arguments", "wrapped", "accumulate_steps"),
    [
        ({"clipnorm": 0.05}, False, 1),
        ({"global_clipnorm": 0.05}, False, 1),
        ({"clipvalue": 0.02}, False, 1),
        ({"global_clipnorm": 0.05}, True, 2),
        ({"clipvalue": 0.02}, True, 1),
    ],
    ids=("norm", "global", "value", "global_of_two", "scaled_value"),
)
def test_replicas_clip_the_gradient_of_the_batch(
    arguments, wrapped, accumulate_steps
):
    wrap = keras.optimizers.LossScaleOptimizer if wrapped else lambda o: o
    options = {"accumulate_steps": accumulate_steps}
    before, one, losses = _moved(1, arguments, wrap, **options)
    _, several, losses_of_several = _moved(4, arguments, wrap, **options)
    assert_same(one, several, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(losses, losses_of_several, rtol=1e-5)
    # The clipping has an effect, and its limit holds.
    _, unclipped, _ = _moved(1, {}, wrap, **options)
    assert np.abs(one[0] - unclipped[0]).max() > 0.01
    if "global_clipnorm" in arguments:
        moved = sum(
            np.sum((a - b) ** 2) for a, b in zip(before, one, strict=True)
        )
        assert 0 < moved**0.5 <= 6 // accumulate_steps * 0.05 + 1e-6


def test_half_precision_gradients_are_clipped():
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1, global_clipnorm=1.0), initial_scale=64.0
    )
    weight = keras.Variable(np.zeros(4), dtype="float16")
    optimizer.build([weight])
    gradient = tf.constant([640.0, 0, 0, 0], tf.float16)  # 10, scaled.
    (clipped,) = keras_internals.clip_gradients(optimizer, [gradient])
    np.testing.assert_allclose(clipped, [64, 0, 0, 0], rtol=1e-3)


@pytest.mark.parametrize("replicas", [1, 2])
def test_an_infinite_gradient_is_skipped_although_it_is_clipped(replicas):
    images = IMAGES.copy()
    images[5] = np.inf
    with strategy_of(replicas).scope():
        model = build(compiled=False, objective="softmax")
        model.compile(
            keras.optimizers.LossScaleOptimizer(
                keras.optimizers.SGD(0.1, clipvalue=1.0), initial_scale=64.0
            )
        )
    before = [v.numpy() for v in model.trainable_variables]
    model.train_on_batch(images[4:8], IDS[4:8])
    assert_same([v.numpy() for v in model.trainable_variables], before)
    assert model.optimizer.dynamic_scale.numpy() == 32.0


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        ({"gradient_accumulation_steps": 2}, "accumulate_steps"),
        ({"use_ema": True, "ema_overwrite_frequency": 2}, "SwapEMAWeights"),
    ],
    ids=str,
)
@pytest.mark.parametrize("wrapped", [False, True], ids=["", "scaled"])
def test_what_keras_cannot_do_on_replicas_is_refused(arguments, cure, wrapped):
    optimizer = keras.optimizers.SGD(0.1, **arguments)
    if wrapped:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    with strategy_of(2).scope():
        model = build(compiled=False)
        with pytest.raises(UsageError, match=cure):
            model.compile(optimizer)


def test_a_half_precision_model_keeps_its_loss_scale(tmp_path):
    """Also where it is loaded under another policy."""
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = build(objective="softmax")
        model.fit(IMAGES, IDS, batch_size=5, verbose=0)
    finally:
        keras.config.set_dtype_policy(previous)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for one in (loaded, pickle.loads(pickle.dumps(model))):
        assert isinstance(one.optimizer, keras.optimizers.LossScaleOptimizer)
        assert_same(
            [v.numpy() for v in one.optimizer.variables],
            [v.numpy() for v in model.optimizer.variables],
        )
    # An encoder brings its precision with it.
    other = build(keras.models.clone_model(model.encoder))
    assert isinstance(other.optimizer, keras.optimizers.LossScaleOptimizer)
    other.compile("sgd", auto_scale_loss=False)
    assert type(other.optimizer) is keras.optimizers.SGD


# === Encoders ===


def _network(ends=keras.Input, **options):
    image = ends((8, 8, 3), name="im")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = keras.layers.Conv2D(4, 3, **options)(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(4)(x)
    return image, keras.layers.UnitNormalization()(x)


def _functional(structure):
    keras.utils.set_random_seed(0)
    image, embedding = _network()
    return keras.Model(structure(image), embedding)


def _sequential(*extra, **options):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Rescaling(1 / 127.5, offset=-1),
            keras.layers.Conv2D(4, 3, **options),
            keras.layers.BatchNormalization(),
            *extra,
            keras.layers.Flatten(),
            keras.layers.Dense(4),
            keras.layers.UnitNormalization(),
        ]
    )


LARGER = np.random.default_rng(1).uniform(0, 255, (N, 8, 8, 3))
LARGER = LARGER.astype(np.float32)


def _fit(encoder, replicas=1, **arguments):
    with strategy_of(replicas).scope():
        if callable(encoder) and not isinstance(encoder, keras.Model):
            encoder = encoder()
        model = build(encoder, objective="softmax", **arguments)
    model.fit(LARGER, IDS, batch_size=4, epochs=2, shuffle=False, verbose=0)
    return model


@pytest.mark.exhaustive_variants("1-Seq*", "2-Seq*", "2-dict*", "2-list")
@pytest.mark.parametrize(
    "encoder",
    [
        lambda: _functional(lambda image: [image]),
        lambda: _functional(lambda image: {"im": image}),
        _sequential,
    ],
    ids=["list", "dictionary", "Sequential"],
)
@pytest.mark.parametrize("replicas", [1, 2])
def test_forms_of_encoders_are_the_same_to_training(
    tmp_path, encoder, replicas
):
    expected = _fit(lambda: _functional(lambda image: image), replicas)
    model = _fit(encoder, replicas)
    assert_same(
        model.get_weights(), expected.get_weights(), rtol=1e-5, atol=1e-6
    )
    if replicas > 1:
        return
    tf_instdisc.save_encoder(model.encoder, tmp_path / "encoder.keras")
    loaded = tf_instdisc.load_encoder(tmp_path / "encoder.keras")
    np.testing.assert_allclose(
        loaded.predict(LARGER, verbose=0),
        model.predict(LARGER, verbose=0),
        atol=1e-5,
    )


@pytest.mark.parametrize("is_eager", [False, True])
@pytest.mark.parametrize("is_sequential", [False, True])
def test_the_losses_of_layers_are_minimized_too(is_sequential, is_eager):
    def make(weight):
        regularizer = keras.regularizers.L2(weight)
        options = {"activity_regularizer": regularizer}
        if is_sequential:
            return _sequential(**options)
        keras.utils.set_random_seed(0)
        return keras.Model(*_network(**options))

    kernels = []
    for weight in (0.0, 1.0):
        model = build(make(weight), objective="softmax")
        model.compile(keras.optimizers.SGD(0.01), run_eagerly=is_eager)
        model.train_on_batch(LARGER, IDS)
        kernels.append(model.encoder.get_weights()[0])
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-4


class PatchMean(keras.layers.Layer):
    """Reads its static size, as layers of vision transformers do."""

    def call(self, x):
        _, height, width, channels = x.shape
        x = keras.ops.reshape(x, (-1, height // 2, 2, width // 2, 2, channels))
        return keras.ops.mean(x, axis=(2, 4))


def test_a_layer_may_read_its_static_size():
    model = _fit(lambda: _sequential(PatchMean()))
    assert np.isfinite(model.predict(LARGER, verbose=0)).all()


@pytest.mark.parametrize("policy", ["bfloat16", "float16"])
def test_weights_may_have_half_precision(policy):
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = _fit(_sequential)
    finally:
        keras.config.set_dtype_policy(previous)
    before = _sequential().get_weights()[0]
    after = np.asarray(model.encoder.get_weights()[0], np.float32)
    assert np.abs(before - after).max() > 1e-4


def _losses_of_many_negatives(policy):
    with parts.precision(policy):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Flatten(), keras.layers.Dense(8)]
        layers.append(keras.layers.UnitNormalization())
        encoder = keras.Sequential([keras.Input([8, 8, 3]), *layers])
    model = tf_instdisc.InstanceDiscrimination(encoder, 2 * N)
    model.compile(keras.optimizers.SGD(0.0))
    images = np.concatenate([LARGER, LARGER[:, ::-1]]) / 255
    batch = images, np.arange(2 * N)
    return [model.train_on_batch(*batch) for _ in range(40)]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_an_encoder_may_end_in_half_precision(policy):
    # The logits of a batch are more than the largest number of float16.
    losses = _losses_of_many_negatives(policy)
    expected = _losses_of_many_negatives("float32")
    np.testing.assert_allclose(losses, expected, rtol=0.02)


def _synchronized():
    encoder = _sequential()
    encoder.layers[2].synchronized = True
    return encoder


def test_a_sequential_encoder_synchronizes_its_batch_norm():
    one = _fit(_synchronized)
    two = _fit(_synchronized, replicas=2)
    assert_same(one.get_weights(), two.get_weights(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "encoder",
    [
        _synchronized,
        lambda: _sequential(activity_regularizer=keras.regularizers.L2(1.0)),
    ],
    ids=["synchronized", "activity"],
)
def test_what_xla_cannot_compile_is_refused(encoder):
    with strategy_of(2).scope(), pytest.raises(UsageError, match="jit_encoder"):
        build(encoder(), jit_encoder=True)


def test_the_encoder_cannot_be_replaced():
    model = build()
    with pytest.raises(UsageError, match=r"cannot be replaced.*Create a new"):
        model.encoder = linear_encoder()
    model.fit(IMAGES, IDS, batch_size=5, verbose=0)


# === Data and callbacks ===


def test_ids_of_unknown_rank_are_taken():
    def shown(image, instance_id):
        image, instance_id = tf.numpy_function(
            lambda i, j: (i, j), [image, instance_id], [tf.float32, tf.int64]
        )
        return tf.ensure_shape(image, [None, 2, 2, 3]), instance_id

    dataset = tf.data.Dataset.from_tensor_slices((IMAGES, IDS)).batch(5)
    expected, model = build(), build()
    expected.fit(dataset, verbose=0)
    model.fit(dataset.map(shown), verbose=0)
    assert_same(model.get_weights(), expected.get_weights())


def test_numbers_may_be_numpy_scalars(tmp_path):
    model = build(num_instances=np.int64(N), num_negatives=np.int32(5))
    model.fit(IMAGES, IDS, batch_size=5, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.num_instances == N


@pytest.mark.parametrize("value", [64.0, "16", None, 1])
def test_other_numbers_of_instances_are_refused(value):
    with pytest.raises(UsageError, match="`num_instances` must be an integer"):
        build(num_instances=value)


def test_an_evaluation_without_batches_is_refused():
    dataset = tf.data.Dataset.from_tensor_slices((IMAGES, IDS)).batch(5)
    with pytest.raises(UsageError, match="`x` must have batches"):
        build().evaluate(dataset.take(0), verbose=0)


@pytest.mark.filterwarnings("ignore:kNN is not measured")
def test_callbacks_survive_a_training_that_diverges():
    source = tf_instdisc.array_source(np.zeros((4, 2, 2, 3), np.uint8), [0] * 4)
    test = tf_instdisc.evaluation_dataset(source, 2, 4)
    monitor = tf_instdisc.KNNMonitor(test, [0] * N, 2, num_neighbors=3)
    images = IMAGES.copy()
    images[5] = np.nan
    model = build(objective="softmax")
    history = model.fit(
        images,
        IDS,
        epochs=3,
        verbose=0,
        callbacks=[monitor, keras.callbacks.TerminateOnNaN()],
    ).history
    assert np.isnan(history["knn_top1"]).all()


def test_divergence_is_reported():
    embeddings = np.eye(4, dtype=np.float32)
    wrong = embeddings.copy()
    wrong[0] = np.nan
    for rows, queries in ((wrong, embeddings), (embeddings, wrong)):
        with pytest.raises(UsageError, match="must be finite"):
            tf_instdisc.knn_accuracy(rows, [0] * 4, queries, [0] * 4, 2, 1)


def test_knn_takes_one_number_and_one_label_for_each_row():
    rows = np.eye(4, dtype=np.float32)
    found = tf_instdisc.knn_accuracy(rows, range(4), rows, range(4), 4, 2)
    assert found == {2: {"top1": 1.0, "top5": 1.0}}
    for wrong in ([0] * 3, [0] * 5, [[0]] * 4):
        with pytest.raises(UsageError, match="one label for each row"):
            tf_instdisc.knn_accuracy(rows, wrong, rows, range(4), 4)
        with pytest.raises(UsageError, match="one label for each query"):
            tf_instdisc.knn_accuracy(rows, range(4), rows, wrong, 4)


def test_health_of_a_frozen_encoder():
    encoder = linear_encoder()
    encoder.trainable = False
    model = build(encoder)
    with pytest.warns(UserWarning, match="frozen"):
        history = model.fit(
            IMAGES, IDS, verbose=0, callbacks=[tf_instdisc.BankHealth()]
        ).history
    assert history["weight_growth"] == [1.0]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"batch_size": 0, "epochs": 1}, "batch_size"),
        ({"batch_size": 2, "epochs": 1, "seed": -1}, "seed"),
        ({"batch_size": 2, "epochs": 1, "seed": 2**31}, "seed"),
    ],
    ids=str,
)
def test_arguments_of_the_training_data_are_checked(arguments, name):
    source = tf_instdisc.array_source(np.zeros((4, 2, 2, 3), np.uint8))
    with pytest.raises(UsageError, match=f"`{name}` must be"):
        tf_instdisc.training_dataset(
            source, tf_instdisc.Augmentation(2), **arguments
        )
    if name == "batch_size":
        with pytest.raises(UsageError, match="`batch_size` must be"):
            tf_instdisc.steps_per_epoch(source, 0)


def test_a_new_process_loads_a_saved_model(tmp_path):
    """Where the package was imported, but none of its names was used."""
    path = tmp_path / "model.keras"
    model = build()
    model.fit(IMAGES, IDS, batch_size=5, verbose=0)
    model.save(path)
    script = (
        "import keras, tf_instdisc\n"
        f"model = keras.saving.load_model({str(path)!r})\n"
        "print(model.num_instances)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(N)
