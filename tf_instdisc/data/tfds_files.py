"""A split of a TFDS data set as image files, read from any position."""

import dataclasses
from collections.abc import Iterator, Sequence

import tensorflow as tf

from tf_instdisc.data import tfds_features
from tf_instdisc.data.tfds_builder import open_builder, prepare, require_split
from tf_instdisc.data.tfds_source import record_parser, record_reader


class SplitFiles:
    """The images of a split as files, in the order of their ids.

    Images that are not stored as files are encoded as PNG, which loses nothing.

    Args:
        dataset: As in `tfds_source`.
        split: As in `tfds_source`.
        data_dir: As in `tfds_source`.
        image_key: As in `tfds_source`.

    Attributes:
        name: The name of the data set and the split.
        size: Number of images.
        contents: Text that identifies the records that are read.

    Raises:
        ValueError: As in `tfds_source`, or if the data set is not stored as
            tfrecord.
    """

    def __init__(
        self,
        dataset: str,
        split: str,
        data_dir: str | None,
        image_key: str | None,
    ):
        builder = open_builder(dataset, data_dir)
        prepare(builder, dataset)
        info = require_split(builder, split)
        image = tfds_features.find_image(
            builder.info.features, image_key, dataset
        )
        self.name = f"{builder.name}/{split}"
        self.size = info.num_examples
        self._parse = record_parser(builder, split, image, None)
        self._shards = info.file_instructions
        lengths = [(shard.skip, shard.take) for shard in self._shards]
        self.contents = repr(
            (builder.info.full_name, split, image.key, lengths)
        )

    def read(self, first: int, size: int) -> Iterator[bytes]:
        """Reads images `first` to `first + size - 1`."""
        records = record_reader(_part(self._shards, first, size))(None)
        files = records.map(self._file, num_parallel_calls=tf.data.AUTOTUNE)
        for file in files.prefetch(tf.data.AUTOTUNE):
            yield file.numpy()

    def _file(self, instance_id: tf.Tensor, record: tf.Tensor) -> tf.Tensor:
        image, _ = self._parse(record)
        return image if image.dtype == tf.string else tf.io.encode_png(image)


def _part(shards: Sequence, first: int, size: int) -> list:
    """Returns the instructions that read a range of the records."""
    found = []
    for shard in shards:
        skipped = min(first, shard.take)
        taken = min(size, shard.take - skipped)
        if taken:
            part = {"skip": shard.skip + skipped, "take": taken}
            found.append(dataclasses.replace(shard, **part))
        first -= skipped
        size -= taken
    return found
