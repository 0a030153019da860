"""TFDS datasets of many forms: features, types, labels, splits, orders."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import download_manager

import tf_instdisc
from tests import tfds_forms
from tests.tfds_forms import features, write
from tf_instdisc.config import DataConfig, RunConfig
from tf_instdisc.data import decode, pipeline, tfds_builder, tfds_source
from tf_instdisc.data.augment import NO_COLOR_CHANGES, Augmentation
from tf_instdisc.data.record_files import SplitFiles
from tf_instdisc.data.subset import subset
from tf_instdisc.data.voc import voc_tfds
from tf_instdisc.errors import UsageError
from tf_instdisc.runs.bank import Bank
from tf_instdisc.runs.images import RunImages, is_available

SIZE = 12
NUM_IMAGES = 4
RNG = np.random.default_rng(0)


def pixels(source, by="instance_id"):
    """Decoded images, `[height, width, channels]`, by instance id or label."""
    return {
        int(e[by]): (
            decode.decode_whole(e["image"]).numpy()
            if e["image"].dtype == tf.string
            else e["image"].numpy()
        )
        for e in source.examples(None)
    }


def stored(kind, channels, side):
    """An image of a kind, and the values in 0..255 that it stands for."""
    values = RNG.random((side, side, channels))
    values[0, 0] = 1.0
    if kind == "uint8":
        image = np.round(values * 255).astype(np.uint8)
        return image, image.astype(float)
    if kind == "uint16":
        image = np.round(values * 65535).astype(np.uint16)
        return image, image / 257
    if kind == "float01":
        return values.astype(np.float32), values * 255
    return (values * 255).astype(np.float32), values * 255


def on_white(values, form):
    """Image files have alpha; the fourth channel of others is dropped."""
    if not form.startswith("Image-uint8-4"):
        return values[..., :3]
    alpha = values[..., 3:] / 255
    return values[..., :3] * alpha + 255 * (1 - alpha)


def forms():
    """Names of features: connector, kind, channels, whether of one size."""
    for connector in ("Image", "Tensor"):
        for kind in ("uint8", "uint16", "float01", "float255"):
            for channels in (1, 3, 4):
                # TFDS has float images of one channel only.
                if connector == "Tensor" or channels == 1 or "u" in kind:
                    for is_fixed in (True, False):
                        size = "fixed" if is_fixed else "varied"
                        yield f"{connector}-{kind}-{channels}-{size}"


@pytest.fixture(scope="module")
def many_forms(tmp_path_factory):
    """A dataset with a feature of each form, and the values of each."""
    data_dir = str(tmp_path_factory.mktemp("forms"))
    declared = {"number": features.Scalar(np.int64)}
    examples = [{"number": number} for number in range(NUM_IMAGES)]
    expected = {}
    for form in forms():
        connector, kind, channels, size = form.split("-")
        side = SIZE if size == "fixed" else None
        dtype = np.dtype(kind if kind[0] == "u" else "float32").type
        more = {"encoding": "bytes"} if connector == "Tensor" else {}
        declared[form] = getattr(features, connector)(
            shape=(side, side, int(channels)), dtype=dtype, **more
        )
        for number, example in enumerate(examples):
            made = stored(kind, int(channels), side or SIZE - number)
            example[form], expected[form, number] = made
    write(data_dir, "forms", declared, {"train": examples})
    return data_dir, expected


@pytest.mark.exhaustive_variants(
    "Image-float01*", "Image-uint8-1*", "Tensor-float255*"
)
@pytest.mark.parametrize("form", forms())
def test_images_are_read_as_their_values(many_forms, form):
    data_dir, expected = many_forms
    for cache in ("memory", "none"):
        if cache == "memory" and form.endswith("varied"):
            continue
        source = tfds_source.tfds_source(
            "forms",
            "train",
            data_dir,
            cache,
            image_key=form,
            label_key="number",
        )
        found = pixels(source, by="label")
        assert sorted(found) == list(range(NUM_IMAGES))
        for number, image in found.items():
            wanted = on_white(expected[form, number], form)
            wanted = np.broadcast_to(wanted, image.shape)
            difference = np.abs(image.astype(float) - wanted).max()
            # Libpng drops the lower 8 of 16 bits.
            assert difference <= (1.0 if "uint16" in form else 0.51)


@pytest.mark.exhaustive_variants("Image-uint16*", "Image-uint8*")
@pytest.mark.parametrize(
    "form",
    (
        "Image-uint8-4-varied",
        "Image-uint16-1-varied",
        "Tensor-float01-3-varied",
    ),
)
def test_images_of_different_sizes_are_trained_on(many_forms, form):
    data_dir, expected = many_forms
    source = tfds_source.tfds_source(
        "forms", "train", data_dir, image_key=form, label_key="number"
    )
    plain = Augmentation(8, min_crop_area=1, **NO_COLOR_CHANGES)
    augmented, ids = next(
        iter(pipeline.training_dataset(source, plain, 4, epochs=1))
    )
    for image, instance_id in zip(augmented, ids, strict=True):
        number = source.labels()[instance_id]
        wanted = on_white(expected[form, number], form)
        # A crop of nearly the whole image has nearly its mean.
        assert image.shape == (8, 8, 3)
        assert abs(np.mean(image) - wanted.mean()) < 25
    evaluated = next(iter(pipeline.evaluation_dataset(source, 8, 4)))
    assert evaluated[0].shape == (NUM_IMAGES, 8, 8, 3)
    images = list(pixels(source).values())
    for i, image in pixels(subset(source, [1, 3])).items():
        np.testing.assert_array_equal(image, images[1 + 2 * i])


@pytest.mark.parametrize(
    ("low", "high"), ((-1.0, 1.0), (0.0, 300.0), (np.nan, 1.0))
)
def test_float_images_of_no_known_range_are_refused(tmp_path, low, high):
    image = np.full((SIZE, SIZE, 3), high, np.float32)
    image[0, 0, 0] = low
    feature = features.Tensor(shape=(SIZE, SIZE, 3), dtype=np.float32)
    write(tmp_path, "hdr", {"image": feature}, {"train": [{"image": image}]})
    with pytest.raises(ValueError, match=r"\[0, 1\] or in \[0, 255\]"):
        tfds_source.tfds_source("hdr", "train", str(tmp_path))


PICTURE = np.zeros((8, 8, 3), np.uint8)
NO_IMAGES = {
    "video": (
        features.Video(shape=(None, 8, 8, 3)),
        np.zeros((2, 8, 8, 3), np.uint8),
    ),
    "images": (
        features.Sequence(features.Image(shape=(8, 8, 3))),
        [PICTURE, PICTURE],
    ),
    "four_axes": (
        features.Tensor(shape=(2, 8, 8, 3), dtype=np.uint8),
        np.zeros((2, 8, 8, 3), np.uint8),
    ),
    "two_axes": (
        features.Tensor(shape=(8, 8), dtype=np.uint8),
        PICTURE[..., 0],
    ),
    "two_channels": (
        features.Tensor(shape=(8, 8, 2), dtype=np.uint8),
        PICTURE[..., :2],
    ),
    "integers": (
        features.Tensor(shape=(8, 8, 3), dtype=np.int64),
        PICTURE.astype(np.int64),
    ),
    "text": (features.Text(), "picture"),
    "class": (features.ClassLabel(num_classes=2), 1),
    "box": (features.BBoxFeature(), features.BBox(0.0, 0.0, 1.0, 1.0)),
    "objects": (
        features.Sequence({"image": features.Image()}),
        [{"image": PICTURE}],
    ),
    "audio": (features.Audio(), np.zeros([4], np.int64)),
}


@pytest.fixture(scope="module")
def no_images(tmp_path_factory):
    data_dir = str(tmp_path_factory.mktemp("others"))
    write(
        data_dir,
        "others",
        {name: feature for name, (feature, _) in NO_IMAGES.items()},
        {"train": [{name: value for name, (_, value) in NO_IMAGES.items()}]},
    )
    return data_dir


@pytest.mark.parametrize("key", NO_IMAGES)
def test_features_that_are_not_an_image_are_refused(no_images, key):
    with pytest.raises(ValueError, match="`image_key` must be an image") as e:
        tfds_source.tfds_source("others", "train", no_images, image_key=key)
    assert type(NO_IMAGES[key][0]).__name__ in str(e.value)
    assert "No feature of others holds one image" in str(e.value)


def test_image_keys_are_suggested_and_lead_into_nested_features(tmp_path):
    image = features.Image(shape=(8, 8, 3))
    write(
        tmp_path,
        "named",
        {
            "picture": image,
            "views": {"left": image},
            "mask": features.LabeledImage(labels=3, shape=(8, 8, 1)),
            "clip": features.Video(shape=(None, 8, 8, 3)),
        },
        {
            "train": [
                {
                    "picture": PICTURE + 1,
                    "views": {"left": PICTURE + 2},
                    "mask": PICTURE[..., :1],
                    "clip": [PICTURE],
                }
            ]
        },
    )

    def read(key=None, cache="auto"):
        return tfds_source.tfds_source(
            "named", "train", str(tmp_path), cache, image_key=key
        )

    suggestion = "Give --image_key=picture or --image_key=views/left"
    for key in (None, "pictures", "clip", "views"):
        with pytest.raises(ValueError, match=suggestion):
            read(key)
    for key, value in (("picture", 1), ("views/left", 2), ("mask", 0)):
        for cache in ("memory", "none"):
            (found,) = pixels(read(key, cache)).values()
            assert found.max() == found.min() == value


LABELS = {
    "class": (features.ClassLabel(names=["b", "a"]), ["a", "b", -1]),
    "int32": (features.Scalar(np.int32), [7, 3, -1]),
    "uint8": (features.Scalar(np.uint8), [7, 3, 3]),
    "bool": (features.Scalar(np.bool_), [True, False, True]),
    "text": (features.Text(), ["dög", "cat", ""]),
    "padded": (features.Text(), ["dög\0\0", "cat\0", "cat"]),
}
CLASS_NAMES = {
    "class": ("b", "a"),
    "int32": ("3", "7"),
    "uint8": ("3", "7"),
    "bool": ("0", "1"),
    "text": ("cat", "dög"),
    "padded": ("cat", "dög"),
}


@pytest.fixture(scope="module")
def labeled(tmp_path_factory):
    data_dir = str(tmp_path_factory.mktemp("labeled"))
    declared = {name: feature for name, (feature, _) in LABELS.items()}
    examples = [
        {
            "image": PICTURE + i,
            **{name: values[i] for name, (_, values) in LABELS.items()},
        }
        for i in range(3)
    ]
    write(
        data_dir,
        "labeled",
        {"image": features.Image(shape=(8, 8, 3)), **declared},
        # The other split has one class only, and the same numbers for it.
        {"train": examples, "test": examples[:1]},
    )
    return data_dir


@pytest.mark.parametrize("cache", ("memory", "none"))
@pytest.mark.parametrize("key", LABELS)
def test_labels_are_classes_integers_or_strings(labeled, key, cache):
    def read(split):
        return tfds_source.tfds_source(
            "labeled", split, labeled, cache, label_key=key
        )

    source = read("train")
    assert source.class_names == read("test").class_names == CLASS_NAMES[key]
    found = source.labels()
    for instance_id, image in pixels(source).items():
        value = LABELS[key][1][int(image[0, 0, 0])]
        value = value.rstrip("\0") if isinstance(value, str) else value
        if value in (-1, ""):
            assert found[instance_id] == -1
        else:
            name = str(int(value)) if isinstance(value, bool) else str(value)
            assert source.class_names[found[instance_id]] == name


def test_datasets_without_labels_have_none_and_are_reported(tmp_path, capsys):
    write(
        tmp_path,
        "flowers",
        {
            "image": features.Image(shape=(8, 8, 3)),
            "species": features.ClassLabel(names=["iris", "rose"]),
            "size": features.Scalar(np.float32),
        },
        {"train": [{"image": PICTURE, "species": 1, "size": 2.5}]},
    )

    def read(key):
        return tfds_source.tfds_source(
            "flowers", "train", str(tmp_path), label_key=key
        )

    for key in (None, ""):
        source = read(key)
        assert source.class_names is None
        assert source.labels().tolist() == [-1]
    assert "Classes are in: species (--label_key)" in capsys.readouterr().out
    assert read("species").class_names == ("iris", "rose")
    with pytest.raises(ValueError, match="Classes are in: species"):
        read("label")
    with pytest.raises(ValueError, match=r"an integer or a string.*float32"):
        read("size")


@pytest.mark.parametrize("cache", ("memory", "none"))
@pytest.mark.parametrize("image_key", ("image/file", "in/image/file"))
def test_names_of_features_may_contain_a_slash(tmp_path, cache, image_key):
    image = features.Image(shape=(8, 8, 3))
    kind = {"label/kind": features.ClassLabel(names=["a", "b"])}
    text = {"label/text": features.Text()}
    write(
        tmp_path,
        "slashes",
        {"image/file": image, "in": {"image/file": image, **kind}, **text},
        {
            "train": [
                {
                    "image/file": PICTURE,
                    "in": {"image/file": PICTURE, "label/kind": number},
                    "label/text": "odd" if number else "even",
                }
                for number in range(2)
            ]
        },
    )
    for label_key in ("label/text", "in/label/kind"):
        source = tfds_source.tfds_source(
            "slashes",
            "train",
            str(tmp_path),
            cache,
            image_key=image_key,
            label_key=label_key,
        )
        assert sorted(source.labels().tolist()) == [0, 1]
        for image in pixels(source).values():
            np.testing.assert_array_equal(image, PICTURE)


def test_another_file_format_is_refused(tmp_path):
    box = {"bbox": features.BBox(0.0, 0.0, 1.0, 1.0), "label": 0}
    write(
        tmp_path,
        "arrays",
        {
            "image": features.Image(shape=(8, 8, 3)),
            "objects": features.Sequence(
                {
                    "bbox": features.BBoxFeature(),
                    "label": features.ClassLabel(names=["a"]),
                }
            ),
        },
        {"train": [{"image": PICTURE, "objects": [box]}]},
        file_format="array_record",
    )
    place = str(tmp_path)
    for read in (
        lambda: tfds_source.tfds_source("arrays", "train", place),
        lambda: tfds_source.tfds_source("arrays", "train", place, "none"),
        lambda: voc_tfds("arrays", "train", place),
        lambda: SplitFiles("arrays", "train", place, None),
    ):
        with pytest.raises(UsageError, match="file_format=array_record in"):
            read()


def test_unusable_labels_are_ignored(tmp_path, capsys):
    write(
        tmp_path,
        "tagged",
        {
            "image": features.Image(shape=(8, 8, 3)),
            "label": features.Sequence(features.ClassLabel(num_classes=3)),
        },
        {"train": [{"image": PICTURE, "label": [0, 2]}]},
    )
    source = tfds_source.tfds_source("tagged", "train", str(tmp_path))
    assert source.class_names is None
    assert "'label' of tagged is a Sequence" in capsys.readouterr().out


def test_a_split_in_place_of_test_is_found_and_reported(tmp_path, capsys):
    example = [{"image": PICTURE}]
    image = {"image": features.Image(shape=(8, 8, 3))}
    cases = (
        ("with_test", ("train", "validation", "test"), "test"),
        ("with_validation", ("train", "validation"), "validation"),
        ("with_val", ("train", "val"), "val"),
        ("with_train", ("train",), None),
    )
    for name, splits, expected in cases:
        write(tmp_path, name, image, dict.fromkeys(splits, example))
        found = tfds_builder.test_split_of(name, str(tmp_path), None)
        assert found == expected
        said = capsys.readouterr().out
        assert ("no split test" in said) == (expected not in ("test", None))
        assert ("has no test split" in said) == (expected is None)
        assert tfds_builder.test_split_of(name, str(tmp_path), "") is None
        assert tfds_builder.test_split_of(name, str(tmp_path), "x") == "x"
    for split in ("tset", "train[5:9]", "train[:0]"):
        with pytest.raises(ValueError, match="one of train, val, or a part"):
            tfds_source.tfds_source("with_val", split, str(tmp_path))


@pytest.mark.parametrize(
    ("dataset", "part"),
    (
        ("cifar1", "Did you mean cifar10 or "),
        ("CIFAR-100", "Did you mean cifar100 or "),
        ("community:cifar1", "dataset='community:cifar1'"),
        ("emnist/leters", "Did you mean emnist/letters or "),
        ("cifar10:9.9.9", "only: 3.0.2)."),
        ("xyzzy", "Received: dataset='xyzzy'."),
    ),
)
def test_an_unknown_set_suggests_the_right_one(dataset, part):
    with pytest.raises(UsageError, match="must be a TFDS dataset") as caught:
        tfds_builder.open_builder(dataset, None)
    message = str(caught.value)
    assert part in message
    assert "\n" not in message
    assert len(message) < 300


class Unreachable:
    """A builder whose server or whose disk fails."""

    name, data_dir = "mnist", "/nowhere"

    def __init__(self, error):
        self.error = error

    def download_and_prepare(self):
        raise self.error


@pytest.mark.parametrize(
    "error",
    (
        OSError,
        tfds.core.download.DownloadError,
        download_manager.NonMatchingChecksumError,
    ),
)
def test_a_failed_download_is_one_sentence(error):
    builder = Unreachable(error("no route to\nhost"))
    with pytest.raises(UsageError, match="must be prepared, or be") as caught:
        tfds_builder.prepare(builder, "mnist")
    assert "no route to\\nhost" in str(caught.value)
    assert "--data_dir" in str(caught.value)


def test_a_package_that_is_missing_for_the_preparation_is_named():
    with pytest.raises(ImportError) as missing:
        tfds.core.lazy_imports_lib._try_import("no_such_package")
    builder = Unreachable(missing.value)
    with pytest.raises(
        UsageError, match=r"'no_such_package'.*Install the package"
    ):
        tfds_builder.prepare(builder, "mnist")


def test_a_full_disk_is_not_a_failed_download():
    full = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space left") as caught:
        tfds_builder.prepare(Unreachable(full), "mnist")
    assert caught.value is full


def test_images_that_would_have_to_be_downloaded_are_missing(tmp_path, capsys):
    run = RunImages(
        Bank(
            rows=np.ones([2, 1], np.float32),
            instance_ids=np.arange(2),
            names=np.array(["a", "b"]),
            labels=np.zeros([2], np.int64),
        ),
        RunConfig(data=DataConfig(dataset="mnist", data_dir=str(tmp_path))),
    )
    for _ in range(2):
        images, found = run.read(np.arange(2), 8)
        assert images.shape == (2, 8, 8, 3)
        assert not found.any()
    printed = capsys.readouterr().err
    assert printed.count("`tfds build mnist") == 1
    assert list(tmp_path.iterdir()) == []


def test_images_that_a_smaller_set_lacks_are_missing():
    pictures = np.full([3, 8, 8, 3], 7, np.uint8)
    bank = Bank(
        rows=np.ones([5, 1], np.float32),
        instance_ids=np.array([4, 1, 3, 0, 2]),
        names=np.array(list("abcde")),
        labels=np.zeros([5], np.int64),
    )
    source = tf_instdisc.array_source(pictures)
    run = RunImages(bank, RunConfig(), source)
    images, found = run.read(np.arange(5), 8)
    assert found.tolist() == [False, True, False, True, True]
    assert (images[found] == 7).all()


def test_a_set_that_was_prepared_meanwhile_is_found(monkeypatch):
    answers = [False, True]
    monkeypatch.setattr(tfds_builder, "is_available", lambda *_: answers.pop(0))
    data = DataConfig(dataset="mnist", data_dir="meanwhile")
    assert not is_available(data)
    assert is_available(data)


def test_a_set_that_is_not_prepared_names_the_version_that_is(tmp_path):
    with pytest.raises(ValueError, match="must be prepared"):
        tfds_source.tfds_source("imagenet2012", data_dir=str(tmp_path))
    example = [{"image": PICTURE}]
    image = {"image": features.Image()}
    write(tmp_path, "imagenet2012", image, {"train": example}, "4.0.0")
    with pytest.raises(ValueError, match=r"--dataset=imagenet2012:4\.0\.0"):
        tfds_source.tfds_source("imagenet2012", data_dir=str(tmp_path))
    source = tfds_source.tfds_source(
        "imagenet2012:4.0.0", data_dir=str(tmp_path)
    )
    assert source.num_instances == 1
    for version in ("10.0.0", "9.0.0"):
        write(
            tmp_path,
            "imagenet2012_subset",
            image,
            {"train": example},
            version,
            config="10pct",
        )
    with pytest.raises(ValueError, match="must be prepared") as caught:
        tfds_source.tfds_source(
            "imagenet2012_subset/10pct", data_dir=str(tmp_path)
        )
    hint = "imagenet2012_subset/10pct:10.0.0"
    assert f"--dataset={hint}." in str(caught.value)
    source = tfds_source.tfds_source(hint, data_dir=str(tmp_path))
    assert source.num_instances == 1


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    data_dir = str(tmp_path_factory.mktemp("imagenet"))
    tfds_forms.write_imagenet(data_dir, num_train=40)
    return data_dir


def test_a_streamed_order_is_a_function_of_seed_and_epoch(imagenet):
    source = tfds_source.tfds_source(
        "imagenet2012", "train", imagenet, shuffle_buffer=16
    )

    def order(seed):
        """Ids of three epochs, whose numbers are tensors as in training."""

        def ids(epoch):
            shuffle_seed = tf.stack([tf.constant(seed, tf.int64), epoch])
            examples = source.examples(shuffle_seed)
            return examples.map(lambda example: example["instance_id"])

        epochs = tf.data.Dataset.range(3).flat_map(ids)
        return np.array(list(epochs.as_numpy_iterator())).reshape(3, 40)

    reference = order(0)
    for epoch in reference:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(40))
    for global_seed in (0, 1):
        keras.utils.set_random_seed(global_seed)
        np.testing.assert_array_equal(order(0), reference)
    orders = np.concatenate([order(seed) for seed in (0, 1, 2**31 - 1)])
    assert len(np.unique(orders, axis=0)) == 9


def test_a_restart_in_a_streamed_epoch_continues_its_order(imagenet):
    source = tfds_source.tfds_source(
        "imagenet2012", "train", imagenet, shuffle_buffer=16
    )

    def ids(initial_epoch, skip_images):
        dataset = pipeline.training_dataset(
            source, Augmentation(8), 8, 2, 0, initial_epoch, skip_images
        )
        return np.concatenate([batch for _, batch in dataset])

    whole = ids(0, 0)
    np.testing.assert_array_equal(ids(0, 8), whole[8:])
    np.testing.assert_array_equal(ids(1, 24), whole[64:])


@pytest.mark.exhaustive
def test_knn_of_another_label_or_image_encodes_again(tmp_path):
    """Both are of the run's own dataset, with the same names of classes."""
    rng = np.random.default_rng(0)
    examples = [
        {
            "image": rng.integers(256, size=(8, 8, 3), dtype=np.uint8),
            "other": rng.integers(256, size=(8, 8, 3), dtype=np.uint8),
            "one": i % 2 == 0,
            "two": i % 4 < 2,
        }
        for i in range(24)
    ]
    picture = features.Image(shape=(8, 8, 3))
    boolean = features.Scalar(np.bool_)
    declared = {"image": picture, "other": picture}
    declared |= {"one": boolean, "two": boolean}
    write(
        str(tmp_path), "pairs", declared, {"train": examples, "test": examples}
    )
    run = tf_instdisc.train(
        tf_instdisc.RunConfig(
            data=tf_instdisc.DataConfig(
                dataset="pairs",
                data_dir=str(tmp_path),
                label_key="one",
                image_size=8,
            ),
            encoder=tf_instdisc.EncoderConfig(width=1, embedding_dim=8),
            method=tf_instdisc.MethodConfig(objective="softmax"),
            optimizer=tf_instdisc.OptimizerConfig(epochs=1, batch_size=8),
            training=tf_instdisc.TrainingConfig(num_neighbors=1),
        ),
        tmp_path / "run",
    )
    for changed in ({}, {"label_key": "two"}, {"image_key": "other"}):
        (found,) = tf_instdisc.evaluate(
            run.directory, {"knn": tf_instdisc.KNNOptions(1)}, changed
        )
        assert found.value == 1, changed
