"""Small TFDS datasets, written as TFDS writes them: in shards of tfrecord."""

import contextlib
import io
import os

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

NUM_SHARDS = 3
features = tfds.features


def write(data_dir, name, feature_dict, splits, version="1.0.0", **kwargs):
    """Writes a dataset.

    Args:
        data_dir: Where TFDS keeps its data.
        name: Of the dataset; one that TFDS knows is opened by its code.
        feature_dict: Features by name.
        splits: Lists of examples by split.
        version: Of the dataset.
        **kwargs: For `store_as_tfds_dataset`.
    """
    splits = {name: list(enumerate(found)) for name, found in splits.items()}
    num_shards = min(NUM_SHARDS, *map(len, splits.values()))
    with contextlib.redirect_stderr(io.StringIO()):
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version=version,
            data_dir=os.fspath(data_dir),
            features=features.FeaturesDict(feature_dict),
            split_datasets=splits,
            download_config=tfds.download.DownloadConfig(num_shards=num_shards),
            **kwargs,
        )


def jpeg(height, width, seed) -> bytes:
    """A smooth picture as a JPEG file."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    file = io.BytesIO()
    image = Image.fromarray(coarse).resize((width, height), Image.BICUBIC)
    image.save(file, "JPEG", quality=80)
    return file.getvalue()


def write_imagenet(data_dir, num_train=24, num_test=8, first=0) -> None:
    """ImageNet's features and splits; JPEGs of different sizes.

    Labels are the last digits of the pictures' numbers, from `first` on.
    """

    def examples(count, first, label):
        for i in range(first, first + count):
            rng = np.random.default_rng(i)
            height, width = rng.integers(40, 120, 2)
            yield {
                "image": io.BytesIO(jpeg(height, width, i)),
                "label": i % 10 if label else -1,
                "file_name": f"n{i:08}.JPEG",
            }

    write(
        data_dir,
        "imagenet2012",
        {
            "image": features.Image(encoding_format="jpeg"),
            "label": features.ClassLabel(num_classes=1000),
            "file_name": features.Text(),
        },
        {
            "train": examples(num_train, first, True),
            "validation": examples(num_test, num_train, True),
            "test": examples(num_test, num_train + num_test, False),
        },
        version="5.1.0",
    )


def write_cifar10(data_dir, num_train=48, num_test=16) -> None:
    """CIFAR-10's features and splits."""

    def examples(count, first):
        rng = np.random.default_rng(first)
        for i in range(first, first + count):
            yield {
                "id": f"example_{i:05}",
                "image": rng.integers(0, 256, (32, 32, 3), np.uint8),
                "label": i % 10,
            }

    write(
        data_dir,
        "cifar10",
        {
            "id": features.Text(),
            "image": features.Image(shape=(32, 32, 3)),
            "label": features.ClassLabel(num_classes=10),
        },
        {
            "train": examples(num_train, 0),
            "test": examples(num_test, num_train),
        },
        version="3.0.2",
    )
