"""encoder.keras contains only what every Keras from 3.5 on knows.

An old Keras loads the files where `INSTDISC_OLD_KERAS` names the Python of an
environment that holds one.
"""

import json
import os
import pathlib
import subprocess
import zipfile

import keras
import numpy as np
import pytest

import tf_instdisc
from tf_instdisc.evaluation.untrained import fresh_copy

pytestmark = pytest.mark.slow

OLD_PYTHON = os.environ.get("INSTDISC_OLD_KERAS")
# Those of Keras 3.6 to 3.15.
NEWER_KEYS = {
    "antialias",
    "bounding_box_format",
    "flash_attention",
    "gptq_unpacked_column_size",
    "input_axes",
    "lora_alpha",
    "output_axes",
    "quantization_config",
    "ragged",
    "renorm",
    "renorm_clipping",
    "renorm_momentum",
    "sliding_window",
    "use_gate",
}
# Whose embeddings an old Keras computes; compiling them takes seconds.
COMPARED = ("resnet18", "vit_small")
# Backbone, image size, further arguments, dtype policy.
CASES = {
    "resnet18": ("resnet18", 16, {}, "float32"),
    "resnet50": ("resnet50", 16, {}, "float32"),
    "resnet18_imagenet": ("resnet18", 32, {"stem": "imagenet"}, "float32"),
    "resnet18_sync": ("resnet18", 16, {"sync_batch_norm": True}, "float32"),
    "resnet18_bfloat16": ("resnet18", 16, {}, "mixed_bfloat16"),
    "alexnet": ("alexnet", 16, {}, "float32"),
    "vgg16": ("vgg16", 16, {}, "float32"),
    "vit_small": ("vit_small", 16, {}, "float32"),
    "MobileNetV3Small": ("MobileNetV3Small", 32, {}, "float32"),
    "Sequential": ("Sequential", 16, {}, "float32"),
}


def build(name):
    backbone, size, arguments, policy = CASES[name]
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    try:
        if backbone == "Sequential":
            backbone = keras.Sequential(
                [
                    keras.Input((size, size, 3)),
                    keras.layers.Resizing(8, 8),
                    keras.layers.SeparableConv2D(4, 3, activation="relu"),
                    keras.layers.GroupNormalization(2),
                    keras.layers.Conv2DTranspose(4, 3),
                ]
            )
        elif backbone[0].isupper():
            backbone = getattr(keras.applications, backbone)(
                include_top=False, weights=None, input_shape=(size, size, 3)
            )
        else:
            arguments = {**arguments, "width": 2}
        return tf_instdisc.build_encoder(
            backbone, image_size=size, embedding_dim=8, **arguments
        )
    finally:
        keras.config.set_dtype_policy("float32")


def keys_of(config):
    if isinstance(config, dict):
        for key, value in config.items():
            yield key
            yield from keys_of(value)
    elif isinstance(config, list):
        for value in config:
            yield from keys_of(value)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file and the embeddings of a few images for each case."""
    folder = tmp_path_factory.mktemp("files")
    images = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3))
    images = images.astype(np.float32)
    np.save(folder / "images.npy", images)
    embeddings = {}
    for name in CASES:
        encoder = build(name)
        seen = images[:, : CASES[name][1], : CASES[name][1]]
        for _ in range(3):  # Statistics that keep activations in range.
            encoder(seen, training=True)
        tf_instdisc.save_encoder(encoder, folder / f"{name}.keras")
        embeddings[name] = encoder(seen).numpy()
    return folder, images, embeddings


@pytest.mark.exhaustive
def test_files_hold_no_argument_that_keras_3_5_does_not_know(files):
    folder, _, _ = files
    for name in CASES:
        with zipfile.ZipFile(folder / f"{name}.keras") as file:
            keys = set(keys_of(json.loads(file.read("config.json"))))
        assert not keys & NEWER_KEYS, name
        assert "kernel_initializer" in keys
    assert not list(folder.glob("*partial*"))


def test_the_present_keras_loads_the_same_encoders(files):
    folder, images, embeddings = files
    for name, expected in embeddings.items():
        encoder = keras.saving.load_model(folder / f"{name}.keras")
        side = encoder.input_shape[1]
        np.testing.assert_array_equal(
            encoder(images[:, :side, :side]), expected, err_msg=name
        )


@pytest.mark.skipif(
    not OLD_PYTHON, reason="INSTDISC_OLD_KERAS names no old Keras' Python"
)
def test_an_old_keras_loads_the_same_encoders(files):
    folder, _, embeddings = files
    script = pathlib.Path(__file__).with_name("old_keras_load.py")
    result = subprocess.run(
        [OLD_PYTHON, str(script), str(folder), *COMPARED],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert result.returncode == 0, result.stderr
    with np.load(folder / "old.npz") as old:
        assert str(old["version"]) != keras.__version__
        for name in COMPARED:
            np.testing.assert_allclose(
                old[name], embeddings[name], atol=1e-4, err_msg=name
            )


def test_built_and_loaded_encoders_save_themselves_the_same_way(
    files, tmp_path
):
    folder, _, _ = files

    def config(path):
        with zipfile.ZipFile(path) as file:
            return json.loads(file.read("config.json"))

    encoder = build("resnet18")
    encoder.save(tmp_path / "built.keras")
    loaded = tf_instdisc.load_encoder(folder / "resnet18.keras")
    loaded.save(tmp_path / "loaded.keras")
    plain = keras.saving.load_model(folder / "resnet18.keras")
    tf_instdisc.save_encoder(plain, tmp_path / "plain.keras")
    for name in ("built", "loaded", "plain"):
        keys = set(keys_of(config(tmp_path / f"{name}.keras")))
        assert not keys & NEWER_KEYS, name


def test_a_saved_model_stays_as_it_is(tmp_path):
    image = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization(synchronized=True)(image)
    model = keras.Model(image, keras.layers.Flatten()(x))
    tf_instdisc.save_encoder(model, tmp_path / "encoder.keras")
    model.save(tmp_path / "own.keras")
    assert (
        keras.saving.load_model(tmp_path / "own.keras").layers[1].synchronized
    )


def test_arguments_that_differ_from_their_defaults_are_kept(tmp_path):
    image = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization(renorm=True)(image)
    model = keras.Model(image, keras.layers.Flatten()(x))
    tf_instdisc.save_encoder(model, tmp_path / "e.keras")
    layer = keras.saving.load_model(tmp_path / "e.keras").layers[1]
    assert layer.renorm
    assert layer.renorm_momentum == 0.99


def test_a_loaded_encoder_can_be_reinitialized(files):
    # Networks from scratch, to compare with, are its fresh copies.
    folder, _, _ = files
    trained = tf_instdisc.load_encoder(folder / "resnet18.keras")
    fresh = fresh_copy(trained, seed=1)
    kernel = fresh.get_layer("conv1_conv").kernel.numpy()
    assert kernel.std() == pytest.approx((2 / (9 * 2)) ** 0.5, rel=0.4)


def test_the_suffix_is_required(tmp_path):
    with pytest.raises(ValueError, match=r"end in .keras. Received: path="):
        tf_instdisc.save_encoder(build("resnet18"), tmp_path / "encoder.h5")
    assert not list(tmp_path.iterdir())
