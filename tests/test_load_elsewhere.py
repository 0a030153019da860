"""The encoder where this package is not installed."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import tf_instdisc
from tests import documents, exported
from tf_instdisc.runs.directory import RunDirectoryError
from tf_instdisc.serving import tflite
from tf_instdisc.serving.saved_model import export_run

pytestmark = pytest.mark.slow

# Begins every script, so that neither package can be imported.
STRANGER = """
import sys

class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tf_instdisc", "keras_cv"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Nowhere())
import numpy as np
"""


def _run(script, cwd, backend="tensorflow"):
    result = subprocess.run(
        [sys.executable, "-c", STRANGER + script],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.exhaustive_variants("tensorflow")
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_embeddings_are_the_same_on_each_backend(backend, small_run, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    images = exported.random_images(5, seed=2)
    encoder = tf_instdisc.load_encoder(small_run.path)
    np.save(tmp_path / "images.npy", images)
    script = f"""
import keras

assert keras.backend.backend() == {backend!r}
encoder = keras.saving.load_model({str(small_run.encoder)!r})
embedding = encoder.predict(np.load("images.npy").astype("float32"), verbose=0)
np.save("embedding.npy", embedding)
"""
    _run(script, tmp_path, backend)
    np.testing.assert_allclose(
        np.load(tmp_path / "embedding.npy"),
        encoder.predict(images.astype(np.float32), verbose=0),
        atol=1e-4,
    )


@pytest.mark.exhaustive
def test_the_readme_fine_tunes_it(small_run, tmp_path):
    (tmp_path / "encoder.keras").write_bytes(small_run.encoder.read_bytes())
    script = f"""
import keras

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
num_classes = 2
labels = rng.integers(0, 2, 256)
images = rng.uniform(0, 128, (256, 16, 16, 3)).astype("float32")
images[labels == 1, :, :8] += 100

{documents.block("README.md", "keras.saving.load_model")}

assert classifier.evaluate(images, labels, verbose=0)[1] > 0.95
original = keras.saving.load_model("encoder.keras").get_layer("conv1_conv")
tuned = encoder.get_layer("conv1_conv")
change = np.array(original.kernel) - np.array(tuned.kernel)
assert np.abs(change).max() > 1e-3
"""
    _run(script, tmp_path)


@pytest.mark.exhaustive
def test_the_guide_uses_the_exported_model(
    small_run, small_model_dir, tmp_path
):
    images = exported.random_images(3, seed=2)
    np.save(tmp_path / "images.npy", images)
    code = documents.replaced(
        documents.block("docs/guides/serving.md", "TFSMLayer"),
        {"models/digits": small_model_dir},
    )
    content = exported.encode(exported.random_images(1, seed=2)[0])
    script = f"""
uint8_images = np.load("images.npy")
files = [{content!r}, b"bad"]

{code}

np.save("embedding.npy", embedding)
assert found["valid"].numpy().tolist() == [True, False]
inputs = keras.Input((16, 16, 3), dtype="uint8")
outputs = keras.layers.Dense(2)(layer(inputs)["embedding"])
assert keras.Model(inputs, outputs)(uint8_images).shape == (3, 2)
"""
    _run(script, tmp_path)
    encoder = tf_instdisc.load_encoder(small_run.path)
    np.testing.assert_allclose(
        np.load(tmp_path / "embedding.npy"),
        encoder.predict(images.astype(np.float32), verbose=0),
        atol=1e-5,
    )


def test_load_encoder_takes_a_run_or_a_file(small_run):
    images = exported.random_images(2, seed=3).astype(np.float32)
    first = tf_instdisc.load_encoder(small_run.path)
    second = tf_instdisc.load_encoder(str(small_run.encoder))
    np.testing.assert_array_equal(
        first.predict(images, verbose=0), second.predict(images, verbose=0)
    )


def test_load_encoder_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        tf_instdisc.load_encoder(tmp_path / "missing")
    with pytest.raises(RunDirectoryError, match="must hold a run"):
        tf_instdisc.load_encoder(tmp_path)
    (tmp_path / "flags.txt").write_text("")
    with pytest.raises(RunDirectoryError, match="finished"):
        tf_instdisc.load_encoder(tmp_path)


@pytest.mark.exhaustive_variants("int8*")
@pytest.mark.parametrize(
    ("kind", "cosine"), [("float32", 1 - 1e-5), ("int8", 0.99)]
)
def test_tflite_gives_the_same_embeddings(kind, cosine, small_run, tmp_path):
    encoder = tf_instdisc.load_encoder(small_run.path)
    images = exported.random_images(64, seed=4)
    expected = encoder.predict(images.astype(np.float32), verbose=0)
    tflite.write(encoder, tmp_path, kind, images)
    file = tmp_path / "tflite" / f"encoder_{kind}.tflite"
    embed = tf.lite.Interpreter(str(file)).get_signature_runner()
    actual = np.concatenate(
        [
            embed(images=image[None].astype(np.float32))["embedding"]
            for image in images
        ]
    )
    assert (actual * expected).sum(axis=1).min() > cosine
    num_bytes = sum(np.asarray(v).nbytes for v in encoder.variables)
    assert file.stat().st_size > 0.2 * num_bytes


def test_calibration_images_are_of_all_classes(tmp_path):
    """Only as many are decoded as are used; bad files are replaced."""
    for kind, value in (("a", 10), ("b", 200)):
        (tmp_path / kind).mkdir()
        for i in range(200):
            content = exported.encode(np.full([4, 4, 3], value, np.uint8))
            (tmp_path / kind / f"{i}.png").write_bytes(content)
    for i in range(300):
        (tmp_path / "a" / f"bad {i}.png").write_bytes(b"bad")
    images = tflite.calibration_images(str(tmp_path), 4, 1.0)
    assert images.shape == (256, 4, 4, 3)
    assert 0.4 < (images == 200).mean() < 0.6
    np.testing.assert_array_equal(
        tflite.calibration_images(str(tmp_path), 4, 1.0), images
    )


def test_int8_tflite_asks_for_images(small_run, tmp_path):
    with pytest.raises(ValueError, match="calibration_images"):
        export_run(small_run, str(tmp_path), tflite_types=("int8",))
    assert list(tmp_path.iterdir()) == []
