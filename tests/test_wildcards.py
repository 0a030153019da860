"""Directories whose names TensorFlow would take as patterns."""

import tempfile

import numpy as np
import pytest
import tensorflow as tf

from tests import exported
from tests.test_finish import labeled, train
from tf_instdisc.cli.embed import ModelOptions, worker_embedder
from tf_instdisc.errors import StorageError
from tf_instdisc.paths import without_wildcards
from tf_instdisc.runs import checkpoints
from tf_instdisc.serving import index_directory, saved_model
from tf_instdisc.serving.options import IndexOptions

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("shallow_resnet18"),
]
NAMES = ["a [2]", "a [!3]", "back\\slash", "s*r", "wh?t"]
MATCHED = ["a 2", "a 2", "backslash", "sr", "what"]


@pytest.mark.parametrize(("name", "matched"), zip(NAMES, MATCHED, strict=True))
def test_checkpoints_are_restored(tmp_path, name, matched):
    for place, value in ((name, 1.0), (matched, 5.0)):
        written = tf.train.Checkpoint(state=tf.Variable([value, 2.0]))
        checkpoints.write(tmp_path / place, written, {"epochs": 1}, keep=1)
    saved, damages = checkpoints.find_newest(tmp_path / name)
    assert not damages
    restored = tf.Variable([0.0, 0.0])
    checkpoints.restore(saved, {"state": restored})
    assert restored.numpy().tolist() == [1.0, 2.0]


def test_a_run_is_continued(tmp_path):
    train(tmp_path / NAMES[0], labeled(), epochs=1)
    run = train(tmp_path / NAMES[0], labeled(), epochs=2)
    assert [line["epoch"] for line in run.read_metrics()] == [1, 2]


def test_exports_and_indexes_are_loaded(tmp_path):
    place = tmp_path / "\\models [6]"
    run = exported.make_run(place / "run", width=2)
    version = saved_model.export_run(run, str(place / "model"))
    embedder = worker_embedder(ModelOptions(saved_model=str(version)), 4)
    png = exported.encode(exported.random_images(1, seed=0)[0])
    assert np.isfinite(embedder([png])["embedding"]).all()
    bank = run.load_bank()
    index_directory.write_index(bank, str(place / "index"), IndexOptions())
    opened = index_directory.open_index(str(place / "index"))
    _, ids, _ = opened.search(bank.rows[:3], 1)
    np.testing.assert_array_equal(ids[:, 0], bank.instance_ids[:3])


def test_a_link_that_cannot_be_created_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with (
        pytest.raises(StorageError, match="set TMPDIR"),
        without_wildcards(tmp_path / NAMES[0]),
    ):
        pass


def test_a_usual_path_is_not_linked(tmp_path):
    with without_wildcards(tmp_path) as path:
        assert path == str(tmp_path)
