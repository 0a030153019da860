"""Evaluation protocols against NumPy loops and scikit-learn."""

import dataclasses
import json
import os
import shutil

import keras
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

import tf_instdisc
from tests.finished_run import SIZE, save_run
from tests.labeled_run import (
    NUM_TEST,
    fill_labeled_folder,
    make_labeled_run,
    small_encoder,
)
from tests.test_neighbors import loop_accuracy
from tf_instdisc.config import DataConfig, RunConfig
from tf_instdisc.data.folder import folder_source
from tf_instdisc.errors import StorageError, UsageError
from tf_instdisc.evaluation import (
    features,
    linear_classifier,
    results,
    svm_protocol,
)
from tf_instdisc.evaluation.evaluate import evaluate
from tf_instdisc.evaluation.inputs import EvaluationInputs
from tf_instdisc.evaluation.knn_protocol import KNN, KNNOptions
from tf_instdisc.evaluation.linear_protocol import LinearOptions
from tf_instdisc.evaluation.newton_svm import NewtonSVC
from tf_instdisc.evaluation.protocol import Measurement
from tf_instdisc.evaluation.svm_protocol import SVM, SVMOptions, train_svm
from tf_instdisc.runs.embedding import Embedded, embed
from tf_instdisc.serving import saved_model
from tf_instdisc.training import parts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_labeled_run(tmp_path_factory.mktemp("evaluation"))


@pytest.fixture(scope="module")
def inputs(run):
    return EvaluationInputs(run)


def test_knn_equals_a_loop_over_the_encoded_rows(inputs):
    bank = inputs.bank
    options = KNNOptions(num_neighbors=5, temperature=0.2)
    found = {
        (one.name, one.metric): one.value
        for one in KNN(options).measure(inputs)
    }
    test = embed(inputs.encoder, inputs.images(inputs.test_source))
    for k in (5, 1):
        expected = loop_accuracy(
            bank.rows,
            bank.labels,
            test.embeddings,
            test.labels,
            3,
            k,
            0.2,
        )
        value = found[f"kNN, encoded, k = {k}", "top1"]
        assert value == pytest.approx(expected["top1"])


def test_as_many_neighbors_vote_as_in_training(inputs):
    training = dataclasses.replace(inputs.config.training, num_neighbors=4)
    config = dataclasses.replace(inputs.config, training=training)
    inputs = EvaluationInputs(inputs.run)
    vars(inputs)["config"] = config
    protocol = KNN(KNNOptions())
    protocol.check(inputs)
    names = {measurement.name for measurement in protocol.measure(inputs)}
    assert names == {"kNN, encoded, k = 4", "kNN, encoded, k = 1"}


def test_all_images_vote_if_they_are_fewer_than_the_neighbors(inputs):
    protocol = KNN(KNNOptions(num_neighbors=200))
    protocol.check(inputs)
    assert [one.name for one in protocol.measure(inputs)] == [
        *["kNN, encoded, k = 24"] * 2,
        "kNN, encoded, k = 1",
    ]


@pytest.mark.exhaustive
def test_knn_takes_the_bank_and_encodes_what_earlier_versions_left(inputs):
    bank = inputs.bank
    options = KNNOptions(num_neighbors=5, temperature=0.2)

    def measured(changed):
        other = EvaluationInputs(inputs.run)
        vars(other)["bank"] = changed
        return [one.value for one in KNN(options).measure(other)]

    shuffled = dataclasses.replace(bank, rows=np.roll(bank.rows, 8, axis=0))
    old = dataclasses.replace(shuffled, encoded_by=None)
    assert measured(shuffled) != measured(bank)
    assert measured(old) == measured(bank)


@pytest.mark.exhaustive
def test_the_untrained_network_differs_and_the_run_keeps_its_own(inputs):
    before = inputs.encoder.get_weights()
    options = KNNOptions(num_neighbors=3, baselines=True, seed=5)
    found = {one.name: one.value for one in KNN(options).measure(inputs)}
    assert "kNN, untrained, k = 3" in found
    for old, new in zip(before, inputs.encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.exhaustive_variants("Sequential")
@pytest.mark.parametrize("kind", [keras.Model, keras.Sequential])
def test_an_encoder_of_any_size_is_measured_at_the_runs_size(kind, tmp_path):
    train, test = (
        fill_labeled_folder(tmp_path / name, 5) for name in ("train", "test")
    )
    encoder = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            keras.layers.Conv2D(6, 3, name="conv1"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4),
            keras.layers.UnitNormalization(),
        ]
    )
    if kind is keras.Model:
        encoder = keras.Model(encoder.inputs[0], encoder.outputs[0])
    model = tf_instdisc.InstanceDiscrimination(encoder, 15, "softmax")
    data = DataConfig(images=str(train), test_images=str(test), image_size=SIZE)
    run = tf_instdisc.save_run(
        model, folder_source(str(train)), tmp_path / "run", RunConfig(data)
    )
    found = run.evaluate(
        knn=KNNOptions(num_neighbors=3, baselines=True),
        linear=LinearOptions(epochs=1, schedule_epochs=()),
        svm=SVMOptions(layer="conv1", costs=(0.01,)),
    )
    assert {one.protocol for one in found} == {"knn", "linear", "svm"}
    with pytest.raises(UsageError, match="Change --svm_layer"):
        run.evaluate(svm=SVMOptions(layer="conv5"))
    with pytest.raises(UsageError, match="Change --linear_layers"):
        run.evaluate(linear=LinearOptions(("embedding", "conv2")))
    version = saved_model.export_run(
        run.directory, str(tmp_path / "served"), tflite_types=("float32",)
    )
    card = (version / "model_card.md").read_text()
    assert f"input of {SIZE} pixels" in card


# === Features ===


def pooled(activations, side):
    """Adaptive average pooling, as a loop; PyTorch's definition."""
    size = activations.shape[1]
    cells = [
        (i * size // side, -(-(i + 1) * size // side)) for i in range(side)
    ]
    rows = [
        [activations[:, a:b, c:d].mean(axis=(1, 2)) for c, d in cells]
        for a, b in cells
    ]
    return np.stack([np.stack(row, axis=1) for row in rows], axis=1)


def test_features_are_pooled_activations(inputs, tmp_path):
    conv1, conv5 = (features.layer(name, 600) for name in ("conv1", "conv5"))
    found = features.extract(
        inputs.encoder,
        inputs.test_source,
        [conv1, conv5, features.EMBEDDING],
        tmp_path,
    )
    images = np.concatenate(
        [images for images, *_ in inputs.images(inputs.test_source)]
    )
    layer = inputs.encoder.get_layer("conv1").output
    activations = keras.Model(inputs.encoder.input, layer)(images).numpy()
    side = 10  # The root of 600 / 6 channels.
    expected = pooled(activations, side).reshape(len(images), -1)
    np.testing.assert_allclose(
        found[conv1].embeddings, expected, rtol=2e-3, atol=1e-3
    )
    assert found[conv5].embeddings.shape == (3 * NUM_TEST, 4 * 4 * 6)
    np.testing.assert_allclose(
        found[features.EMBEDDING].embeddings,
        inputs.encoder(images).numpy(),
        atol=1e-3,
    )
    np.testing.assert_array_equal(
        found[conv1].labels, np.repeat(np.arange(3), NUM_TEST)
    )


@pytest.mark.parametrize(
    ("channels", "side"), [(64, 12), (256, 6), (512, 4), (1024, 3), (2048, 2)]
)
def test_resnet50s_layers_are_pooled_to_about_nine_thousand(channels, side):
    image = keras.Input((28, 28, 3))
    x = keras.layers.Conv2D(channels, 1, name="conv1")(image)
    model = features.feature_model(
        keras.Model(image, x), [features.layer("conv1", 9000)]
    )
    assert model.outputs[0].shape == (None, channels * side * side)
    assert 8000 <= channels * side * side <= 9300


# === Linear classifier and SVM ===


NOISY = "conv5", "embedding"


@pytest.fixture(scope="module")
def cached(inputs, tmp_path_factory):
    """Features of noisy pictures: no layer tells all of them apart."""
    root = tmp_path_factory.mktemp("noisy")
    train, test = (
        folder_source(
            str(fill_labeled_folder(root / name, 40, seed=seed, noise=250))
        )
        for seed, name in enumerate(("train", "test"))
    )
    layers = {name: features.layer(name, 9000) for name in NOISY}
    found = [
        features.extract(
            inputs.encoder, source, [*layers.values()], root / source.name
        )
        for source in (train, test)
    ]
    return {
        name: [part[layer] for part in found] for name, layer in layers.items()
    }


@pytest.mark.exhaustive
def test_linear_classifier_agrees_with_scikit_learn(cached):
    train, test = cached["embedding"]
    values, labels = train.embeddings, train.labels
    # Keras' SGD is off by learning_rate * weight_decay / (1 - momentum) of
    # the decay: a fraction of 0.005 here, 1e-5 with the defaults.
    options = LinearOptions(
        epochs=200,
        batch_size=32,
        learning_rate=0.005,
        schedule_epochs=(170,),
        weight_decay=0.1,
    )
    classifier = linear_classifier.train_classifier(values, labels, 3, options)
    logits = classifier(test.embeddings.astype(np.float32)).numpy()
    found = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    mean = values.astype(np.float64).mean(axis=0)
    scale = np.sqrt(values.astype(np.float64).var(axis=0) + 1e-5)
    oracle = LogisticRegression(
        C=1 / (len(labels) * options.weight_decay), max_iter=5000, tol=1e-8
    ).fit((values - mean) / scale, labels)
    expected = oracle.predict_proba((test.embeddings - mean) / scale)
    np.testing.assert_allclose(found, expected, atol=0.02)
    best = np.sort(expected, axis=1)
    is_clear = best[:, -1] - best[:, -2] > 0.04
    assert is_clear.sum() > 50
    np.testing.assert_array_equal(
        found.argmax(axis=1)[is_clear], expected.argmax(axis=1)[is_clear]
    )
    assert np.ptp(expected, axis=0).min() > 0.1  # Scores vary.


def test_accuracy_is_that_of_the_test_images():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    values = np.eye(3)[labels] + rng.normal(0, 0.05, (60, 3))
    ids = np.arange(60)
    train = Embedded(values.astype(np.float16), ids, labels)
    wrong = np.where(np.arange(60) < 15, (labels + 1) % 3, labels)
    test = Embedded(train.embeddings, ids, wrong)
    options = LinearOptions(epochs=20, batch_size=20, learning_rate=0.1)
    found = linear_classifier.accuracy(train, test, options)
    assert found == {"top1": 0.75, "top5": 1.0}


def test_the_weight_decay_of_a_linear_classifier_includes_its_bias():
    labels = (np.arange(40) % 10 == 0).astype(int)
    values = np.zeros([40, 5], np.float16)
    biases = []
    for decay in (0.0, 1.0):
        options = LinearOptions(
            epochs=60, batch_size=40, learning_rate=0.1, weight_decay=decay
        )
        classifier = linear_classifier.train_classifier(
            values, labels, 2, options
        )
        biases.append(np.abs(classifier.layers[-1].bias.numpy()).max())
    assert biases[1] < 0.5 < biases[0]


def test_features_that_never_change_do_no_harm():
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    values = np.zeros([40, 5], np.float16)
    values[:, 1] = labels + rng.normal(0, 0.1, 40)
    values[:, 2] = 3.0
    options = LinearOptions(epochs=30, batch_size=8, learning_rate=0.1)
    classifier = linear_classifier.train_classifier(values, labels, 2, options)
    logits = classifier(values.astype(np.float32)).numpy()
    assert np.isfinite(logits).all()
    assert (logits.argmax(axis=1) == labels).all()


def test_top_accuracies_equal_a_loop():
    rng = np.random.default_rng(1)
    logits = rng.integers(0, 4, (50, 9)).astype(np.float32)  # With ties.
    labels = rng.integers(0, 9, 50)
    found = linear_classifier.top_accuracies(logits, labels)
    top1 = top5 = 0
    for row, label in zip(logits, labels, strict=True):
        order = sorted(range(9), key=lambda c: (-row[c], c))
        top1 += order[0] == label
        top5 += label in order[:5]
    assert found == {"top1": top1 / 50, "top5": top5 / 50}


@pytest.mark.parametrize("num_features", [1024, 0])
def test_svm_agrees_with_scikit_learn(cached, monkeypatch, num_features):
    monkeypatch.setattr(svm_protocol, "_MOST_FEATURES_OF_NEWTON", num_features)
    train, test = cached["conv5"]
    values = train.embeddings.astype(np.float64)
    options = SVMOptions(costs=(1e-5, 1e-3, 1e-1), folds=4, seed=3)
    search = train_svm(train.embeddings, train.labels, options)

    def classifier(cost):
        return make_pipeline(
            StandardScaler(),
            LinearSVC(C=cost, random_state=3, max_iter=2000),
        )

    folds = StratifiedKFold(4, shuffle=True, random_state=3)
    scores = {
        cost: cross_val_score(
            classifier(cost), values, train.labels, cv=folds
        ).mean()
        for cost in options.costs
    }
    best = max(scores, key=lambda cost: scores[cost])
    assert search.best_params_["svm__C"] == best
    oracle = classifier(best).fit(values, train.labels)
    np.testing.assert_array_equal(
        search.predict(test.embeddings.astype(np.float64)),
        oracle.predict(test.embeddings.astype(np.float64)),
    )


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("cost", [1e-4, 0.1, 10.0])
@pytest.mark.parametrize("noise", [0.5, 4.0])
def test_svm_equals_scikit_learn_at_its_minimum(num_classes, cost, noise):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, num_classes, 300)
    values = rng.normal(size=(num_classes, 7))[labels]
    values += noise * rng.normal(size=values.shape)
    found = NewtonSVC(cost).fit(values, labels)
    oracle = LinearSVC(C=cost, dual=False, tol=1e-9, max_iter=10_000)
    oracle.fit(values, labels)
    np.testing.assert_allclose(
        found.decision_function(values),
        oracle.decision_function(values),
        atol=1e-4,
    )
    near = np.abs(oracle.decision_function(values)) < 1e-3
    agrees = found.predict(values) == oracle.predict(values)
    assert agrees[~near.reshape(300, -1).any(axis=1)].all()
    np.testing.assert_array_equal(found.classes_, oracle.classes_)


@pytest.mark.exhaustive
def test_svm_of_two_classes_and_labels_that_have_no_image(tmp_path):
    root = tmp_path / "run"
    run = make_labeled_run(root)
    # Class 1 of three has neither training nor test images.
    for part in ("train", "test"):
        for file in (root / part / "bee").iterdir():
            file.unlink()
    save_run(run, small_encoder(), root / "train")
    svm = SVM(SVMOptions(layer="conv1", costs=(0.01,)))
    found = svm.measure(EvaluationInputs(run))
    assert found[0].name == "SVM, conv1"
    assert found[0].value > 0.9  # Two colors.


@pytest.mark.exhaustive_variants("embedding")
@pytest.mark.parametrize("layer", ["conv5", "embedding"])
def test_each_image_is_read_once_for_all_protocols(run, monkeypatch, layer):
    chosen = {
        "knn": KNNOptions(num_neighbors=5),
        "svm": SVMOptions(layer, costs=(0.1,)),
        "linear": LinearOptions(layers=("conv1", "conv5"), epochs=2),
    }
    passes = []
    extract = features.extract

    def counted(encoder, source, wanted, *arguments):
        if wanted:
            passes.append((source.num_instances, len(wanted)))
        return extract(encoder, source, wanted, *arguments)

    def measure(options):
        passes.clear()
        found = evaluate(run, options)
        assert not list(run.path.rglob("*.npy"))
        return [(one.name, one.metric, one.value) for one in found]

    monkeypatch.setattr(features, "extract", counted)
    together = measure(chosen)
    # The embeddings of the training images are the rows of the bank.
    assert passes == [(24, 2), (15, 3)]
    one_by_one = [measure({name: chosen[name]}) for name in chosen]
    assert together == [one for part in one_by_one for one in part]


def test_an_interrupted_evaluation_leaves_no_activations(run, monkeypatch):
    def stop(*arguments):
        assert list(run.features.rglob("*.npy"))
        raise KeyboardInterrupt

    options = {"linear": LinearOptions(layers=("conv1",), epochs=1)}
    with monkeypatch.context() as patch:
        patch.setattr(linear_classifier, "accuracy", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate(run, options)
    assert not list(run.features.rglob("*.npy"))
    # As a killed process leaves them.
    left = EvaluationInputs(run).directory / "trained" / "conv1.npy"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"left")
    evaluate(run, options)
    assert not left.exists()


def test_a_disk_without_room_is_reported(run, monkeypatch):
    usage = shutil.disk_usage
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: usage(path)._replace(free=99)
    )
    with pytest.raises(StorageError, match="activations need"):
        evaluate(run, {"svm": SVMOptions("conv1", costs=(0.1,))})
    # The embeddings are held in memory, and measured first.
    options = {
        "svm": SVMOptions(costs=(0.1,)),
        "linear": LinearOptions(("conv1",), epochs=1, schedule_epochs=()),
    }
    run.results.unlink(missing_ok=True)
    with pytest.raises(StorageError, match="activations need"):
        evaluate(run, options)
    assert {one.protocol for one in results.load(run)} == {"svm"}


def test_a_run_may_be_given_as_it_is(run):
    options = {"knn": KNNOptions(1)}
    opened = tf_instdisc.Run(run.path)
    expected = evaluate(os.fspath(opened), options)
    assert evaluate(opened, options) == evaluate(run, options) == expected


def test_a_layer_is_measured_once(run):
    layers = ("embedding", "embedding")
    options = LinearOptions(layers, epochs=1, schedule_epochs=())
    found = evaluate(run, {"linear": options})
    assert [one.metric for one in found] == ["top1", "top5"]


def test_results_do_not_depend_on_the_precision_of_the_session(
    run, monkeypatch
):
    def train_classifier(*args):
        classifier = train(*args)
        dtypes.update(layer.compute_dtype for layer in classifier.layers)
        return classifier

    dtypes, train = set(), linear_classifier.train_classifier
    monkeypatch.setattr(linear_classifier, "train_classifier", train_classifier)
    with parts.precision("mixed_bfloat16"):
        evaluate(run, {"linear": LinearOptions(("embedding",), epochs=1)})
    assert dtypes == {"float32"}


# === Results ===


def test_results_are_added_and_replaced(tmp_path):
    run = make_labeled_run(tmp_path)
    first = [
        Measurement("knn", "kNN, encoded, k = 200", "top1", 0.5, 0.8, "there"),
        Measurement("linear", "conv1", "top1", 0.25),
    ]
    results.save(run, first)
    assert results.load(run) == first
    second = [
        Measurement("knn", "kNN, encoded, k = 200", "top1", 0.75, 0.8, "there"),
        Measurement("knn", "kNN, encoded, k = 1", "top1", 0.125),
    ]
    results.save(run, second)
    assert results.load(run) == [second[0], first[1], second[1]]
    assert json.loads(run.results.read_text())["measurements"][0]["paper"]


@pytest.mark.exhaustive
def test_results_of_an_encoder_that_was_trained_on_are_dropped(tmp_path):
    run = make_labeled_run(tmp_path)
    results.save(run, [Measurement("linear", "conv1", "top1", 0.25)])
    save_run(run, small_encoder(seed=9), tmp_path / "train")
    newer = [Measurement("knn", "kNN, encoded, k = 1", "top1", 0.125)]
    results.save(run, newer)
    assert results.load(run) == newer


def test_table_has_the_papers_number_beside_ours():
    table = results.table(
        [
            Measurement("knn", "a", "top1", 0.4321, 0.808, "CIFAR-10"),
            Measurement("knn", "b", "top5", 1.0),
        ]
    )
    lines = table.splitlines()
    assert lines[2] == "| knn | a | top1 | 43.2 | 80.8 | CIFAR-10 |"
    assert lines[3] == "| knn | b | top5 | 100.0 |  |  |"
