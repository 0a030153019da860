"""The labels of a TFDS data set: classes, integers or strings."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from tf_instdisc.data import kept_labels
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
    """Finds the labels of a data set.

    For integers and strings, the classes are the values that occur in the
    data set's splits, in ascending order; all splits are read to find them.
    Negative numbers and empty strings are not labels.

    Args:
        builder: A prepared data set.
        key: The key of the labels. None stands for `label`, which may be
            missing or unsuitable; `""` for no labels.
        memory: `.npz` file that caches the values that were found.

    Returns:
        The labels, or None if there are none.

    Raises:
        ValueError: If there is no such feature, or it is not suitable.
    """
    if key == "":
        return None
    known = dict(walk(builder.info.features))
    classes = [n for n, f in known.items() if _is_class(f)]
    feature = known.get(key or "label")
    if feature is None and key is None:
        if classes:
            _say(
                f"{builder.name} has no feature 'label', and is used without "
                f"labels. Classes are in: {listed(classes)} (--label_key)."
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
        if key is None:
            _say(
                f"The feature 'label' of {builder.name} is a "
                f"{described(feature)}, not a class: the images are used "
                "without labels."
            )
            return None
        raise UsageError(
            "`label_key` must be a class, an integer or a string. Received: "
            f"label_key={key!r}, a {described(feature)}"
        )
    key = key or "label"
    if _is_class(feature):
        names = tuple(feature.names)
        return LabelFeature(key, names, lambda label: tf.cast(label, tf.int64))
    values = _values(builder, key, memory)
    if not values:
        return None
    is_text = isinstance(values[0], bytes)
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(
            tf.constant(values, tf.string if is_text else tf.int64),
            tf.range(len(values), dtype=tf.int64),
        ),
        NO_LABEL,
    )

    def index(label: tf.Tensor) -> tf.Tensor:
        if is_text:
            # Strings of C are padded with zeros.
            return table.lookup(tf.strings.regex_replace(label, r"\x00+$", ""))
        return table.lookup(tf.cast(label, tf.int64))

    names = tuple(
        value.decode("utf-8", "replace")
        if isinstance(value, bytes)
        else str(value)
        for value in values
    )
    return LabelFeature(key, names, index)


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
    """Prints a text once, even if a data set is opened for several splits."""
    print(text, flush=True)


def _values(
    builder: tfds.core.DatasetBuilder, key: str, memory: pathlib.Path | None
) -> list[int | bytes]:
    """Returns the integers or strings that are labels, in ascending order."""
    read = _read_values if memory else _read_values_once
    found = kept_labels.kept(
        memory,
        "values",
        lambda: np.array(read(str(builder.data_path), key)),
        [
            shard
            for split in builder.info.splits.values()
            for shard in split.file_instructions
        ],
        builder.info.full_name,
        key,
    )
    return found.tolist()


def _read_values(directory: str, key: str) -> list[int | bytes]:
    found: set = set()
    builder = tfds.builder_from_directory(directory)
    for split in builder.info.splits:
        labels = builder.as_dataset(
            split=split,
            decoders=tfds.decode.PartialDecoding(nested({key: True})),
        ).map(lambda example: at(example, key))
        for batch in labels.batch(4096).as_numpy_iterator():
            found.update(np.unique(batch).tolist())
    return sorted(
        int(value) if not isinstance(value, bytes) else value
        for value in {_unpadded(value) for value in found}
        if value != b"" and (isinstance(value, bytes) or value >= 0)
    )


def _unpadded(value: Any) -> Any:
    return value.rstrip(b"\0") if isinstance(value, bytes) else value


# A data set is opened for several splits.
_read_values_once = functools.cache(_read_values)
