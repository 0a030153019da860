"""Every flag that names data is honored by every command that has it."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from tests import commands
from tests.finished_run import SIZE
from tests.labeled_run import CLASSES, fill_labeled_folder, small_encoder
from tests.tfds_forms import features, write
from tf_instdisc.cli.evaluate import EvaluateOptions
from tf_instdisc.config import DataConfig
from tf_instdisc.config.data import data_overrides
from tf_instdisc.config.run import from_flagfile
from tf_instdisc.data.pipeline import evaluation_dataset
from tf_instdisc.data.voc import voc_tfds
from tf_instdisc.evaluation import results
from tf_instdisc.evaluation.evaluate import evaluate
from tf_instdisc.evaluation.inputs import EvaluationInputs
from tf_instdisc.evaluation.knn_protocol import KNNOptions
from tf_instdisc.evaluation.linear_protocol import LinearOptions
from tf_instdisc.runs import images as run_images
from tf_instdisc.runs import opening, sources
from tf_instdisc.runs.bank import Bank
from tf_instdisc.runs.embedding import embed
from tf_instdisc.runs.record import RunRecord

pytestmark = pytest.mark.slow

# Brightness of the images tells where they come from.
OWN, OTHER_KEY, TEST, DEV, ELSEWHERE, TRANSFER = range(10, 70, 10)


def examples(count, brightness, other=OTHER_KEY):
    """Pictures of three classes, with a second picture and second class."""
    for i in range(count):
        noise = np.random.default_rng(i).integers(0, 6, (SIZE, SIZE, 3))
        yield {
            "picture": (noise + brightness).astype(np.uint8),
            "second": (noise + other).astype(np.uint8),
            "kind": i % 3,
            "word": "odd" if i % 2 else "even",
        }


def write_named(data_dir, name, train, test, **kwargs):
    image = features.Image(shape=(SIZE, SIZE, 3))
    write(
        data_dir,
        name,
        {
            "picture": image,
            "second": image,
            "kind": features.ClassLabel(names=CLASSES),
            "word": features.Text(),
        },
        {
            "train": examples(12, train),
            "validation": examples(6, test),
            "dev": examples(6, DEV),
        },
        **kwargs,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Datasets and folders, and a run whose `data_dir` is gone."""
    root = tmp_path_factory.mktemp("place")
    write_named(root / "tfds", "named", OWN, TEST)
    write_named(root / "tfds", "other", TRANSFER, TRANSFER)
    for config in ("one", "five"):
        write_named(root / "tfds", "noise", OWN, TEST, config=config)
    write_named(root / "elsewhere", "named", ELSEWHERE, ELSEWHERE)
    fill_labeled_folder(root / "train", 4)
    fill_labeled_folder(root / "test", 2, seed=1)
    flags = (
        "--dataset=named\n--image_key=picture\n--label_key=kind\n"
        f"--image_size={SIZE}\n--data_dir={root / 'tfds'}\n"
    )
    run = opening.open_run(str(root / "run"), RunRecord(from_flagfile(flags)))
    source = sources.open_train(run.read_config().data)
    encoder = small_encoder()
    embedded = embed(encoder, evaluation_dataset(source, SIZE, 64))
    run.save_encoder(encoder)
    names = [source.instance_name(int(i)) for i in embedded.instance_ids]
    run.save_bank(
        Bank(
            embedded.embeddings,
            embedded.instance_ids,
            np.array(names),
            embedded.labels,
            source.class_names,
        )
    )
    return root


@pytest.fixture
def moved(place, tmp_path):
    """The run, whose data is not where its flags say."""
    shutil.copytree(place / "run", tmp_path / "run")
    run = opening.load(str(tmp_path / "run"))
    run.set_data(data_dir=str(tmp_path / "gone"))
    return run


def brightness(source):
    """Of the darkest pixel."""
    batches = evaluation_dataset(source, SIZE, 64)
    return min(int(np.min(images)) for images, _, _ in batches)


OVERRIDES = {
    "data_dir": ({"data_dir": "tfds"}, OWN, TEST, CLASSES),
    "data_dir of others": (
        {"data_dir": "elsewhere"},
        ELSEWHERE,
        ELSEWHERE,
        CLASSES,
    ),
    "split": ({"data_dir": "tfds", "split": "dev"}, DEV, TEST, CLASSES),
    "test_split": (
        {"data_dir": "tfds", "test_split": "dev"},
        OWN,
        DEV,
        CLASSES,
    ),
    "image_key": (
        {"data_dir": "tfds", "image_key": "second"},
        OTHER_KEY,
        OTHER_KEY,
        CLASSES,
    ),
    "label_key": (
        {"data_dir": "tfds", "label_key": "word"},
        OWN,
        TEST,
        ("even", "odd"),
    ),
    "cache": ({"data_dir": "tfds", "cache": "none"}, OWN, TEST, CLASSES),
    "dataset": (
        {
            "data_dir": "tfds",
            "dataset": "other",
            "image_key": "picture",
            "label_key": "kind",
        },
        TRANSFER,
        TRANSFER,
        CLASSES,
    ),
    "images": (
        {"images": "train", "test_images": "test"},
        None,
        None,
        CLASSES,
    ),
}
_PLACES = ("data_dir", "images", "test_images")


def in_place(place, overrides):
    return {
        name: str(place / value) if name in _PLACES else value
        for name, value in overrides.items()
    }


@pytest.mark.exhaustive_variants("cache")
@pytest.mark.parametrize("case", OVERRIDES)
def test_an_evaluation_reads_what_its_flags_say(place, moved, case):
    overrides, train, test, class_names = OVERRIDES[case]
    overrides = in_place(place, overrides)
    inputs = EvaluationInputs(moved, overrides)
    assert inputs.source.class_names == class_names
    if train is None:
        assert inputs.source.num_instances == 12
        assert inputs.test_source.num_instances == 6
    else:
        assert brightness(inputs.source) == train
        assert brightness(inputs.test_source) == test


@pytest.mark.parametrize(
    ("overrides", "named"),
    (
        ({"images": "x", "split": "dev"}, "`split` cannot be combined with"),
        (
            {"images": "x", "image_key": "x"},
            "`image_key` cannot be combined with",
        ),
        (
            {"test_images": "x"},
            "`test_images` requires `images`",
        ),
    ),
)
def test_flags_that_would_have_no_effect_are_refused(moved, overrides, named):
    with pytest.raises(ValueError, match=named):
        _ = EvaluationInputs(moved, overrides).sources


def test_results_of_another_data_set_or_split_have_their_own_names(
    place, moved
):
    linear = LinearOptions(("embedding",), epochs=1, schedule_epochs=())
    options = {"knn": KNNOptions(1), "linear": linear}
    own = {"data_dir": "tfds"}
    other = {**own, "dataset": "other", "image_key": "picture"}
    cases = {
        "": own,
        ", to other/train": {**other, "label_key": "kind"},
        ", to named/dev": {**own, "split": "dev"},
        ", to named/train, label_key=word": {**own, "label_key": "word"},
        ", to named/train, image_key=second": {**own, "image_key": "second"},
        ", tested on named/dev": {**own, "test_split": "dev"},
        ", tested on named/dev[:3]": {**own, "test_split": "dev[:3]"},
        **{
            f", to noise/{config}/train": {
                **other,
                "dataset": f"noise/{config}",
                "label_key": "kind",
            }
            for config in ("one", "five")
        },
        ", to other/train, tested on other/dev": {
            **other,
            "label_key": "kind",
            "test_split": "dev",
        },
    }
    for end, overrides in cases.items():
        evaluate(moved, options, in_place(place, overrides))
        kept = {one.name for one in results.load(moved)}
        assert f"kNN, encoded, k = 1{end}" in kept
        assert f"linear, embedding{end}" in kept
    assert len(kept) == 2 * len(cases)


@pytest.mark.exhaustive_variants("none")
@pytest.mark.parametrize("cache", ("memory", "none"))
def test_pictures_of_a_run_are_read_by_its_keys(place, moved, cache):
    moved.set_data(cache=cache)
    images = run_images.open_images(moved, {"data_dir": str(place / "tfds")})
    pictures, found = images.read(np.array([3, 0, 7]), SIZE)
    assert found.all()
    assert pictures.min() == OWN
    moved.set_data(image_key="second")
    moved.set_data(data_dir=str(place / "tfds"))
    pictures, _ = run_images.open_images(moved).read(np.array([3]), SIZE)
    assert pictures.min() == OTHER_KEY
    with pytest.raises(ValueError, match="requires a run over a folder"):
        run_images.open_images(moved, {"images": str(place / "train")})


def test_a_detection_reads_the_features_that_its_flags_name(tmp_path):
    image = features.Image(shape=(SIZE, SIZE, 3))
    box = features.BBox(0.0, 0.0, 0.5, 1.0)
    objects = [{"bbox": box, "kind": 1}]
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    write(
        tmp_path,
        "boxes",
        {
            "picture": image,
            "objects": features.Sequence(
                {
                    "bbox": features.BBoxFeature(),
                    "kind": features.ClassLabel(names=["cat", "dog"]),
                }
            ),
        },
        {"train": [{"picture": picture, "objects": objects}]},
    )

    def read(image_key="picture", label_key="kind"):
        return voc_tfds("boxes", "train", str(tmp_path), image_key, label_key)

    source = read()
    assert source.class_names == ("cat", "dog")
    np.testing.assert_allclose(
        source.objects[0].boxes, [[0, 0, SIZE, SIZE / 2]]
    )
    with pytest.raises(ValueError, match="Give --image_key=picture"):
        read(image_key="image")
    with pytest.raises(ValueError, match=r"objects of .*kind"):
        read(label_key="label")


def test_an_evaluation_has_every_setting_that_names_data():
    settings = {
        *("dataset", "images", "split", "test_split", "data_dir"),
        *("image_key", "label_key", "cache", "test_images", "bad_images"),
    }
    assert settings <= {f.name for f in dataclasses.fields(DataConfig)}
    given = {name: "auto" if name == "cache" else "fail" for name in settings}
    options = EvaluateOptions(run_dir="run", **given)
    assert data_overrides(options) == given


def test_commands_find_data_that_was_moved(place, moved, tmp_path):
    data_dir = f"--data_dir={place / 'tfds'}"
    run_dir = f"--run_dir={moved.path}"
    ended = commands.run(
        "evaluate",
        run_dir,
        data_dir,
        "--protocol=knn,linear",
        "--num_neighbors=3",
        "--linear_layers=embedding",
        "--linear_epochs=1",
        "--dataset=other",
        "--image_key=picture",
        "--label_key=word",
    )
    assert ended.returncode == 0, ended.stderr
    results = json.loads(moved.results.read_text())["measurements"]
    assert {one["protocol"] for one in results} == {"knn", "linear"}
    ended = commands.run(
        "duplicates",
        run_dir,
        data_dir,
        f"--output={tmp_path / 'duplicates.tsv'}",
    )
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "duplicates.tsv").exists()
    ended = commands.run(
        "plan",
        data_dir,
        f"--run_dir={tmp_path / 'new'}",
        "--dataset=named",
        "--split=train[:10]",
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split("\n")[0].split() == ["images", "10"]


@pytest.mark.parametrize(
    "flag", ("--split=x", "--image_key=x", "--label_key=x", "--data_dir=x")
)
def test_train_refuses_flags_of_a_data_set_beside_a_folder(tmp_path, flag):
    ended = commands.run(
        "train", f"--images={tmp_path}", f"--run_dir={tmp_path / 'r'}", flag
    )
    assert ended.returncode == 2
    assert "cannot be combined with --images" in ended.stderr


def test_a_test_split_without_labels_is_refused(place, moved):
    overrides = {"data_dir": str(place / "tfds"), "label_key": ""}
    with pytest.raises(ValueError, match="An evaluation needs labels"):
        evaluate(moved, {"knn": KNNOptions()}, overrides)
