"""instdisc-evaluate as a process: what it prints, writes and refuses."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.finished_run import command, save_run
from tests.labelled_run import (
    fill_labelled_folder,
    keep_rows,
    make_labelled_run,
    small_encoder,
)
from tf_instdisc.evaluation import evaluate as evaluation
from tf_instdisc.evaluation import knn, svm, transfer
from tf_instdisc.evaluation.inputs import open_inputs
from tf_instdisc.runs import directory
from tf_instdisc.runs.bank import Bank


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_labelled_run(tmp_path_factory.mktemp("command"))


def scalars(run):
    found = {}
    for file in (run.tensorboard / "evaluation").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                found[value.tag] = float(tf.make_ndarray(value.tensor))
    return found


def test_several_protocols_give_a_table_results_and_scalars(run, tmp_path):
    other = fill_labelled_folder(
        tmp_path / "train", 6, classes=("red", "blue"), seed=3
    )
    other_test = fill_labelled_folder(
        tmp_path / "test", 4, classes=("red", "blue"), seed=4
    )
    ended = command(
        "evaluate",
        f"--run_dir={run.path}",
        "--protocol=knn,linear,svm,semi_supervised,finetune,transfer",
        "--num_neighbors=6",
        "--linear_layers=conv2,embedding",
        "--linear_epochs=3",
        "--svm_costs=0.01,0.1",
        "--fractions=0.3",
        "--finetune_epochs=1",
        "--finetune_min_updates=2",
        "--finetune_batch_size=8",
        f"--transfer_images={other}",
        f"--transfer_test_images={other_test}",
    )
    assert ended.returncode == 0, ended.stderr
    stored = json.loads(run.results.read_text())["measurements"]
    protocols = {one["protocol"] for one in stored}
    assert protocols == {
        "knn",
        "linear",
        "svm",
        "semi_supervised",
        "finetune",
        "transfer",
    }
    lines = [line for line in ended.stdout.splitlines() if line[:1] == "|"]
    assert len(lines) == 2 + len(stored)
    written = scalars(run)
    for one, line in zip(stored, lines[2:], strict=True):
        assert 0 <= one["value"] <= 1
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        assert cells[:3] == [one["protocol"], one["name"], one["metric"]]
        assert float(cells[3]) == pytest.approx(100 * one["value"], abs=0.051)
        tag = f"{one['protocol']}/{one['name']}/{one['metric']}"
        assert written[tag] == pytest.approx(one["value"])
    names = {(one["protocol"], one["name"]) for one in stored}
    assert ("linear", "linear, conv2") in names
    assert ("semi_supervised", "30% of the labels, from scratch") in names
    assert ("transfer", "kNN, encoded, k = 6, to train") in names
    assert not any(
        "training" in name for kind, name in names if kind == "transfer"
    )


def test_a_second_evaluation_keeps_the_others_results(tmp_path):
    run = make_labelled_run(tmp_path)
    keep_rows(run)
    for rows in ("training", "encoded"):
        options = knn.KNNOptions(num_neighbors=4, rows=(rows,))
        evaluation.evaluate(run.path, {"knn": options})
    names = {one["name"] for one in run.load_results()["measurements"]}
    assert names == {
        f"kNN, {rows}, k = {k}"
        for rows in ("training", "encoded")
        for k in (1, 4)
    }


def test_help_is_quick_and_lists_every_group():
    ended = command("evaluate", "--help")
    assert ended.returncode == 0
    for title in ("kNN:", "Linear classifiers:", "SVM:", "Fine-tuning:"):
        assert title in ended.stdout
    assert "oneDNN" not in ended.stderr  # TensorFlow was not imported.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol=nearest"], "Give some of knn, linear"),
        (["--protocol=knn", "--num_neighbors=25"], "24 images"),
        (["--protocol=linear", "--linear_layers=conv9"], "conv1, conv2"),
        (["--protocol=transfer"], "--transfer_dataset"),
        (["--fractions=1.5"], "must be numbers in (0, 1]"),
    ],
)
def test_wrong_options_end_with_an_error(run, arguments, message):
    ended = command("evaluate", f"--run_dir={run.path}", *arguments)
    assert ended.returncode != 0
    assert message in ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr


# === Wrong runs, found before any protocol begins ===


def refused(run, monkeypatch, match, options=None, overrides=None):
    """The run is refused before any image goes through the encoder."""

    def never(*arguments, **keywords):
        raise AssertionError("An image was encoded before the error.")

    monkeypatch.setattr(knn, "embed", never)
    options = options or {"knn": knn.KNNOptions(num_neighbors=3)}
    with pytest.raises(ValueError, match=match):
        evaluation.evaluate(run, options, overrides)
    assert not run.results.exists()


def test_a_run_without_labels_is_refused(tmp_path, monkeypatch):
    run = make_labelled_run(tmp_path)
    flat = tmp_path / "flat"
    shutil.copytree(tmp_path / "train" / "ant", flat)
    run.set_data(images=str(flat))
    refused(run, monkeypatch, "the training images have none")


def test_test_images_without_labels_are_refused(tmp_path, monkeypatch):
    run = make_labelled_run(tmp_path)
    refused(
        run,
        monkeypatch,
        "the test images have none",
        overrides={"test_images": str(tmp_path / "test" / "bee")},
    )


def test_other_test_classes_are_refused(tmp_path, monkeypatch):
    run = make_labelled_run(tmp_path)
    (tmp_path / "test" / "cat").rename(tmp_path / "test" / "dog")
    refused(run, monkeypatch, "train with 3 .* test with 3 .*dog")


def test_other_classes_than_the_runs_are_refused(tmp_path, monkeypatch):
    run = make_labelled_run(tmp_path)
    for part in ("train", "test"):
        (tmp_path / part / "cat").rename(tmp_path / part / "dog")
    # A run that was made by hand has no checkpoint.
    monkeypatch.setattr(
        knn.finishing, "training_rows", lambda run: run.load_bank()
    )
    options = {"knn": knn.KNNOptions(num_neighbors=3, rows=("training",))}
    refused(
        run, monkeypatch, "classes of the run's images, ant, bee, cat", options
    )


def test_one_class_is_refused(tmp_path, monkeypatch):
    run = make_labelled_run(tmp_path)
    for part in ("train", "test"):
        for name in ("bee", "cat"):
            shutil.rmtree(tmp_path / part / name)
    refused(run, monkeypatch, "at least two classes")


def test_fewer_images_than_neighbors_are_refused(tmp_path, monkeypatch):
    run = make_labelled_run(tmp_path)
    options = {"knn": knn.KNNOptions(num_neighbors=25)}
    refused(run, monkeypatch, "num_neighbors=25, 24 images", options)


def test_fewer_images_than_folds_are_refused(tmp_path, monkeypatch):
    run = make_labelled_run(tmp_path)
    options = {"svm": svm.SVMOptions(folds=9)}
    refused(run, monkeypatch, "folds=9, 8 images of a class", options)


def test_a_later_protocols_fault_is_found_before_the_first(
    tmp_path, monkeypatch
):
    run = make_labelled_run(tmp_path)
    options = {
        "knn": knn.KNNOptions(num_neighbors=3),
        "transfer": transfer.TransferOptions(
            {
                "images": str(tmp_path / "train"),
                "test_images": str(tmp_path / "test"),
            }
        ),
    }
    refused(run, monkeypatch, "another data set than the run's", options)


@pytest.mark.parametrize("images", [{}, {"images": "there"}])
def test_a_transfer_names_its_images(images):
    with pytest.raises(ValueError, match="--transfer_test_images"):
        transfer.TransferOptions(images)


def test_missing_test_images_are_named(tmp_path, monkeypatch):
    run = make_labelled_run(tmp_path)
    run.set_data(test_images=None)
    refused(run, monkeypatch, "Give --test_images=FOLDER")


def test_an_unfinished_run_is_refused(tmp_path):
    run = make_labelled_run(tmp_path)
    run.bank.unlink()
    with pytest.raises(directory.RunDirectoryError, match="finished"):
        open_inputs(run)


def test_a_moved_folder_and_an_updated_bank_are_measured(tmp_path):
    # As after instdisc-update: ids that are no longer 0, 1, 2 ...
    run = make_labelled_run(tmp_path)
    (tmp_path / "train").rename(tmp_path / "moved")
    save_run(run, small_encoder(), tmp_path / "moved")
    bank = run.load_bank()
    kept = np.arange(len(bank.rows)) % 4 != 0
    run.save_bank(
        Bank(
            rows=bank.rows[kept],
            instance_ids=bank.instance_ids[kept] * 3 + 7,
            names=bank.names[kept],
            labels=bank.labels[kept],
            class_names=bank.class_names,
        )
    )
    found = evaluation.evaluate(
        run,
        {"knn": knn.KNNOptions(3, rows=("encoded", "training"))},
        {"images": str(tmp_path / "moved")},
    )
    assert {one.name for one in found} >= {
        "kNN, training, k = 3",
        "kNN, encoded, k = 3",
    }
