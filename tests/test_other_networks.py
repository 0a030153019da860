"""AlexNet, VGG16 and the ViT: layouts, sizes, oracles, training, files."""

import importlib.util
import itertools
import math
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import tf_instdisc
from tests.test_encoders import BLOCKS, images_of
from tf_instdisc import build_encoder
from tf_instdisc.runs.policy import with_policy

pytestmark = pytest.mark.slow

NETWORKS = ("alexnet", "vgg16", "vit_small")


def small(backbone, size=16, **options):
    keras.utils.set_random_seed(0)
    return build_encoder(
        backbone, image_size=size, embedding_dim=8, width=4, **options
    )


# === Layout ===


@pytest.mark.exhaustive
def test_parameters_at_full_width():
    def trained(backbone):
        weights = build_encoder(backbone).trainable_weights
        features = 384 if backbone == "vit_small" else 4096
        return sum(math.prod(w.shape) for w in weights) - 128 * (features + 1)

    # Two dense layers of 4096 without bias, with batch norm.
    dense = 4096 * 4096 + 4 * 4096
    # torchvision: convolutions of AlexNet with biases (1,152) and without
    # batch norm, of vgg16_bn with biases (4,224) and batch norm.
    alexnet = 2_469_696 - 1_152 + 2 * 1_152
    vgg16 = 14_723_136 - 4_224
    assert trained("alexnet") == alexnet + 256 * 6 * 6 * 4096 + dense
    assert trained("vgg16") == vgg16 + 512 * 7 * 7 * 4096 + dense
    # timm's vit_small_patch16_224 has 21,665,664; three vectors of 384 less:
    # class token, its position, and the bias of the patches.
    assert trained("vit_small") == 21_665_664 - 3 * 384


SIZES = {
    "alexnet": {224: (55, 27, 13, 13, 13), 32: (32, 15, 7, 7, 7)},
    "vgg16": {224: (224, 112, 56, 28, 14), 32: (32, 32, 16, 8, 4)},
    "vit_small": {224: (14,) * 5, 32: (8,) * 5},
}


@pytest.mark.parametrize("size", (32, 224))
@pytest.mark.parametrize("backbone", NETWORKS)
def test_probes_are_reached_by_name(backbone, size):
    encoder = small(backbone, size)
    shapes = [encoder.get_layer(name).output.shape for name in BLOCKS]
    channels = {
        "alexnet": (4, 12, 24, 16, 16),
        "vgg16": (4, 8, 16, 32, 32),
        "vit_small": (24,) * 5,
    }[backbone]
    sides = SIZES[backbone][size]
    assert shapes == [
        (None, side, side, c) for side, c in zip(sides, channels, strict=True)
    ]
    assert len(encoder.get_layer("pool").output.shape) == 2


@pytest.mark.parametrize("backbone", NETWORKS)
def test_embeddings_are_of_unit_length_and_follow_the_image(backbone):
    encoder = small(backbone)
    images = images_of(3, 16)
    probes = keras.Model(
        encoder.input, [encoder.get_layer(name).output for name in BLOCKS]
    )
    for activation in probes(images):
        assert np.ptp(activation, axis=0).max() > 0
    v = encoder(images).numpy()
    assert v.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(v, axis=1), 1, rtol=1e-6)
    assert np.ptp(v, axis=0).max() > 1e-3
    np.testing.assert_array_equal(v, encoder(images.astype("float32")))


# === Oracles ===


def test_the_strided_convolution_is_padded_as_in_torch():
    encoder = small("alexnet", 63, stem="imagenet")
    image = images_of(1, 63)
    inner = keras.Model(
        encoder.input,
        [encoder.get_layer(x).output for x in ("normalize", "conv1_conv")],
    )
    pixels, got = (x.numpy()[0] for x in inner(image))
    kernel = encoder.get_layer("conv1_conv").kernel.numpy()
    padded = np.pad(pixels, ((2, 2), (2, 2), (0, 0)))
    assert got.shape == (15, 15, 4)
    for row, column in itertools.product((0, 7, 14), repeat=2):
        patch = padded[4 * row : 4 * row + 11, 4 * column : 4 * column + 11]
        np.testing.assert_allclose(
            got[row, column],
            np.tensordot(patch, kernel, 3),
            rtol=1e-4,
            atol=1e-4,
        )


def test_patches_are_cut_and_placed():
    encoder = small("vit_small", 16)
    image = images_of(1, 16)
    inner = keras.Model(
        encoder.input,
        [encoder.get_layer(x).output for x in ("normalize", "conv1")],
    )
    pixels, got = (x.numpy()[0] for x in inner(image))
    kernel, positions = encoder.get_layer("patch_embedding").get_weights()
    assert np.ptp(positions, axis=0).min() > 0
    for row, column in itertools.product(range(4), repeat=2):
        patch = pixels[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        expected = patch.reshape(-1) @ kernel + positions[4 * row + column]
        np.testing.assert_allclose(
            got[row, column], expected, rtol=1e-4, atol=1e-4
        )


def test_the_order_of_patches_matters_only_through_positions():
    encoder = small("vit_small", 8)
    image = images_of(1, 8)
    rows = image.reshape(1, 2, 4, 8, 3)
    turned = rows[:, ::-1].reshape(image.shape)
    assert np.abs(encoder(image) - encoder(turned)).max() > 1e-4
    embedding = encoder.get_layer("patch_embedding")
    kernel, positions = embedding.get_weights()
    embedding.set_weights([kernel, 0 * positions])
    np.testing.assert_allclose(encoder(image), encoder(turned), atol=1e-5)


def torch_features(torch, convs, pools):
    """The authors' kind of network: convolution, batch norm, ReLU, pooling."""
    layers = []
    channels = 3
    for index, (filters, size, stride, padding) in enumerate(convs):
        layers += [
            torch.nn.Conv2d(channels, filters, size, stride, padding),
            torch.nn.BatchNorm2d(filters),
            torch.nn.ReLU(),
        ]
        channels = filters
        if index in pools:
            layers.append(torch.nn.MaxPool2d(*pools[index]))
    return torch.nn.Sequential(*layers).eval()


@pytest.mark.parametrize("backbone", ("alexnet", "vgg16"))
def test_features_equal_torch(backbone):
    torch = pytest.importorskip("torch", reason="torch is the oracle here")
    if backbone == "alexnet":
        convs = [(4, 11, 4, 2), (12, 5, 1, 2), (24, 3, 1, 1)]
        convs += [(16, 3, 1, 1)] * 2
        pools = {0: (3, 2), 1: (3, 2)}
    else:
        filters = [4] * 2 + [8] * 2 + [16] * 3 + [32] * 6
        convs = [(count, 3, 1, 1) for count in filters]
        pools = {i: (2, 2) for i in (1, 3, 6, 9)}
    encoder = small(backbone, 67, stem="imagenet")
    oracle = torch_features(torch, convs, pools)
    rng = np.random.default_rng(0)
    ours = iter(
        layer for layer in encoder.layers if layer.name.startswith("conv")
    )
    for layer in oracle:
        if isinstance(layer, torch.nn.Conv2d):
            conv = next(x for x in ours if x.name.endswith("_conv"))
            kernel = conv.kernel.numpy().transpose(3, 2, 0, 1)
            layer.weight.data = torch.tensor(kernel.copy())
            torch.nn.init.zeros_(layer.bias)
        elif isinstance(layer, torch.nn.BatchNorm2d):
            norm = next(x for x in ours if x.name.endswith("_bn"))
            values = rng.uniform(0.5, 1.5, (4, layer.num_features))
            norm.set_weights(list(values))
            names = ("weight", "bias", "running_mean", "running_var")
            for name, value in zip(names, values, strict=True):
                getattr(layer, name).data = torch.tensor(value).float()
    image = images_of(2, 67)
    inner = keras.Model(
        encoder.input,
        [encoder.get_layer(x).output for x in ("normalize", "conv5")],
    )
    pixels, got = (x.numpy() for x in inner(image))
    with torch.no_grad():
        expected = oracle(torch.tensor(pixels.transpose(0, 3, 1, 2))).numpy()
    expected = expected.transpose(0, 2, 3, 1)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got / scale, expected / scale, atol=1e-5)


# === Training ===


@pytest.mark.exhaustive
@pytest.mark.parametrize("backbone", ("alexnet", "vit_small"))
def test_training_lowers_the_loss_and_saves(backbone, tmp_path):
    encoder = small(backbone)
    images = images_of(8, 16)
    model = tf_instdisc.InstanceDiscrimination(
        encoder, num_instances=8, objective="softmax", temperature=0.5
    )
    model.compile(optimizer=keras.optimizers.AdamW(1e-3))
    history = model.fit(images, np.arange(8), batch_size=8, epochs=8, verbose=0)
    losses = history.history["loss"]
    assert losses[-1] < losses[1]
    encoder.save(tmp_path / "encoder.keras")
    loaded = tf_instdisc.load_encoder(tmp_path / "encoder.keras")
    np.testing.assert_allclose(loaded(images), encoder(images), atol=1e-6)


# === Precision and files ===


@pytest.mark.parametrize("backbone", ("resnet18", "alexnet", "vit_small"))
def test_mixed_precision_gives_full_embeddings(backbone):
    full = small(backbone)
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        trained_in = small(backbone)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    trained_in.set_weights(full.get_weights())
    images = images_of(4, 16)
    for mixed in (trained_in, with_policy(full, "mixed_bfloat16")):
        assert mixed.get_layer("conv5").output.dtype == "bfloat16"
        v = mixed(images).numpy()
        assert v.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(v, axis=1), 1, rtol=1e-6)
        assert np.sum(v * full(images).numpy(), axis=1).min() > 0.99


LOAD_ALL = """
import sys
sys.modules["tf_instdisc"] = None  # an import of it fails
import keras
import numpy as np
for name in sys.argv[1:]:
    encoder = keras.saving.load_model(f"{name}.keras")
    v = encoder(np.load("images.npy"))
    np.save(f"{name}.npy", keras.ops.convert_to_numpy(v))
"""


@pytest.mark.exhaustive_variants("tensorflow")
@pytest.mark.parametrize("backend", ("tensorflow", "jax", "torch"))
def test_files_load_without_the_package(tmp_path, backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    images = images_of(3, 16).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    encoders = {name: small(name) for name in NETWORKS}
    for name, encoder in encoders.items():
        encoder.save(tmp_path / f"{name}.keras")
    result = subprocess.run(
        [sys.executable, "-c", LOAD_ALL, *NETWORKS],
        env={**os.environ, "KERAS_BACKEND": backend},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    for name, encoder in encoders.items():
        np.testing.assert_allclose(
            np.load(tmp_path / f"{name}.npy"), encoder(images), atol=1e-4
        )


# === Errors ===


@pytest.mark.parametrize(
    ("backbone", "size", "message"),
    (
        ("alexnet", 14, "at least 15 for alexnet.*image_size=14"),
        ("vgg16", 15, "at least 16 for vgg16.*image_size=15"),
        ("vit_small", 30, "multiple of 4.*image_size=30"),
        ("vit_small", 72, "multiple of 16.*image_size=72"),
    ),
)
def test_sizes_that_do_not_fit_are_refused(backbone, size, message):
    with pytest.raises(ValueError, match=message):
        small(backbone, size)
