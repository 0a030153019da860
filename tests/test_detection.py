"""The detection protocol: the detector, a whole measurement, wrong use."""

import json

import keras
import numpy as np
import pytest

from tests import voc_form
from tf_instdisc import build_encoder, load_encoder
from tf_instdisc.config.run import from_flagfile
from tf_instdisc.errors import NonFiniteError
from tf_instdisc.evaluation.detection_protocol import (
    Detection,
    DetectionOptions,
)
from tf_instdisc.evaluation.detector_training import DetectionInputs
from tf_instdisc.evaluation.inputs import EvaluationInputs
from tf_instdisc.evaluation.retinanet import build_retinanet
from tf_instdisc.runs import directory, opening
from tf_instdisc.runs.record import RunRecord

pytestmark = pytest.mark.slow

SMALL = {"image_size": 64, "head_filters": 16, "anchor_scale": 3.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voc")
    made = voc_form.rectangles(1, 8)
    splits = {"trainval": range(8), "test": range(8)}
    voc_form.write_folder(folder, made, splits)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run, as far as detection looks at it."""
    path = tmp_path_factory.mktemp("detection") / "run"
    record = RunRecord(from_flagfile("--encoder=resnet18\n"))
    run = opening.open_run(str(path), record)
    keras.utils.set_random_seed(3)
    run.save_encoder(
        build_encoder("resnet18", image_size=16, embedding_dim=8, width=8)
    )
    return run


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    """A run with an encoder of five convolutions, quick to train."""
    path = tmp_path_factory.mktemp("detection") / "plain"
    run = opening.open_run(
        str(path), RunRecord(from_flagfile("--encoder=alexnet\n"))
    )
    keras.utils.set_random_seed(4)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    for i in range(1, 6):
        x = keras.layers.Conv2D(
            8 * i, 3, 1 if i == 1 else 2, "same", name=f"conv{i}_conv"
        )(x)
        x = keras.layers.ReLU(name=f"conv{i}")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.UnitNormalization()(x)
    run.save_encoder(keras.Model(inputs, outputs))
    return run


def features(model, images):
    """Pyramid inputs of a detector, or layers of an encoder by names."""
    return {
        key: keras.ops.convert_to_numpy(value)
        for key, value in model(images.astype(np.float32)).items()
    }


def images_of(size, number=2):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (number, size, size, 3), np.uint8)


def build(encoder, **changes):
    pretrained = changes.pop("pretrained", True)
    options = DetectionOptions(images="x", **{**SMALL, **changes})
    keras.utils.set_random_seed(0)
    return build_retinanet(encoder, options, 3, pretrained)


def test_the_backbone_is_the_encoder_at_another_size(run):
    encoder = load_encoder(run.path)
    images = images_of(64)
    detector = build(encoder)
    found = features(detector.feature_extractor, images)
    assert found["P3"].shape[1:] == (16, 16, 32)
    assert found["P4"].shape[1:] == (8, 8, 64)
    assert found["P5"].shape[1:] == (4, 4, 64)
    at_size = build_encoder(
        "resnet18", image_size=64, stem="cifar", embedding_dim=8, width=8
    )
    at_size.set_weights(encoder.get_weights())
    names = {"P3": "conv4", "P4": "conv5"}
    outputs = {k: at_size.get_layer(n).output for k, n in names.items()}
    expected = features(keras.Model(at_size.input, outputs), images)
    for level in names:
        np.testing.assert_allclose(found[level], expected[level], rtol=1e-5)
    pooled = found["P4"].reshape(2, 4, 2, 4, 2, 64).max((2, 4))
    np.testing.assert_allclose(found["P5"], pooled, rtol=1e-5)


def test_from_scratch_only_the_backbone_differs(run):
    encoder = load_encoder(run.path)
    trained, new = (build(encoder, pretrained=flag) for flag in (True, False))
    differ = {
        one.path.split("/")[-2]: not np.array_equal(one, other)
        for one, other in zip(trained.weights, new.weights, strict=True)
        if one.path.endswith("kernel")
    }
    in_backbone = {layer.name for layer in trained.feature_extractor.layers}
    assert {name for name, value in differ.items() if value} == {
        name for name in differ if name in in_backbone
    }
    assert 20 <= len(in_backbone & set(differ)) < len(differ)


def test_the_imagenet_stem_gives_strides_of_8_16_and_32():
    encoder = build_encoder("resnet18", image_size=96, width=4)
    detector = build(encoder, image_size=128)
    shapes = features(detector.feature_extractor, images_of(128, 1))
    assert [shapes[f"P{i}"].shape[1] for i in (3, 4, 5)] == [16, 8, 4]
    # 16, 8, 4, 2 and 1 positions a side, nine anchors each.
    anchors = detector.anchor_generator(image_shape=(128, 128, 3))
    assert sum(len(level) for level in anchors.values()) == 341 * 9
    assert detector(images_of(128, 1))["box"].shape == (1, 341 * 9, 4)


@pytest.mark.exhaustive
def test_frozen_layers_and_batch_norm_do_not_change(run):
    encoder = load_encoder(run.path)

    def changing(**arguments):
        detector = build(encoder, **arguments)
        trained = {id(weight) for weight in detector.trainable_weights}
        before = [weight.numpy() for weight in detector.weights]
        detector(images_of(64).astype(np.float32), training=True)
        return {
            weight.path.rsplit("/", 1)[0].split("/")[-1]
            for weight, old in zip(detector.weights, before, strict=True)
            if id(weight) in trained or not np.array_equal(weight, old)
        }

    everything = changing()
    assert {"conv1_conv", "conv1_bn", "conv2_block1_1_conv"} <= everything
    frozen = changing(frozen_layers=("conv1", "conv2_block1"))
    assert everything - frozen == {
        name
        for name in everything
        if name.startswith(("conv1_", "conv2_block1_"))
    }
    without_norm = changing(frozen_batch_norm=True)
    assert everything - without_norm == {
        name for name in everything if name.endswith("_bn")
    }


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"image_size": 72}, "multiple of 32"),
        ({"frozen_layers": ("conv9",)}, "'conv9'"),
    ],
)
def test_a_detector_that_cannot_be_built(run, changes, named):
    with pytest.raises(ValueError, match=named):
        build(load_encoder(run.path), **changes)


def test_an_encoder_without_feature_maps():
    image = keras.Input((16, 16, 3))
    flat = keras.layers.Flatten()(image)
    encoder = keras.Model(image, keras.layers.Dense(4)(flat))
    with pytest.raises(ValueError, match=r"conv1 \.\. conv5"):
        build(encoder)


def measure(run, options):
    detection = Detection(options)
    inputs = EvaluationInputs(run)
    detection.check(inputs)
    return detection.measure(inputs)


@pytest.mark.exhaustive
def test_both_detectors_learn(plain_run, folder, capsys):
    options = DetectionOptions(
        images=str(folder),
        epochs=12,
        batch_size=2,
        learning_rate=3e-3,
        frozen_layers=("conv1",),
        **SMALL,
    )
    measured = measure(plain_run, options)
    lines = list(map(json.loads, plain_run.detection.read_text().splitlines()))
    assert [(line["detector"], line["epoch"]) for line in lines] == [
        (name, epoch)
        for name in ("from scratch", "pre-trained")
        for epoch in range(1, 13)
    ]
    for name in ("from scratch", "pre-trained"):
        own = [line for line in lines if line["detector"] == name]
        assert own[-1]["loss"] < 0.75 * own[0]["loss"]
        best = max(line["voc_map"] for line in own)
        assert best > 0.1 + own[0]["voc_map"]
        title = f"{name}, to {folder}/trainval"
        last = {m.metric: m.value for m in measured if m.name == title}
        assert last == {metric: own[-1][metric] for metric in last}
        assert set(last) == {
            *("coco_map", "coco_ap50", "coco_ap75", "voc_map", "voc07_map")
        }
        # The mean over the classes that are there.
        per_class = [v for k, v in own[-1].items() if k.startswith("voc_ap/")]
        assert np.mean(per_class) == pytest.approx(own[-1]["voc_map"])
    assert {m.protocol for m in measured} == {"detection"}
    # The paper's detectors are others.
    assert not any(m.paper for m in measured)
    assert "8 images to train on" in capsys.readouterr().out


def test_results_on_other_data_have_their_own_names(plain_run):
    def end(**options):
        options = DetectionOptions(**options)
        return DetectionInputs(plain_run, options).end

    assert end(dataset="voc/2007") == ", to voc/2007/train+validation"
    assert end(images="VOC", test_split="val", train_split="train") == (
        ", to VOC/train, tested on val"
    )
    assert end(dataset="coco", train_split="train", label_key="kind") == (
        ", to coco/train, label_key=kind"
    )


def test_a_training_that_diverges_is_not_a_result(plain_run, folder):
    options = DetectionOptions(
        images=str(folder), learning_rate=1e30, batch_size=2, **SMALL
    )
    with pytest.raises(NonFiniteError, match="detection_learning_rate=1e"):
        measure(plain_run, options)


def test_wrong_use_ends_before_any_training(run, folder, monkeypatch, tmp_path):
    def fails(error, named, run=run, **changes):
        arguments = {"images": str(folder), **SMALL, **changes}
        with pytest.raises(error, match=named):
            measure(run, DetectionOptions(**arguments))

    def no_training(*arguments, **options):
        raise AssertionError("It trains.")

    monkeypatch.setattr(keras.Model, "fit", no_training)
    fails(ValueError, "dataset='voc', images=", dataset="voc")
    fails(ValueError, "dataset=None", images=None)
    fails(ValueError, "epochs=0", epochs=0)
    fails(ValueError, "multiple of 32", image_size=40)
    fails(ValueError, "'conv7'", frozen_layers=("conv7",))
    fails(FileNotFoundError, "one of test, trainval", test_split="val")
    fails(FileNotFoundError, "JPEGImages", images=str(tmp_path))
    unfinished = opening.open_run(
        str(tmp_path / "new"), RunRecord(from_flagfile(""))
    )
    fails(directory.RunDirectoryError, "finished", run=unfinished)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    fails(ValueError, r"pip install 'tf_instdisc\[detection\]'")
