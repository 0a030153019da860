"""Pictures, and a run directory with an untrained encoder, made in seconds."""

import io

import keras
import numpy as np
from PIL import Image

from tf_instdisc import build_encoder
from tf_instdisc.config.run import from_flagfile
from tf_instdisc.runs import opening
from tf_instdisc.runs.bank import Bank
from tf_instdisc.runs.record import RunRecord

IMAGE_SIZE = 16
NUM_ROWS = 300
CLASS_NAMES = ("ant", "bee", "cat")


def make_run(path, width=8, num_rows=NUM_ROWS, class_names=CLASS_NAMES):
    """A run whose bank holds the embeddings of random images."""
    keras.utils.set_random_seed(1)
    encoder = build_encoder(
        "resnet18", image_size=IMAGE_SIZE, embedding_dim=32, width=width
    )
    # Different from the initial values, so that a lost weight is noticed.
    rng = np.random.default_rng(0)
    for variable in encoder.variables:
        if variable.ndim == 1:
            variable.assign(variable + rng.uniform(0.1, 0.4, variable.shape))
    images = random_images(num_rows, seed=2)
    labels = np.arange(num_rows) % max(len(class_names), 1)
    run = opening.open_run(
        str(path),
        RunRecord(
            from_flagfile(
                "--dataset=made_up\n--split=train\n--temperature=0.1\n"
                "--num_neighbors=20\n--crop_fraction=0.875\n--noflip\n"
            )
        ),
    )
    run.append_metrics({"epoch": 1, "knn_top1": 0.75})
    run.append_metrics({"epoch": 2, "loss": 1.0})
    run.save_encoder(encoder)
    run.save_bank(
        Bank(
            rows=encoder.predict(images, verbose=0),
            instance_ids=1000 + np.arange(num_rows),
            names=np.array([f"made_up/{i}" for i in range(num_rows)]),
            labels=labels if class_names else np.full(num_rows, -1),
            class_names=class_names,
        )
    )
    return run


def large_png(seed: int) -> bytes:
    """A PNG of noise, which is measured before it is decoded."""
    rng = np.random.default_rng(seed)
    contents = encode(
        rng.integers(256, size=(700, 700, 3), dtype=np.uint8), "PNG"
    )
    assert len(contents) > 2**20
    return contents


def random_images(number, seed, size=IMAGE_SIZE):
    """uint8 `[number, size, size, 3]`, of some large patches each."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (number, 4, 4, 3), np.uint8)
    return patches.repeat(size // 4, axis=1).repeat(size // 4, axis=2)


def encode(image, kind="PNG", **arguments):
    """The bytes of a picture: an array, or a Pillow image."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **arguments)
    return buffer.getvalue()
