"""Each benchmark starts; its measurements are in BENCHMARKS.md."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import tf_instdisc
from benchmarks import accelerator, growth
from tests import tfds_forms
from tf_instdisc.config import recipes
from tf_instdisc.config.run import from_flagfile
from tf_instdisc.method.encoders import encoder_of

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.parametrize(
    "name",
    [
        "beam",
        "exact_softmax",
        "folder_start",
        "grown",
        "growth",
        "head",
        "imagenet_form",
        "index",
        "input",
        "int8_products",
        "large_bank",
        "neighbors",
        "planted_duplicates",
        "serving",
        "startup",
        "step",
        "svm",
    ],
)
def test_it_prints_a_table_on_a_tiny_size(name):
    if name == "beam":
        pytest.importorskip("apache_beam", reason="no '.[beam]' is installed")
    result = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--tiny"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if line]
    assert len(lines) >= 3
    assert all(line.startswith("| ") for line in lines)


@pytest.mark.parametrize(
    ("law", "y"),
    [
        ("constant", [3.0, 3.0, 3.0]),
        ("a + b x", [5.0, 41.0, 401.0]),
    ],
)
def test_a_fit_equals_points_that_follow_the_law(law, y):
    assert growth.expected(law, [1, 10, 100], y) == pytest.approx(y)


def test_a_recipe_is_trained_with_jax(tmp_path):
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed")
    images = np.random.default_rng(0).integers(0, 255, [40, 32, 32, 3])
    files = [tf.io.encode_png(image).numpy() for image in images]
    sizes = [len(file) for file in files]
    content = np.frombuffer(b"".join(files), np.uint8)
    np.savez(tmp_path / "images.npz", content=content, sizes=sizes)
    flags = ["--width=2", "--epochs=2", "--batch_size=8"]
    config = from_flagfile(
        recipes.path_of("cifar10_night").read_text("utf-8"), "\n".join(flags)
    )
    weights = tmp_path / "weights.npz"
    result = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.accelerator", "train"),
            "--recipe=cifar10_night",
            f"--images={tmp_path / 'images.npz'}",
            f"--weights={weights}",
            *flags,
        ],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    first, last = map(json.loads, result.stdout.splitlines())
    # At first, an image is as likely as any of the 40.
    assert first["loss"] == pytest.approx(np.log(40), abs=1.5)
    assert last["epoch"] == 2
    before = encoder_of(config).get_weights()
    with np.load(weights) as after:
        assert [after[name].shape for name in after] == [
            weight.shape for weight in before
        ]


def test_images_are_packed_and_weights_are_saved_as_a_run(tmp_path):
    tfds_forms.write_cifar10(tmp_path / "tfds", 12)
    flags = "--width=2\n--embedding_dim=8"
    config = from_flagfile(
        recipes.path_of("cifar10_night").read_text("utf-8"), flags
    )
    data_dir = str(tmp_path / "tfds")
    accelerator.pack(config, data_dir, str(tmp_path / "images.npz"))
    images = accelerator.read(str(tmp_path / "images.npz"))
    source = tf_instdisc.tfds_source("cifar10", data_dir=data_dir)
    assert images.shape == (12, 32, 32, 3)

    encoder = encoder_of(config)
    weights = tmp_path / "weights.npz"
    np.savez(weights, *encoder.get_weights())
    accelerator.save(config, data_dir, str(weights), str(tmp_path / "run"))
    bank = tf_instdisc.Run(tmp_path / "run").load_bank()
    np.testing.assert_array_equal(bank.labels, source.labels())
    # The row of an id is the embedding of the packed image of this id.
    np.testing.assert_allclose(bank.rows, encoder(images), atol=0.02)
