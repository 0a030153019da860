"""Code that writes files is killed at each file operation and rerun."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from tests import torch_files
from tests.finished_run import (
    SIZE,
    fill_folder,
    linear_encoder,
    make_run,
    picture,
    save_picture,
)
from tests.kills import assert_same, survive_all
from tests.labeled_run import make_labeled_run
from tf_instdisc import atomic, checksums
from tf_instdisc.config.run import from_flagfile
from tf_instdisc.data.folder import folder_source
from tf_instdisc.data.pipeline import evaluation_dataset
from tf_instdisc.data.sources import array_source
from tf_instdisc.evaluation import features, results
from tf_instdisc.evaluation.inputs import EvaluationInputs
from tf_instdisc.evaluation.protocol import Measurement
from tf_instdisc.evaluation.reproduce import make as reproduction
from tf_instdisc.evaluation.reproduce import measure, runs, tables
from tf_instdisc.retrieval.pages import pages
from tf_instdisc.runs import checkpoints, lock, opening, update, update_bank
from tf_instdisc.runs.convert import checkpoint as conversion
from tf_instdisc.runs.directory import RunDirectory, RunDirectoryError
from tf_instdisc.runs.embedding import inference
from tf_instdisc.runs.load import load_encoder
from tf_instdisc.runs.record import RunRecord
from tf_instdisc.serving import embed_folder, versions
from tf_instdisc.training import best, finishing
from tf_instdisc.training.saving import Progress

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent
NAMES = [f"{i:02}.png" for i in range(6)]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    fill_folder(folder, NAMES)
    for path in folder.iterdir():
        os.utime(path, (1e9, 1e9))
    return folder


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    """A finished run; nobody writes into it."""
    run = make_run(tmp_path_factory.mktemp("finished") / "run", images)
    bank = run.load_bank()
    digests = update.folder_digests(str(images), bank.names, 2e9)
    run.save_instances(np.zeros([0], np.int64), digests)
    return run


def rows_and_ids(run):
    bank = run.load_bank()
    return {
        "rows": bank.rows,
        "ids": bank.instance_ids.tolist(),
        "names": bank.names.tolist(),
        "labels": bank.labels.tolist(),
        "epochs": bank.encoded_by and bank.encoded_by.epochs,
    }


# === Training ===


@pytest.mark.parametrize("epochs", [None, 1])
def test_settings(tmp_path, epochs):
    """The settings of a new run, and of one continued for more epochs."""

    def open_run(path, epochs=2):
        record = RunRecord(from_flagfile(f"--epochs={epochs}"))
        return opening.open_run(str(path / "run"), record)

    survive_all(
        lambda path: open_run(path, epochs) if epochs else None,
        open_run,
        lambda path: [
            (path / "run" / name).read_text()
            for name in ("run.json", "flags.txt")
        ],
        tmp_path,
    )


def test_half_written_settings_of_an_earlier_version(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "flags.txt").write_text(f"--seed=1\n--run_dir={run}\n")
    (run / "run.json.partial").write_text('{"epo')
    record = RunRecord(from_flagfile("--epochs=2"))
    assert opening.open_run(str(run), record).read_record() == record
    # A flagfile of the user's own is no leftover.
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "flags.txt").write_text("--seed=1\n")
    with pytest.raises(RunDirectoryError, match="missing, empty"):
        opening.open_run(str(tmp_path / "theirs"), RunRecord(from_flagfile("")))


@pytest.mark.parametrize("older", [0, 3])
def test_checkpoints(tmp_path, older):
    state = tf.train.Checkpoint(x=tf.Variable(tf.range(10)))

    def write(path, epochs=9):
        # As `fit` does after a restart, the epoch is repeated.
        saved, damages = checkpoints.find_newest(path)
        assert not damages
        if saved is None or saved.progress["epochs"] < epochs:
            checkpoints.write(path, state, {"epochs": epochs}, keep=2)

    def make(path):
        for epochs in range(1, older + 1):
            write(path, epochs)

    survive_all(
        make,
        write,
        lambda path: checkpoints.find_newest(path)[0].progress,
        tmp_path,
        # A checkpoint to be removed is removed when the next one is written.
        compares_files=False,
    )


def test_metrics(tmp_path):
    """An epoch is repeated although its line may already exist."""

    def go_on(path):
        run = RunDirectory(path)
        run.keep_metrics(2)
        run.append_metrics({"epoch": 3, "loss": 0.125})

    def make(path):
        for epoch in (1, 2, 3):
            RunDirectory(path).append_metrics({"epoch": epoch, "loss": 7.0})

    survive_all(
        make, go_on, lambda path: RunDirectory(path).read_metrics(), tmp_path
    )


@pytest.mark.exhaustive_variants("True")
@pytest.mark.parametrize("was_finished", [False, True])
def test_results_of_training(tmp_path, images, finished, was_finished):
    """At the end of a run, and of one that had fewer epochs."""
    encoder = linear_encoder()
    encoder.set_weights([w[::-1] for w in encoder.get_weights()])
    source = folder_source(str(images))
    dataset = evaluation_dataset(source, SIZE, 4)
    embedded = finishing.embed(inference(encoder), dataset, len(NAMES))

    def make(path):
        shutil.copytree(finished.path, path / "run")
        if not was_finished:
            for name in ("encoder.keras", "bank.npz", "instances.json"):
                (path / "run" / name).unlink()
            (path / "run" / checksums.FILE).unlink()

    def finish(path):
        run = RunDirectory(path / "run")
        progress = Progress(epochs=2)
        if finishing.is_finished(run, source, encoder, progress, 2):
            return
        finishing.write(run, encoder, embedded, source, progress, 2e9)

    def outcome(path):
        run = RunDirectory(path / "run")
        removed_ids, digests = run.load_instances()
        return {
            **rows_and_ids(run),
            "weights": load_encoder(run.path).get_weights()[0],
            "instances": [removed_ids.tolist(), digests],
        }

    def read(path):
        """In between, readers never get rows and an encoder of two runs."""
        run = RunDirectory(path / "run")
        with contextlib.suppress(RunDirectoryError):
            rows = run.load_bank().rows
            kept = load_encoder(run.path)
            batch = next(iter(dataset))[0]
            np.testing.assert_allclose(kept(batch), rows[:4], atol=1e-5)

    survive_all(make, finish, outcome, tmp_path, between=read)


@pytest.mark.exhaustive
def test_the_best_encoder(tmp_path):
    """Three epochs, of which the second is the best."""
    encoder = linear_encoder()

    def train(path):
        run = RunDirectory(path)
        callback = best.KeepBest(run)
        callback.set_model(types.SimpleNamespace(encoder=encoder))
        checkpoint = path / "epochs"
        done = int(checkpoint.read_text()) if checkpoint.exists() else 0
        run.keep_metrics(done)

        def reach(epoch):
            encoder.set_weights(
                [np.full(w.shape, epoch) for w in encoder.get_weights()]
            )

        reach(done)
        best.catch_up(run, encoder, Progress(done))
        for epoch, score in ((1, 0.25), (2, 0.5), (3, 0.5)):
            if epoch > done:
                reach(epoch)
                run.append_metrics({"epoch": epoch, "knn_top1": score})
                atomic.write_text(checkpoint, str(epoch))
                callback.on_epoch_end(epoch - 1, {"knn_top1": score})

    def outcome(path):
        run = RunDirectory(path)
        kept = run.load_best()
        kernel = load_encoder(run.best_encoder).get_weights()[0]
        return [kept["epoch"], kept["knn_top1"], kernel.flat[0]]

    survive_all(lambda path: None, train, outcome, tmp_path)
    assert outcome(tmp_path / "undisturbed") == [2, 0.5, 2]


_HOOK = """
import os, signal
real = os.replace
def replace(a, b, **more):
    if os.path.basename(b) == os.environ.get("KILL_AT"):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(a, b, **more)
os.replace = replace
"""


@pytest.mark.exhaustive
def test_processes_that_are_killed(tmp_path, images):
    """The command itself; kills within the training are tested elsewhere."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(_HOOK)
    paths = os.pathsep.join([str(tmp_path / "hook"), str(ROOT)])

    def train(name, kill_at=""):
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "tf_instdisc", "train"),
                *("--image_size=8", "--width=1", "--embedding_dim=8"),
                *("--objective=softmax", "--batch_size=3", "--epochs=1"),
                f"--images={images}",
                f"--run_dir={tmp_path / name}",
            ],
            env={**os.environ, "PYTHONPATH": paths, "KILL_AT": kill_at},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ended.returncode == (-9 if kill_at else 0), ended.stderr

    train("good")
    for kill_at in ("run.json", "bank.npz"):
        train("run", kill_at)
    train("run")
    found, wanted = (
        rows_and_ids(RunDirectory(tmp_path / name)) for name in ("run", "good")
    )
    assert_same(found, wanted)


# === Commands on finished runs ===


def test_update(tmp_path, images, finished, monkeypatch):
    encoder = load_encoder(finished.path)
    monkeypatch.setattr(update, "load_encoder", lambda path: encoder)
    # Tracing what decodes and encodes takes longer than all the rest.
    encode, encoded = update_bank.encode_files, {}

    def encode_once(folder, names, *arguments):
        key = tuple(names)
        if key not in encoded:
            encoded[key] = encode(folder, names, *arguments)
        return encoded[key]

    monkeypatch.setattr(update_bank, "encode_files", encode_once)
    grown = tmp_path / "grown"
    shutil.copytree(images, grown)
    (grown / "05.png").unlink()
    (grown / "01.png").rename(grown / "0 renamed.png")
    shutil.copy(images / "05.png", grown / "02.png")
    for seed, name in enumerate(("a.png", "b.png")):
        save_picture(grown, name, picture(50 + seed))
    place = tmp_path / "place"
    place.mkdir()

    def run_update(path):
        run = RunDirectory(path / "run")
        with lock.holding(run.path):
            update.update_run(run, str(grown))

    def outcome(path):
        run = RunDirectory(path / "run")
        removed_ids, digests = run.load_instances()
        return {
            **rows_and_ids(run),
            "removed": removed_ids.tolist(),
            "digests": digests,
            "images": run.read_config().data.images,
        }

    survive_all(
        lambda path: shutil.copytree(finished.path, path / "run"),
        run_update,
        outcome,
        place,
    )


def test_a_run_that_is_updated_again_assigns_no_id_twice(
    tmp_path, images, finished
):
    grown = tmp_path / "grown"
    shutil.copytree(images, grown)
    save_picture(grown, "a.png", picture(50))
    target = RunDirectory(shutil.copytree(finished.path, tmp_path / "run"))
    update.update_run(target, str(grown))
    assert target.load_bank().names[6] == "a.png"
    (grown / "a.png").unlink()
    save_picture(grown, "b.png", picture(51))
    update.update_run(target, str(grown))
    bank = target.load_bank()
    ids = dict(
        zip(bank.names.tolist(), bank.instance_ids.tolist(), strict=True)
    )
    assert ids["b.png"] == 7
    assert target.load_instances()[0].tolist() == [6]


def embedder(contents):
    rows = [[len(content), sum(content[:9])] for content in contents]
    valid = [len(content) > 5 for content in contents]
    return {"embedding": np.array(rows, np.float32), "valid": np.array(valid)}


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
@pytest.mark.parametrize("num_bad", [0, 1])
def test_embed(tmp_path, images, monkeypatch, suffix, num_bad):
    monkeypatch.setattr(embed_folder, "_PART", 3)
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    if num_bad:
        (folder / "bad.png").write_bytes(b"bad")
    place = tmp_path / "place"
    place.mkdir()

    def outcome(path):
        if suffix == ".npz":
            with np.load(path / "out.npz") as file:
                return dict(file)
        from pyarrow import parquet

        return parquet.read_table(path / "out.parquet").to_pydict()

    survive_all(
        lambda path: None,
        lambda path: embed_folder.embed_folder(
            str(folder), str(path / f"out{suffix}"), embedder, "model"
        ),
        outcome,
        place,
        is_done=ValueError,
    )


def test_export_versions(tmp_path, monkeypatch):
    """Each is complete; the next one removes leftovers of a killed one."""
    # Of the killed one, which is this process, and an hour later.
    monkeypatch.setattr(atomic, "is_alive", lambda process: False)

    def export(path):
        def write(version):
            (version / "variables").mkdir()
            for name in ("saved_model.pb", "variables/data", "card.md"):
                (version / name).write_text(name)

        versions.write_version(str(path / "model"), write)

    def outcome(path):
        newest = path / "model" / str(versions.versions(path / "model")[-1])
        return {
            p.relative_to(newest).as_posix(): p.read_text()
            for p in newest.rglob("*")
            if p.is_file()
        }

    def whole(path):
        for number in versions.versions(path / "model"):
            assert len([*(path / "model" / str(number)).rglob("*")]) == 4
        for left in (path / "model").glob(".partial-*"):
            os.utime(left, (0, 0))

    def once(path):
        # A kill behind the last operation has published; again is another.
        if not versions.versions(path / "model"):
            export(path)

    survive_all(lambda path: None, once, outcome, tmp_path, between=whole)


def test_convert(tmp_path, monkeypatch):
    encoder = linear_encoder()
    config = {
        "backbone": "resnet18",
        "width": 64,
        "stem": "imagenet",
        "image_size": SIZE,
        "embedding_dim": 8,
    }
    monkeypatch.setattr(
        conversion,
        "build_from",
        lambda weights, read, size: (encoder, config),
    )
    memory = np.random.default_rng(1).normal(size=(6, 8)).astype(np.float32)
    buffers = torch_files.Call(
        torch_files.Named("collections", "OrderedDict"), [["memory", memory]]
    )
    weights = {"fc.bias": np.zeros([8], np.float32)}
    content = {
        "state_dict": weights,
        "lemniscate": torch_files.Module(
            "lib.NCEAverage", "NCEAverage", {"_buffers": buffers}
        ),
    }
    file = tmp_path / "released.pth.tar"
    file.write_bytes(torch_files.legacy_bytes(content))
    place = tmp_path / "place"
    place.mkdir()
    survive_all(
        lambda path: None,
        lambda path: conversion.convert(str(file), str(path / "run")),
        lambda path: {
            **rows_and_ids(RunDirectory(path / "run")),
            "weights": load_encoder(path / "run").get_weights()[0],
        },
        place,
        is_done=RunDirectoryError,
    )


@pytest.fixture
def eagerly():
    """Without graphs, each of which would take longer than its use."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:Even though")
@pytest.mark.usefixtures("eagerly")
def test_evaluation(tmp_path):
    """Results, and activations that are kept for the next time."""
    made = make_labeled_run(tmp_path / "made")
    encoder = load_encoder(made.path)
    # In memory, as tracing what decodes files takes seconds each time.
    rng = np.random.default_rng(0)
    source = array_source(
        rng.integers(0, 256, (24, SIZE, SIZE, 3), np.uint8), np.arange(24) % 3
    )
    shutil.rmtree(made.tensorboard, ignore_errors=True)
    old = [Measurement("knn", "kNN", "top1", 0.5)]
    new = [Measurement("svm", "SVM", "top1", 0.25)]
    results.save(made, old)
    place = tmp_path / "place"
    place.mkdir()

    layers = [features.layer("conv2", 100), features.EMBEDDING]

    def evaluate(path):
        run = RunDirectory(path / "run")
        place = EvaluationInputs(run).directory
        with features.removing(place):
            features.extract(encoder, source, layers, place)
            results.save(run, new)

    def outcome(path):
        run = RunDirectory(path / "run")
        assert not list(run.features.rglob("*.npy"))
        return run.load_results()["measurements"]

    survive_all(
        lambda path: shutil.copytree(made.path, path / "run"),
        evaluate,
        outcome,
        place,
    )


@pytest.mark.parametrize("is_there", [False, True])
def test_pages(tmp_path, is_there):
    """Report, neighbors, duplicates: the old page or the new one, whole."""

    def make(path):
        if is_there:
            (path / "report.html").write_text("old")

    def whole(path):
        page = path / "report.html"
        assert not page.exists() or page.read_text() in ("old", "new" * 99)

    survive_all(
        make,
        lambda path: pages.write(path / "report.html", "new" * 99),
        lambda path: (path / "report.html").read_text(),
        tmp_path,
        between=whole,
    )


@pytest.mark.exhaustive
def test_reproduce(tmp_path, finished, monkeypatch):
    """A table of two runs; nothing is trained, measured or drawn."""
    source = types.SimpleNamespace(num_instances=len(NAMES))
    monkeypatch.setattr(
        reproduction, "open_labeled", lambda data: (source, source)
    )
    monkeypatch.setattr(
        measure,
        "measure",
        lambda run, *_: measure.Measured(
            {(run.row.label, "kNN"): len(run.row.label) / 8}
        ),
    )
    # Every run is a copy of one with other settings.
    monkeypatch.setattr(runs, "require_planned_settings", lambda planned: None)
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig",
        lambda figure, path, dpi: path.write_bytes(b"figure"),
    )

    def train(run_dir, flags, environment):
        # At once: what a kill within training leaves is tested above.
        pathlib.Path(run_dir).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree(finished.path, tmp_path / "copy")
        copy.rename(run_dir)

    def make_table(path):
        reproduction.make_table(
            "embedding_size",
            tables.SCALES["small"],
            runs.Training((), 1, path / "runs", train),
            tables_dir=path / "tables",
            command="instdisc-reproduce",
            rows=["embedding_dim-32", "base"],
        )

    def outcome(path):
        made = path / "tables" / "embedding_size"
        kept = [json.loads(file.read_text()) for file in made.glob("*.json")]
        return {
            "table": made.with_suffix(".md").read_text(),
            "figure": made.with_suffix(".png").read_bytes(),
            "measured": {
                pathlib.Path(one.pop("run")).relative_to(path).as_posix(): one
                for one in kept
            },
        }

    survive_all(lambda path: None, make_table, outcome, tmp_path)
