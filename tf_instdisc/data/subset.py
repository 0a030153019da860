"""Some images of a source as a source of their own."""

import dataclasses

import numpy as np
import tensorflow as tf

from tf_instdisc.data.sources import ImageSource, shuffled

_IN_MEMORY = 20_000  # images; 2 GiB of ImageNet's files


def subset(source: ImageSource, instance_ids: np.ndarray) -> ImageSource:
    """Takes some images, which get the ids 0 .. len(instance_ids) - 1.

    Up to 20,000 of them are read once and kept in memory, as they are stored;
    more are picked out of the whole source in every epoch.

    Args:
        source: The images.
        instance_ids: int `[size]`, of readable images, each once.

    Returns:
        The source; its ids are in the order of the old ones.

    Raises:
        ValueError: If ids are missing, repeated or without an image.
    """
    ids = np.unique(np.asarray(instance_ids, np.int64))
    readable = np.setdiff1d(np.arange(source.num_instances), source.unreadable)
    if not len(ids) or len(ids) != len(instance_ids):
        raise ValueError(
            "`instance_ids` must hold at least one id, and each once. "
            f"Received: {len(instance_ids)} ids, {len(ids)} different ones"
        )
    if not np.isin(ids, readable).all():
        raise ValueError(
            "`instance_ids` must be ids of readable images. Received: "
            f"{np.setdiff1d(ids, readable)[:5].tolist()} ..."
        )
    labels = source.labels()[ids]
    table = np.full([source.num_instances], -1, np.int64)
    table[ids] = np.arange(len(ids))
    table = tf.constant(table)

    def picked(shuffle_seed):
        def renumber(example):
            new_id = tf.gather(table, example["instance_id"])
            return {**example, "instance_id": new_id}

        examples = source.examples(shuffle_seed).map(renumber)
        return examples.filter(lambda example: example["instance_id"] >= 0)

    return dataclasses.replace(
        source,
        name=f"{len(ids)} of {source.name}",
        num_instances=len(ids),
        examples=picked if len(ids) > _IN_MEMORY else _kept(picked, labels),
        instance_name=lambda new_id: source.instance_name(int(ids[new_id])),
        labels=lambda: labels,
        unreadable=(),
    )


def _kept(picked, labels):
    images = [example["image"] for example in picked(None)]
    # On the host: a GPU has better use for its memory.
    with tf.device("CPU:0"):
        image_tensor = tf.stack(images)
        label_tensor = tf.constant(labels)

    def examples(shuffle_seed):
        def read(instance_id):
            return {
                "image": tf.gather(image_tensor, instance_id),
                "instance_id": instance_id,
                "label": tf.gather(label_tensor, instance_id),
            }

        ids = shuffled(len(labels), shuffle_seed)
        dataset = tf.data.Dataset.from_tensor_slices(ids)
        return dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE)

    return examples
