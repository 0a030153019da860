"""Images of a TFDS split or of TFRecord files, read from any position."""

import dataclasses
import os
import pathlib
import struct
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf
from google.protobuf import message

from tf_instdisc.data import tfds_features
from tf_instdisc.data.tfds_builder import (
    open_builder,
    prepare,
    require_split,
    require_tfrecord,
)
from tf_instdisc.data.tfds_source import record_parser, record_reader
from tf_instdisc.errors import MissingFileError, UsageError
from tf_instdisc.paths import local_path
from tf_instdisc.text import listed, shown

# A record is its length, a checksum of it, the data, and their checksum.
_LENGTH = struct.Struct("<Q4x")
_CHECKSUM = 4

_UNREADABLE = (tf.errors.DataLossError, tf.errors.InvalidArgumentError)

# Keys that are usual in such files.
_IMAGE_KEYS = ("image/encoded", "image")


class SplitFiles:
    """The images of a split as files, in the order of their ids.

    Images that are not stored as files are encoded as PNG, which is lossless.

    The arguments are those of `tfds_source`. The dataset must be stored as
    tfrecord.

    Attributes:
        name: The name of the dataset and the split.
        size: Number of images.
        contents: Text that identifies the records that are read.
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
        require_tfrecord(builder)
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
        return _read_range(self._shards, first, size, self._file)

    def _file(self, record: tf.Tensor) -> tf.Tensor:
        image, _ = self._parse(record)
        return image if image.dtype == tf.string else tf.io.encode_png(image)


@dataclasses.dataclass(frozen=True)
class _Shard:
    filename: str
    take: int
    skip: int = 0


class RecordFiles:
    """The images of all TFRecord files in a folder, sorted by name.

    Args:
        folder: Path or URL of the folder. Its files with `tfrecord` in their
            names are read, uncompressed.
        image_key: The feature that holds an encoded image; by default
            `image/encoded` or `image`.

    Attributes:
        name: The name of the folder.
        size: Number of images.
        contents: Text that identifies the records that are read.

    Raises:
        FileNotFoundError: If there is no such file.
        UsageError: If a file is not a TFRecord file, or the first record is
            not a `tf.train.Example` with such a feature.
    """

    def __init__(self, folder: str, image_key: str | None):
        place = pathlib.Path(local_path(folder, "records"))
        files = sorted(f for f in place.glob("*tfrecord*") if f.is_file())
        if not files:
            raise MissingFileError(
                "`records` must be a folder with files that have `tfrecord` in "
                f"their names. Received: records={folder!r}"
            )
        self._shards = [_Shard(os.fspath(f), _num_records(f)) for f in files]
        self._shards = [shard for shard in self._shards if shard.take]
        self.name = place.name
        self.size = sum(shard.take for shard in self._shards)
        self._key = self._find_key(image_key) if self.size else ""
        names = [os.path.basename(shard.filename) for shard in self._shards]
        takes = [shard.take for shard in self._shards]
        self.contents = repr((self._key, names, takes))

    def read(self, first: int, size: int) -> Iterator[bytes]:
        """Reads images `first` to `first + size - 1`.

        Raises:
            UsageError: If a record is damaged, or holds several images or
                something other than bytes.
        """
        try:
            yield from _read_range(self._shards, first, size, self._file)
        # TensorFlow fails to decode a message that quotes the record.
        except (*_UNREADABLE, UnicodeDecodeError) as error:
            raise UsageError(
                "Each of the `records` must be a tf.train.Example with one "
                f"encoded image as its feature {shown(self._key)}. Received: "
                f"another kind among the records {first} to {first + size - 1} "
                f"of {shown(self.name)}"
            ) from error

    def _file(self, record: tf.Tensor) -> tf.Tensor:
        # Without an image, it is left out like one that cannot be decoded.
        feature = tf.io.FixedLenFeature([], tf.string, default_value="")
        example = tf.io.parse_single_example(record, {self._key: feature})
        return example[self._key]

    def _find_key(self, given: str | None) -> str:
        try:
            (record,) = _read_range(self._shards, 0, 1, tf.identity)
            features = tf.train.Example.FromString(record).features.feature
        except (message.DecodeError, tf.errors.DataLossError) as error:
            raise UsageError(
                "`records` must hold whole records of tf.train.Example. "
                f"Received: another kind in {shown(self._shards[0].filename)}"
            ) from error
        keys = [key for key in features if features[key].bytes_list.value]
        for key in (given,) if given else _IMAGE_KEYS:
            if key in keys:
                return key
        raise UsageError(
            "`image_key` must be a feature of bytes that holds an encoded "
            f"image. Received: image_key={given!r}, and the features "
            f"{listed(sorted(keys))}"
        )


def _read_range(
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
        file_of: Converts a record to a file, both scalar strings.
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


def _num_records(path: pathlib.Path) -> int:
    """Counts the records of a file, of which only the lengths are read."""
    end, position, number = path.stat().st_size, 0, 0
    with path.open("rb") as file:
        while position < end:
            header = file.read(_LENGTH.size)
            if len(header) < _LENGTH.size:
                break
            position += _LENGTH.size + _LENGTH.unpack(header)[0] + _CHECKSUM
            if position > end:
                break
            file.seek(position)
            number += 1
    if position != end:
        raise UsageError(
            "`records` must hold whole, uncompressed TFRecord files. "
            f"Received: {shown(str(path))}"
        )
    return number
