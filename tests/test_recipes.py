"""Every recipe in `flags/` trains on data of the form it expects.

Only the sizes and epochs of a recipe are changed. One of the CIFAR recipes is
also run from the shards, like a dataset of many images.
"""

import pathlib

import numpy as np
import pytest

from tests import tfds_forms
from tests.finished_run import picture, save_picture
from tf_instdisc.config import fields
from tf_instdisc.config.run import from_flagfile
from tf_instdisc.training import train as training

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent
RECIPES = sorted(path.stem for path in (ROOT / "flags").glob("*.flags"))
NUM_IMAGES = 24
SIZES = {
    "batch_size": 8,
    "width": 2,
    "epochs": 2,
    "embedding_dim": 8,
    "num_negatives": 16,
    "num_neighbors": 5,
}
# AlexNet needs 63 pixels. The last maps of a ResNet-50 with fewer, in a batch
# of 8, are too few numbers for batch norm at the recipe's learning rate.
IMAGE_SIZE = 64


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Where TFDS keeps the data, and a folder of photographs."""
    root = tmp_path_factory.mktemp("data")
    tfds_forms.write_imagenet(root / "tfds", NUM_IMAGES)
    tfds_forms.write_cifar10(root / "tfds", NUM_IMAGES)
    for seed in range(NUM_IMAGES):
        image = picture(seed, 40 + seed)[:, : 60 - seed]
        save_picture(root / "photos", f"{seed}.jpg", image)
    # `photos.flags` leaves out what cannot be read.
    (root / "photos" / "broken.jpg").write_bytes(b"no image")
    return root


def run_recipe(name, data, run_dir, *more):
    recipe = (ROOT / "flags" / f"{name}.flags").read_text(encoding="utf-8")
    given = fields.read_flagfile(recipe)
    changes = [f"--{size}={value}" for size, value in SIZES.items()]
    if name.startswith("imagenet"):
        changes.append(f"--image_size={IMAGE_SIZE}")
    if "split" in given or given.get("dataset") == "instdisc_digits":
        changes.append(f"--split=train[:{NUM_IMAGES}]")
    if name == "photos":
        changes += [f"--images={data / 'photos'}", "--image_size=32"]
    else:
        changes.append(f"--data_dir={data / 'tfds'}")
    return training.train(from_flagfile(recipe, *changes, *more), str(run_dir))


@pytest.mark.exhaustive_variants(
    "cifar10*",
    "digits*",
    "imagenet_alexnet*",
    "imagenet_resnet50*",
    "imagenet_vgg16*",
    "photos*",
)
@pytest.mark.parametrize(
    ("name", "more"),
    [
        *((name, ()) for name in RECIPES),
        ("cifar10_small_nce", ("--cache=none",)),
    ],
)
def test_a_recipe_trains(name, more, data, tmp_path):
    run = run_recipe(name, data, tmp_path / "run", *more)
    epochs = run.read_metrics()
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    assert all(np.isfinite(epoch["loss"]) for epoch in epochs)
    bank = run.load_bank()
    assert bank.rows.shape == (NUM_IMAGES, SIZES["embedding_dim"])
    np.testing.assert_allclose(np.linalg.norm(bank.rows, axis=1), 1, atol=1e-3)
    if name == "photos":
        assert not bank.class_names
        return
    assert len(bank.class_names) == (1000 if "imagenet" in name else 10)
    is_streamed = "imagenet" in name or bool(more)
    assert run.labels.exists() == is_streamed
    # Recipes of ImageNet measure in every fifth epoch and at the end.
    flags_of_run = run.read_config().flags()
    if int(flags_of_run["knn_every"]) <= 2:
        assert "knn_top1" in epochs[-1]
    if "imagenet" in name:
        assert flags_of_run["test_split"] == "validation"
