"""Finished runs: rows of the whole images, and runs finished as they are."""

import dataclasses
import os
import shutil
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import buckets
from tests.finished_run import fill_folder, training_rows
from tf_instdisc import (
    InstanceDiscrimination,
    build_encoder,
    checksums,
    save_run,
)
from tf_instdisc.config import (
    AugmentationConfig,
    DataConfig,
    EncoderConfig,
    MethodConfig,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
)
from tf_instdisc.data.folder import folder_source
from tf_instdisc.data.pipeline import evaluation_dataset
from tf_instdisc.data.sources import array_source
from tf_instdisc.errors import DamagedFileError, RunStoppedError, UsageError
from tf_instdisc.retrieval.neighbors import top_k
from tf_instdisc.runs import checkpoints, opening, update
from tf_instdisc.runs.bank import EncodedBy
from tf_instdisc.runs.directory import RunDirectoryError
from tf_instdisc.runs.embedding import embed
from tf_instdisc.runs.load import load_encoder
from tf_instdisc.training import train as training

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("shallow_resnet18"),
]

SIZE, NUM_IMAGES = 8, 14


def pictures(num_images=NUM_IMAGES, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (num_images, 2, 2, 3), np.uint8)
    return coarse.repeat(SIZE // 2, axis=1).repeat(SIZE // 2, axis=2)


def fitted():
    """A model of Keras users, trained by `fit`."""
    keras.utils.set_random_seed(0)
    encoder = build_encoder(image_size=SIZE, width=4, embedding_dim=16)
    model = InstanceDiscrimination(encoder, NUM_IMAGES, "softmax")
    model.compile("sgd")
    images = pictures().astype(np.float32)
    model.fit(images, np.arange(NUM_IMAGES), batch_size=7, verbose=0)
    return model


def labeled():
    return array_source(pictures(), np.arange(NUM_IMAGES) % 2)


def streamed():
    """As a source whose images are read from a file each time."""
    source = labeled()
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
    """`more` are settings of run, encoder and SGD, and `finish`."""
    finish = more.pop("finish", False)
    channels = {n: more.pop(n) for n in ("mean", "std") if n in more}
    momentum = more.pop("momentum", 0.9)
    config = RunConfig(
        data=DataConfig(image_size=SIZE),
        augmentation=AugmentationConfig(min_crop_area=0.3),
        encoder=EncoderConfig(width=4, embedding_dim=16, **channels),
        method=MethodConfig(objective="softmax"),
        optimizer=OptimizerConfig(
            epochs=epochs,
            batch_size=7,
            schedule="constant",
            learning_rate=0.01,
            momentum=momentum,
            weight_decay=0.0,
        ),
        training=TrainingConfig(num_neighbors=3, **more),
    )
    return training.train(
        config, str(run_dir), source, test_source, finish=finish
    )


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
def one_epoch(shallow_resnet18, tmp_path_factory):
    """A run of one epoch; nobody writes into it."""
    return train(tmp_path_factory.mktemp("one") / "run", labeled())


@pytest.mark.exhaustive_variants("folder", "memory")
@pytest.mark.parametrize("kind", ["folder", "memory", "streamed"])
def test_each_image_is_its_own_first_neighbor(kind, images, tmp_path):
    source = {
        "folder": lambda: folder_source(str(images)),
        "memory": labeled,
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
    assert bank.encoded_by == EncodedBy(run.encoder_digest(), epochs=2)
    # Those of the last views stay where a longer run goes on.
    assert np.abs(training_rows(newest(run)) - bank.rows).max() > 0.01


def copy(run, path):
    shutil.copytree(run.path, path)
    return opening.load(str(path))


def replace(path, other):
    """Writes what another file holds, as the program writes it."""
    with checksums.replacing(path) as partial:
        shutil.copy(other, partial)


def test_a_stopped_run_is_finished_as_it_is_and_continued(
    one_epoch, tmp_path, capsys
):
    # As killed after its first epoch of two.
    stopped = copy(one_epoch, tmp_path / "run")
    for path in (stopped.encoder, stopped.bank):
        path.unlink()
    with pytest.raises(RunDirectoryError, match="--finish"):
        stopped.load_bank()
    settings = stopped.settings.read_bytes()
    train(stopped.path, labeled(), epochs=2, finish=True)
    assert "finished early: 1 of 2 epochs." in capsys.readouterr().out
    assert_equal(outcome(stopped), outcome(one_epoch))
    assert stopped.settings.read_bytes() == settings
    before = stopped.encoder.read_bytes(), stopped.bank.read_bytes()
    train(stopped.path, labeled(), epochs=2, finish=True)
    assert "finished early: 1 of 2 epochs." in capsys.readouterr().out
    assert before == (stopped.encoder.read_bytes(), stopped.bank.read_bytes())

    # It trains on as if it had not been finished.
    train(stopped.path, labeled(), epochs=2)
    assert "is finished after 2 epochs" in capsys.readouterr().out
    straight = train(tmp_path / "straight", labeled(), epochs=2)
    assert_equal(outcome(stopped), outcome(straight))
    assert stopped.load_bank().encoded_by.epochs == 2

    # Killed behind its last checkpoint, or between its two results.
    for lost in ("encoder", "bank"):
        killed = copy(stopped, tmp_path / f"before_{lost}")
        replace(killed.bank, one_epoch.bank)
        if lost == "encoder":
            replace(killed.encoder, one_epoch.encoder)
        else:
            with pytest.raises(RunDirectoryError, match="was killed"):
                killed.load_bank()
        train(killed.path, labeled(), epochs=2)
        assert_equal(outcome(killed), outcome(straight))


def test_nothing_is_finished_without_a_checkpoint(tmp_path):
    with pytest.raises(RunDirectoryError, match="Train it without"):
        train(tmp_path / "run", labeled(), finish=True)
    assert not (tmp_path / "run").exists()


def without_marker(run):
    """As earlier versions left it: training rows without a recorded origin."""
    bank = run.load_bank()
    (run.path / checksums.FILE).unlink()
    with open(run.bank, "wb") as file:
        np.savez(
            file,
            rows=training_rows(newest(run)),
            instance_ids=bank.instance_ids,
            names=bank.names,
            labels=bank.labels,
            class_names=np.asarray(bank.class_names, dtype=str),
        )


def test_rows_of_an_earlier_version_are_read_and_encoded_again(
    one_epoch, tmp_path, capsys
):
    old = copy(one_epoch, tmp_path / "run")
    without_marker(old)
    rows = old.load_bank().rows
    assert np.abs(rows - one_epoch.load_bank().rows).max() > 0.01
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "left by its training" in said
    assert "--finish" in said
    old.load_bank()
    assert not capsys.readouterr().err  # Once is enough.
    encoder = old.encoder.read_bytes()
    train(old.path, labeled(), finish=True)
    assert_equal(outcome(old), outcome(one_epoch))
    # What was measured of the encoder still counts.
    assert old.encoder.read_bytes() == encoder


@pytest.mark.exhaustive
def test_knn_of_encoded_and_of_training_rows_is_printed(tmp_path, capsys):
    train(tmp_path / "run", labeled(), test_source=labeled())
    lines = capsys.readouterr().out.splitlines()
    cells = {
        name.strip(): float(nearest)
        for _, name, _, nearest, _ in (
            line.split("|") for line in lines if line.startswith("| trained")
        )
    }
    # The test images are the training images.
    assert cells["trained encoder"] == 1
    assert 0 <= cells["trained encoder, rows of training"] < 1


@pytest.mark.exhaustive
@pytest.mark.parametrize("old_form", [False, True])
def test_an_updated_run_is_not_trained_on(images, tmp_path, capsys, old_form):
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    run = train(tmp_path / "run", folder_source(str(folder)))
    run.set_data(images=str(folder))
    if old_form:
        without_marker(run)
    grown = tmp_path / "grown"
    shutil.copytree(folder, grown)
    (grown / "00.png").unlink()
    fill_folder(grown, ["a.png"])
    update.update_run(run, str(grown))
    files = {path: path.read_bytes() for path in run.path.glob("*.*")}
    with pytest.raises(RunDirectoryError, match="--init_run="):
        train(run.path, folder_source(str(folder)), epochs=2)
    capsys.readouterr()
    for finish in (False, True):
        train(run.path, folder_source(str(folder)), finish=finish)
        assert "is finished after 1 epoch." in capsys.readouterr().out
    assert files == {path: path.read_bytes() for path in files}


def test_the_best_encoder_is_kept(tmp_path, capsys):
    with pytest.raises(ValueError, match="keep_best"):
        train(tmp_path / "none", array_source(pictures()), keep_best=True)
    assert not (tmp_path / "none").exists()
    for epochs in (1, 3):
        run = train(
            tmp_path / "run",
            labeled(),
            epochs,
            test_source=labeled(),
            keep_best=True,
        )
    scores = [line["knn_top1"] for line in run.read_metrics()]
    best = int(np.argmax(scores)) + 1
    kept = run.load_best()
    assert (kept["epoch"], kept["knn_top1"]) == (best, max(scores))
    assert f"epoch {best}, kNN top-1" in capsys.readouterr().out
    weights = load_encoder(run.path, best=True).get_weights()
    last = load_encoder(run.path).get_weights()
    is_last = all(
        np.array_equal(a, b) for a, b in zip(weights, last, strict=True)
    )
    assert is_last == (best == 3)
    run.best_encoder.write_bytes(b"damaged")
    with pytest.raises(DamagedFileError, match="or remove encoder_best"):
        load_encoder(run.path, best=True)


@pytest.mark.parametrize(("epochs", "finish"), [(1, False), (2, True)])
def test_the_best_encoder_of_an_epoch_whose_knn_was_interrupted(
    epochs, finish, tmp_path
):
    def stop(image):
        # The first reading is that of a label, before training.
        if len(readings) > 1 and not stopped:
            stopped.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
        return image

    def examples(seed):
        readings.append(seed)
        return source.examples(seed).map(
            lambda example: {
                **example,
                "image": tf.ensure_shape(
                    tf.numpy_function(stop, [example["image"]], tf.uint8),
                    [SIZE, SIZE, 3],
                ),
            }
        )

    readings, stopped = [], []
    source = labeled()
    test_source = dataclasses.replace(source, examples=examples)
    with pytest.raises(RunStoppedError, match="after 1 epochs"):
        train(tmp_path, source, epochs, test_source, keep_best=True)
    run = train(
        tmp_path, source, epochs, test_source, keep_best=True, finish=finish
    )
    assert run.load_best()["epoch"] == 1
    assert load_encoder(run.path, best=True)


def test_a_run_without_momentum_is_continued_with_it(tmp_path):
    for epochs, momentum in ((1, 0.0), (2, 0.9), (3, 0.0)):
        run = train(tmp_path, labeled(), epochs, momentum=momentum)
        assert len(run.read_metrics()) == epochs


@pytest.mark.parametrize("name", ["mean", "std"])
def test_a_run_does_not_start_from_one_with_another_normalization(
    name, one_epoch, tmp_path
):
    with pytest.raises(UsageError, match="must be those of `init_run`"):
        train(
            tmp_path / "run",
            labeled(),
            init_run=str(one_epoch.path),
            **{name: "0.3,0.4,0.5"},
        )


# === Runs saved by `save_run` ===


def contents(path):
    """The bytes of all files below a directory, but not of its lock."""
    return {
        file.relative_to(path): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "lock"
    }


@pytest.mark.exhaustive
def test_a_saved_model_is_never_trained_over(tmp_path):
    """There is no checkpoint to continue from; the encoder stays."""
    source = labeled()
    run = save_run(fitted(), source, tmp_path / "run")
    before = contents(run.path)
    for finish in (False, True):
        with pytest.raises(RunDirectoryError, match="checkpoint"):
            training.train(run.config, str(run.path), source, finish=finish)
    assert contents(run.path) == before


def test_a_run_is_never_saved_over(tmp_path):
    source, model = labeled(), fitted()
    trained = train(tmp_path / "trained", source)
    saved = save_run(model, source, tmp_path / "saved")
    for run in (trained, saved):
        before = contents(run.path)
        with pytest.raises(RunDirectoryError, match="missing or empty"):
            save_run(model, source, run.path, saved.config)
        assert contents(run.path) == before


def test_images_of_another_number_are_not_saved(tmp_path):
    source = array_source(pictures(NUM_IMAGES + 1))
    with pytest.raises(UsageError, match=r"num_instances=15, and a model of"):
        save_run(fitted(), source, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.exhaustive
@pytest.mark.parametrize("place", ("local", "url"))
def test_a_run_that_only_has_a_checkpoint_is_not_saved_over(
    tmp_path, monkeypatch, place
):
    """At a URL, even if this machine has no copy of the checkpoint yet."""
    run_dir = tmp_path / "run" if place == "local" else f"file://{tmp_path}/run"
    with buckets.machine(tmp_path / "one"), monkeypatch.context() as patch:
        patch.setattr(training, "_write_results", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(run_dir, labeled())
    with buckets.machine(tmp_path / "two"):
        config = opening.load(str(run_dir)).read_config()
        with pytest.raises(RunDirectoryError, match="missing or empty"):
            save_run(fitted(), labeled(), run_dir, config)
        assert train(run_dir, labeled()).bank.exists()


@pytest.mark.parametrize(
    "shape", [(SIZE, SIZE + 2, 3), (SIZE, SIZE, 1), (None, None, 3), (SIZE,)]
)
def test_an_encoder_that_does_not_fit_leaves_nothing(tmp_path, shape):
    image = keras.Input(shape)
    x = image
    if len(shape) == 3:
        x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(4)(x)
    encoder = keras.Model(image, keras.layers.UnitNormalization()(x))
    model = InstanceDiscrimination(encoder, NUM_IMAGES, "softmax")
    with pytest.raises(UsageError, match="square RGB images"):
        save_run(model, labeled(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    if shape[0] is None:
        config = RunConfig(data=DataConfig(image_size=SIZE))
        run = save_run(model, labeled(), tmp_path / "run", config)
        assert run.load_bank().rows.shape == (NUM_IMAGES, 4)


def test_settings_that_do_not_fit_can_be_corrected(tmp_path):
    model, source = fitted(), labeled()
    wrong = RunConfig(data=DataConfig(image_size=2 * SIZE))
    with pytest.raises(UsageError, match="image_size=16"):
        save_run(model, source, tmp_path / "run", wrong)
    assert not (tmp_path / "run").exists()
    right = RunConfig(data=DataConfig(image_size=SIZE))
    assert save_run(model, source, tmp_path / "run", right).config == right


def test_the_precision_of_a_saved_model_is_recorded(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        run = save_run(fitted(), labeled(), tmp_path / "run")
    finally:
        keras.config.set_dtype_policy("float32")
    assert run.config.encoder.precision == "mixed_bfloat16"


def test_a_run_of_arrays_says_how_it_can_be_evaluated(tmp_path):
    run = save_run(fitted(), labeled(), tmp_path / "run")
    with pytest.raises(UsageError, match="neither a folder nor a dataset"):
        run.evaluate("knn")


@pytest.mark.parametrize("policy", ("mixed_bfloat16", "mixed_float16"))
def test_rows_of_a_network_in_half_precision_are_float32(tmp_path, policy):
    keras.config.set_dtype_policy(policy)
    try:
        image = keras.Input((SIZE, SIZE, 3))
        x = keras.layers.Dense(8)(keras.layers.Flatten()(image))
        encoder = keras.Model(image, keras.layers.UnitNormalization()(x))
    finally:
        keras.config.set_dtype_policy("float32")
    model = InstanceDiscrimination(encoder, NUM_IMAGES, "softmax")
    run = save_run(model, labeled(), tmp_path / "run")
    assert run.directory.load_bank().rows.dtype == np.float32
    fill_folder(tmp_path / "queries", ["a.png", "b.png"])
    names, cosines = run.neighbors(tmp_path / "queries", num_neighbors=2)
    assert np.shape(names) == cosines.shape == (2, 2)


@pytest.mark.parametrize("is_skipped", (False, True))
def test_images_that_a_saved_run_has_skipped_stay_skipped(tmp_path, is_skipped):
    names = [f"{number}.png" for number in range(NUM_IMAGES)]
    fill_folder(tmp_path / "images", names)
    if is_skipped:
        (tmp_path / "images" / "3.png").write_bytes(b"no image")
    source = folder_source(str(tmp_path / "images"), bad_images="skip")
    run = save_run(fitted(), source, tmp_path / "run")
    assert run.config.data.bad_images == ("skip" if is_skipped else "fail")
    names, _ = run.neighbors(tmp_path / "images" / "0.png", num_neighbors=1)
    assert names == [["0.png"]]


# === Data without labels ===


@pytest.mark.parametrize("unlabeled", ("train", "test"))
def test_classes_without_labels_train_without_knn(tmp_path, capsys, unlabeled):
    """As the split `unlabelled` of STL-10, or `test` of many datasets."""
    none = array_source(
        pictures(), np.full(NUM_IMAGES, -1), ("0", "1"), name="none"
    )
    sources = (none, labeled())
    if unlabeled == "test":
        sources = sources[::-1]
    run = train(tmp_path / "run", sources[0], test_source=sources[1])
    assert "knn_top1" not in run.read_metrics()[-1]
    assert "all images of none are unlabeled" in capsys.readouterr().out
    with pytest.raises(UsageError, match="`keep_best` needs"):
        train(
            tmp_path / "best",
            sources[0],
            test_source=sources[1],
            keep_best=True,
        )


def test_a_single_class_trains_without_knn(tmp_path, capsys):
    """As a folder of one subfolder, or labels of which only one occurs."""
    labels = np.where(np.arange(NUM_IMAGES) < 3, 1, -1)
    source = array_source(pictures(), labels, ("2022", "2023"), name="photos")
    run = train(tmp_path / "run", source, test_source=source)
    assert "knn_top1" not in run.read_metrics()[-1]
    assert "images of photos are of one class" in capsys.readouterr().out


def test_a_few_labels_are_enough_for_knn(tmp_path):
    labels = np.full(NUM_IMAGES, -1)
    labels[-3:] = 0, 1, 0
    source = array_source(pictures(), labels)
    run = train(tmp_path / "run", source, test_source=source)
    assert "knn_top1" in run.read_metrics()[-1]


def test_linear_scaling_is_to_the_images_of_a_batch(tmp_path, capsys):
    config = RunConfig(
        data=DataConfig(image_size=SIZE),
        encoder=EncoderConfig(width=4, embedding_dim=16),
        optimizer=OptimizerConfig(
            epochs=1, batch_size=64, learning_rate_scaling="linear"
        ),
        training=TrainingConfig(baselines=False),
    )
    training.train(config, str(tmp_path / "run"), labeled())
    shown = capsys.readouterr().out
    assert f"linear scaling to {NUM_IMAGES} images" in shown
