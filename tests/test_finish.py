"""Finished runs: rows of the whole images, and runs finished as they are."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.finished_run import fill_folder
from tf_instdisc import checkpoints, run_directory, training
from tf_instdisc.augment import Augmentation
from tf_instdisc.data.folder import folder_source
from tf_instdisc.data.pipeline import evaluation_dataset
from tf_instdisc.data.sources import array_source
from tf_instdisc.embedding import embed
from tf_instdisc.load import load_encoder
from tf_instdisc.neighbors import top_k

SIZE, NUM_IMAGES = 8, 14


def pictures(num_images=NUM_IMAGES, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (num_images, 2, 2, 3), np.uint8)
    return coarse.repeat(SIZE // 2, axis=1).repeat(SIZE // 2, axis=2)


def labelled():
    return array_source(pictures(), np.arange(NUM_IMAGES) % 2)


def streamed():
    """As a source whose images are read from a file each time."""
    source = labelled()
    return dataclasses.replace(
        source,
        examples=lambda seed: source.examples(seed).map(
            lambda example: {
                **example,
                "image": tf.io.encode_png(example["image"]),
            }
        ),
    )


def train(run_dir, source, epochs=1, test_source=None, **more):
    keras.utils.set_random_seed(0)
    training.train(
        str(run_dir),
        source,
        test_source,
        augmentation=Augmentation(SIZE, crop_area=(0.3, 1.0)),
        encoder_config={
            "backbone": "resnet18",
            "image_size": SIZE,
            "embedding_dim": 16,
            "width": 2,
            "stem": None,
            "sync_batch_norm": False,
        },
        method_config={"objective": "softmax", "seed": 0},
        optimizer_config={
            "optimizer": "sgd",
            "learning_rate": 0.03,
            "schedule": "constant",
            "schedule_epochs": [],
            "warmup_epochs": 0,
            "momentum": 0.9,
            "weight_decay": 0.0,
        },
        batch_size=7,
        epochs=epochs,
        num_neighbors=3,
        flags_text=f"--image_size={SIZE}\n",
        **more,
    )
    return run_directory.load(str(run_dir))


def newest(run):
    return checkpoints.find_newest(run.checkpoints)[0]


def outcome(run):
    """What a finished run is searched by."""
    bank = run.load_bank()
    weights = load_encoder(run.path).get_weights()
    return [bank.rows, bank.instance_ids, bank.names, *weights]


def assert_equal(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    fill_folder(folder, [f"{i:02}.png" for i in range(NUM_IMAGES)])
    return folder


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory):
    """A run of one epoch; nobody writes into it."""
    return train(tmp_path_factory.mktemp("one") / "run", labelled())


@pytest.mark.parametrize("kind", ["folder", "memory", "streamed"])
def test_each_image_is_its_own_first_neighbor(kind, images, tmp_path):
    source = {
        "folder": lambda: folder_source(str(images)),
        "memory": labelled,
        "streamed": streamed,
    }[kind]()
    run = train(tmp_path / "run", source, epochs=2)
    bank = run.load_bank()
    queries = embed(
        load_encoder(run.path), evaluation_dataset(source, SIZE, batch_size=3)
    )
    scores, positions = top_k(queries.embeddings, bank.rows, 1)
    assert positions[:, 0].tolist() == list(range(NUM_IMAGES))
    np.testing.assert_allclose(scores, 1, atol=1e-5)
    assert bank.encoded_by == run_directory.EncodedBy(
        run.encoder_digest(), epochs=2
    )
    # Those of the last views stay where a longer run goes on.
    state = tf.train.load_checkpoint(str(newest(run).path / "state"))
    rows = state.get_tensor("memory_bank/.ATTRIBUTES/VARIABLE_VALUE")
    assert np.abs(rows - bank.rows).max() > 0.01
