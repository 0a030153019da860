"""The kNN accuracy that a run measures in addition to its training."""

import numpy as np
import tensorflow as tf

from tf_instdisc.data.sources import ImageSource, known_labels
from tf_instdisc.errors import UsageError
from tf_instdisc.runs.embedding import Embedded
from tf_instdisc.text import markdown_table


def table(num_neighbors: int, measured: dict[str, list[float]]) -> str:
    """Returns a Markdown table of top-1 accuracies, `[many, one]` by name."""
    columns = (f"kNN top-1, k = {k}" for k in (num_neighbors, 1))
    rows = (
        (name, *(f"{value:.3f}" for value in values))
        for name, values in measured.items()
    )
    return "\n" + markdown_table(("embeddings", *columns), rows)


def has_knn(
    source: ImageSource, test_source: ImageSource | None, is_chief: bool = True
) -> bool:
    """Returns whether both have labels, and the training images two classes.

    If they have classes and one of them has no labels, as the test images of
    many competitions, or the training images have labels of one class only, a
    note says so.

    Args:
        is_chief: Whether to read labels. The other hosts measure no kNN.

    Raises:
        ValueError: If their classes differ.
    """
    if test_source is None:
        return False
    if source.class_names != test_source.class_names:
        raise UsageError(
            "The test images must have the classes of the training images. "
            f"Received: {test_source.class_names} for training classes "
            f"{source.class_names}"
        )
    if not source.num_classes or not is_chief:
        return source.num_classes > 0
    unlabeled = [s.name for s in (source, test_source) if not _has_labels(s)]
    if unlabeled:
        print(
            "kNN accuracy is not measured, because all images of "
            f"{' and '.join(unlabeled)} are unlabeled. --split and "
            "--test_split choose other splits.",
            flush=True,
        )
        return False
    if len(np.unique(known_labels(source))) < 2:
        print(
            "kNN accuracy is not measured, because all labeled images of "
            f"{source.name} are of one class. Each subfolder of a folder is a "
            "class; --split and --label_key choose other images or labels of "
            "a dataset.",
            flush=True,
        )
        return False
    return True


def _has_labels(source: ImageSource) -> bool:
    # Usually the first image decides; a stream is read whole for all labels.
    first = next(iter(source.examples(None).take(1)))
    return bool(first["label"] >= 0) or len(known_labels(source)) > 0


def pixels(dataset: tf.data.Dataset) -> Embedded:
    """Returns raw pixels, normalized to unit length, as embeddings."""
    # Centered at mid-gray: with positive pixels, all cosines are close to 1.
    columns = [
        (
            images.numpy().reshape(len(images), -1) - 127.5,
            ids.numpy(),
            labels.numpy(),
        )
        for images, ids, labels in dataset
    ]
    values, ids, labels = map(np.concatenate, zip(*columns, strict=True))
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return Embedded(values / np.maximum(norms, 1e-12), ids, labels)
