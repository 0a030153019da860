"""Bank health: figures, planted failures, TensorBoard's pictures."""

import math

import keras
import numpy as np
import pytest
from PIL import Image

import tf_instdisc
from tests import commands
from tests.finished_run import NASTY_NAMES, fill_folder, make_run
from tests.test_model import linear_encoder
from tf_instdisc.retrieval import bank_statistics
from tf_instdisc.runs import images as run_images
from tf_instdisc.training import health


def train(learning_rate=0.05, epochs=2, seen=None, collapse=False):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 2, 2, 3), np.uint8)
    source = tf_instdisc.array_source(images)
    model = tf_instdisc.InstanceDiscrimination(
        linear_encoder(), 24, objective="softmax"
    )
    model.compile(optimizer=keras.optimizers.SGD(learning_rate))
    monitor = health.BankHealth()

    class Spy(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if collapse:
                projection = model.encoder.get_layer("projection")
                kernel, bias = projection.get_weights()
                projection.set_weights([0 * kernel, 0 * bias + 1])
                model.memory_bank.rows.assign(np.full([24, 4], 0.5))

        def on_epoch_end(self, epoch, logs=None):
            if seen is not None:
                seen.append({**logs, "warnings": list(monitor.warnings)})

    dataset = tf_instdisc.training_dataset(
        source, tf_instdisc.Augmentation(2), 8, epochs=epochs
    )
    model.fit(
        dataset,
        steps_per_epoch=3,
        epochs=epochs,
        callbacks=[monitor, Spy()],
        verbose=0,
        shuffle=False,
    )
    return model


def test_statistics_equal_loops():
    rows = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = bank_statistics.bank_statistics(rows)
    cosines = [
        float(np.dot(rows[i], rows[j]))
        for i in range(40)
        for j in range(40)
        if i != j
    ]
    assert found["mean_cosine"] == pytest.approx(np.mean(cosines), abs=1e-6)
    singular = np.linalg.svd(rows, compute_uv=False)
    shares = singular / singular.sum()
    entropy = -sum(p * math.log(p) for p in shares)
    assert found["effective_rank"] == pytest.approx(math.exp(entropy))


def test_equal_rows_have_rank_one():
    found = bank_statistics.bank_statistics(
        np.tile(np.float32([[0.6, 0.8]]), (9, 1))
    )
    assert found["mean_cosine"] == pytest.approx(1)
    assert found["effective_rank"] == pytest.approx(1, abs=1e-3)


def test_a_healthy_run_causes_no_warning():
    seen = []
    train(seen=seen)
    assert [logs["warnings"] for logs in seen] == [[], []]
    assert 0 < seen[0]["bank_effective_rank"] <= 4


def test_a_planted_collapse_causes_a_warning_in_its_epoch(capsys):
    seen = []
    train(learning_rate=0.0, epochs=1, collapse=True, seen=seen)
    assert "collapsed" in seen[0]["warnings"][0]
    assert "warning: epoch 1: The embeddings" in capsys.readouterr().err


def test_a_persistent_warning_is_printed_once(capsys):
    seen = []
    train(learning_rate=0.0, epochs=3, collapse=True, seen=seen)
    assert all("collapsed" in logs["warnings"][0] for logs in seen)
    assert len(seen) == 3
    assert capsys.readouterr().err.count("collapsed") == 1


def test_a_learning_rate_of_100_causes_a_warning_in_its_epoch():
    seen = []
    train(learning_rate=100.0, epochs=1, seen=seen)
    assert any("learning_rate" in text for text in seen[0]["warnings"])


def test_numbers_that_are_not_finite_cause_a_warning():
    rows = np.full([4, 2], np.nan)
    found = bank_statistics.health_warnings(
        bank_statistics.bank_statistics(rows)
    )
    assert "not finite" in found[0]
    healthy = {"mean_cosine": 0.1, "effective_rank": 3.0}
    assert "not finite" in bank_statistics.health_warnings(healthy, math.inf)[0]
    assert bank_statistics.health_warnings(healthy, 3.0, 1.2) == []


@pytest.mark.exhaustive
def test_the_command_warns_in_the_first_epoch_and_shows_grids(tmp_path):
    fill_folder(tmp_path / "images", [f"{i}.png" for i in range(16)])
    result = commands.run(
        "train",
        f"--images={tmp_path / 'images'}",
        f"--run_dir={tmp_path / 'run'}",
        *("--image_size=16", "--width=4", "--objective=softmax"),
        *("--batch_size=4", "--epochs=1", "--learning_rate=100"),
        "--grid_every=1",
    )
    warning = "warning: epoch 1: Training diverges"
    assert result.returncode == 0, result.stderr
    assert warning in result.stderr
    tensorboard = tmp_path / "run" / "tensorboard"
    assert list((tensorboard / "grid").glob("events.*"))
    for name in ("projector_config.pbtxt", "sprite.png", "metadata.tsv"):
        assert (tensorboard / "grid" / name).exists()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("view")
    fill_folder(root / "images", NASTY_NAMES)
    return run_images.open_images(make_run(root / "run", root / "images"))


@pytest.mark.exhaustive
def test_tensorboard_gets_grids_and_the_projector(tmp_path, images):
    from google.protobuf import text_format
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.plugins import projector

    from tf_instdisc.retrieval.pages.tensorboard import EmbeddingView

    log_dir = tmp_path / "runs" / "photos" / "tensorboard"
    view = EmbeddingView(log_dir, lambda: images, every=2)
    view.set_params({"epochs": 5})
    for epoch in range(5):
        view.on_epoch_end(epoch, {})
    view.on_train_end()

    events = event_accumulator.EventAccumulator(str(log_dir / "grid"))
    events.Reload()
    assert len(events.Tensors("neighbors")) == 3  # Epochs 2, 4 and 5.

    grid = log_dir / "grid"
    config = text_format.Parse(
        (grid / "projector_config.pbtxt").read_text(),
        projector.ProjectorConfig(),
    )
    embedding = config.embeddings[0]
    assert (grid / embedding.metadata_path).exists()
    assert (grid / embedding.sprite.image_path).exists()
    assert Image.open(grid / "sprite.png").size == (96, 96)
    rows = np.loadtxt(grid / "rows.tsv", delimiter="\t")
    np.testing.assert_allclose(rows, images.bank.rows, atol=1e-4)
    lines = (grid / "metadata.tsv").read_text("utf-8").splitlines()
    assert lines[0] == "name\tlabel\tinstance_id"
    names = [line.split("\t")[0] for line in lines[1:]]
    assert names == images.bank.names.tolist()

    # By --logdir of the run, and of the folder above.
    assert runs_with_a_projector(log_dir) == ["grid"]
    assert runs_with_a_projector(tmp_path / "runs") == [
        "photos/tensorboard/grid"
    ]


def runs_with_a_projector(log_dir):
    """Asks TensorBoard's plugin, as its page does."""
    from tensorboard.backend.event_processing import (
        data_provider,
        plugin_event_multiplexer,
    )
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.projector import projector_plugin
    from werkzeug.test import Client

    runs = plugin_event_multiplexer.EventMultiplexer()
    runs.AddRunsFromDirectory(str(log_dir))
    runs.Reload()
    provider = data_provider.MultiplexerDataProvider(runs, str(log_dir))
    plugin = projector_plugin.ProjectorPlugin(
        base_plugin.TBContext(logdir=str(log_dir), data_provider=provider)
    )
    return Client(plugin.get_plugin_apps()["/runs"]).get("/").json
