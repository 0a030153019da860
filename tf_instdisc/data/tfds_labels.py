"""The labels of a TFDS dataset, which are cached between starts."""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from tf_instdisc import checksums
from tf_instdisc.data.sources import NO_LABEL
from tf_instdisc.data.tfds_features import at, described, nested, walk
from tf_instdisc.errors import UsageError
from tf_instdisc.text import listed


@dataclasses.dataclass(frozen=True)
class LabelFeature:
    """The feature that holds the labels.

    Attributes:
        key: The key of the feature.
        class_names: One for each label.
        index: Converts the feature's value to an int64 scalar, negative if
            there is no label.
    """

    key: str
    class_names: tuple[str, ...]
    index: Callable[[tf.Tensor], tf.Tensor]


def find_label(
    builder: tfds.core.DatasetBuilder,
    key: str | None,
    memory: pathlib.Path | None = None,
) -> LabelFeature | None:
    """Finds the labels of a dataset.

    For integers and strings, the classes are the values that occur in the
    dataset's splits, in ascending order; all splits are read to find them.
    Negative numbers and empty strings are not labels.

    Args:
        builder: A prepared dataset.
        key: The key of the labels. None stands for `label`, which may be
            missing or unsuitable; `""` for no labels.
        memory: `.npz` file that caches the values that were found.

    Returns:
        The labels, or None if there are none.
    """
    if key == "":
        return None
    known = dict(walk(builder.info.features))
    classes = [n for n, f in known.items() if _is_class(f)]
    feature = known.get(key or "label")
    if key is None and (feature is None or not _is_label(feature)):
        if feature is not None or classes:
            what = (
                "is missing"
                if feature is None
                else f"is a {described(feature)}"
            )
            _say(
                f"The feature 'label' of {builder.name} {what}: the images "
                "are used without labels. Classes are in: "
                f"{listed(classes) or 'none'} (--label_key)."
            )
        return None
    if feature is None:
        raise UsageError(
            f"`label_key` must be a feature of {builder.name}: "
            f"{listed(sorted(known))}. Received: label_key={key!r}. Classes "
            f"are in: {listed(classes) or 'none'}; leave it empty for no "
            "labels."
        )
    if not _is_label(feature):
        raise UsageError(
            "`label_key` must be a class, an integer or a string. Received: "
            f"label_key={key!r}, a {described(feature)}"
        )
    key = key or "label"
    if _is_class(feature):
        names = tuple(feature.names)
        return LabelFeature(key, names, lambda label: tf.cast(label, tf.int64))
    values = _values(builder, key, memory)
    if not len(values):
        return None
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(
            tf.constant(values), tf.range(len(values), dtype=tf.int64)
        ),
        NO_LABEL,
    )
    names = tuple(
        value.decode("utf-8", "replace")
        if isinstance(value, bytes)
        else str(value)
        for value in values.tolist()
    )
    return LabelFeature(key, names, lambda label: table.lookup(_plain(label)))


def _plain(label: tf.Tensor) -> tf.Tensor:
    """Returns int64, or strings without trailing null bytes as in NumPy."""
    if label.dtype == tf.string:
        return tf.strings.regex_replace(label, r"\x00+$", "")
    return tf.cast(label, tf.int64)


def _is_class(feature: tfds.features.FeatureConnector) -> bool:
    is_class = isinstance(feature, tfds.features.ClassLabel)
    return is_class and bool(feature.num_classes)


def _is_label(feature: tfds.features.FeatureConnector) -> bool:
    if isinstance(feature, tfds.features.ClassLabel | tfds.features.Text):
        return True
    if not isinstance(feature, tfds.features.Tensor) or feature.shape:
        return False
    return feature.tf_dtype in (tf.string, tf.bool) or (
        feature.tf_dtype.is_integer
    )


@functools.cache
def _say(text: str) -> None:
    """Prints a text once, even if a dataset is opened for several splits."""
    print(text, flush=True)


def _values(
    builder: tfds.core.DatasetBuilder, key: str, memory: pathlib.Path | None
) -> np.ndarray:
    """Returns the integers or strings that are labels, in ascending order."""
    read = _read_values if memory else _read_values_once
    splits = builder.info.splits.values()
    return kept(
        memory,
        "values",
        lambda: np.array(read(str(builder.data_path), key)),
        [shard for split in splits for shard in split.file_instructions],
        builder.info.full_name,
        key,
    )


def _read_values(directory: str, key: str) -> list[int | bytes]:
    found: set = set()
    builder = tfds.builder_from_directory(directory)
    chosen = nested({key: True}, builder.info.features)
    for split in builder.info.splits:
        labels = builder.as_dataset(
            split=split,
            decoders=tfds.decode.PartialDecoding(chosen),
        ).map(lambda example: _plain(at(example, key)))
        for batch in labels.batch(4096).as_numpy_iterator():
            found.update(np.unique(batch).tolist())
    return sorted(
        v for v in found if v != b"" and (isinstance(v, bytes) or v >= 0)
    )


# A dataset is opened for several splits.
_read_values_once = functools.cache(_read_values)


def kept(
    memory: pathlib.Path | None,
    name: str,
    read: Callable[[], np.ndarray],
    shards: Sequence,
    *origin: object,
) -> np.ndarray:
    """Returns the labels cached by an earlier start, or reads them now.

    Cached labels are used if they have the same origin and come from the same
    shards, as identified by name, size and time of the last change.

    Args:
        memory: `.npz` file that caches the labels; or None to read them.
        name: Which labels, if the file caches several kinds.
        read: Reads the labels.
        shards: The instructions with which TFDS reads the shards.
        *origin: Anything else that determines the labels; compared as text.
    """
    if memory is None:
        return read()
    return checksums.kept(memory, name, _key(shards, origin), read)


def _key(shards: Sequence, origin: tuple[object, ...]) -> str:
    statuses = [tf.io.gfile.stat(shard.filename) for shard in shards]
    parts = [
        (
            shard.filename,
            shard.skip,
            shard.take,
            status.length,
            status.mtime_nsec,
        )
        for shard, status in zip(shards, statuses, strict=True)
    ]
    return hashlib.sha256(repr((origin, parts)).encode()).hexdigest()
