"""Runs that come with the package: packed, unpacked once, opened by name."""

import os
import pathlib
import shutil
import subprocess

import keras
import numpy as np
import pytest

import tf_instdisc
from benchmarks import ship
from tests.finished_run import fill_folder
from tests.finished_run import save_run as encode_and_save
from tests.test_initial_encoder import config_of
from tf_instdisc.config.run import from_flagfile
from tf_instdisc.errors import DamagedFileError, StorageError, UsageError
from tf_instdisc.method.encoders import encoder_of
from tf_instdisc.runs import opening, shipped
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.runs.record import RunRecord
from tf_instdisc.training.initial_encoder import initial_encoder

pytestmark = pytest.mark.slow

NAME = "tiny-resnet18"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose weights and statistics differ from the initial ones."""
    root = tmp_path_factory.mktemp("trained")
    fill_folder(root / "images", [f"class {i % 3}/{i}.png" for i in range(12)])
    config = from_flagfile(
        f"--images={root / 'images'}\n--image_size=16\n--crop_fraction=1.0\n"
        "--width=4\n--embedding_dim=8\n--mean=cifar10\n--std=cifar10\n"
    )
    keras.utils.set_random_seed(0)  # The errors of rounding depend on it.
    encoder = encoder_of(config)
    random = np.random.default_rng(0)
    encoder.set_weights(
        [
            w + (0.2 if w.ndim == 1 else 0.02) * random.uniform(0, 1, w.shape)
            for w in encoder.get_weights()
        ]
    )
    run = opening.open_run(str(root / "run"), RunRecord(config))
    encode_and_save(run, encoder, root / "images")
    return run


@pytest.fixture
def packed(trained, tmp_path, monkeypatch):
    """The folder of packed runs, with one run and no cache yet."""
    folder = tmp_path / "weights"
    ship.pack(trained, folder / NAME)
    monkeypatch.setattr(shipped, "FOLDER", folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_encoder_is_the_same_to_three_digits(trained, packed):
    images = np.random.default_rng(1).uniform(0, 255, [100, 16, 16, 3])
    expected = tf_instdisc.load_encoder(trained.path)(images)
    found = tf_instdisc.load_encoder(NAME)(images)
    assert np.abs(np.subtract(found, expected)).max() < 1e-3
    assert not np.array_equal(found, expected)  # It was really rounded.


def test_the_bank_is_the_same_to_eight_bits(trained, packed):
    expected, found = trained.load_bank(), tf_instdisc.Run(NAME).load_bank()
    largest = np.abs(expected.rows).max()
    np.testing.assert_allclose(found.rows, expected.rows, atol=largest / 100)
    np.testing.assert_allclose(np.linalg.norm(found.rows, axis=1), 1, 1e-6)
    assert found.rows.dtype == np.float32
    assert found.instance_ids.tolist() == expected.instance_ids.tolist()
    assert found.names.tolist() == expected.names.tolist()
    assert found.labels.tolist() == expected.labels.tolist()
    assert found.class_names == expected.class_names


def test_an_image_finds_itself(trained, packed):
    folder = trained.read_config().data.images
    found, scores = tf_instdisc.Run(NAME).neighbors(folder, 1)
    assert [names[0] for names in found] == trained.load_bank().names.tolist()
    assert scores.min() > 0.99


def test_it_is_unpacked_once(packed, capfd):
    first = shipped.unpack(NAME)
    written = (first / "encoder.keras").stat().st_mtime_ns
    assert NAME in capfd.readouterr().err
    assert shipped.unpack(NAME) == first
    assert (first / "encoder.keras").stat().st_mtime_ns == written
    assert capfd.readouterr().err == ""
    assert os.listdir(first.parent) == [first.name]


def test_two_processes_may_unpack_at_once(packed, monkeypatch):
    write_run = shipped._write_run

    def and_then_the_other(source, run):
        monkeypatch.setattr(shipped, "_write_run", write_run)
        other.append(shipped.unpack(NAME))
        write_run(source, run)

    other = []
    monkeypatch.setattr(shipped, "_write_run", and_then_the_other)
    assert [shipped.unpack(NAME)] == other
    assert os.listdir(other[0].parent) == [other[0].name]
    assert len(opening.load(NAME).load_bank().rows) == 12


def test_a_run_that_was_interrupted_is_unpacked_again(packed, monkeypatch):
    def fail(self, bank):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "save_bank", fail)
        with pytest.raises(StorageError, match="No space left"):
            shipped.unpack(NAME)
    assert len(opening.load(NAME).load_bank().rows) == 12


def test_removed_and_leftover_files_are_no_obstacle(packed):
    unpacked = shipped.unpack(NAME)
    (unpacked / "bank.npz").unlink()
    done = subprocess.Popen(["true"])
    done.wait()
    left = unpacked.with_name(f".partial-{done.pid}-1-{unpacked.name}")
    left.mkdir()
    os.utime(left, (0, 0))
    new = unpacked.with_name(f".partial-{done.pid}-2-{unpacked.name}")
    new.mkdir()
    assert len(opening.load(NAME).load_bank().rows) == 12
    assert not left.exists()
    assert new.exists()


def test_what_another_process_has_finished_is_not_replaced(packed, monkeypatch):
    """The other process finishes while this one checks what exists."""
    unpacked = shipped.unpack(NAME)
    before = {path: path.stat().st_ctime_ns for path in unpacked.iterdir()}
    exists, answers = pathlib.Path.exists, [False]

    def exists_later(path, **more):
        if path == unpacked / "bank.npz" and answers:
            return answers.pop()
        return exists(path, **more)

    monkeypatch.setattr(pathlib.Path, "exists", exists_later)
    assert shipped.unpack(NAME) == unpacked
    after = {path: path.stat().st_ctime_ns for path in unpacked.iterdir()}
    assert after == before
    assert os.listdir(unpacked.parent) == [unpacked.name]


@pytest.mark.exhaustive
def test_other_weights_of_the_same_name_are_unpacked_too(trained, packed):
    first = shipped.unpack(NAME)
    for path in (packed / NAME).iterdir():
        path.unlink()
    (packed / NAME).rmdir()
    encoder = tf_instdisc.load_encoder(trained.path)
    encoder.set_weights([w * 0.5 for w in encoder.get_weights()])
    images = trained.read_config().data.images
    other = opening.open_run(str(packed.parent / "o"), trained.read_record())
    encode_and_save(other, encoder, images)
    ship.pack(other, packed / NAME)
    assert shipped.unpack(NAME) != first


@pytest.mark.exhaustive_variants("16")
@pytest.mark.parametrize("image_size", [16, 24])
def test_a_run_can_begin_with_it(trained, packed, image_size):
    begun = initial_encoder(config_of(NAME, image_size, embedding_dim=8))
    assert begun.input_shape == (None, image_size, image_size, 3)
    expected = tf_instdisc.load_encoder(trained.path).get_layer("projection")
    kernel = begun.get_layer("projection").get_weights()[0]
    np.testing.assert_allclose(kernel, expected.get_weights()[0], 2e-3)


def test_a_directory_of_the_same_name_takes_precedence(trained, packed):
    os.symlink(trained.path, NAME)
    assert opening.load(NAME).load_bank().rows.dtype == np.float32
    assert not os.path.exists(os.environ["XDG_CACHE_HOME"])


@pytest.mark.parametrize("file", ["weights.npz", "run.json"])
def test_damage_is_noticed(packed, file):
    path = packed / NAME / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=file):
        opening.load(NAME)


def test_damage_of_the_unpacked_files_has_a_remedy(packed):
    run = opening.load(NAME)
    run.bank.write_bytes(run.bank.read_bytes()[:-1])
    cure = f"Remove {run.path}; the weights are then unpacked again"
    with pytest.raises(DamagedFileError, match=cure):
        run.load_bank()
    shutil.rmtree(run.path)
    assert len(opening.load(NAME).load_bank().rows) == 12


def test_a_name_that_is_almost_right(packed):
    with pytest.raises(UsageError, match=f"Did you mean {NAME}"):
        opening.load(NAME.replace("-", "_"))
    with pytest.raises(UsageError, match=f"Did you mean {NAME}"):
        tf_instdisc.load_encoder(NAME.replace("-", "_"))


def test_caches_that_cannot_be_written(packed, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="XDG_CACHE_HOME"):
        opening.load(NAME)


# === The runs of the package ===


@pytest.mark.parametrize("name", shipped.names())
def test_a_shipped_run_is_small_and_knows_its_classes(
    name, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    files = (shipped.FOLDER / name).iterdir()
    assert sum(path.stat().st_size for path in files) < 25e6
    run = tf_instdisc.Run(name)
    encoder, bank = run.load_encoder(), run.load_bank()
    assert encoder.output_shape[1] == bank.rows.shape[1]
    # Each of some rows without itself: the nearest one has its class.
    asked = np.random.default_rng(0).choice(len(bank.rows), 1000, replace=False)
    cosines = bank.rows[asked] @ bank.rows.T
    cosines[np.arange(len(asked)), asked] = -1
    found = bank.labels[cosines.argmax(axis=1)]
    assert (found == bank.labels[asked]).mean() > 0.65


def test_the_headline_comes_with_the_package():
    assert "cifar10-resnet18" in shipped.names()
