"""A split of a TFDS data set as image files, read from any position."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

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
        return read_range(self._shards, first, size, self._file)

    def _file(self, record: tf.Tensor) -> tf.Tensor:
        image, _ = self._parse(record)
        return image if image.dtype == tf.string else tf.io.encode_png(image)


def read_range(
    shards: Sequence,
    first: int,
    size: int,
    file_of: Callable[[tf.Tensor], tf.Tensor],
) -> Iterator[bytes]:
    """Reads records `first` to `first + size - 1` of all shards.

    Args:
        shards: Instructions with `filename`, `skip` and `take`.
        first: In [0, number of records).
        size: Number of records.
        file_of: From a record to a file, both scalar strings.
    """
    records = record_reader(_part(shards, first, size))(None)
    files = records.map(
        lambda _, record: file_of(record), num_parallel_calls=tf.data.AUTOTUNE
    )
    for file in files.prefetch(tf.data.AUTOTUNE):
        yield file.numpy()


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
