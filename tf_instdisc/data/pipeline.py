"""From a source to batches: for training, and in the order of the ids.

What an image goes through in training is a function of (seed, epoch,
instance id): neither the number of threads nor a restart changes it.
"""

import tensorflow as tf

from tf_instdisc.augment import NUM_UNIFORMS, Augmentation, augment
from tf_instdisc.data import decode
from tf_instdisc.data.sources import ImageSource


def steps_per_epoch(source: ImageSource, batch_size: int) -> int:
    """Batches of one epoch; the last one may be smaller."""
    return -(-source.num_readable // batch_size)


def training_dataset(
    source: ImageSource,
    augmentation: Augmentation,
    batch_size: int,
    epochs: int,
    seed: int = 0,
    initial_epoch: int = 0,
) -> tf.data.Dataset:
    """Augmented batches of many epochs, one epoch after the other.

    Every epoch holds each image once, in an order of its own; no batch
    reaches across two epochs. Train with
    `model.fit(dataset, steps_per_epoch=steps_per_epoch(source, batch_size))`.

    Args:
        source: The images.
        augmentation: What is drawn for each image.
        batch_size: Images in a global batch.
        epochs: The last epoch, not included.
        seed: In [0, 2**31).
        initial_epoch: The first epoch, counted from 0.

    Returns:
        A data set of (images, instance_ids): float32
        `[batch, image_size, image_size, 3]` in 0..255, and int64 `[batch]`.
    """

    def read_epoch(epoch):
        examples = source.examples(
            tf.stack([tf.constant(seed, tf.int64), epoch])
        )
        # A stateless seed is two words of 64 bits: the first holds epoch and
        # seed, the second the instance.
        epoch_and_seed = tf.bitwise.bitwise_or(
            tf.bitwise.left_shift(epoch, tf.constant(32, tf.int64)),
            tf.constant(seed, tf.int64),
        )
        is_encoded = _is_encoded(examples)

        def crop(example):
            uniforms = tf.random.stateless_uniform(
                [NUM_UNIFORMS],
                seed=tf.stack([epoch_and_seed, example["instance_id"]]),
            )
            image = example["image"]
            if is_encoded:
                image = decode.decode_crop(image, uniforms, augmentation)
            return decode.to_rgb(image), uniforms, example["instance_id"]

        def augment_batch(images, uniforms, instance_ids):
            crop_here = not is_encoded
            images = augment(images, uniforms, augmentation, crop=crop_here)
            return images, instance_ids

        cropped = examples.map(crop, num_parallel_calls=tf.data.AUTOTUNE)
        batches = cropped.batch(batch_size, num_parallel_calls=tf.data.AUTOTUNE)
        return batches.map(augment_batch, num_parallel_calls=tf.data.AUTOTUNE)

    epoch_numbers = tf.data.Dataset.range(initial_epoch, epochs)
    return epoch_numbers.flat_map(read_epoch).prefetch(tf.data.AUTOTUNE)


def evaluation_dataset(
    source: ImageSource,
    image_size: int,
    batch_size: int,
    crop_fraction: float = 1.0,
) -> tf.data.Dataset:
    """Each image once, in the order of the ids, without chance.

    The image is resized so that its shorter side is
    `image_size / crop_fraction`, and its centre is cut out.

    Args:
        source: The images.
        image_size: Side of the square output, in pixels.
        batch_size: Images in a batch.
        crop_fraction: In (0, 1]; 0.875 on ImageNet, 1 on small images.

    Returns:
        A data set of (images, instance_ids, labels): float32
        `[batch, image_size, image_size, 3]` in 0..255, int64 `[batch]`,
        int64 `[batch]`.
    """
    examples = source.examples(None)
    is_encoded = _is_encoded(examples)

    def prepare(example):
        image = example["image"]
        if is_encoded:
            image = decode.decode_whole(image)
        image = decode.resize_and_center_crop(
            decode.to_rgb(image), image_size, crop_fraction
        )
        return image, example["instance_id"], example["label"]

    images = examples.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
    return images.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def _is_encoded(examples: tf.data.Dataset) -> bool:
    return examples.element_spec["image"].dtype == tf.string
