"""A subset of a source's images as a source of its own."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_instdisc.data.sources import ImageSource, in_memory, selected

_IN_MEMORY = 20_000  # images; 2 GiB of ImageNet's files


def subset(source: ImageSource, instance_ids: np.ndarray) -> ImageSource:
    """Selects some images, which get the ids 0 .. len(instance_ids) - 1.

    Up to 20,000 images are read once and kept in memory as they are stored,
    unless they are decoded and of different sizes. Otherwise, the subset is
    selected from the whole source in every epoch.

    Args:
        instance_ids: int `[size]`, at least one; distinct ids of readable
            images.

    Returns:
        The source; its ids follow the order of the old ones.
    """
    ids = np.sort(np.asarray(instance_ids, np.int64))
    labels = source.labels()[ids]
    examples: Callable[[tf.Tensor | None], tf.data.Dataset] = functools.partial(
        renumbered, source, ids
    )
    in_order = examples(None)
    # Decoded images can be of different sizes.
    is_fixed = in_order.element_spec["image"].shape.is_fully_defined()
    if is_fixed and len(ids) <= _IN_MEMORY:
        images = [example["image"] for example in in_order]
        examples = in_memory(images, labels)
    return dataclasses.replace(
        source,
        name=f"{len(ids)} of {source.name}",
        num_instances=len(ids),
        examples=examples,
        instance_name=lambda new_id: source.instance_name(int(ids[new_id])),
        labels=lambda: labels,
        unreadable=(),
        folder=None,
    )


def renumbered(
    source: ImageSource,
    instance_ids: np.ndarray,
    shuffle_seed: tf.Tensor | None = None,
) -> tf.data.Dataset:
    """Reads some images; the position in `instance_ids` is the new id.

    Args:
        instance_ids: int `[size]`, distinct; ids that the source does not have
            are left out.
        shuffle_seed: As in `ImageSource.examples`.
    """
    new_ids = np.full([source.num_instances], -1, np.int64)
    is_there = instance_ids < source.num_instances
    new_ids[instance_ids[is_there]] = np.flatnonzero(is_there)
    table = tf.constant(new_ids)

    def renumber(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        new_id = tf.gather(table, example["instance_id"])
        return {**example, "instance_id": new_id}

    return selected(
        source,
        shuffle_seed,
        lambda examples: examples.map(renumber).filter(
            lambda example: example["instance_id"] >= 0
        ),
    )
