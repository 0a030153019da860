"""A finished run over folders of labeled pictures, made without training."""

import pathlib

import keras
import numpy as np

from tests.finished_run import SIZE, save_picture, save_run
from tf_instdisc.config.run import from_flagfile
from tf_instdisc.runs import opening
from tf_instdisc.runs.record import RunRecord

CLASSES = ("ant", "bee", "cat")
NUM_TRAIN = 8  # of each class
NUM_TEST = 5


def fill_labeled_folder(
    folder: pathlib.Path,
    per_class: int,
    classes=CLASSES,
    seed: int = 0,
    noise: int = 60,
) -> pathlib.Path:
    """Pictures of one color for each class, under noise."""
    colors = np.random.default_rng(7).integers(60, 196, (len(classes), 3))
    rng = np.random.default_rng(seed)
    for label, name in enumerate(classes):
        for number in range(per_class):
            shift = rng.integers(-noise, noise + 1, (SIZE, SIZE, 3))
            image = np.clip(colors[label] + shift, 0, 255).astype(np.uint8)
            save_picture(folder, f"{name}/{number}.png", image)
    return folder


def make_labeled_run(root: pathlib.Path, flags: str = ""):
    """A run with an untrained network, `root/train` and `root/test`."""
    train = fill_labeled_folder(root / "train", NUM_TRAIN)
    test = fill_labeled_folder(root / "test", NUM_TEST, seed=1)
    text = (
        f"--images={train}\n--test_images={test}\n--image_size={SIZE}\n"
        f"--train_image_size={SIZE}\n--temperature=0.1\n--objective=softmax\n"
        f"--encoder=resnet18\n--min_crop_area=0.5\n--flip\n{flags}"
    )
    run = opening.open_run(str(root / "run"), RunRecord(from_flagfile(text)))
    save_run(run, small_encoder(), train)
    return run


def small_encoder(seed: int = 0) -> keras.Model:
    """An encoder with the usual layer names that is quick to trace."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    image = keras.Input((SIZE, SIZE, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(image)
    for number in range(1, 6):
        strides = 2 if number in (2, 4) else 1
        x = layers.Conv2D(6, 3, strides, "same", name=f"conv{number}_conv")(x)
        if number in (1, 5):
            x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.ReLU(name=f"conv{number}")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(16, name="projection")(x)
    return keras.Model(image, layers.UnitNormalization(name="embedding")(x))
