"""instdisc-evaluate as a process: what it prints, writes and refuses."""

import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from tests import commands
from tests.finished_run import save_run
from tests.labeled_run import (
    fill_labeled_folder,
    make_labeled_run,
    small_encoder,
)
from tf_instdisc.checksums import sha256_of_file
from tf_instdisc.data.folder_listing import image_paths
from tf_instdisc.evaluation import evaluate as evaluation
from tf_instdisc.evaluation import results
from tf_instdisc.evaluation.detection_protocol import DetectionOptions
from tf_instdisc.evaluation.fine_tuning_protocol import FineTuneOptions
from tf_instdisc.evaluation.knn_protocol import KNNOptions
from tf_instdisc.evaluation.linear_protocol import LinearOptions
from tf_instdisc.evaluation.protocol import Measurement
from tf_instdisc.evaluation.svm_protocol import SVMOptions
from tf_instdisc.runs import update
from tf_instdisc.runs.bank import Bank

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_labeled_run(tmp_path_factory.mktemp("command"))


def scalars(run):
    found = {}
    for file in (run.tensorboard / "evaluation").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                found[value.tag] = float(tf.make_ndarray(value.tensor))
    return found


@pytest.mark.exhaustive
def test_several_protocols_give_a_table_results_and_scalars(run):
    ended = commands.run(
        "evaluate",
        f"--run_dir={run.path}",
        "--protocol=knn,linear,svm,semi_supervised,finetune",
        "--num_neighbors=6",
        "--linear_layers=conv2,embedding",
        "--linear_epochs=3",
        "--svm_costs=0.01,0.1",
        "--fractions=0.3",
        "--finetune_epochs=1",
        "--finetune_min_updates=2",
        "--finetune_batch_size=8",
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


@pytest.mark.exhaustive
def test_a_second_evaluation_keeps_the_others_results(tmp_path):
    run = make_labeled_run(tmp_path)
    # An earlier version also measured rows of training.
    old = Measurement("knn", "kNN, training, k = 4", "top1", 0.5)
    results.save(run, [old])
    for k in (3, 4):
        options = KNNOptions(num_neighbors=k)
        evaluation.evaluate(run.path, {"knn": options})
    names = {one["name"] for one in run.load_results()["measurements"]}
    assert names == {
        old.name,
        *(f"kNN, encoded, k = {k}" for k in (1, 3, 4)),
    }


def test_help_is_quick_and_lists_every_group():
    ended = commands.run("evaluate", "--help")
    assert ended.returncode == 0
    for title in ("kNN:", "Linear classifiers:", "SVM:", "Fine-tuning:"):
        assert title in ended.stdout
    # Flags that several protocols share are listed once.
    for flag in ("--seed:", "--[no]baselines:"):
        assert ended.stdout.count(f"  {flag}") == 1
    assert "oneDNN" not in ended.stderr  # TensorFlow was not imported.


def test_flags_become_the_options_of_protocols():
    code = (
        "import sys; from absl import flags;"
        "from tf_instdisc.cli import evaluate, setting_flags;"
        "groups = setting_flags.define(evaluate.SETTINGS);"
        "heavy = {'tensorflow', 'keras', 'numpy', 'sklearn'};"
        "assert not heavy & set(sys.modules);"
        "flags.FLAGS(sys.argv);"
        "print(*(group.read() for group in groups.values()), sep='\\n')"
    )
    given = (
        *("--run_dir=r", "--seed=7", "--baselines", "--linear_features=50"),
        *("--num_neighbors=3", "--linear_layers=conv1"),
        *("--svm_costs=1,2.5", "--finetune_epochs=4", "--fractions=0.5"),
        *("--detection_images=f", "--frozen_layers=conv1,conv2"),
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *given],
        capture_output=True,
        text=True,
        check=True,
    )
    knn = KNNOptions(3, seed=7, baselines=True)
    features = {"num_features": 50, "seed": 7}
    linear = LinearOptions(("conv1",), baselines=True, **features)
    expected = [
        DetectionOptions(images="f", frozen_layers=("conv1", "conv2")),
        FineTuneOptions(fractions=(0.5,), epochs=4, seed=7),
        knn,
        linear,
        SVMOptions(costs=(1.0, 2.5), **features),
    ]
    _, *lines = ended.stdout.splitlines()
    assert sorted(lines) == sorted(map(str, expected))


NEW_PROTOCOL = """
import dataclasses

from tf_instdisc.config.fields import Settings, setting
from tf_instdisc.evaluation.protocol import Measurement, Protocol, seed_setting


@dataclasses.dataclass(frozen=True)
class GuessOptions(Settings):
    \"""Guesses\"""

    num_guesses: int = setting(1, "Classes that are guessed.", least=1)
    seed: int = seed_setting()


class Guess(Protocol):
    name = "guess"
    options_kind = GuessOptions

    def measure(self, inputs):
        labels = inputs.test_source.labels()
        value = float((labels < self.options.num_guesses).mean())
        title = f"with seed {self.options.seed}"
        return [Measurement(self.name, title, "top1", value)]
"""


@pytest.mark.exhaustive
def test_a_new_file_is_a_new_protocol(run, tmp_path):
    (tmp_path / "guess_protocol.py").write_text(NEW_PROTOCOL)
    code = (
        "import sys; from tf_instdisc import evaluation;"
        "evaluation.__path__.append(sys.argv.pop(1));"
        "from tf_instdisc.cli import instdisc; instdisc.main()"
    )

    def evaluate(*arguments):
        return subprocess.run(
            [sys.executable, "-c", code, str(tmp_path), "evaluate", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )

    shown = evaluate("--help").stdout
    assert "Guesses:\n  --num_guesses: Classes that are guessed." in shown
    given = f"--run_dir={run.path}", "--protocol=guess", "--seed=4"
    ended = evaluate(*given, "--num_guesses=2")
    assert ended.returncode == 0, ended.stderr
    assert "| guess | with seed 4 | top1 | 66.7 |  |  |" in ended.stdout
    kept = json.loads(run.results.read_text())["measurements"]
    assert kept[-1]["value"] == pytest.approx(2 / 3)
    wrong = evaluate(*given, "--num_guesses=0")
    assert "--num_guesses must be at least 1" in wrong.stderr


def test_protocols_are_given_their_own_options(run):
    with pytest.raises(ValueError, match="svm must be SVMOptions"):
        evaluation.evaluate(run, {"svm": KNNOptions()})
    with pytest.raises(ValueError, match="`protocol` must be one of"):
        evaluation.evaluate(run, {"nearest": KNNOptions()})


def test_results_of_other_data_do_not_replace_those_of_the_run(tmp_path):
    run = make_labeled_run(tmp_path)
    linear = LinearOptions(("embedding",), epochs=1, schedule_epochs=())
    options = {"knn": KNNOptions(1), "linear": linear}

    def measure(folder):
        images = {"images": folder / "train", "test_images": folder / "test"}
        images = {name: str(path) for name, path in images.items()}
        return evaluation.evaluate(run, options, images)

    own = evaluation.evaluate(run, options)
    for name in ("birds", "cars"):
        for seed, part in enumerate(("train", "test"), 5):
            fill_labeled_folder(tmp_path / name / part, 3, seed=seed)
        measure(tmp_path / name)
    kept = results.load(run)
    assert len(kept) == 9  # Of kNN top-1, of linear top-1 and top-5.
    assert kept[:3] == own
    written = scalars(run)
    for name in ("birds", "cars"):
        title = f"kNN, encoded, k = 1, to {tmp_path}/{name}/train"
        assert title in {one.name for one in kept}
        assert f"knn/{title}/top1" in written
    # Other test images than the run's.
    other = str(tmp_path / "cars" / "test")
    (measured,) = evaluation.evaluate(
        run, {"knn": KNNOptions(1)}, {"test_images": other}
    )
    assert measured.name == f"kNN, encoded, k = 1, tested on {other}"
    kept.append(measured)
    # The same images in another place are the run's own.
    folder = tmp_path / "train"
    names = image_paths(str(folder))
    digests = {name: sha256_of_file(folder / name) for name in names}
    run.save_instances(np.array([], np.int64), digests)
    for part in ("train", "test"):
        shutil.move(tmp_path / part, tmp_path / "moved" / part)
    measure(tmp_path / "moved")
    assert [one.name for one in results.load(run)] == [one.name for one in kept]


def test_results_on_other_test_images_have_their_own_names(tmp_path):
    run = make_labeled_run(tmp_path)
    for name in "abc":
        fill_labeled_folder(tmp_path / name, 3)
    folders = {name: str(tmp_path / name) for name in "abc"}

    def end_of(**images):
        images = {name: folders[path] for name, path in images.items()}
        (measured,) = evaluation.evaluate(run, {"knn": KNNOptions(1)}, images)
        return measured.name.removeprefix("kNN, encoded, k = 1")

    for test in "bc":
        end = f", to {folders['a']}, tested on {folders[test]}"
        assert end_of(images="a", test_images=test) == end
    run.set_data(test_images=None)
    for test in "bc":
        assert end_of(test_images=test) == f", tested on {folders[test]}"
    assert len(results.load(run)) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol=nearest"], "--protocol must be one of detection, "),
        (["--protocol="], "--protocol must have at least one value"),
        (["--protocol=linear", "--linear_layers=conv9"], "conv1, conv2"),
        (["--protocol=svm", "--svm_layer=conv9"], "--svm_layer must be one of"),
        (["--detection_images=x"], "requires --protocol=detection"),
        # Also flags of a protocol that is not measured.
        (["--fractions=1.5"], "--fractions must be in (0, 1]"),
        (["--svm_costs=0,1"], "--svm_costs must be above 0"),
        (["--linear_schedule_epochs=9,9"], "must be positive and increasing"),
    ],
)
def test_wrong_options_end_with_an_error(run, arguments, message):
    ended = commands.run("evaluate", f"--run_dir={run.path}", *arguments)
    assert ended.returncode != 0
    assert message in ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr


# === Wrong runs, found before any protocol begins ===


def refused(run, monkeypatch, match, options=None, overrides=None):
    """The run is refused before any image goes through the encoder."""

    def never(*arguments, **keywords):
        raise AssertionError("An image was encoded before the error.")

    monkeypatch.setattr("tf_instdisc.evaluation.features.extract", never)
    options = options or {"knn": KNNOptions(num_neighbors=3)}
    with pytest.raises(ValueError, match=match):
        evaluation.evaluate(run, options, overrides)
    assert not run.results.exists()


@pytest.mark.exhaustive
def test_a_run_without_labels_is_refused(tmp_path, monkeypatch):
    run = make_labeled_run(tmp_path)
    flat = tmp_path / "flat"
    shutil.copytree(tmp_path / "train" / "ant", flat)
    run.set_data(images=str(flat))
    refused(run, monkeypatch, "the training images have none")


@pytest.mark.exhaustive
def test_test_images_without_labels_are_refused(tmp_path, monkeypatch):
    run = make_labeled_run(tmp_path)
    refused(
        run,
        monkeypatch,
        "the test images have none",
        overrides={"test_images": str(tmp_path / "test" / "bee")},
    )


@pytest.mark.exhaustive
def test_other_test_classes_are_refused(tmp_path, monkeypatch):
    run = make_labeled_run(tmp_path)
    (tmp_path / "test" / "cat").rename(tmp_path / "test" / "dog")
    refused(run, monkeypatch, "train with 3 .* test with 3 .*dog")


@pytest.mark.exhaustive
def test_one_class_is_refused(tmp_path, monkeypatch):
    run = make_labeled_run(tmp_path)
    for part in ("train", "test"):
        for name in ("bee", "cat"):
            shutil.rmtree(tmp_path / part / name)
    refused(run, monkeypatch, "at least two classes")


@pytest.mark.exhaustive
def test_fewer_images_than_folds_are_refused(tmp_path, monkeypatch):
    run = make_labeled_run(tmp_path)
    options = {"svm": SVMOptions(folds=9)}
    refused(run, monkeypatch, "folds=9, 8 images of a class", options)


def test_an_error_of_a_later_protocol_is_found_before_the_first(
    tmp_path, monkeypatch
):
    run = make_labeled_run(tmp_path)
    options = {
        "knn": KNNOptions(num_neighbors=3),
        "svm": SVMOptions(folds=9),
    }
    refused(run, monkeypatch, "folds=9", options)


@pytest.mark.exhaustive
def test_a_moved_folder_and_an_updated_bank_are_measured(tmp_path):
    # As after instdisc-update: ids that are no longer 0, 1, 2 ...
    run = make_labeled_run(tmp_path)
    (tmp_path / "train").rename(tmp_path / "moved")
    save_run(run, small_encoder(), tmp_path / "moved")
    bank = run.load_bank()
    moved = str(tmp_path / "moved")
    digests = update.folder_digests(moved, bank.names, time.time())
    run.save_instances(np.array([], np.int64), digests)
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
        {"knn": KNNOptions(3)},
        {"images": str(tmp_path / "moved")},
    )
    assert "kNN, encoded, k = 3" in {one.name for one in found}


@pytest.mark.exhaustive
def test_files_that_moved_to_other_classes_are_encoded(tmp_path):
    run = make_labeled_run(tmp_path)
    names = run.load_bank().names
    digests = update.folder_digests(str(tmp_path / "train"), names, time.time())
    run.save_instances(np.array([], np.int64), digests)
    knn = {"knn": KNNOptions(1)}

    def top1():
        # The test images are the training images.
        images = {"test_images": str(tmp_path / "train")}
        (one,) = evaluation.evaluate(run, knn, images)
        return one.value

    assert top1() == 1
    first, second = sorted(p for p in (tmp_path / "train").iterdir())[:2]
    first.rename(tmp_path / "train" / "kept")
    second.rename(first)
    (tmp_path / "train" / "kept").rename(second)
    assert top1() == 1
