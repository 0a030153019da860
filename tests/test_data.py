"""Stable ids, epochs that hold each image once, folders with bad files."""

import os

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from tf_instdisc.config import DataConfig
from tf_instdisc.data import pipeline
from tf_instdisc.data.augment import NO_COLOR_CHANGES, Augmentation
from tf_instdisc.data.decode import decode_whole
from tf_instdisc.data.folder import UnreadableImageError, folder_source
from tf_instdisc.data.sources import array_source
from tf_instdisc.data.subset import subset
from tf_instdisc.data.tfds_source import tfds_source
from tf_instdisc.errors import UsageError
from tf_instdisc.runs.sources import open_test


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("tfds"))


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    sizes = {
        "b/two.jpg": (40, 60),
        "a/one.png": (50, 30),
        "b/Three.JPEG": (33, 33),
        "a/.hidden.png": (8, 8),
    }
    for name, (height, width) in sizes.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    return tmp_path


def ids_of(source, seed):
    shuffle_seed = None if seed is None else tf.constant(seed, tf.int64)
    return [int(e["instance_id"]) for e in source.examples(shuffle_seed)]


def toy_source(size=10, side=8):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (size, side, side, 3), np.uint8)
    return array_source(images, np.arange(size) % 3)


def test_order_is_a_function_of_the_seed_and_ids_are_positions():
    source = toy_source(50)
    assert ids_of(source, None) == list(range(50))
    assert ids_of(source, [1, 2]) == ids_of(source, [1, 2])
    assert ids_of(source, [1, 2]) != ids_of(source, [1, 3])
    assert ids_of(source, [1, 2]) != ids_of(source, [2, 2])
    assert sorted(ids_of(source, [1, 2])) == list(range(50))


def test_an_epoch_holds_no_image_twice_and_drops_the_remainder():
    source = toy_source(10)
    batches = list(
        pipeline.training_dataset(source, Augmentation(8), 4, epochs=3)
    )
    assert [images.shape for images, _ in batches] == [(4, 8, 8, 3)] * 6
    assert pipeline.steps_per_epoch(source, 4) == 2
    epochs = [
        np.concatenate([ids for _, ids in batches[i : i + 2]])
        for i in (0, 2, 4)
    ]
    for ids in epochs:
        assert len(np.unique(ids)) == 8
    assert not np.array_equal(epochs[0], epochs[1])
    # Different images are dropped each time.
    assert len(np.unique(np.concatenate(epochs))) > 8


def test_shapes_are_static():
    for share in (None, pipeline.HostShare(1, 2, 1)):
        dataset = pipeline.training_dataset(
            toy_source(10), Augmentation(8), 4, epochs=1, share=share
        )
        images, ids = dataset.element_spec
        batch = 2 if share else 4
        assert images.shape == (batch, 8, 8, 3)
        assert ids.shape == (batch,)


def test_a_batch_beyond_the_images_holds_all_of_them(capsys):
    source = toy_source(10)
    dataset = pipeline.training_dataset(source, Augmentation(8), 16, epochs=2)
    assert [len(ids) for _, ids in dataset] == [10, 10]
    assert pipeline.steps_per_epoch(source, 16) == 1
    assert pipeline.largest_batch_size(source, 10, 2) == 10
    assert not capsys.readouterr().out
    assert pipeline.largest_batch_size(source, 16, 4) == 8
    output = capsys.readouterr().out
    assert "batch_size=16 is more than the 10 images" in output
    assert output.count("\n") == 1
    with pytest.raises(ValueError, match="Each of 16 replicas needs an image"):
        pipeline.largest_batch_size(source, 16, 16)


def test_an_epoch_continues_where_it_was_left():
    source = toy_source(11)

    def batches(**arguments):
        dataset = pipeline.training_dataset(
            source, Augmentation(8), 3, epochs=3, seed=2, **arguments
        )
        return [(x.numpy(), ids.numpy()) for x, ids in dataset]

    rest = batches(initial_epoch=1, skip_images=6)
    for one, other in zip(batches()[5:], rest, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def files_source(folder, size):
    for i in range(size):
        Image.new("RGB", (9, 9), (i, i, i)).save(folder / f"{i}.png")
    return folder_source(str(folder))


@pytest.mark.parametrize("is_restart", [False, True])
def test_only_files_of_the_share_or_the_rest_are_read(tmp_path, is_restart):
    source = files_source(tmp_path, 8)

    def ids(**arguments):
        dataset = pipeline.training_dataset(
            source, Augmentation(8), 4, epochs=1, **arguments
        )
        return np.concatenate([batch for _, batch in dataset]).tolist()

    mine = ids()[4:] if is_restart else ids(share=pipeline.HostShare(1, 2))
    assert len(mine) == 4
    for i in set(range(8)) - set(mine):
        (tmp_path / source.instance_name(i)).unlink()
    if is_restart:
        assert ids(skip_images=4) == mine
    else:
        assert ids(share=pipeline.HostShare(1, 2)) == mine


def test_a_subset_reads_only_its_files(tmp_path):
    source = files_source(tmp_path, 4)
    for i in (0, 2):
        (tmp_path / source.instance_name(i)).unlink()
    part = subset(source, np.array([1, 3]))
    assert ids_of(part, None) == [0, 1]


def test_compiled_augmentation_is_the_same(monkeypatch):
    def first_batch():
        dataset = pipeline.training_dataset(
            toy_source(), Augmentation(8), 10, epochs=1
        )
        images, instance_ids = next(iter(dataset))
        return tf.gather(images, tf.argsort(instance_ids))

    expected = first_batch()
    monkeypatch.setattr(pipeline, "_COMPILED_FROM", 8)
    monkeypatch.setattr(pipeline, "_COMPILED_IMAGES", 4)  # Two are left.
    np.testing.assert_allclose(first_batch(), expected, atol=0.01)


def test_augmentation_does_not_depend_on_batches_or_restarts():
    source = toy_source(12)

    def images(batch_size, initial_epoch):
        dataset = pipeline.training_dataset(
            source,
            Augmentation(8),
            batch_size,
            epochs=3,
            seed=5,
            initial_epoch=initial_epoch,
        )
        steps = pipeline.steps_per_epoch(source, batch_size)
        last = list(dataset)[-steps:]
        pixels, ids = (np.concatenate(part) for part in zip(*last, strict=True))
        return pixels[np.argsort(ids)]

    # Matrix products of other sizes round otherwise in the last bits.
    np.testing.assert_allclose(images(4, 0), images(12, 2), atol=2e-3)
    np.testing.assert_array_equal(images(6, 0), images(6, 2))


def test_evaluation_keeps_small_images_and_the_order_of_the_ids():
    source = toy_source(7)
    batches = list(pipeline.evaluation_dataset(source, 8, 3))
    ids = np.concatenate([b[1] for b in batches])
    labels = np.concatenate([b[2] for b in batches])
    np.testing.assert_array_equal(ids, np.arange(7))
    np.testing.assert_array_equal(labels, np.arange(7) % 3)
    first = next(iter(source.examples(None)))["image"]
    np.testing.assert_array_equal(batches[0][0][0], first)


def test_evaluation_crops_the_center_as_pillow_does(folder):
    source = folder_source(str(folder))
    images = next(iter(pipeline.evaluation_dataset(source, 28, 8, 0.875)))[0]
    with Image.open(folder / "a" / "one.png") as image:
        # Shorter side 30 -> 32; then the center.
        resized = image.resize((32, 53), Image.Resampling.BILINEAR)
        expected = np.asarray(resized)[12 : 12 + 28, 2 : 2 + 28]
    # Pillow rounds to whole levels twice.
    np.testing.assert_allclose(images[0], expected, atol=1.5)


def test_digits_come_from_tfds_with_stable_ids(data_dir):
    train = tfds_source("instdisc_digits", "train", data_dir)
    test = tfds_source("instdisc_digits", "test", data_dir)
    assert (train.num_instances, test.num_instances) == (1437, 360)
    assert train.num_classes == 10
    from sklearn.datasets import load_digits

    digits = load_digits()
    # TFDS stores examples by the hash of their keys: compare as sets.
    expected = np.round(digits.images * (255 / 16)).astype(np.uint8)
    stored = [
        e["image"].numpy()[..., 0]
        for source in (train, test)
        for e in source.examples(None)
    ]
    assert sorted(i.tobytes() for i in stored) == sorted(
        i.tobytes() for i in expected
    )


def test_memory_and_shards_give_the_same_ids_images_and_labels(data_dir):
    for split in ("train", "train[100:300]"):
        kept = tfds_source("instdisc_digits", split, data_dir, cache="memory")
        read = tfds_source("instdisc_digits", split, data_dir, cache="none")
        np.testing.assert_array_equal(kept.labels(), read.labels())
        pairs = zip(
            pipeline.evaluation_dataset(kept, 8, 64),
            pipeline.evaluation_dataset(read, 8, 64),
            strict=True,
        )
        for one, other in pairs:
            for a, b in zip(one, other, strict=True):
                np.testing.assert_array_equal(a, b)
    assert ids_of(read, [3, 1]) == ids_of(read, [3, 1])
    assert ids_of(read, [3, 1]) != ids_of(read, [3, 2])
    assert sorted(ids_of(read, [3, 1])) == list(range(200))


def test_ids_follow_the_shard_and_the_position_in_it(tmp_path):
    tfds.builder("instdisc_digits", data_dir=tmp_path).download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=5)
    )
    builder = tfds.builder("instdisc_digits", data_dir=tmp_path)
    assert builder.info.splits["train"].num_shards == 5
    # TFDS gives the location of each example as FILE__POSITION.
    stored = builder.as_dataset(
        split="train",
        shuffle_files=True,
        read_config=tfds.ReadConfig(add_tfds_id=True),
    )
    placed = {}
    for example in stored.as_numpy_iterator():
        file, _, position = example["tfds_id"].decode().rpartition("__")
        placed[file, int(position)] = example["image"].tobytes()
    images = [placed[place] for place in sorted(placed)]
    assert len(images) == 1437
    # 250..650 begins within the first shard and ends in the third.
    for split, first, last in (
        ("train", 0, 1437),
        ("train[250:650]", 250, 650),
    ):
        for cache in ("memory", "none"):
            source = tfds_source(
                "instdisc_digits", split, tmp_path, cache, shuffle_buffer=50
            )
            for seed in (None, tf.constant([3, 1], tf.int64)):
                found = [
                    (
                        int(e["instance_id"]),
                        decode_digit(e["image"]).numpy().tobytes(),
                    )
                    for e in source.examples(seed)
                ]
                if seed is None:
                    assert [i for i, _ in found] == list(range(last - first))
                assert sorted(found) == list(enumerate(images[first:last]))


def decode_digit(image):
    return tf.io.decode_png(image) if image.dtype == tf.string else image


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"dataset": "cifar11"},
            "listed at .*dataset='cifar11'.*Did you mean .*cifar10",
        ),
        ({"split": "dev"}, "one of train, test.*split='dev'"),
        ({"image_key": "picture"}, "image, label. Received: image_key"),
        ({"cache": "disk"}, "auto, memory, none. Received: cache='disk'"),
    ],
)
def test_tfds_errors_name_what_is_known(data_dir, arguments, message):
    defaults = {"dataset": "instdisc_digits", "data_dir": data_dir}
    with pytest.raises(ValueError, match=message):
        tfds_source(**{**defaults, **arguments})


@pytest.mark.parametrize(
    ("split", "test_split", "shared"),
    [
        ("train+test", None, 360),
        ("all", "test[:100]", 100),
        ("train", "train[-37:]", 37),
        ("train[:80]+train[:50]", "train[70:90]", 10),
        ("train[:80%]", None, 0),
        ("train[:80%]", "train[80%:]", 0),
    ],
)
def test_test_images_of_the_training_split_are_reported(
    data_dir, capsys, split, test_split, shared
):
    open_test(
        DataConfig(
            "instdisc_digits", split, test_split=test_split, data_dir=data_dir
        )
    )
    out = capsys.readouterr().out
    assert ("test images are also training images" in out) == bool(shared)
    assert not shared or f"{shared} of the " in out


@pytest.mark.parametrize(
    ("images", "test_images", "shared"),
    [(".", "b", 2), ("b", ".", 4), ("link", "b", 2), ("a", "b", 0)],
)
def test_test_images_in_the_training_folder_are_reported(
    folder, capsys, images, test_images, shared
):
    (folder / "link").symlink_to("b")
    open_test(
        DataConfig(
            images=str(folder / images), test_images=str(folder / test_images)
        )
    )
    out = capsys.readouterr().out
    assert ("test images are also training images" in out) == bool(shared)
    assert not shared or f"{shared} of the " in out


def test_folder_sorts_names_and_takes_classes_from_subfolders(folder):
    source = folder_source(str(folder))
    names = [source.instance_name(i) for i in range(source.num_instances)]
    assert names == ["a/one.png", "b/Three.JPEG", "b/two.jpg"]
    assert source.class_names == ("a", "b")
    assert source.labels().tolist() == [0, 1, 1]


def test_folder_without_subfolders_has_no_labels(folder):
    source = folder_source(str(folder / "b"))
    assert source.class_names is None
    assert source.labels().tolist() == [-1, -1]
    dataset = pipeline.training_dataset(source, Augmentation(16), 2, epochs=1)
    images, ids = next(iter(dataset))
    assert images.shape == (2, 16, 16, 3)
    assert sorted(ids.numpy()) == [0, 1]


def test_unreadable_images_are_named_and_refused_or_left_out(folder, capsys):
    jpeg = (folder / "b" / "two.jpg").read_bytes()
    (folder / "b" / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "a" / "empty.png").write_bytes(b"")
    (folder / "a" / "text.jpg").write_text("not an image")
    with pytest.raises(UnreadableImageError, match="3 of 6") as caught:
        folder_source(str(folder))
    for name in ("a/empty.png", "a/text.jpg", "b/cut.jpg"):
        assert name in str(caught.value)

    source = folder_source(str(folder), bad_images="skip")
    assert "b/cut.jpg" in capsys.readouterr().out
    bad = [source.instance_name(i) for i in source.unreadable]
    assert bad == ["a/empty.png", "a/text.jpg", "b/cut.jpg"]
    assert source.num_readable == 3
    left = [source.instance_name(i) for i in ids_of(source, None)]
    assert left == ["a/one.png", "b/Three.JPEG", "b/two.jpg"]
    # A row that is never trained has no vote in kNN.
    assert source.labels().tolist() == [-1, 0, -1, 1, -1, 1]


def test_gray_cmyk_and_misnamed_jpegs_are_cropped(tmp_path):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (5, 4, 3), np.uint8)
    smooth = Image.fromarray(coarse).resize((40, 50), Image.BICUBIC)
    for mode in ("L", "CMYK", "RGB"):
        smooth.convert(mode).save(tmp_path / f"{mode}.jpg", quality=95)
    smooth.save(tmp_path / "png.jpg", format="PNG")
    source = folder_source(str(tmp_path))
    assert source.num_readable == 4
    augmentation = Augmentation(8, **NO_COLOR_CHANGES)
    images, ids = next(
        iter(pipeline.training_dataset(source, augmentation, 4, epochs=1))
    )
    for image, instance_id in zip(images.numpy(), ids.numpy(), strict=True):
        contents = (tmp_path / source.instance_name(instance_id)).read_bytes()
        whole = decode_whole(tf.constant(contents)).numpy().astype(float)
        expected = Image.open(tmp_path / source.instance_name(instance_id))
        np.testing.assert_allclose(
            whole.mean(axis=(0, 1)),
            np.asarray(expected.convert("RGB")).mean(axis=(0, 1)),
            atol=3,
        )
        # A crop of what Pillow sees: of no other color than its own.
        assert (image >= whole.min(axis=(0, 1)) - 3).all()
        assert (image <= whole.max(axis=(0, 1)) + 3).all()


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="must hold images"):
        folder_source(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="must exist"):
        folder_source(os.path.join(tmp_path, "missing"))


def test_a_name_that_is_not_text_is_refused_at_once(folder):
    name = os.path.join(os.fsencode(folder), b"a", b"caf\xe9.jpg")
    with open(name, "wb") as file:
        file.write((folder / "b" / "two.jpg").read_bytes())
    with pytest.raises(ValueError, match=r"UTF-8. Received: b'a/caf\\xe9"):
        folder_source(str(folder))


@pytest.mark.exhaustive
def test_jpeg_crops_equal_crops_of_the_whole_image(tmp_path):
    # A smooth image: libjpeg interpolates color across the crop's border.
    x = np.linspace(0, 255, 96)
    pixels = np.stack(np.broadcast_arrays(x[:, None], x[None], 128.0), -1)
    Image.fromarray(pixels.astype(np.uint8)).save(
        tmp_path / "smooth.jpg", quality=95, subsampling=0
    )
    source = folder_source(str(tmp_path))
    contents = (tmp_path / "smooth.jpg").read_bytes()
    whole = decode_whole(tf.constant(contents)).numpy()[None]
    augmentation = Augmentation(32, **NO_COLOR_CHANGES)
    for seed in range(5):
        cropped, decoded = (
            next(iter(pipeline.training_dataset(s, augmentation, 1, 1, seed)))
            for s in (source, array_source(whole))
        )
        np.testing.assert_allclose(cropped[0], decoded[0], atol=2)


@pytest.mark.parametrize(
    ("images", "labels", "class_names", "message"),
    [
        (np.zeros([4, 2, 2, 4], np.uint8), None, None, "1 or 3"),
        (np.zeros([4, 2, 2, 2], np.uint8), None, None, "1 or 3"),
        (np.zeros([4, 2, 2, 3]), None, None, "must be uint8"),
        (np.zeros([0, 2, 2, 3], np.uint8), None, None, "must be uint8"),
        (np.zeros([4, 2, 3], np.uint8), None, None, "must be uint8"),
        (np.zeros([4, 2, 2, 3], np.uint8), [0.0, 0.5, 1, 2], None, "integers"),
        (np.zeros([4, 2, 2, 3], np.uint8), ["a"] * 4, None, "integers"),
        (np.zeros([4, 2, 2, 3], np.uint8), [0, 1, 2], None, "each image"),
        (np.zeros([4, 2, 2, 3], np.uint8), [0, 1, 2, 0], "ab", "2 classes"),
        (np.zeros([4, 2, 2, 3], np.uint8), [0, 1, -2, 0], None, "from -1"),
    ],
)
def test_arrays_of_the_wrong_form_are_refused(
    images, labels, class_names, message
):
    with pytest.raises(UsageError, match=message):
        array_source(images, labels, class_names)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.int64])
def test_a_source_does_not_change_with_its_arrays(channels, dtype):
    images = np.full([3, 2, 2, channels], 7, np.uint8)
    labels = np.array([0, 1, 1], dtype)
    sources = array_source(images, labels), array_source(list(images), labels)
    images[:], labels[:] = 0, 0
    for source in sources:
        assert source.labels().tolist() == [0, 1, 1]
        for example in source.examples(None).as_numpy_iterator():
            assert np.all(example["image"] == 7)
            assert example["label"] == (example["instance_id"] > 0)
