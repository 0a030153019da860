"""Encoders: shapes, torchvision's layout, and files that need no package."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from tf_instdisc.method.encoders import build_encoder

BLOCKS = tuple(f"conv{i}" for i in range(1, 6))


def images_of(batch, size, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (batch, size, size, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def small():
    keras.utils.set_random_seed(0)
    return build_encoder("resnet18", image_size=32, embedding_dim=16, width=8)


# === Output ===


@pytest.mark.parametrize("backbone", ("resnet18", "resnet50"))
@pytest.mark.parametrize("image_size", (32, 65))
def test_embeddings_are_of_unit_length(backbone, image_size):
    encoder = build_encoder(
        backbone, image_size=image_size, embedding_dim=24, width=8
    )
    assert encoder.output_shape == (None, 24)
    v = encoder(images_of(3, image_size)).numpy()
    assert v.dtype == np.float32
    assert v.shape == (3, 24)
    np.testing.assert_allclose(np.linalg.norm(v, axis=1), 1, rtol=1e-6)
    # Not the same for every image.
    assert np.ptp(v, axis=0).max() > 1e-3


def test_bytes_and_floats_are_embedded_the_same(small):
    images = images_of(4, 32)
    np.testing.assert_array_equal(
        small(images), small(images.astype("float32"))
    )
    np.testing.assert_array_equal(
        small.predict(images, verbose=0),
        small.predict(images.astype("float32"), verbose=0),
    )


def test_seed_gives_the_weights():
    def weights(seed):
        keras.utils.set_random_seed(seed)
        return build_encoder(image_size=32, width=4).get_weights()

    first, again, other = weights(1), weights(1), weights(2)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(first[0] - other[0]).max() > 0


@pytest.mark.parametrize(
    ("options", "mean", "std"),
    (
        ({}, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        (
            {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 0.125)},
            (0.1, 0.2, 0.3),
            (0.5, 0.25, 0.125),
        ),
        (
            {"mean": "cifar10", "std": "cifar10"},
            (0.4914, 0.4822, 0.4465),
            (0.2023, 0.1994, 0.2010),
        ),
        ({"mean": np.zeros(3), "std": "1, 1,1"}, (0, 0, 0), (1, 1, 1)),
    ),
)
def test_images_are_normalized_inside(options, mean, std, tmp_path):
    encoder = build_encoder(image_size=32, width=4, **options)
    # The file carries them.
    encoder.save(tmp_path / "encoder.keras")
    encoder = keras.saving.load_model(tmp_path / "encoder.keras")
    normalize = keras.Model(
        encoder.input, encoder.get_layer("normalize").output
    )
    images = images_of(2, 32)
    expected = (images / 255 - np.array(mean)) / np.array(std)
    # float32, of numbers up to 8 with cancellation around 0.
    np.testing.assert_allclose(normalize(images), expected, atol=2e-6)


@pytest.mark.parametrize("name", ("mean", "std"))
@pytest.mark.parametrize(
    "value",
    (
        "cifar100",
        (0.5, 0.5),
        (0.5, 0.5, 0.5, 0.5),
        "0.1,0.2,x",
        (123.7, 116.3, 103.5),
        (0.5, 0.5, float("nan")),
        (-0.1, 0.5, 0.5),
        0.5,
        "",
    ),
)
def test_other_means_and_deviations_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be imagenet or cif"):
        build_encoder(image_size=8, width=1, **{name: value})


def test_a_deviation_of_zero_and_unused_values_are_refused():
    with pytest.raises(ValueError, match=r"in \[0.001, 1\]"):
        build_encoder(image_size=8, width=1, std=(0.0, 0.1, 0.1))
    with pytest.raises(ValueError, match="need `normalize`"):
        build_encoder(image_size=8, width=1, normalize=False, mean="cifar10")


# === Layout ===


@pytest.mark.parametrize(
    ("backbone", "parameters"),
    # torchvision's, but for its `fc`.
    (("resnet18", 11_176_512), ("resnet50", 23_508_032)),
)
def test_parameters_equal_torchvision(backbone, parameters):
    encoder = build_encoder(backbone, image_size=224)
    projection = encoder.get_layer("projection").count_params()
    trained = sum(int(np.prod(w.shape)) for w in encoder.trainable_weights)
    assert trained - projection == parameters
    features = encoder.get_layer("conv5").output.shape[-1]
    assert projection == (features + 1) * 128


@pytest.mark.parametrize(
    ("image_size", "stem", "sizes"),
    (
        (224, None, (112, 56, 28, 14, 7)),
        (65, None, (33, 17, 9, 5, 3)),
        (64, None, (64, 64, 32, 16, 8)),
        (32, None, (32, 32, 16, 8, 4)),
        (32, "imagenet", (16, 8, 4, 2, 1)),
        (224, "cifar", (224, 224, 112, 56, 28)),
    ),
)
@pytest.mark.parametrize(
    ("backbone", "expansion"), (("resnet18", 1), ("resnet50", 4))
)
def test_blocks_are_reached_by_name(
    image_size, stem, sizes, backbone, expansion
):
    encoder = build_encoder(backbone, image_size=image_size, width=4, stem=stem)
    shapes = [encoder.get_layer(name).output.shape for name in BLOCKS]
    channels = (4, *(4 * 2**i * expansion for i in range(4)))
    assert shapes == [
        (None, size, size, c) for size, c in zip(sizes, channels, strict=True)
    ]


def test_activations_are_computed_by_name(small):
    blocks = keras.Model(
        small.input, [small.get_layer(name).output for name in BLOCKS]
    )
    activations = blocks(images_of(2, 32))
    assert [a.shape[1] for a in activations] == [32, 32, 16, 8, 4]
    for activation in activations:
        # What follows a ReLU.
        assert np.min(activation) == 0
        assert np.max(activation) > 0


@pytest.mark.parametrize("synchronized", (False, True))
def test_batch_norm_equals_torch(synchronized):
    encoder = build_encoder(
        image_size=32, width=4, sync_batch_norm=synchronized
    )
    norms = [
        layer
        for layer in encoder.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert len(norms) == 20
    for norm in norms:
        assert norm.synchronized == synchronized
        # torch specifies the weight of the new statistics: 0.1.
        assert (norm.momentum, norm.epsilon) == (0.9, 1e-5)


# === Errors ===


@pytest.mark.parametrize(
    ("options", "message"),
    (
        ({"backbone": "resnet19"}, "resnet18, resnet34, resnet50.*'resnet19'"),
        ({"stem": "tiny"}, "cifar, imagenet.*'tiny'"),
        ({"image_size": 0}, "Received: image_size=0"),
        ({"embedding_dim": 0}, "Received: embedding_dim=0"),
        ({"width": -1}, "Received: width=-1"),
    ),
)
def test_errors_name_what_is_known_and_what_was_received(options, message):
    with pytest.raises(ValueError, match=message):
        build_encoder(**options)


# === Mixed precision and files ===


LOAD_ELSEWHERE = """
import sys
for name in ("tf_instdisc", "keras_cv"):
    sys.modules[name] = None  # an import of it fails
import keras
import numpy as np
encoder = keras.saving.load_model(sys.argv[1])
images = np.load(sys.argv[2])
v = keras.ops.convert_to_numpy(encoder(images))
for block in ("conv1", "conv2", "conv3", "conv4", "conv5"):
    assert encoder.get_layer(block).output.shape[1] in (32, 16, 8, 4)
np.save(sys.argv[3], v)
print(keras.backend.backend())
"""


@pytest.mark.exhaustive_variants("mixed_bfloat16-tensorflow")
@pytest.mark.parametrize("backend", ("tensorflow", "jax", "torch", "numpy"))
@pytest.mark.parametrize("policy", ("float32", "mixed_bfloat16"))
def test_file_loads_without_the_package(tmp_path, small, backend, policy):
    # Keras' NumPy backend takes its convolutions from JAX.
    needed = {"numpy": "jax"}.get(backend, backend)
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    encoder = small
    if policy != "float32":
        keras.mixed_precision.set_global_policy(policy)
        try:
            encoder = build_encoder(image_size=32, width=8)
        finally:
            keras.mixed_precision.set_global_policy("float32")
    images = images_of(4, 32)
    paths = [str(tmp_path / x) for x in ("e.keras", "images.npy", "v.npy")]
    encoder.save(paths[0])
    np.save(paths[1], images.astype(np.float32))
    result = subprocess.run(
        [sys.executable, "-c", LOAD_ELSEWHERE, *paths],
        env={**os.environ, "KERAS_BACKEND": backend},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[-1] == backend
    # bfloat16 has 8 bits: another order of a sum moves entries by 1e-3 or so.
    atol = 1e-4 if policy == "float32" else 2e-3
    np.testing.assert_allclose(
        np.load(paths[2]), encoder(images), rtol=0, atol=atol
    )


@pytest.mark.exhaustive
def test_gradients_of_a_narrow_encoder_leave_the_heap_alone():
    # TensorFlow 2.21 with oneDNN writes beyond a buffer for strided 1x1
    # convolutions from few channels; the process dies some calls later.
    code = """
import tensorflow as tf
from tf_instdisc import build_encoder
encoder = build_encoder("resnet18", image_size=16, width=4)
@tf.function(reduce_retracing=True)
def gradients(images):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(encoder(images, training=True)[:, 0])
    return tape.gradient(loss, encoder.trainable_variables)
for step in range(90):
    gradients(tf.random.uniform([29 if step % 3 else 64, 16, 16, 3], 0, 255))
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "1"},
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr.decode()[-2000:]
