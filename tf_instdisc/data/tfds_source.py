"""Any TensorFlow Datasets dataset as an image source."""

import functools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from tf_instdisc.config import DataConfig
from tf_instdisc.config.data import CACHES
from tf_instdisc.config.fields import require_choice
from tf_instdisc.data import tfds_features
from tf_instdisc.data.sources import (
    NO_LABEL,
    ImageSource,
    array_source,
    buffer_shuffled,
    shuffled,
)
from tf_instdisc.data.tfds_builder import (
    open_builder,
    prepare,
    require_split,
    require_tfrecord,
)
from tf_instdisc.data.tfds_features import ImageFeature
from tf_instdisc.data.tfds_labels import LabelFeature, find_label, kept
from tf_instdisc.errors import UsageError

_MEMORY_LIMIT = 2 * 2**30  # Bytes of pixels that `auto` keeps in memory.
_OPEN_SHARDS = 16


def tfds_source(
    dataset: str,
    split: str = "train",
    data_dir: str | None = None,
    cache: str = "auto",
    shuffle_buffer: int = DataConfig.shuffle_buffer,
    image_key: str | None = None,
    label_key: str | None = None,
    memory: pathlib.Path | None = None,
) -> ImageSource:
    """Reads a split of a TFDS dataset; prepares it first if necessary.

    Images have one, three or four channels. 8-bit `Image` features with alpha
    are composited on white; of others, the fourth channel is dropped.
    16-bit images are scaled from 0..65535 to 0..255. The range of float images
    depends on their values: it is [0, 1] if the first 1,000 images of the
    split are in that range, and otherwise [0, 255].

    ```python
    source = tf_instdisc.tfds_source("cifar10", "train[:1000]")
    print(source.num_instances, source.class_names)
    ```

    Args:
        dataset: Name of a builder, with version and configuration if any.
        split: A split or a part of one: `"train"`, `"train[:10000]"`.
        data_dir: Directory in which TFDS keeps its data; by default, TFDS
            chooses it.
        cache: `"memory"` decodes all images once and keeps them, `"none"`
            reads the shards in every epoch, `"auto"` keeps images of one
            shape that take up to 2 GiB.
        shuffle_buffer: Size of the shuffle buffer, in encoded images, if the
            shards are read in every epoch.
        image_key: Name of the feature that holds the images, `image` by
            default; `/` separates the levels of nested features.
        label_key: Name of the feature that holds the labels: a class, an
            integer or a string. `label` by default, if there is one; empty
            for no labels.
        memory: `.npz` file that caches labels for which all shards must be
            read, so that the next start need not read them.

    Raises:
        UsageError: If the dataset, split, feature or `cache` is unknown, the
            dataset cannot be prepared, or the feature is not a single image,
            such as a video or a sequence.
    """
    require_choice("cache", cache, CACHES)
    builder = open_builder(dataset, data_dir)
    prepare(builder, dataset)
    require_tfrecord(builder)
    split_info = require_split(builder, split)
    image = tfds_features.find_image(builder.info.features, image_key, dataset)
    label = find_label(builder, label_key, memory)
    is_fixed = None not in image.shape
    if cache == "memory" and not is_fixed:
        raise UsageError(
            "cache='memory' needs images of one shape; those of "
            f"{dataset} are {image.shape}. Use cache='none'."
        )
    sides = [side or 0 for side in image.shape]
    num_bytes = split_info.num_examples * sides[0] * sides[1] * min(sides[2], 3)
    keep = is_fixed and num_bytes <= _MEMORY_LIMIT
    if cache == "memory" or (cache == "auto" and keep):
        return _in_memory(builder, split, image, label)
    return _streamed(builder, split, image, label, shuffle_buffer, memory)


def _in_memory(
    builder: tfds.core.DatasetBuilder,
    split: str,
    image: ImageFeature,
    label: LabelFeature | None,
) -> ImageSource:
    examples = builder.as_dataset(
        split=split,
        decoders=_partial_decoding(builder, image, label),
        # Shards are read one after the other, as the position is the id.
        read_config=tfds.ReadConfig(interleave_cycle_length=1),
    )
    name = f"{builder.name}/{split}"
    parse = _parser(examples, image, label, name)
    batches = examples.map(parse, num_parallel_calls=tf.data.AUTOTUNE)
    columns = zip(*batches.batch(1024).as_numpy_iterator(), strict=True)
    images, labels = map(np.concatenate, columns)
    if label is None:
        return array_source(images, name=name)
    return array_source(images, labels, label.class_names, name)


def _partial_decoding(
    builder: tfds.core.DatasetBuilder,
    image: ImageFeature,
    label: LabelFeature | None,
) -> tfds.decode.PartialDecoding:
    keys = [image.key] if label is None else [image.key, label.key]
    chosen = dict.fromkeys(keys, True)
    return tfds.decode.PartialDecoding(
        tfds_features.nested(chosen, builder.info.features)
    )


def _parser(
    examples: tf.data.Dataset,
    image: ImageFeature,
    label: LabelFeature | None,
    name: str,
) -> Callable[[dict[str, Any]], tuple[tf.Tensor, tf.Tensor]]:
    """Returns a function that extracts image and label from an example.

    Returns:
        A function from a dictionary of features to an image, uint8
        `[height, width, 1 or 3]` or a file as a scalar string, and a label,
        int64 scalar.
    """

    def image_of(example: dict[str, Any]) -> tf.Tensor:
        return tfds_features.at(example, image.key)

    limits = None
    if image_of(examples.element_spec).dtype != tf.string:
        images = examples.map(image_of, num_parallel_calls=tf.data.AUTOTUNE)
        limits = tfds_features.value_range(images, image.dtype, name)

    def parse(example: dict[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
        pixels = image_of(example)
        if limits is not None:
            pixels = tfds_features.to_uint8(pixels, limits, image.is_file)
        index = tf.constant(NO_LABEL, tf.int64)
        if label is not None:
            index = label.index(tfds_features.at(example, label.key))
        return pixels, index

    return parse


def record_reader(
    shards: Sequence, shuffle_buffer: int = 1
) -> Callable[[tf.Tensor | None], tf.data.Dataset]:
    """Reads records of shards with their ids, in an order set by a seed."""
    paths = tf.constant([os.fspath(shard.filename) for shard in shards])
    skips = tf.constant([shard.skip for shard in shards], tf.int64)
    takes = np.array([shard.take for shard in shards], np.int64)
    starts = tf.constant(np.cumsum(takes) - takes)
    takes = tf.constant(takes)

    def read_shard(shard: tf.Tensor) -> tf.data.Dataset:
        records = tf.data.TFRecordDataset(tf.gather(paths, shard))
        records = records.skip(tf.gather(skips, shard))
        records = records.take(tf.gather(takes, shard))
        return records.enumerate(tf.gather(starts, shard))

    def records_of(shuffle_seed: tf.Tensor | None) -> tf.data.Dataset:
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
        return buffer_shuffled(dataset, shuffle_buffer, shuffle_seed)

    return records_of


def _streamed(
    builder: tfds.core.DatasetBuilder,
    split: str,
    image: ImageFeature,
    label: LabelFeature | None,
    shuffle_buffer: int,
    memory: pathlib.Path | None,
) -> ImageSource:
    info = builder.info.splits[split]
    parse = record_parser(builder, split, image, label)
    records_of = record_reader(info.file_instructions, shuffle_buffer)
    name = f"{builder.name}/{split}"

    def examples(shuffle_seed: tf.Tensor | None) -> tf.data.Dataset:
        def read(
            instance_id: tf.Tensor, record: tf.Tensor
        ) -> dict[str, tf.Tensor]:
            pixels, label_index = parse(record)
            return {
                "image": pixels,
                "instance_id": instance_id,
                "label": label_index,
            }

        return records_of(shuffle_seed).map(
            read, num_parallel_calls=tf.data.AUTOTUNE
        )

    def read_labels() -> np.ndarray:
        found = examples(None).map(lambda example: example["label"])
        batches = found.batch(65_536).as_numpy_iterator()
        return np.concatenate(list(batches))

    @functools.cache  # It reads all shards.
    def labels() -> np.ndarray:
        if label is None:
            return np.full([info.num_examples], NO_LABEL, np.int64)
        return kept(
            memory,
            f"labels of {split}",
            read_labels,
            info.file_instructions,
            builder.info.full_name,
            label.key,
            label.class_names,
        )

    return ImageSource(
        name=name,
        num_instances=info.num_examples,
        examples=examples,
        class_names=None if label is None else label.class_names,
        instance_name=lambda i: f"{name}/{i}",
        labels=labels,
    )


def record_parser(
    builder: tfds.core.DatasetBuilder,
    split: str,
    image: ImageFeature,
    label: LabelFeature | None,
) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Returns a function from a record of a shard to an image and a label.

    Returns:
        A function from a scalar string to what `_parser` describes.
    """
    partial = _partial_decoding(builder, image, label)
    features = partial.extract_features(builder.info.features)
    decoders = None
    if image.is_file:
        # The pipeline decodes only the cropped part of a file.
        skipped = {image.key: tfds.decode.SkipDecoding()}
        decoders = tfds_features.nested(skipped, features)

    def decode(record: tf.Tensor) -> dict[str, Any]:
        return features.deserialize_example(record, decoders=decoders)

    records_of = record_reader(builder.info.splits[split].file_instructions)
    decoded = records_of(None).map(lambda instance_id, record: decode(record))
    parse = _parser(decoded, image, label, f"{builder.name}/{split}")
    return lambda record: parse(decode(record))
