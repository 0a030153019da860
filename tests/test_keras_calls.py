"""What Keras users call: it works as they expect, or one sentence says why."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_instdisc
from tests.small_run import linear_encoder
from tf_instdisc.errors import UsageError
from tf_instdisc.training import optimizer
from tf_instdisc.training.strategy import mirrored_cpus

N = 10
IMAGES = np.random.default_rng(0).uniform(0, 255, (N, 2, 2, 3))
IMAGES = IMAGES.astype(np.float32)
IDS = np.arange(N)

pytestmark = pytest.mark.filterwarnings(
    "ignore:`shuffle=True` was passed", "ignore:.*ran out of data"
)


def strategy_of(replicas):
    if replicas == 1:
        return tf.distribute.get_strategy()
    return mirrored_cpus([f"CPU:{i}" for i in range(replicas)])


def build(encoder=None, compiled=True, **arguments):
    keras.utils.set_random_seed(0)
    model = tf_instdisc.InstanceDiscrimination(
        encoder or linear_encoder(),
        **{"num_instances": N, "num_negatives": 6, **arguments},
    )
    if compiled:
        model.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    return model


def fitted(epochs=1, **arguments):
    model = build(**arguments)
    model.fit(
        IMAGES, IDS, batch_size=4, epochs=epochs, shuffle=False, verbose=0
    )
    return model


def state(model):
    """A copy of all that training changes."""
    return [
        *model.get_weights(),
        *(v.numpy() for v in model.optimizer.variables),
    ]


def assert_same(one, two, **tolerance):
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        if tolerance:
            np.testing.assert_allclose(a, b, **tolerance)
        else:
            np.testing.assert_array_equal(a, b)


# === The bank is among the weights ===

PLACES = (
    {},
    {"bank_placement": "host"},
    {"bank_placement": "sharded", "bank_dtype": "bfloat16"},
    {"bank_dtype": "bfloat16"},
    {"bank_dtype": "float16", "absent_ids": [3]},
    {"objective": "parametric"},
)


@pytest.mark.exhaustive_variants(
    "2-{'bank_dtype': 'bfl*", "2-{'bank_dtype': 'fl*", "2-{'objective*", "2-{}"
)
@pytest.mark.parametrize("arguments", PLACES, ids=str)
@pytest.mark.parametrize("replicas", (1, 2))
def test_weights_hold_bank_z_and_step(tmp_path, arguments, replicas):
    strategy = strategy_of(replicas)
    with strategy.scope():
        model, other = build(**arguments), build(seed=7, **arguments)
    fit = {"batch_size": 5, "shuffle": False, "verbose": 0}
    images, ids = (np.delete(a, 3, axis=0) for a in (IMAGES, IDS))
    model.fit(images, ids, **fit)
    bank = model.memory_bank
    weights = [np.asarray(weight) for weight in model.get_weights()]
    assert any(np.array_equal(w, bank.rows.numpy()) for w in weights)
    assert any(w.shape == () and w == 2 for w in weights)

    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    assert_same(other.get_weights(), weights)
    model.fit(images, ids, **fit)
    assert not np.array_equal(bank.rows.numpy(), other.memory_bank.rows.numpy())
    model.set_weights(weights)
    for restored in (model, other):
        assert int(restored.step.numpy()) == 2
        for name in ("rows", "log_normalizer"):
            copies = strategy.experimental_local_results(
                getattr(restored.memory_bank, name)
            )
            for copy in copies:
                np.testing.assert_array_equal(
                    copy, getattr(other.memory_bank, name)
                )


def test_early_stopping_brings_the_bank_back():
    seen = []

    class Seen(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(self.model.get_weights())

    model = build()
    stopping = keras.callbacks.EarlyStopping(
        monitor="loss", patience=2, min_delta=100, restore_best_weights=True
    )
    model.fit(IMAGES, IDS, epochs=5, verbose=0, callbacks=[Seen(), stopping])
    assert len(seen) == 3
    assert_same(model.get_weights(), seen[0])


@pytest.mark.parametrize("weights_only", (True, False))
def test_model_checkpoint_holds_all(tmp_path, weights_only):
    path = tmp_path / ("m.weights.h5" if weights_only else "m.keras")
    checkpoint = keras.callbacks.ModelCheckpoint(
        path, save_weights_only=weights_only
    )
    model = build()
    model.fit(IMAGES, IDS, verbose=0, callbacks=[checkpoint])
    if weights_only:
        copy = build(seed=5)
        copy.load_weights(path)
    else:
        copy = keras.saving.load_model(path)
    assert_same(copy.get_weights(), model.get_weights())


@pytest.mark.parametrize("accumulate_steps", (1, 2))
def test_a_saved_model_continues_as_if_it_had_not_been_saved(
    tmp_path, accumulate_steps
):
    model = build(
        compiled=False,
        negatives="per_example",
        accumulate_steps=accumulate_steps,
    )
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    model.compile(
        optimizer=optimizer.SGD(
            schedule, momentum=0.9, coupled_weight_decay=0.01
        )
    )
    fit = {"batch_size": 5, "shuffle": False, "verbose": 0}
    model.fit(IMAGES, IDS, **fit)
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    assert_same(state(copy), state(model))
    for each in (model, copy):
        each.fit(IMAGES, IDS, **fit)
    assert int(copy.step.numpy()) == 4
    assert_same(state(copy), state(model), atol=1e-6)


@pytest.mark.exhaustive_variants("load*")
@pytest.mark.parametrize("way", ("set_weights", "load_weights"))
def test_sums_of_other_weights_are_discarded(tmp_path, way):
    model, new = build(accumulate_steps=3), build(accumulate_steps=3)
    weights = model.get_weights()
    model.save_weights(tmp_path / "new.weights.h5")
    fit = {"batch_size": 2, "shuffle": False, "verbose": 0}
    model.fit(IMAGES, IDS, **fit)
    if way == "set_weights":
        model.set_weights(weights)
    else:
        model.load_weights(tmp_path / "new.weights.h5")
    for variable in model.optimizer.variables:
        variable.assign(np.zeros(variable.shape))
    model.optimizer.learning_rate = new.optimizer.learning_rate
    for each in (model, new):
        each.fit(IMAGES, IDS, **fit)
    assert_same(model.get_weights(), new.get_weights(), atol=1e-6)


def test_images_before_their_channels_are_refused_at_once():
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(UsageError, match="must be channels_last"):
            tf_instdisc.build_encoder("resnet18", image_size=8, width=4)
    finally:
        keras.config.set_image_data_format(before)


def test_a_clone_is_a_new_model_of_the_same_kind():
    model = fitted(temperature=0.3, objective="info_nce")
    clone = keras.models.clone_model(model)
    assert clone.get_config()["temperature"] == 0.3
    assert int(clone.step.numpy()) == 0
    clone.compile(optimizer="sgd")
    clone.fit(IMAGES, IDS, verbose=0)


# === Evaluation writes nothing ===


@pytest.mark.exhaustive_variants(
    "1-nce", "1-softmax", "2-info_nce", "2-parametric", "2-softmax"
)
@pytest.mark.parametrize(
    "objective", ("softmax", "nce", "info_nce", "parametric")
)
@pytest.mark.parametrize("replicas", (1, 2))
def test_evaluate_gives_the_loss_and_writes_nothing(objective, replicas):
    strategy = strategy_of(replicas)
    with strategy.scope():
        model = fitted(objective=objective, proximal_weight=0.5)
    before = state(model)
    loss = model.evaluate(IMAGES, IDS, batch_size=3, verbose=0)
    assert model.evaluate(IMAGES, IDS, batch_size=3, verbose=0) == loss
    assert_same(state(model), before)
    if objective == "softmax":
        embeddings = model.encoder(IMAGES).numpy().astype(np.float64)
        rows = model.memory_bank.rows.numpy()
        logits = embeddings @ rows.T / 0.07
        log_sum = np.log(np.exp(logits).sum(axis=1))
        expected = log_sum - np.diag(logits)
        expected += 0.5 * np.sum((embeddings - rows) ** 2, axis=1)
        assert loss == pytest.approx(expected.mean(), rel=1e-4)


def test_evaluate_before_training_has_a_finite_loss():
    model = build()
    assert np.isfinite(model.evaluate(IMAGES, IDS, verbose=0))
    assert np.isnan(model.memory_bank.log_normalizer.numpy())


def test_validation_data_is_measured_each_epoch_and_changes_nothing():
    fit = {"batch_size": 4, "epochs": 3, "shuffle": False, "verbose": 0}
    plain, model = build(), build()
    plain.fit(IMAGES, IDS, **fit)
    history = model.fit(
        IMAGES, IDS, validation_data=(IMAGES[:6], IDS[:6]), **fit
    ).history
    assert len(history["val_loss"]) == 3
    assert_same(model.get_weights(), plain.get_weights())
    loss = model.evaluate(IMAGES[:6], IDS[:6], batch_size=4, verbose=0)
    assert history["val_loss"][-1] == pytest.approx(loss, rel=1e-6)


# === Single batches ===


def test_single_batches_equal_fit_and_evaluate():
    model, one = build(), build()
    history = model.fit(IMAGES, IDS, shuffle=False, verbose=0).history
    loss = one.train_on_batch(IMAGES, IDS)
    assert isinstance(loss, float)
    assert loss == pytest.approx(history["loss"][0], rel=1e-6)
    assert_same(one.get_weights(), model.get_weights(), atol=1e-6)
    logs = one.train_on_batch(IMAGES[:3], IDS[:3], return_dict=True)
    assert {"loss", "learning_rate", "log_normalizer"} <= {*logs}
    before = state(one)
    loss = one.test_on_batch(IMAGES, IDS)
    assert loss == pytest.approx(one.evaluate(IMAGES, IDS, verbose=0), rel=1e-6)
    assert one.test_on_batch(IMAGES, IDS, return_dict=True) == {"loss": loss}
    assert_same(state(one), before)
    assert int(one.step.numpy()) == 2


# === Weights of examples ===


def test_sample_weight_scales_losses():
    weights = np.array([0.0, 1.0, 2.0, 0.5] + [1.0] * 6)
    model = build(objective="softmax")
    before = model.encoder.get_weights()
    bank = model.memory_bank.rows.numpy()
    with tf.GradientTape() as tape:
        v = model.encoder(IMAGES)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            IDS, v @ bank.T / 0.07
        )
        loss = tf.reduce_sum(losses * weights.astype(np.float32)) / N
    gradients = tape.gradient(loss, model.encoder.trainable_weights)
    evaluated = model.evaluate(IMAGES, IDS, sample_weight=weights, verbose=0)
    assert evaluated == pytest.approx(float(loss), rel=1e-5)
    history = model.fit(
        IMAGES, IDS, sample_weight=weights, shuffle=False, verbose=0
    ).history
    assert history["loss"][0] == pytest.approx(float(loss), rel=1e-5)
    for old, new, gradient in zip(
        before, model.encoder.get_weights(), gradients, strict=True
    ):
        np.testing.assert_allclose(new, old - 0.1 * gradient, atol=1e-5)
    # The row of an example with weight 0 is updated nevertheless.
    row = 0.5 * bank[0] + 0.5 * v[0].numpy()
    np.testing.assert_allclose(
        model.memory_bank.rows.numpy()[0], row / np.linalg.norm(row), atol=1e-6
    )


# === Forms of batches ===

DICTIONARIES = (
    lambda x, i: {"image": x, "instance_id": i},
    lambda x, i: {"image": x, "id": i, "label": i % 2},
    lambda x, i: ({"images": x}, i),
    lambda x, i: ({"image": x}, {"instance_id": i}),
    lambda x, i: (x, i[..., None]),
    lambda x, i: (x, tf.cast(i, tf.int32)),
)


@pytest.mark.exhaustive_variants("0", "3", "5")
@pytest.mark.parametrize("number", range(len(DICTIONARIES)))
def test_data_sets_of_many_forms_are_the_same_to_fit(number):
    dataset = tf.data.Dataset.from_tensor_slices((IMAGES, IDS))
    dataset = dataset.map(DICTIONARIES[number]).batch(4)
    model = build()
    model.fit(dataset, verbose=0)
    assert_same(model.get_weights(), fitted().get_weights(), atol=1e-6)
    assert np.isfinite(model.evaluate(dataset, verbose=0))
    np.testing.assert_allclose(
        model.predict(dataset, verbose=0), model.encoder(IMAGES), atol=1e-6
    )


def generator_of(parts):
    return ((IMAGES[part], IDS[part]) for part in parts)


class Batches(keras.utils.PyDataset):
    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def __len__(self):
        return len(self.parts)

    def __getitem__(self, index):
        part = self.parts[index]
        return IMAGES[part], IDS[part]


@pytest.mark.parametrize("form", (generator_of, Batches))
def test_generators_are_the_same_to_fit_as_arrays(form):
    parts = [slice(i, i + 4) for i in range(0, N, 4)]
    model = build()
    model.fit(form(parts), shuffle=False, verbose=0)
    assert int(model.step) == 3
    assert_same(model.get_weights(), fitted().get_weights(), atol=1e-6)


def test_an_array_of_all_images_needs_no_ids():
    model = build()
    model.fit(IMAGES, batch_size=4, shuffle=False, verbose=0)
    assert_same(model.get_weights(), fitted().get_weights(), atol=1e-6)


def test_generators_may_mix_weights_and_none():
    def batches():
        for start in (0, 4):
            part = slice(start, start + 4)
            yield IMAGES[part], IDS[part], None

    model = build()
    model.fit(batches(), verbose=0)
    assert int(model.step.numpy()) == 2


def dataset_of(*parts):
    return tf.data.Dataset.from_tensor_slices(parts).batch(4)


NO_IDS = "needs the instance id of each image"
INTEGERS = "must be integers of shape"
RANGE = r"must be in \[0, 10\).*instance id of 10"
REFUSED = {
    "too few images, no ids": (lambda m: m.fit(IMAGES[:4]), NO_IDS),
    "dataset without ids": (
        lambda m: m.fit(tf.data.Dataset.from_tensors(IMAGES)),
        NO_IDS,
    ),
    "dictionary without ids": (
        lambda m: m.fit(tf.data.Dataset.from_tensors({"image": IMAGES})),
        NO_IDS,
    ),
    "dictionary without images": (
        lambda m: m.fit(
            tf.data.Dataset.from_tensors({"photo": IMAGES, "id": IDS})
        ),
        "must hold the images as `image`. Received: the keys 'photo', 'id'",
    ),
    "batch without ids": (lambda m: m.train_on_batch(IMAGES), NO_IDS),
    "evaluation without ids": (lambda m: m.test_on_batch(IMAGES), NO_IDS),
    "float ids": (lambda m: m.fit(IMAGES, IDS.astype(np.float32)), INTEGERS),
    "float ids, dataset": (
        lambda m: m.fit(dataset_of(IMAGES, IDS.astype(np.float32))),
        INTEGERS,
    ),
    "text ids": (
        lambda m: m.fit(dataset_of(IMAGES, [f"train_{i}" for i in IDS])),
        INTEGERS,
    ),
    "one-hot ids": (lambda m: m.fit(IMAGES, np.eye(N, dtype=int)), INTEGERS),
    "id out of range": (lambda m: m.fit(IMAGES, IDS + 1), RANGE),
    "id out of range, dataset": (
        lambda m: m.fit(dataset_of(IMAGES, IDS + 7)),
        RANGE,
    ),
    "id out of range, batch": (
        lambda m: m.train_on_batch(IMAGES, IDS + 1),
        RANGE,
    ),
    "id out of range, evaluation": (
        lambda m: m.evaluate(dataset_of(IMAGES, IDS + 7)),
        RANGE,
    ),
    "negative id": (
        lambda m: m.fit(IMAGES, IDS - 1),
        r"must be in \[0, 10\).*instance id of -1",
    ),
    "negative id, dataset": (
        lambda m: m.fit(dataset_of(IMAGES, IDS - 1)),
        r"must be in \[0, 10\).*instance id of -1",
    ),
    "labels for ids": (
        lambda m: m.fit(IMAGES, IDS % 2),
        "10 images with 2 different ids, which look like labels",
    ),
    "labels for weights": (
        lambda m: m.fit(dataset_of(IMAGES, IDS, IDS % 3)),
        "`sample_weight` must be float",
    ),
    "class_weight": (
        lambda m: m.fit(IMAGES, IDS, class_weight={0: 1.0}),
        "no classes; weight examples with `sample_weight`",
    ),
    "class_weight of a batch": (
        lambda m: m.train_on_batch(IMAGES, IDS, class_weight={0: 1.0}),
        "`class_weight` must be left out",
    ),
    "validation_split": (
        lambda m: m.fit(IMAGES, IDS, validation_split=0.2),
        "rows are never trained.*Received: validation_split=0.2",
    ),
    "metrics": (
        lambda m: m.compile(metrics=["accuracy"]),
        "`metrics` must be left out.*KNNMonitor",
    ),
    "weighted_metrics": (
        lambda m: m.compile(weighted_metrics=["accuracy"]),
        "`weighted_metrics` must be left out",
    ),
    "loss": (
        lambda m: m.compile(loss="mse"),
        "choose it with `objective`. Received: loss='mse'",
    ),
    "jit_compile": (
        lambda m: m.compile(jit_compile=True),
        r"InstanceDiscrimination\(jit_encoder=",
    ),
}


def test_another_backend_is_refused(monkeypatch):
    model = build()
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    for call in (build, lambda: tf_instdisc.embed(model.encoder, [])):
        with pytest.raises(UsageError, match="KERAS_BACKEND=tensorflow"):
            call()


@pytest.mark.parametrize("name", REFUSED)
def test_impossible_calls_are_refused_in_a_sentence(name):
    call, message = REFUSED[name]
    model = build()
    before = model.get_weights()
    with pytest.raises(ValueError, match=f"(?s){message}") as caught:
        call(model)
    text = str(caught.value)
    assert len(text) < 600
    assert "{{node" not in text
    assert_same(model.get_weights(), before)


def test_labels_in_place_of_streamed_ids_cause_a_warning():
    images = np.repeat(IMAGES, 2, axis=0)
    dataset = tf.data.Dataset.from_tensors((images, np.arange(20) % 3))
    with pytest.warns(UserWarning, match="20 images has 3 different ids"):
        build().fit(dataset, verbose=0)


@pytest.mark.parametrize("eagerly", (False, True))
def test_an_error_of_an_eager_step_is_the_same_sentence(eagerly):
    model = build(compiled=False)
    model.compile(optimizer="sgd", run_eagerly=eagerly)
    with pytest.raises(ValueError, match=RANGE):
        model.fit(dataset_of(IMAGES, IDS + 1), verbose=0)


# === Encoders ===


def ending_in(*layers):
    image = keras.Input((2, 2, 3))
    x = image
    for layer in layers:
        x = layer(x)
    return keras.Model(image, x)


def two_outputs():
    encoder = linear_encoder()
    return keras.Model(encoder.input, [encoder.output] * 2)


L = keras.layers
ENCODERS = {
    "no model": (lambda: np.mean, "functional or Sequential"),
    "feature map": (
        lambda: ending_in(L.Conv2D(4, 1)),
        r"shape \(None, 2, 2, 4\). End it with pooling",
    ),
    "one number": (
        lambda: ending_in(L.Flatten(), L.Dense(1), L.Reshape(())),
        r"shape \(None,\)",
    ),
    "not built": (
        lambda: keras.Sequential([L.Flatten(), L.Dense(4)]),
        "Sequential without an input shape; begin it with keras.Input",
    ),
    "two outputs": (two_outputs, "1 inputs, 2 outputs"),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_of_the_wrong_form_are_refused(name):
    make, message = ENCODERS[name]
    with pytest.raises(ValueError, match=message):
        build(make())


@pytest.mark.parametrize("call", ("fit", "evaluate"))
def test_embeddings_must_have_unit_length(call):
    model = build(ending_in(L.Flatten(), L.Dense(4)))
    with pytest.raises(ValueError, match=r"must end in unit vectors.*length"):
        getattr(model, call)(IMAGES, IDS, verbose=0)


def test_a_frozen_encoder_fills_the_bank_and_warns():
    encoder = linear_encoder()
    encoder.trainable = False
    model = build(encoder, bank_momentum=0.0)
    before = encoder.get_weights()
    with pytest.warns(UserWarning, match="The encoder is frozen"):
        model.fit(IMAGES, IDS, verbose=0)
    assert_same(encoder.get_weights(), before)
    np.testing.assert_allclose(
        model.memory_bank.rows, encoder(IMAGES), atol=1e-6
    )
    encoder.trainable = True
    model.compile(optimizer="sgd")
    model.fit(IMAGES, IDS, verbose=0)
    assert not np.array_equal(encoder.get_weights()[0], before[0])


def test_layers_may_be_frozen_between_two_fits():
    encoder = tf_instdisc.build_encoder(image_size=8, width=1, embedding_dim=4)
    images = np.random.default_rng(0).uniform(0, 255, (8, 8, 8, 3))
    model = build(encoder, num_instances=8, accumulate_steps=2)
    fit = {"x": images, "y": np.arange(8), "batch_size": 4, "verbose": 0}
    model.fit(**fit)
    for layer in encoder.layers[:10]:
        layer.trainable = False
    model.compile(optimizer=keras.optimizers.SGD(0.5))
    frozen = encoder.layers[2].get_weights()
    free = encoder.get_layer("projection").get_weights()
    model.fit(**fit)
    assert_same(encoder.layers[2].get_weights(), frozen)
    assert not np.array_equal(
        encoder.get_layer("projection").get_weights()[0], free[0]
    )


@pytest.mark.parametrize("encoder_first", (True, False))
def test_an_encoder_of_another_scope_is_copied(encoder_first):
    strategy = mirrored_cpus(["CPU:0", "CPU:1"])
    default = tf.distribute.get_strategy()
    scopes = (default, strategy) if encoder_first else (strategy, default)
    keras.utils.set_random_seed(0)
    with scopes[0].scope():
        encoder = linear_encoder()
    with (
        pytest.warns(UserWarning, match="outside the scope"),
        scopes[1].scope(),
    ):
        model = build(encoder)
    assert_same(model.encoder.get_weights(), encoder.get_weights())
    model.fit(IMAGES, IDS, batch_size=4, verbose=0)
    assert int(model.step.numpy()) == 3


# === Training, again and otherwise ===


@pytest.mark.parametrize(
    "arguments",
    (
        {"run_eagerly": True},
        {"steps_per_execution": 2},
        {"steps_per_execution": 5},
        {"jit_compile": False},
    ),
    ids=str,
)
def test_ways_to_run_change_nothing(arguments):
    model = build(compiled=False)
    model.compile(
        optimizer=keras.optimizers.SGD(0.1, momentum=0.9), **arguments
    )
    history = model.fit(IMAGES, IDS, batch_size=4, shuffle=False, verbose=0)
    assert int(model.step.numpy()) == 3
    assert np.isfinite(history.history["loss"]).all()
    assert_same(model.get_weights(), fitted().get_weights(), atol=1e-6)
    assert np.isfinite(model.evaluate(IMAGES, IDS, batch_size=4, verbose=0))


def test_two_fits_equal_one_and_compiling_again_forgets_momentum():
    once, twice = fitted(epochs=2), fitted()
    twice.fit(IMAGES, IDS, batch_size=4, shuffle=False, verbose=0)
    assert_same(state(twice), state(once))
    twice.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    assert int(twice.step.numpy()) == 6
    twice.fit(IMAGES, IDS, batch_size=4, shuffle=False, verbose=0)
    assert int(twice.step.numpy()) == 9


def test_learning_rate_scheduler():
    model = build()
    history = model.fit(
        IMAGES,
        IDS,
        epochs=3,
        verbose=0,
        callbacks=[
            keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / 2**epoch)
        ],
    ).history
    assert history["learning_rate"] == pytest.approx([0.1, 0.05, 0.025])


# === What a trained model is for ===


def test_predict_and_export_use_the_encoder(tmp_path):
    model = fitted()
    expected = model.encoder(IMAGES).numpy()
    for predicted in (
        model.predict(IMAGES, batch_size=4, verbose=0),
        model.predict_on_batch(IMAGES),
        model(IMAGES).numpy(),
        model.predict(dataset_of(IMAGES, IDS), verbose=0),
    ):
        np.testing.assert_allclose(predicted, expected, atol=1e-6)
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(served.serve(IMAGES), expected, atol=1e-6)
