"""Runs that begin with the weights of another network."""

import dataclasses

import keras
import numpy as np
import pytest

import tf_instdisc
from tests import commands
from tf_instdisc.config import EncoderConfig, RunConfig
from tf_instdisc.errors import UsageError
from tf_instdisc.evaluation.untrained import fresh_copy
from tf_instdisc.training.initial_encoder import initial_encoder
from tf_instdisc.training.parts import precision

pytestmark = pytest.mark.slow


def images_of(size, number=4):
    random = np.random.default_rng(size)
    return random.uniform(0, 255, [number, size, size, 3]).astype("float32")


def config_of(init_encoder, image_size=16, **settings):
    return RunConfig(
        data=tf_instdisc.DataConfig(image_size=image_size),
        encoder=EncoderConfig(init_encoder=str(init_encoder), **settings),
    )


@pytest.fixture(scope="module")
def encoder():
    return tf_instdisc.build_encoder(
        "resnet18", image_size=16, width=2, embedding_dim=8, mean="cifar10"
    )


@pytest.fixture(scope="module")
def encoder_file(encoder, tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder") / "encoder.keras"
    encoder.save(path)
    return path


# === Encoders of this package ===


def test_the_same_sizes_give_the_same_embeddings(encoder, encoder_file):
    begun = initial_encoder(config_of(encoder_file, embedding_dim=8))
    images = images_of(16)
    np.testing.assert_allclose(begun(images), encoder(images), atol=1e-6)


def test_another_image_size_has_the_same_weights(encoder, encoder_file):
    begun = initial_encoder(config_of(encoder_file, 24, embedding_dim=8))
    assert begun.input_shape == (None, 24, 24, 3)
    same = tf_instdisc.build_encoder(
        "resnet18",
        image_size=24,
        width=2,
        stem="cifar",
        embedding_dim=8,
        mean="cifar10",
    )
    same.set_weights(encoder.get_weights())
    images = images_of(24)
    np.testing.assert_allclose(begun(images), same(images), atol=1e-6)


def test_another_embedding_size_has_a_new_projection(encoder, encoder_file):
    begun = initial_encoder(config_of(encoder_file, embedding_dim=6))
    images = images_of(16)
    old, new = (
        keras.Model(e.input, e.get_layer("pool").output)(images)
        for e in (encoder, begun)
    )
    np.testing.assert_allclose(new, old, atol=1e-6)
    embeddings = np.asarray(begun(images))
    assert embeddings.shape == (4, 6)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-6)


def test_the_precision_is_that_of_the_run(encoder, encoder_file):
    with precision("mixed_bfloat16"):
        begun = initial_encoder(config_of(encoder_file, embedding_dim=8))
    assert begun.get_layer("conv5").output.dtype == "bfloat16"
    assert begun.output.dtype == "float32"
    images = images_of(16)
    cosines = np.sum(np.asarray(begun(images)) * encoder(images), axis=1)
    assert cosines.min() > 0.99


def test_an_encoder_that_ends_in_a_vector_changes_its_precision(tmp_path):
    path = tmp_path / "encoder.keras"
    encoder = tf_instdisc.build_encoder("vgg16", image_size=16, width=1)
    encoder.save(path)
    with precision("mixed_bfloat16"):
        begun = initial_encoder(config_of(path, embedding_dim=128))
    images = images_of(16)
    np.testing.assert_allclose(begun(images), encoder(images), atol=0.1)


def test_weights_that_fit_one_size_are_refused_at_another(tmp_path):
    path = tmp_path / "encoder.keras"
    tf_instdisc.build_encoder("vgg16", image_size=16, width=1).save(path)
    with pytest.raises(UsageError, match=r"image_size=32.*Use image_size=16"):
        initial_encoder(config_of(path, 32))


@pytest.mark.parametrize("backbone", ["vgg16", "vit_small", "resnet18"])
def test_training_crops_must_fit_the_network(tmp_path, backbone):
    path = tmp_path / "encoder.keras"
    tf_instdisc.build_encoder(
        backbone, image_size=16, width=1, embedding_dim=8
    ).save(path)
    config = config_of(path, embedding_dim=8)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, train_image_size=12),
        optimizer=tf_instdisc.OptimizerConfig(epochs=1, batch_size=4),
        method=tf_instdisc.MethodConfig(objective="softmax"),
    )
    source = tf_instdisc.array_source(images_of(16, 8).astype("uint8"))
    if backbone == "resnet18":
        tf_instdisc.train(config, tmp_path / "run", source)
        return
    with pytest.raises(UsageError, match=r"train_image_size=12.*Leave it out"):
        tf_instdisc.train(config, tmp_path / "run", source)
    assert not (tmp_path / "run").exists()


def test_a_run_begins_with_the_encoder_of_another(small_run, tmp_path):
    source = tf_instdisc.array_source(images_of(16, 8).astype("uint8"))
    before = tf_instdisc.load_encoder(small_run.path)
    config = config_of(small_run.path, embedding_dim=before.output_shape[-1])
    config = dataclasses.replace(
        config,
        optimizer=tf_instdisc.OptimizerConfig(
            epochs=1, batch_size=4, learning_rate=0.0
        ),
        method=tf_instdisc.MethodConfig(objective="softmax"),
    )
    run = tf_instdisc.train(config, tmp_path / "run", source)
    after = run.load_encoder()
    assert after.input_shape == (None, 16, 16, 3)
    for old, new in zip(
        before.trainable_variables, after.trainable_variables, strict=True
    ):
        np.testing.assert_array_equal(old, new)


def test_a_saved_network_of_the_user_is_not_normalized_twice(tmp_path):
    layers = keras.layers
    encoder = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(8),
            layers.UnitNormalization(),
        ]
    )
    images = images_of(16, 8).astype("uint8")
    model = tf_instdisc.InstanceDiscrimination(encoder, 8, "softmax")
    source = tf_instdisc.array_source(images)
    run = tf_instdisc.save_run(model, source, tmp_path / "run")
    for named in (run.path, run.path / "encoder.keras"):
        begun = initial_encoder(config_of(named))
        end = begun.get_layer("projection").input
        features = keras.Model(begun.inputs, end)
        np.testing.assert_allclose(features(images), encoder(images), atol=1e-6)
    with pytest.raises(UsageError, match="normalizes its input itself"):
        initial_encoder(config_of(run.path, mean="cifar10"))


# === Models of Keras and of other packages ===


def tiny(input_shape=(32, 32, 3), **_):
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(4, 3, activation="relu", name="features")(inputs)
    return keras.Model(inputs, x, name="tiny")


def not_a_model():
    return "model"


@pytest.mark.parametrize(
    "module", ["resnet", "resnet_v2", "densenet", "efficientnet"]
)
def test_applications_bring_their_preprocessing(monkeypatch, module):
    # "caffe", "tf" and "torch" preprocessing, and none.
    preprocess = getattr(keras.applications, module).preprocess_input
    made = []

    def network(include_top, weights, input_shape):
        assert (include_top, weights) == (False, "imagenet")
        made.append(tiny(input_shape))
        return made[0]

    network.__module__ = preprocess.__module__
    monkeypatch.setattr(keras.applications, "ResNet50", network)
    begun = initial_encoder(config_of("keras.applications.ResNet50", 32))
    images = images_of(32)
    features = keras.Model(begun.input, begun.get_layer("pool").output)
    expected = np.mean(made[0](preprocess(images.copy())), axis=(1, 2))
    np.testing.assert_allclose(features(images), expected, rtol=1e-4, atol=1e-3)
    assert not [w for w in begun.trainable_variables if "preprocess" in w.path]
    # An untrained network of the same architecture keeps the preprocessing.
    fresh = fresh_copy(begun, seed=1)
    kernel = fresh.get_layer("features").kernel
    assert not np.allclose(kernel, begun.get_layer("features").kernel)
    fresh.get_layer("features").set_weights(
        begun.get_layer("features").get_weights()
    )
    features = keras.Model(fresh.input, fresh.get_layer("pool").output)
    np.testing.assert_allclose(features(images), expected, rtol=1e-4, atol=1e-3)


def test_images_of_a_user_function_are_normalized_by_mean_and_std():
    name = f"{__name__}.tiny"
    begun = initial_encoder(config_of(name, 32, mean="cifar10", std="cifar10"))
    layer = begun.get_layer("normalize")
    assert np.asarray(layer.scale)[0] == pytest.approx(1 / (255 * 0.2023))
    assert begun.get_layer("features").kernel.shape == (3, 3, 3, 4)


def test_a_command_finds_a_function_in_the_current_directory(tmp_path):
    (tmp_path / "my_networks.py").write_text(
        "import keras\n\n\n"
        "def backbone():\n"
        "    image = keras.Input((None, None, 3))\n"
        "    x = keras.layers.Conv2D(4, 3)(image)\n"
        "    return keras.Model(image, x)\n"
    )
    plan = ["--dataset=cifar10", "--num_instances=9", "--batch_size=3"]
    function = "--init_encoder=my_networks.backbone"
    found = commands.run("plan", *plan, function, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    elsewhere = commands.run("plan", *plan, function)
    assert elsewhere.returncode == 2
    assert "No module named 'my_networks'" in elsewhere.stderr


# === Errors ===


@pytest.mark.parametrize(
    ("named", "settings", "message"),
    [
        ("no/such/file.keras", {}, "must be a run, an encoder.keras, or the"),
        (
            "../no/such/file.keras",
            {},
            "must be a run, an encoder.keras, or the",
        ),
        (__file__, {}, "must be a run or a .keras file"),
        ("keras.applications.ResNet51", {}, "which does not exist"),
        ("keras.applications.resnet", {}, "must name a function"),
        ("run", {"sync_batch_norm": True}, "`sync_batch_norm` cannot be"),
        (f"{__name__}.not_a_model", {}, "which returned str"),
        ("nosuch://bucket/run", {}, "with a scheme of fsspec"),
        ("run", {"width": 32}, "`width` cannot be combined"),
        ("run", {"backbone": "vgg16"}, "`backbone` cannot be combined"),
    ],
)
def test_what_cannot_be_used_is_refused(named, settings, message):
    with pytest.raises(UsageError, match=message) as caught:
        initial_encoder(config_of(named, **settings))
    assert named in str(caught.value)


def test_its_own_mean_is_not_replaced(encoder_file):
    with pytest.raises(UsageError, match="normalizes its input itself"):
        initial_encoder(config_of(encoder_file, mean="cifar10"))
    # The defaults, written as numbers.
    mean, std = (0.485, 0.456, 0.406), "0.229,0.224,0.225"
    initial_encoder(config_of(encoder_file, mean=mean, std=std))


@pytest.mark.exhaustive
def test_training_on_updated_data_keeps_the_network(
    small_run, tmp_path, capsys
):
    source = tf_instdisc.array_source(
        images_of(16, 8).astype("uint8"), np.arange(8) % 2
    )
    optimizer = tf_instdisc.OptimizerConfig(epochs=1, batch_size=4)
    config = dataclasses.replace(
        config_of(small_run.path, embedding_dim=6), optimizer=optimizer
    )
    run = tf_instdisc.train(config, tmp_path / "first", source)
    config = RunConfig(
        data=config.data,
        encoder=EncoderConfig(embedding_dim=6),
        optimizer=optimizer,
        training=tf_instdisc.TrainingConfig(
            init_run=str(run.path), baselines=True
        ),
    )
    capsys.readouterr()
    further = tf_instdisc.train(config, tmp_path / "second", source, source)
    said = capsys.readouterr().out
    assert "initial encoder" in said
    assert "untrained" not in said
    assert [w.shape for w in further.load_encoder().weights] == [
        w.shape for w in run.load_encoder().weights
    ]


@pytest.mark.exhaustive
def test_zero_epochs_encode_the_images_and_more_can_follow(
    encoder, encoder_file, tmp_path
):
    images = images_of(16, 8).astype("uint8")
    source = tf_instdisc.array_source(images)
    config = dataclasses.replace(
        config_of(encoder_file, embedding_dim=8),
        optimizer=tf_instdisc.OptimizerConfig(epochs=0, batch_size=4),
    )
    run = tf_instdisc.train(config, tmp_path / "run", source)
    rows = run.load_bank().rows
    np.testing.assert_allclose(rows, encoder(images), atol=1e-5)
    assert run.metrics == []
    again = tf_instdisc.train(config, tmp_path / "run", source)
    np.testing.assert_array_equal(again.load_bank().rows, rows)
    optimizer = dataclasses.replace(config.optimizer, epochs=1)
    config = dataclasses.replace(config, optimizer=optimizer)
    trained = tf_instdisc.train(config, tmp_path / "run", source)
    assert [line["epoch"] for line in trained.metrics] == [1]
    assert not np.allclose(trained.load_bank().rows, rows, atol=1e-3)


def test_zero_epochs_require_a_trained_network(encoder_file):
    optimizer = tf_instdisc.OptimizerConfig(epochs=0)
    for config in (
        config_of(encoder_file, embedding_dim=6),
        config_of("keras.applications.ResNet50"),
        config_of(f"{__name__}.tiny"),
    ):
        with pytest.raises(UsageError, match="a trained projection"):
            initial_encoder(dataclasses.replace(config, optimizer=optimizer))
    with pytest.raises(UsageError, match="unless `init_encoder`"):
        RunConfig(optimizer=optimizer)


def test_an_unknown_name_is_reported_before_the_epochs():
    optimizer = tf_instdisc.OptimizerConfig(epochs=0)
    config = config_of("cifar10_resnet")
    with pytest.raises(UsageError, match="'cifar10_resnet', which does not"):
        initial_encoder(dataclasses.replace(config, optimizer=optimizer))


def test_a_run_cannot_begin_twice(encoder_file):
    config = config_of(encoder_file)
    training = tf_instdisc.TrainingConfig(init_run="run")
    with pytest.raises(UsageError, match="either `init_run`"):
        dataclasses.replace(config, training=training)


def test_a_frozen_encoder_gets_new_weights_as_a_baseline():
    encoder = tf_instdisc.build_encoder("resnet18", image_size=16, width=2)
    encoder.trainable = False
    fresh = fresh_copy(encoder, seed=1)
    old, new = (e.get_layer("projection").kernel for e in (encoder, fresh))
    assert not np.allclose(old, new)
