"""`instdisc-train` in real processes."""

import os
import pathlib
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import commands
from tests.finished_run import picture, save_picture
from tf_instdisc.runs import directory, opening

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent
QUICK = [
    f"--flagfile={ROOT}/flags/digits.flags",
    "--split=train[:300]",
    "--epochs=2",
    "--knn_every=1",
    "--width=4",
]


def instdisc_train(*flags):
    return commands.run("train", *flags, cwd=ROOT)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return f"--data_dir={tmp_path_factory.mktemp('tfds')}"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory, data_dir):
    path = tmp_path_factory.mktemp("runs") / "first"
    result = instdisc_train(*QUICK, data_dir, f"--run_dir={path}")
    assert result.returncode == 0, result.stderr
    assert "Generating" not in result.stdout + result.stderr  # A bar of TFDS.
    assert str(path) in result.stdout
    for row in ("raw pixels", "untrained encoder", "trained encoder"):
        assert f"| {row} |" in result.stdout
    return path


def test_a_run_fills_its_directory(run_dir):
    run = opening.load(str(run_dir))
    epochs = run.read_metrics()
    assert [e["epoch"] for e in epochs] == [1, 2]
    assert [e["step"] for e in epochs] == [4, 8]
    for name in (
        "loss",
        "learning_rate",
        "images_per_second",
        "input_wait",
        "knn_top1",
        "knn_top5",
    ):
        assert all(np.isfinite(e[name]) for e in epochs)
    assert any(run.tensorboard.rglob("events.*"))
    bank = run.load_bank()
    assert bank.rows.shape == (300, 128)
    assert bank.instance_ids.tolist() == list(range(300))
    assert bank.names[7] == "instdisc_digits/train[:300]/7"
    assert len(bank.class_names) == 10
    encoder = keras.saving.load_model(run.encoder)
    image = np.zeros((1, 16, 16, 3), np.uint8)
    assert np.linalg.norm(encoder(image)) == pytest.approx(1, abs=1e-5)


@pytest.mark.exhaustive
def test_the_written_flags_repeat_the_run_exactly(run_dir, tmp_path):
    again = tmp_path / "again"
    result = instdisc_train(
        f"--flagfile={run_dir / 'flags.txt'}", f"--run_dir={again}"
    )
    assert result.returncode == 0, result.stderr
    first, second = (opening.load(str(p)) for p in (run_dir, again))
    np.testing.assert_array_equal(
        first.load_bank().rows, second.load_bank().rows
    )
    assert [e["loss"] for e in first.read_metrics()] == [
        e["loss"] for e in second.read_metrics()
    ]


def test_the_same_command_says_that_the_run_is_finished(run_dir, data_dir):
    before = (run_dir / "metrics.jsonl").read_bytes()
    result = instdisc_train(*QUICK, data_dir, f"--run_dir={run_dir}")
    assert result.returncode == 0, result.stderr
    assert "is finished after 2 epochs" in result.stdout
    assert (run_dir / "metrics.jsonl").read_bytes() == before


def test_another_run_in_the_same_directory_is_refused(run_dir, data_dir):
    before = (run_dir / "metrics.jsonl").read_bytes()
    result = instdisc_train(
        *QUICK,
        data_dir,
        f"--run_dir={run_dir}",
        "--split=train[:200]",
        "--width=8",
        "--std=cifar10",
        "--learning_rate=0.01",
    )
    assert result.returncode == 2
    assert "std: imagenet -> cifar10" in result.stderr
    assert "num_instances: 300 -> 200" in result.stderr
    assert "width: 4 -> 8" in result.stderr
    assert "learning_rate" not in result.stderr
    assert "Traceback" not in result.stderr
    assert (run_dir / "metrics.jsonl").read_bytes() == before


@pytest.mark.exhaustive
def test_changed_rate_batch_size_and_epochs_are_reported(
    run_dir, data_dir, tmp_path
):
    copy = shutil.copytree(run_dir, tmp_path / "run")
    result = instdisc_train(
        *QUICK,
        data_dir,
        f"--run_dir={copy}",
        "--learning_rate=0.01",
        "--batch_size=32",
        "--learning_rate_scaling=linear",
        "--epochs=3",
        "--distribution=mirrored",
        "--logical_cpus=2",
    )
    assert result.returncode == 0, result.stderr
    assert "learning rate: 0.01 x 0.125 = 0.00125" in result.stdout
    assert "learning_rate_scaling: none -> linear" in result.stdout
    assert "batch_size: 64 -> 32" in result.stdout
    assert "epochs: 2 -> 3" in result.stdout
    epochs = directory.RunDirectory(copy).read_metrics()
    assert [e["epoch"] for e in epochs] == [1, 2, 3]
    assert epochs[2]["step"] == 17  # 2 x 4, and 9 of half the size.
    assert np.isfinite(opening.load(str(copy)).load_bank().rows).all()


def test_a_missing_test_split_suggests_others(tmp_path, data_dir):
    run_dir = tmp_path / "run"
    result = instdisc_train(
        *QUICK, data_dir, f"--run_dir={run_dir}", "--test_split=dev"
    )
    assert result.returncode == 2
    for part in ("--test_split=dev", "--test_split= disables", "train, test"):
        assert part in result.stderr
    assert not run_dir.exists()


def test_tensorboard_has_what_the_metrics_have(run_dir):
    from tensorboard.backend.event_processing import event_accumulator

    run = opening.load(str(run_dir))
    (file,) = (run.tensorboard / "train").glob("events.*")
    events = event_accumulator.EventAccumulator(
        str(file), {event_accumulator.TENSORS: 0}
    ).Reload()
    epochs = run.read_metrics()
    # Keras' callback writes the next step's learning rate in place of ours.
    for name in set(epochs[0]) - {"epoch", "step", "learning_rate"}:
        seen = [
            float(tf.make_ndarray(event.tensor_proto))
            for event in events.Tensors(f"epoch_{name}")
        ]
        np.testing.assert_allclose(
            seen, [e[name] for e in epochs], rtol=1e-6, err_msg=name
        )


@pytest.mark.exhaustive
def test_a_folder_of_classes_with_a_bad_file(tmp_path):
    for part, seeds in (("train", range(6)), ("test", range(6, 9))):
        for seed in seeds:
            save_picture(
                tmp_path / part, f"{seed % 3}/{seed}.png", picture(seed)
            )
    (tmp_path / "train" / "1" / "bad.png").write_bytes(b"no image")
    arguments = [
        f"--images={tmp_path / 'train'}",
        f"--test_images={tmp_path / 'test'}",
        "--image_size=16",
        "--width=4",
        "--epochs=1",
        "--batch_size=4",
        "--objective=softmax",
        f"--run_dir={tmp_path / 'run'}",
    ]
    result = instdisc_train(*arguments, "--bad_images=fail")
    assert result.returncode == 2
    assert "1 of 7 images" in result.stderr
    assert "1/bad.png" in result.stderr
    result = instdisc_train(*arguments)
    assert result.returncode == 0, result.stderr
    assert "1/bad.png" in result.stdout
    run = opening.load(str(tmp_path / "run"))
    bank = run.load_bank()
    # Sorted: 0/0, 0/3, 1/1, 1/4, 1/bad, 2/2, 2/5.
    assert bank.instance_ids.tolist() == [0, 1, 2, 3, 5, 6]
    assert bank.names[4] == "2/2.png"
    assert bank.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert "knn_top1" in run.read_metrics()[0]


def test_a_folder_of_photographs_without_labels(tmp_path):
    photos = os.environ.get("INSTDISC_PHOTOS")
    if not photos:
        pytest.skip("INSTDISC_PHOTOS names no folder of photographs")
    run_dir = tmp_path / "run"
    result = instdisc_train(
        f"--flagfile={ROOT}/flags/photos.flags",
        f"--images={photos}",
        "--epochs=1",
        "--width=8",
        f"--run_dir={run_dir}",
    )
    assert result.returncode == 0, result.stderr
    bank = opening.load(str(run_dir)).load_bank()
    assert len(bank.rows) == len(os.listdir(photos))
    assert (bank.labels == -1).all()
