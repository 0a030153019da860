"""Image sources: where images come from, and which id each one has.

An id is the position of an image in the stored order of its source (TFDS:
shard and position in the shard; a folder: the sorted relative paths). It does
not depend on shuffling, epoch, process or machine.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from tf_instdisc.errors import UsageError

NO_LABEL = -1

Select: TypeAlias = Callable[[tf.data.Dataset], tf.data.Dataset]


@dataclasses.dataclass(frozen=True)
class ImageSource:
    """Images that can be read repeatedly.

    Attributes:
        name: A name for messages.
        num_instances: Number of ids, which are 0 .. num_instances - 1.
        examples: Reads all images once. It takes the seed of the order, an
            int64 tensor `[2]`, or None for the order of the ids, and returns
            a dataset of dictionaries: `image`, uint8
            `[height, width, 1 or 3]` or an encoded image as a scalar string;
            `instance_id`, int64 scalar; `label`, int64 scalar, `NO_LABEL`
            for unlabeled images. The order depends on the seed alone.
        class_names: One for each label, or None without labels.
        instance_name: Returns the name of an id: a path, or split and position.
        labels: int64 `[num_instances]`, `NO_LABEL` for unlabeled images.
        unreadable: Ids whose image cannot be read; `examples` leaves them
            out.
        folder: The folder of the images, if they are files in a folder.
    """

    name: str
    num_instances: int
    examples: Callable[[tf.Tensor | None], tf.data.Dataset]
    class_names: tuple[str, ...] | None
    instance_name: Callable[[int], str]
    labels: Callable[[], np.ndarray]
    unreadable: tuple[int, ...] = ()
    folder: str | None = None

    @property
    def num_readable(self) -> int:
        """The number of images in an epoch."""
        return self.num_instances - len(self.unreadable)

    @property
    def num_classes(self) -> int:
        """The number of classes; 0 without labels."""
        return len(self.class_names or ())


def array_source(
    images: np.ndarray,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    name: str = "array",
) -> ImageSource:
    """Returns a source of images in memory; the position is the id.

    ```python
    images = np.zeros((100, 32, 32, 3), np.uint8)
    source = tf_instdisc.array_source(images, labels=np.arange(100) % 10)
    ```

    Args:
        images: uint8 `[num_instances, height, width, 1 or 3]`. They are
            copied, and so are the labels.
        labels: int `[num_instances]`, -1 for unlabeled images, or None.
        class_names: One for each label from 0 up; by default, the numbers up
            to the highest label.
        name: A name for messages.

    Raises:
        UsageError: If `images` or `labels` have another shape or type, or a
            label has no name.
    """
    images = np.asarray(images)
    if (
        images.ndim != 4
        or images.dtype != np.uint8
        or images.shape[3] not in (1, 3)
        or not images.size
    ):
        raise UsageError(
            "`images` must be uint8 [num_instances, height, width, 1 or 3]. "
            f"Received: images.shape={images.shape}, "
            f"images.dtype={images.dtype}"
        )
    num_instances = len(images)
    if labels is None:
        label_array = np.full([num_instances], NO_LABEL, np.int64)
    else:
        label_array, class_names = _labels(labels, num_instances, class_names)
    return ImageSource(
        name=name,
        num_instances=num_instances,
        examples=in_memory(images, label_array),
        class_names=None if class_names is None else tuple(class_names),
        instance_name=lambda instance_id: f"{name}/{instance_id}",
        labels=lambda: label_array,
    )


def _labels(
    labels: np.ndarray, num_images: int, class_names: Sequence[str] | None
) -> tuple[np.ndarray, Sequence[str]]:
    """Returns a copy of the labels and the names of the classes."""
    labels = np.asarray(labels)
    if labels.shape != (num_images,) or labels.dtype.kind not in "biu":
        raise UsageError(
            "`labels` must be integers, one for each image. Received: "
            f"labels.shape={labels.shape}, labels.dtype={labels.dtype}, "
            f"{num_images} images"
        )
    labels = np.array(labels, np.int64)
    most = int(labels.max())
    if class_names is None:
        class_names = [str(i) for i in range(most + 1)]
    if labels.min() < NO_LABEL or most >= len(class_names):
        raise UsageError(
            f"`labels` must be from {NO_LABEL} (no label) to the number of "
            f"classes less 1. Received: labels from {labels.min()} to {most}, "
            f"{len(class_names)} classes"
        )
    return labels, class_names


def in_memory(
    images: np.ndarray | Sequence[tf.Tensor | str],
    labels: np.ndarray,
    ids: np.ndarray | None = None,
) -> Callable[[tf.Tensor | None], tf.data.Dataset]:
    """Returns `examples` of images in memory; the position is the id.

    Args:
        images: `[size, ...]`, decoded images of one shape, encoded images or
            paths.
        labels: int64 `[size]`.
        ids: int `[count]`, the images to read; by default all.

    Returns:
        As in `ImageSource.examples`.
    """
    ids = np.arange(len(labels)) if ids is None else ids
    # On the host, to save GPU memory.
    with tf.device("CPU:0"):
        image_tensor = tf.convert_to_tensor(images)
        label_tensor = tf.convert_to_tensor(labels)
        id_tensor = tf.constant(ids, tf.int64)

    def examples(shuffle_seed: tf.Tensor | None) -> tf.data.Dataset:
        def read(instance_id: tf.Tensor) -> dict[str, tf.Tensor]:
            return {
                "image": tf.gather(image_tensor, instance_id),
                "instance_id": instance_id,
                "label": tf.gather(label_tensor, instance_id),
            }

        order = shuffled(len(ids), shuffle_seed)
        chosen = tf.gather(id_tensor, order)
        dataset = tf.data.Dataset.from_tensor_slices(chosen)
        return dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE)

    return examples


@dataclasses.dataclass(frozen=True)
class FileExamples:
    """`ImageSource.examples` of files.

    Examples can be selected before the files are read.

    Attributes:
        listed: As `examples`, with paths of files in place of images.
    """

    listed: Callable[[tf.Tensor | None], tf.data.Dataset]

    def __call__(self, shuffle_seed: tf.Tensor | None) -> tf.data.Dataset:
        return self.selected(shuffle_seed, lambda listed: listed)

    def selected(
        self, shuffle_seed: tf.Tensor | None, select: Select
    ) -> tf.data.Dataset:
        """Returns the examples that `select` keeps of `listed`."""

        def read(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return {**example, "image": tf.io.read_file(example["image"])}

        listed = select(self.listed(shuffle_seed))
        return listed.map(read, num_parallel_calls=tf.data.AUTOTUNE)


def selected(
    source: ImageSource, shuffle_seed: tf.Tensor | None, select: Select
) -> tf.data.Dataset:
    """Returns some examples of a source; files are read once selected.

    Args:
        shuffle_seed: As in `ImageSource.examples`.
        select: Takes a dataset of examples, whose `image` it must not use,
            and returns one of those to read.
    """
    if isinstance(source.examples, FileExamples):
        return source.examples.selected(shuffle_seed, select)
    return select(source.examples(shuffle_seed))


def known_labels(source: ImageSource) -> np.ndarray:
    """Returns the int64 labels of the readable, labeled images."""
    labels = np.delete(source.labels(), source.unreadable)
    return labels[labels >= 0]


def fingerprint(source: ImageSource) -> str:
    """Returns a checksum of the names of all images, in id order."""
    digest = hashlib.sha256()
    for instance_id in range(source.num_instances):
        digest.update(source.instance_name(instance_id).encode() + b"\n")
    return digest.hexdigest()[:16]


def shuffled(size: int, shuffle_seed: tf.Tensor | None) -> tf.Tensor:
    """Returns int64 0 .. size - 1, in an order that depends on the seed."""
    ids = tf.range(size, dtype=tf.int64)
    if shuffle_seed is None:
        return ids
    return tf.random.experimental.stateless_shuffle(ids, shuffle_seed)


def buffer_shuffled(
    dataset: tf.data.Dataset, buffer_size: int, shuffle_seed: tf.Tensor
) -> tf.data.Dataset:
    """Shuffles with a buffer, in an order that depends only on the seed.

    `Dataset.shuffle` mixes TensorFlow's global seed into its own, and fails
    on a tensor if the global seed is 0 (TensorFlow 2.21).

    Args:
        dataset: Elements in a fixed order.
        buffer_size: Number of elements from which the next one is drawn.
        shuffle_seed: int64 `[2]`, each at least 0.
    """
    spec = dataset.element_spec
    flat = tf.nest.flatten(spec)
    shuffled_variant = tf.raw_ops.ShuffleDataset(
        input_dataset=tf.data.experimental.to_variant(dataset),
        buffer_size=tf.constant(buffer_size, tf.int64),
        # Two zeros would mean a random seed.
        seed=shuffle_seed[0] + 1,
        seed2=shuffle_seed[1],
        output_types=[part.dtype for part in flat],
        output_shapes=[part.shape for part in flat],
        reshuffle_each_iteration=False,
    )
    return tf.data.experimental.from_variant(shuffled_variant, spec)
