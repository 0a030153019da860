"""Any TensorFlow Datasets data set as an image source."""

import difflib
import functools
import os

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from tf_instdisc import choices
from tf_instdisc.data import digits as _  # noqa: F401  Registers its builder.
from tf_instdisc.data.sources import (
    NO_LABEL,
    ImageSource,
    array_source,
    shuffled,
)
from tf_instdisc.errors import UsageError

_MEMORY_LIMIT = 2 * 2**30  # bytes of pixels that `auto` keeps in memory
_OPEN_SHARDS = 16


def tfds_source(
    dataset: str,
    split: str = "train",
    data_dir: str | None = None,
    cache: str = "auto",
    shuffle_buffer: int = 16_384,
    image_key: str = "image",
    label_key: str = "label",
) -> ImageSource:
    """Reads a split of a TFDS data set; prepares it first, if need be.

    Args:
        dataset: Name of a builder, with version and configuration if any.
        split: A split or a part of one: `"train"`, `"train[:10000]"`.
        data_dir: Where TFDS keeps its data; by default its own choice.
        cache: `"memory"` decodes all images once and keeps them, `"none"`
            reads the shards in every epoch, `"auto"` keeps images of one
            shape that take up to 2 GiB.
        shuffle_buffer: Encoded images among which the next is drawn, where
            shards are read in every epoch.
        image_key: Name of the image among the features.
        label_key: Name of the label; a data set without it has no labels.

    Returns:
        The source.

    Raises:
        ValueError: If data set, split, feature or `cache` is unknown.
    """
    choices.require("cache", cache, choices.CACHES)
    builder = open_builder(dataset, data_dir)
    builder.download_and_prepare()
    features = builder.info.features
    if image_key not in features:
        raise UsageError(
            f"`image_key` must be a feature of {dataset}: "
            f"{', '.join(features)}. Received: image_key={image_key!r}"
        )
    split_info = require_split(builder, split)
    shape = features[image_key].shape
    is_fixed = None not in shape
    if cache == "memory" and not is_fixed:
        raise UsageError(
            "cache='memory' needs images of one shape; those of "
            f"{dataset} are {shape}. Use cache='none'."
        )
    num_bytes = split_info.num_examples * (np.prod(shape) if is_fixed else 0)
    keep = is_fixed and num_bytes <= _MEMORY_LIMIT
    if cache == "memory" or (cache == "auto" and keep):
        return _in_memory(builder, split, image_key, label_key)
    return _streamed(builder, split, image_key, label_key, shuffle_buffer)


def open_builder(
    dataset: str, data_dir: str | None
) -> tfds.core.DatasetBuilder:
    """Finds a builder by its name.

    Raises:
        ValueError: If there is none.
    """
    try:
        return tfds.builder(dataset, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        close = difflib.get_close_matches(dataset, known)
        hint = f"Did you mean {' or '.join(close)}? " if close else ""
        raise UsageError(
            f"`dataset` must be a TFDS data set. {hint}Received: "
            f"dataset={dataset!r}. All are listed at "
            "https://www.tensorflow.org/datasets/catalog."
        ) from error


def require_split(builder: tfds.core.DatasetBuilder, split: str):
    """Information on a split of a prepared data set.

    Raises:
        ValueError: If there is no such split.
    """
    try:
        return builder.info.splits[split]
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"`split` must be one of {', '.join(builder.info.splits)}, or a "
            f"part of one such as 'train[:10000]'. Received: split={split!r}"
        ) from error


def _class_names(builder, label_key):
    features = builder.info.features
    if label_key not in features:
        return None
    if not isinstance(features[label_key], tfds.features.ClassLabel):
        return None
    return tuple(features[label_key].names)


def _in_memory(builder, split, image_key, label_key):
    class_names = _class_names(builder, label_key)
    keys = {image_key: True}
    if class_names is not None:
        keys[label_key] = True
    dataset = builder.as_dataset(
        split=split,
        decoders=tfds.decode.PartialDecoding(keys),
        # One shard after the other: the position is the id.
        read_config=tfds.ReadConfig(interleave_cycle_length=1),
    )
    batches = list(dataset.batch(1024).as_numpy_iterator())
    images = np.concatenate([batch[image_key] for batch in batches])
    labels = None
    if class_names is not None:
        labels = np.concatenate([batch[label_key] for batch in batches])
    return array_source(images, labels, class_names, f"{builder.name}/{split}")


def _streamed(builder, split, image_key, label_key, shuffle_buffer):
    if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        raise UsageError(
            f"{builder.name} must be stored as tfrecord to be read shard by "
            f"shard. Received: file_format={builder.info.file_format}. "
            "Prepare it with file_format='tfrecord'."
        )
    info = builder.info.splits[split]
    shards = info.file_instructions
    paths = tf.constant([os.fspath(shard.filename) for shard in shards])
    skips = tf.constant([shard.skip for shard in shards], tf.int64)
    takes = np.array([shard.take for shard in shards], np.int64)
    starts = tf.constant(np.cumsum(takes) - takes)
    takes = tf.constant(takes)
    class_names = _class_names(builder, label_key)
    features = builder.info.features

    def read_shard(shard):
        records = tf.data.TFRecordDataset(tf.gather(paths, shard))
        records = records.skip(tf.gather(skips, shard))
        records = records.take(tf.gather(takes, shard))
        return records.enumerate(tf.gather(starts, shard))

    def records_of(shuffle_seed):
        order = shuffled(len(shards), shuffle_seed)
        dataset = tf.data.Dataset.from_tensor_slices(order)
        if shuffle_seed is None:
            return dataset.flat_map(read_shard)
        dataset = dataset.interleave(
            read_shard,
            cycle_length=_OPEN_SHARDS,
            block_length=16,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        # One word for the buffer's seed: epoch above, seed below.
        seed = tf.bitwise.left_shift(shuffle_seed[1], 31) + shuffle_seed[0]
        return dataset.shuffle(
            shuffle_buffer, seed=seed, reshuffle_each_iteration=False
        )

    def parse(instance_id, record):
        example = features.deserialize_example(
            record, decoders={image_key: tfds.decode.SkipDecoding()}
        )
        label = tf.constant(NO_LABEL, tf.int64)
        if class_names is not None:
            label = tf.cast(example[label_key], tf.int64)
        return {
            "image": example[image_key],
            "instance_id": instance_id,
            "label": label,
        }

    def examples(shuffle_seed):
        return records_of(shuffle_seed).map(
            parse, num_parallel_calls=tf.data.AUTOTUNE
        )

    @functools.cache  # It reads all shards.
    def labels():
        found = examples(None).map(lambda example: example["label"])
        batches = found.batch(65_536).as_numpy_iterator()
        return np.concatenate(list(batches))

    return ImageSource(
        name=f"{builder.name}/{split}",
        num_instances=info.num_examples,
        examples=examples,
        class_names=class_names,
        instance_name=lambda i: f"{builder.name}/{split}/{i}",
        labels=labels,
    )
