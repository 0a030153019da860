"""Labels of streamed datasets, which are kept in the run directory."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests import tfds_forms
from tests.hostile_files import damaged_archive
from tf_instdisc.config import DataConfig, RunConfig
from tf_instdisc.data import tfds_labels, tfds_source
from tf_instdisc.evaluation.inputs import open_labeled
from tf_instdisc.runs import sources
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.training import parts

pytestmark = pytest.mark.slow


@pytest.fixture
def shards(tmp_path):
    """Three shards of pictures with the labels 0, 1, 2, .., 9, 0, 1, 2."""
    tfds_forms.write_imagenet(tmp_path, num_train=13)
    return sorted(tmp_path.rglob("*-train.tfrecord-*"))


def _kept(data_dir, split="train"):
    source = tfds_source.tfds_source(
        "imagenet2012",
        split,
        str(data_dir),
        "none",
        memory=data_dir / "run" / "labels.npz",
    )
    return source.labels()


def _make_unreadable(shards):
    """Other contents; a start cannot tell the files from what they were."""
    for shard in shards:
        status = shard.stat()
        shard.write_bytes(b"x" * status.st_size)
        os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_restart_does_not_read_the_shards_for_their_labels(tmp_path, shards):
    labels = _kept(tmp_path)
    assert sorted(labels) == sorted([*range(10), 0, 1, 2])
    _make_unreadable(shards)
    np.testing.assert_array_equal(_kept(tmp_path), labels)
    with pytest.raises(tf.errors.DataLossError):
        _kept(tmp_path, "train[:6]")
    # Touched, it may be another.
    os.utime(shards[1])
    with pytest.raises(tf.errors.DataLossError):
        _kept(tmp_path)


def test_labels_of_a_changed_shard_are_read_and_cached_again(tmp_path, shards):
    before = _kept(tmp_path)
    shutil.rmtree(tmp_path / "imagenet2012")
    tfds_forms.write_imagenet(tmp_path, num_train=13, first=1)
    after = _kept(tmp_path)
    assert sorted(after) == sorted([*range(1, 10), 0, 1, 2, 3])
    assert sorted(before) == sorted([*range(10), 0, 1, 2])
    _make_unreadable(shards)
    np.testing.assert_array_equal(_kept(tmp_path), after)


def test_an_evaluation_does_not_read_labels_that_the_run_remembers(tmp_path):
    image = np.zeros([8, 8, 3], np.uint8)
    examples = [{"image": image, "label": value} for value in (70, 7, 70)]
    forms = tfds_forms.features
    tfds_forms.write(
        tmp_path,
        "values",
        {
            "image": forms.Image(shape=(8, 8, 3)),
            "label": forms.Scalar(np.int64),
        },
        {"train": examples, "test": examples[:2]},
    )
    data = DataConfig(dataset="values", data_dir=str(tmp_path), cache="none")
    run = RunDirectory(tmp_path / "run")
    memory = sources.image_caches(run, data)

    def labels():
        tfds_labels._read_values_once.cache_clear()  # As in another process.
        return [
            source.labels().tolist() for source in open_labeled(data, memory)
        ]

    trained = parts.open_sources(RunConfig(data=data), run, is_chief=True)
    before = [source.labels().tolist() for source in trained]
    assert [sorted(split) for split in before] == [[0, 1, 1], [0, 1]]
    _make_unreadable(sorted(tmp_path.rglob("*.tfrecord-*")))
    assert labels() == before


@pytest.mark.exhaustive_variants("cut", "empty", "unlisted")
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "unlisted"])
def test_damaged_labels_are_read_and_cached_again(
    tmp_path, shards, damage, capsys
):
    labels = _kept(tmp_path)
    memory = tmp_path / "run" / "labels.npz"
    if damage == "unlisted":
        (memory.parent / "checksums.json").unlink()
    memory.write_bytes(damaged_archive(memory.read_bytes(), damage))
    np.testing.assert_array_equal(_kept(tmp_path), labels)
    assert "labels.npz is damaged" in capsys.readouterr().out
    _make_unreadable(shards)
    np.testing.assert_array_equal(_kept(tmp_path), labels)


@pytest.mark.exhaustive_variants("feature0*")
@pytest.mark.parametrize(
    ("feature", "values"),
    (
        (tfds_forms.features.Scalar(np.int64), (70, -1, 7, 70)),
        (tfds_forms.features.Text(), ("é", "", "a", "é")),
    ),
)
def test_a_restart_does_not_read_the_records_for_the_classes(
    tmp_path, feature, values
):
    image = np.zeros([8, 8, 3], np.uint8)
    examples = [{"image": image, "label": value} for value in values]
    tfds_forms.write(
        tmp_path,
        "values",
        {"image": tfds_forms.features.Image(shape=(8, 8, 3)), "label": feature},
        {"train": examples, "test": examples[:1]},
    )

    def opened(memory="labels.npz"):
        tfds_labels._read_values_once.cache_clear()  # As in another process.
        return tfds_source.tfds_source(
            "values", "train", str(tmp_path), "none", memory=tmp_path / memory
        )

    first = opened()
    labels = first.labels()
    assert len(first.class_names) == 2
    assert sorted(labels) == [-1, 0, 1, 1]
    _make_unreadable(sorted(tmp_path.rglob("*.tfrecord-*")))
    again = opened()
    assert again.class_names == first.class_names
    np.testing.assert_array_equal(again.labels(), labels)
    with pytest.raises(tf.errors.DataLossError):
        opened("others.npz")
