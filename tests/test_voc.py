"""Data in VOC's form: folders, TFDS, batches."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from tests import commands, picture_files, test_detection, voc_form
from tests.tfds_forms import write
from tf_instdisc.data import detection_pipeline, voc
from tf_instdisc.errors import MissingFileError, UsageError
from tf_instdisc.evaluation.detection_protocol import DetectionOptions
from tf_instdisc.evaluation.detector_training import DetectionInputs
from tf_instdisc.runs.bank import Bank

pytestmark = pytest.mark.slow

run = test_detection.run  # A fixture.
MADE = voc_form.rectangles(0, 6)
ALL = list(range(len(MADE)))


@pytest.fixture
def folder(tmp_path):
    voc_form.write_folder(tmp_path, MADE, {"train": ALL[:4], "test": ALL[4:]})
    return tmp_path


def assert_objects(source, made):
    assert source.num_images == len(made)
    for entry, (_, objects) in zip(source.objects, made, strict=True):
        names = [source.class_names[label] for label in entry.classes]
        found = [
            (name, *box)
            for name, box in zip(names, entry.boxes.tolist(), strict=True)
        ]
        assert found == objects


def test_a_folder_gives_edges_classes_and_images(folder):
    train = voc.voc_folder(str(folder), "train")
    test = voc.voc_folder(str(folder), "test", train.class_names)
    assert train.class_names == ("blue", "green", "red")
    assert_objects(train, MADE[:4])
    assert_objects(test, MADE[4:])
    images = [tf.io.decode_image(contents) for contents in test.images()]
    for image, (expected, _) in zip(images, MADE[4:], strict=True):
        np.testing.assert_array_equal(image, expected)


def test_names_may_contain_spaces(folder):
    names = ("my photo", "scan 1")
    for i, name in enumerate(names):
        (folder / f"JPEGImages/{i}.png").rename(
            folder / f"JPEGImages/{name}.png"
        )
        (folder / f"Annotations/{i}.xml").rename(
            folder / f"Annotations/{name}.xml"
        )
    lines = "".join(f"{name}\n" for name in (*names, 2, 3))
    (folder / "ImageSets/Main/train.txt").write_text(lines)
    assert_objects(voc.voc_folder(str(folder), "train"), MADE[:4])


def test_flags_empty_annotations_and_boxes_beyond_the_edge(folder):
    objects = [("red", 5, 5, 20, 20), ("blue", 30, -1, 90, 20)]
    (folder / "Annotations/0.xml").write_text(
        voc_form.annotation(objects, difficult=[1])
    )
    (folder / "Annotations/1.xml").write_text(voc_form.annotation([]))
    # A box of one pixel.
    (folder / "Annotations/2.xml").write_text(
        voc_form.annotation([("red", 8, 9, 9, 10)])
    )
    source = voc.voc_folder(str(folder), "train")
    assert source.objects[0].difficult.tolist() == [False, True]
    assert source.objects[0].boxes[1].tolist() == [30, 0, 64, 20]
    assert source.objects[1].boxes.shape == (0, 4)
    assert source.objects[2].boxes.tolist() == [[8, 9, 9, 10]]


def _write(path, text):
    return lambda folder: (folder / path).write_text(text)


def _two_boxes(*objects, **arguments):
    text = voc_form.annotation(objects, **arguments)
    return _write("Annotations/1.xml", text)


def _cut_image(folder):
    image = Image.fromarray(MADE[0][0])
    contents = picture_files.encode(image, "JPEG")
    path = folder / "JPEGImages/1.png"
    path.write_bytes(contents[: len(contents) // 2])


_NO_ENCODING = "<?xml version='1.0' encoding='none'?><annotation/>"
_NO_NAME = "<annotation><object><bndbox/></object></annotation>"


@pytest.mark.parametrize(
    ("damage", "error", "named"),
    [
        (
            lambda folder: (folder / "JPEGImages/1.png").unlink(),
            MissingFileError,
            "must have an image",
        ),
        (
            lambda folder: (folder / "Annotations/1.xml").unlink(),
            MissingFileError,
            "1.xml",
        ),
        (
            lambda folder: (folder / "ImageSets/Main/train.txt").unlink(),
            FileNotFoundError,
            "one of test. Received: split='train'",
        ),
        (_write("ImageSets/Main/train.txt", ""), ValueError, "0 lines"),
        (
            _write("ImageSets/Main/train.txt", "0 -1\n"),
            ValueError,
            "are: 0 -1",
        ),
        (
            lambda folder: (folder / "ImageSets/Main/train.txt").write_bytes(
                b"0\n\xff\n"
            ),
            MissingFileError,
            "must have an image",
        ),
        (_write("JPEGImages/1.png", "no image"), UsageError, "1.png"),
        (_cut_image, UsageError, "1.png"),
        (_write("Annotations/1.xml", _NO_ENCODING), UsageError, "1.xml"),
        (_write("Annotations/1.xml", "<annotation>"), ValueError, "ParseError"),
        (_write("Annotations/1.xml", _NO_NAME), ValueError, "1.xml"),
        (_two_boxes(("cat", 0, 0, 9, 9)), ValueError, "cat in .*1.xml"),
        (
            _two_boxes(("red", 0, 0, 9, 9), size=(32, 64)),
            ValueError,
            r"height and width \(32, 64\)",
        ),
    ],
)
def test_a_damaged_folder_is_named(folder, damage, error, named):
    damage(folder)
    with pytest.raises(error, match=named):
        voc.voc_folder(str(folder), "train", ("blue", "green", "red"))


@pytest.mark.parametrize(
    "damage",
    (
        lambda folder: (folder / "JPEGImages/1.png").unlink(),
        lambda folder: (folder / "Annotations/1.xml").unlink(),
        _cut_image,
    ),
)
def test_a_damaged_folder_ends_a_command_in_one_line(folder, run, damage):
    damage(folder)
    run.save_bank(
        Bank(
            rows=np.eye(2, 8, dtype=np.float32),
            instance_ids=np.arange(2),
            names=np.array(["a", "b"]),
            labels=np.zeros([2], np.int64),
        )
    )
    ended = commands.run(
        *("evaluate", f"--run_dir={run.path}", "--protocol=detection"),
        *(f"--detection_images={folder}", "--detection_train_split=train"),
        "--detection_image_size=64",
    )
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Received 1 that fail" in ended.stderr.splitlines()[-1]


def test_boxes_without_a_pixel_are_left_out(folder, capfd):
    whole = voc.voc_folder(str(folder), "train")
    assert capfd.readouterr().err.count("left out") == 0
    outside = [("red", 9, 9, 9, 20), ("red", 70, 9, 80, 20)]
    nan = ("red", float("nan"), 9, 80, 20)
    for i, empty in ((1, outside), (2, [nan])):
        objects = [*empty, *MADE[i][1]]
        (folder / f"Annotations/{i}.xml").write_text(
            voc_form.annotation(objects, difficult=range(len(empty)))
        )
    source = voc.voc_folder(str(folder), "train")
    assert_objects(source, MADE[:4])
    for entry, expected in zip(source.objects, whole.objects, strict=True):
        assert entry.difficult.tolist() == expected.difficult.tolist()
    said = capfd.readouterr().err
    assert said.count("left out: 3 in 2 images") == 1


def test_a_split_without_anything_to_find(folder):
    for i in range(4):
        text = voc_form.annotation([("red", 0, 0, 9, 9)], difficult=[0])
        (folder / f"Annotations/{i}.xml").write_text(text)
    with pytest.raises(ValueError, match="whose 4 images have none"):
        voc.voc_folder(str(folder), "train")


def test_crowds_of_coco_are_ignored_by_evaluation(tmp_path):
    box = tfds.features.BBox(0.0, 0.0, 0.5, 0.5)
    objects = [
        {"bbox": box, "label": 0, "is_crowd": flag} for flag in (False, True)
    ]
    write(
        tmp_path,
        "crowded",
        {
            "image": tfds.features.Image(),
            "objects": tfds.features.Sequence(
                {
                    "bbox": tfds.features.BBoxFeature(),
                    "label": tfds.features.ClassLabel(names=["person"]),
                    "is_crowd": np.bool_,
                }
            ),
        },
        {"train": [{"image": MADE[0][0], "objects": objects}]},
    )
    (found,) = voc.voc_tfds("crowded", "train", str(tmp_path)).objects
    assert found.difficult.tolist() == [False, True]


def test_a_folder_of_another_form(tmp_path):
    with pytest.raises(FileNotFoundError, match="JPEGImages"):
        voc.voc_folder(str(tmp_path), "train")


def _prepare_voc(data_dir, made):
    """Writes `voc/2007` as TFDS does, whose own builder would download it."""
    info = tfds.builder("voc/2007", data_dir=data_dir).info
    known = info.features["objects"].feature["label"].names
    # Names of VOC in place of colors.
    label_of = dict(zip(sorted(voc_form.COLORS), known, strict=False))

    class Voc(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("5.0.0")
        BUILDER_CONFIGS = (
            tfds.core.BuilderConfig(name="2007", version="5.0.0"),
        )

        def _info(self):
            return self.dataset_info_from_configs(features=info.features)

        def _split_generators(self, dl_manager):
            return {"train": self._examples(6), "test": self._examples(2)}

        def _examples(self, number):
            for i, (image, objects) in enumerate(made[:number]):
                height, width = image.shape[:2]
                yield (
                    i,
                    {
                        "image": image,
                        "image/filename": f"{i}.jpg",
                        "labels": [],
                        "labels_no_difficult": [],
                        "objects": [
                            {
                                "label": label_of[name],
                                "bbox": tfds.features.BBox(
                                    ymin=(top + 1) / height,
                                    xmin=(left + 1) / width,
                                    ymax=bottom / height,
                                    xmax=right / width,
                                ),
                                "pose": "left",
                                "is_truncated": False,
                                "is_difficult": j == 1,
                            }
                            for j, (name, left, top, right, bottom) in (
                                enumerate(objects)
                            )
                        ],
                    },
                )

        def _generate_examples(self):
            raise NotImplementedError

    Voc(data_dir=data_dir, config="2007").download_and_prepare()
    return {label: name for name, label in label_of.items()}


def test_tfds_gives_the_same_as_a_folder(tmp_path):
    data_dir = str(tmp_path)
    color_of = _prepare_voc(data_dir, MADE)
    source = voc.voc_tfds("voc/2007", "train", data_dir)
    assert len(source.class_names) == 20
    assert source.name == "voc/2007/train"
    # TFDS has an order of its own.
    images = [tf.io.decode_image(contents) for contents in source.images()]
    for entry, image in zip(source.objects, images, strict=True):
        (objects,) = [o for i, o in MADE if np.array_equal(i, image)]
        np.testing.assert_allclose(
            entry.boxes, [box for _, *box in objects], atol=1e-3
        )
        names = [color_of[source.class_names[i]] for i in entry.classes]
        assert names == [name for name, *_ in objects]
        assert entry.difficult.tolist() == [j == 1 for j in range(len(objects))]
    assert voc.voc_tfds("voc/2007", "train+test", data_dir).num_images == 8
    chosen = {"data_dir": data_dir, "train_split": "train"}
    train, test = _inputs("voc/2007", **chosen).sources
    assert (train.name, test.name) == ("voc/2007/train", "voc/2007/test")
    with pytest.raises(ValueError, match="split='trainval'"):
        voc.voc_tfds("voc/2007", "trainval", data_dir)
    # There is no split `validation`.
    said = (
        r"--detection_train_split=train\+validation\): `split` must be one of"
    )
    with pytest.raises(UsageError, match=said):
        _ = _inputs("voc/2007", data_dir).sources
    for name, field in (
        ("train_split", "split"),
        ("test_split", "split"),
        ("image_key", "image_key"),
    ):
        said = f"detection protocol.*{field}`? must .* Received: {field}='it'"
        given = {**chosen, name: "it"}
        with pytest.raises(UsageError, match=said):
            _ = _inputs("voc/2007", **given).sources


def test_flags_of_a_folder_are_named(folder):
    options = DetectionOptions(images=str(folder), train_split="all")
    inputs = DetectionInputs(encoder=None, options=options)
    with pytest.raises(MissingFileError, match="--detection_train_split=all"):
        _ = inputs.sources


def test_tfds_without_boxes():
    with pytest.raises(ValueError, match="`dataset` must have boxes"):
        voc.voc_tfds("mnist", "train")
    said = "of the detection protocol .*: `dataset` must have boxes"
    with pytest.raises(UsageError, match=said):
        _ = _inputs("mnist").sources


def _inputs(dataset, data_dir=None, **changes):
    options = DetectionOptions(dataset=dataset, **changes)
    return DetectionInputs(None, options, data_dir)


def test_batches_keep_boxes_on_their_objects(folder):
    objects = [*MADE[0][1], ("red", 0, 0, 64, 64)]
    (folder / "Annotations/0.xml").write_text(
        voc_form.annotation(objects, difficult=[len(objects) - 1])
    )
    source = voc.voc_folder(str(folder), "train")
    size = 128
    pairs = detection_pipeline.examples(source, size)
    stored = {
        tuple(map(tuple, boxes)) for _, _, boxes, _ in pairs.as_numpy_iterator()
    }
    orders, mirrored = [], 0
    for epoch in range(3):
        seen = []
        batches = detection_pipeline.epoch_batches(pairs, 3, epoch, seed=7)
        for images, labels in batches.as_numpy_iterator():
            for image, boxes, classes in zip(
                images, labels["boxes"], labels["classes"], strict=True
            ):
                kept = classes >= 0
                assert np.all(boxes[~kept] == detection_pipeline.PADDING)
                for box, label in zip(boxes[kept], classes[kept], strict=True):
                    left, top, right, bottom = np.round(box).astype(int)
                    inside = image[top + 2 : bottom - 2, left + 2 : right - 2]
                    color = voc_form.COLORS[source.class_names[int(label)]]
                    assert inside.size
                    np.testing.assert_allclose(
                        inside.astype(int),
                        np.broadcast_to(color, inside.shape),
                        atol=1,
                    )
                mirrored += tuple(map(tuple, boxes)) not in stored
                seen.append(boxes.tobytes())
        assert len(set(seen)) == 4
        orders.append(seen)
    again = detection_pipeline.epoch_batches(pairs, 3, 0, seed=7)
    assert orders[0] == [
        boxes.tobytes()
        for _, labels in again.as_numpy_iterator()
        for boxes in labels["boxes"]
    ]
    assert 0 < mirrored < 12
    assert orders[0] != orders[1]
