"""Fine-tuning: drawn labels, subsets and what is trained."""

import numpy as np
import pytest
import tensorflow as tf

from tests.labeled_run import (
    fill_labeled_folder,
    make_labeled_run,
)
from tf_instdisc import Augmentation, array_source, training_dataset
from tf_instdisc.data import subset as subsets
from tf_instdisc.data.folder import folder_source
from tf_instdisc.errors import NonFiniteError
from tf_instdisc.evaluation import results
from tf_instdisc.evaluation.detection_protocol import DetectionOptions
from tf_instdisc.evaluation.evaluate import evaluate
from tf_instdisc.evaluation.fine_tuning_protocol import (
    FineTuneOptions,
    SemiSupervised,
)
from tf_instdisc.evaluation.inputs import EvaluationInputs
from tf_instdisc.evaluation.linear_protocol import LinearOptions
from tf_instdisc.evaluation.network_tuning import (
    NetworkTuning,
    class_balanced_ids,
)
from tf_instdisc.evaluation.protocol import Measurement
from tf_instdisc.evaluation.retinanet import build_retinanet
from tf_instdisc.runs.policy import with_policy

pytestmark = pytest.mark.slow


def source_of(labels):
    images = np.arange(len(labels), dtype=np.uint8)
    images = np.tile(images[:, None, None, None], (1, 4, 4, 3))
    return array_source(images, labels, [str(i) for i in range(10)])


# === Drawn labels ===


@pytest.mark.parametrize(
    ("fraction", "of_each"), [(0.01, 1), (0.02, 1), (0.1, 5), (0.2, 10)]
)
def test_as_many_labels_of_each_class_are_drawn(fraction, of_each):
    labels = np.random.default_rng(0).permutation(np.repeat(range(10), 50))
    ids = class_balanced_ids(source_of(labels), fraction, seed=4)
    assert np.bincount(labels[ids]).tolist() == [of_each] * 10
    assert (np.diff(ids) > 0).all()


def test_all_images_of_a_small_class_are_drawn():
    labels = np.array([0] * 90 + [1] * 2 + [-1] * 8)
    ids = class_balanced_ids(source_of(labels), 0.5, seed=0)
    assert np.bincount(labels[ids]).tolist() == [23, 2]
    everything = class_balanced_ids(source_of(labels), 1.0, 0)
    assert everything.tolist() == list(range(92))


def test_draws_follow_the_seed_and_are_nested():
    source = source_of(np.repeat(range(10), 20))

    def draw(fraction, seed):
        return class_balanced_ids(source, fraction, seed)

    np.testing.assert_array_equal(draw(0.1, 1), draw(0.1, 1))
    assert draw(0.1, 1).tolist() != draw(0.1, 2).tolist()
    assert set(draw(0.1, 1)) < set(draw(0.2, 1)) < set(draw(0.5, 1))


# === Subsets ===


@pytest.mark.exhaustive_variants("folder-0", "folder-100")
@pytest.mark.parametrize("in_memory", [0, 100])
@pytest.mark.parametrize("kind", ["array", "folder"])
def test_a_subset_holds_its_images_under_new_ids(
    monkeypatch, tmp_path, kind, in_memory
):
    monkeypatch.setattr(subsets, "_IN_MEMORY", in_memory)
    if kind == "array":
        source = source_of(np.arange(20) % 3)
    else:
        fill_labeled_folder(tmp_path, 7)
        source = folder_source(str(tmp_path))
    ids = np.array([2, 3, 11, 17])
    part = subsets.subset(source, ids)
    whole = list(source.examples(None).as_numpy_iterator())
    found = list(part.examples(None).as_numpy_iterator())
    assert [one["instance_id"] for one in found] == [0, 1, 2, 3]
    for one, old in zip(found, ids, strict=True):
        np.testing.assert_array_equal(one["image"], whole[old]["image"])
        assert one["label"] == whole[old]["label"]
    assert part.labels().tolist() == source.labels()[ids].tolist()
    assert part.instance_name(2) == source.instance_name(11)
    assert part.num_readable == 4
    seed = tf.constant([5, 1], tf.int64)
    orders = [
        [e["instance_id"] for e in part.examples(seed).as_numpy_iterator()]
        for _ in range(2)
    ]
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == [0, 1, 2, 3]
    batches = training_dataset(part, Augmentation(8), 3, epochs=2)
    assert [len(ids) for _, ids in batches] == [3, 3]


# === Training ===


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return EvaluationInputs(make_labeled_run(tmp_path_factory.mktemp("tuning")))


@pytest.mark.exhaustive
def test_training_begins_with_the_runs_weights_or_with_new_ones(inputs):
    before = inputs.encoder.get_weights()
    options = FineTuneOptions(epochs=1, batch_size=8, learning_rate=0.0, seed=1)
    tuning = NetworkTuning(inputs, options)
    source = subsets.subset(inputs.source, np.arange(24))

    def kernel():
        return tuning.network.get_layer("conv3_conv").kernel.numpy()

    tuning.train(source, pretrained=True)
    runs_kernel = inputs.encoder.get_layer("conv3_conv").kernel.numpy()
    np.testing.assert_array_equal(kernel(), runs_kernel)
    tuning.train(source, pretrained=False)
    assert np.abs(kernel() - runs_kernel).max() > 0.01
    for old, new in zip(before, inputs.encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.exhaustive
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_is_reproducible_whatever_came_before(inputs, optimizer):
    options = FineTuneOptions(
        epochs=1,
        min_updates=6,
        batch_size=8,
        optimizer=optimizer,
        schedule="cosine",
    )
    few, many = (
        subsets.subset(inputs.source, np.arange(0, 24, step)) for step in (4, 2)
    )
    tuning = NetworkTuning(inputs, options)
    tuning.train(few, pretrained=True)
    first = tuning.network.get_weights()
    tuning.train(many, pretrained=False)
    tuning.train(few, pretrained=True)
    for one, other in zip(first, tuning.network.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    # All layers were trained, and all six updates were made.
    run = inputs.encoder.get_layer("conv1_conv").kernel.numpy()
    assert np.abs(first[0] - run).max() > 0
    assert int(tuning._model.optimizer.iterations) == 6


@pytest.mark.exhaustive
def test_fine_tuning_learns_colors(inputs):
    options = FineTuneOptions(
        fractions=(0.5,),
        epochs=30,
        batch_size=12,
        optimizer="adamw",
        learning_rate=0.01,
        schedule="constant",
    )
    found = {
        (one.name, one.metric): one.value
        for one in SemiSupervised(options).measure(inputs)
    }
    assert found["50% of the labels, pre-trained", "top1"] > 0.8
    assert found["50% of the labels, from scratch", "top1"] > 0.8


@pytest.mark.parametrize(
    ("policy", "found"),
    (("mixed_float16", "float32"), ("mixed_bfloat16", "bfloat16")),
)
def test_networks_are_not_trained_in_float16(inputs, policy, found):
    half = EvaluationInputs(inputs.run)
    vars(half)["encoder"] = with_policy(inputs.encoder, policy)
    tuning = NetworkTuning(half, FineTuneOptions())
    detector = build_retinanet(
        half.trainable_encoder,
        DetectionOptions(images="x", image_size=64, head_filters=8),
        num_classes=1,
        pretrained=True,
    )
    for network in (tuning.network, detector.backbone):
        layer = network.get_layer("conv3_conv")
        assert layer.compute_dtype == found
        np.testing.assert_array_equal(
            layer.kernel, inputs.encoder.get_layer("conv3_conv").kernel
        )


def test_a_training_that_diverges_is_not_a_result(inputs):
    run = inputs.run
    results.save(run, [Measurement("knn", "kNN", "top1", 0.5)])
    kept = run.results.read_bytes()
    steep = {"learning_rate": 1e38, "epochs": 2, "batch_size": 8}
    options = {
        "linear": LinearOptions(("embedding",), **steep),
        "finetune": FineTuneOptions(scratch=False, **steep),
    }
    for name, chosen in options.items():
        with pytest.raises(NonFiniteError, match=f"{name}_learning_rate=1e"):
            evaluate(run, {name: chosen})
    assert run.results.read_bytes() == kept


def test_a_class_without_a_training_image_is_reported(tmp_path, capsys):
    run = make_labeled_run(tmp_path)
    for file in (tmp_path / "train" / "bee").iterdir():
        file.unlink()
    # The folder of the class stays, as do its test images.
    (tmp_path / "train" / "bee" / "x.png").write_bytes(b"no image")
    run.set_data(bad_images="skip")
    options = FineTuneOptions(scratch=False, epochs=1, batch_size=8)
    found = evaluate(run, {"finetune": options})
    assert [one.metric for one in found] == ["top1", "top5"]
    assert "has no image of bee to learn from" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        {"fractions": (0.1, 0.0)},
        {"fractions": (1.1,)},
        {"epochs": 0},
        {"batch_size": 0},
        {"optimizer": "adam"},
    ],
)
def test_wrong_options_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        FineTuneOptions(**arguments)
