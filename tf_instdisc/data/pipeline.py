"""Input pipelines for training and evaluation.

The random changes to an image depend only on the seed, the epoch and the
instance id, not on the number of threads or on restarts.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from tf_instdisc import random_streams
from tf_instdisc.config import DataConfig
from tf_instdisc.data import decode
from tf_instdisc.data.augment import NUM_UNIFORMS, Augmentation, augment
from tf_instdisc.data.sources import ImageSource, selected
from tf_instdisc.errors import UsageError

# Side in pixels from which XLA compiles the augmentation. It then takes a
# third of the time, but seconds to compile.
_COMPILED_FROM = 128
# A compiled call augments this many images, so that its intermediate results
# stay in the cache.
_COMPILED_IMAGES = 16


def steps_per_epoch(source: ImageSource, batch_size: int) -> int:
    """Returns the full batches of an epoch, at least 1 (`training_dataset`).

    ```python
    source = tf_instdisc.folder_source("photos")
    steps = tf_instdisc.steps_per_epoch(source, batch_size=16)
    ```

    Args:
        source: The images.
        batch_size: Images in a global batch.

    Raises:
        UsageError: If `batch_size` is below 1.
    """
    _require_batch_size(batch_size)
    return source.num_readable // min(batch_size, source.num_readable)


def _require_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise UsageError(
            "`batch_size` must be at least 1. Received: "
            f"batch_size={batch_size}"
        )


def largest_batch_size(
    source: ImageSource, batch_size: int, replicas: int = 1
) -> int:
    """Returns the batch size, or the largest one that the images can fill.

    Args:
        batch_size: A multiple of the replicas.
        replicas: Number of replicas that share a batch.

    Returns:
        A multiple of the replicas. If it is below `batch_size`, a line on
        standard output reports it.
    """
    if batch_size <= source.num_readable:
        return batch_size
    largest = source.num_readable // replicas * replicas
    if not largest:
        raise UsageError(
            f"Each of {replicas} replicas needs an image. Received: "
            f"{source.name} with {source.num_readable} images"
        )
    print(
        f"batch_size={batch_size} is more than the {source.num_readable} "
        f"images of {source.name}; batches hold {largest}."
    )
    return largest


@dataclasses.dataclass(frozen=True)
class HostShare:
    """The part of each batch that one host decodes and augments.

    Of files in a folder, the host also reads only its part.

    Attributes:
        host: In [0, num_hosts).
        num_hosts: Number of hosts that share a batch; divides its size.
        replicas: Number of replicas of this host; each takes its own batch.
    """

    host: int = 0
    num_hosts: int = 1
    replicas: int = 1


def training_dataset(
    source: ImageSource,
    augmentation: Augmentation,
    batch_size: int,
    epochs: int,
    seed: int = 0,
    initial_epoch: int = 0,
    skip_images: int = 0,
    share: HostShare | None = None,
) -> tf.data.Dataset:
    """Returns augmented batches of several epochs, one epoch after the other.

    Every epoch has its own order and contains no image twice. All batches are
    full: the images that remain at the end of an epoch are dropped, and differ
    between epochs. If there are fewer images than `batch_size`, each batch
    contains all of them. Train with
    `model.fit(dataset, steps_per_epoch=steps_per_epoch(source, batch_size))`.

    ```python
    source = tf_instdisc.folder_source("photos")
    dataset = tf_instdisc.training_dataset(
        source, tf_instdisc.Augmentation(image_size=32), 16, epochs=10
    )
    images, instance_ids = next(iter(dataset))
    ```

    Args:
        source: The images.
        augmentation: The random changes to each image.
        batch_size: Images in a global batch.
        epochs: The end of the range of epochs, exclusive.
        seed: In [0, 2**31).
        initial_epoch: The first epoch, counted from 0.
        skip_images: Number of images of the first epoch to skip, because they
            were already seen.
        share: Selects the batches of one host's replicas, one after the
            other, instead of global batches.

    Returns:
        A dataset of (images, instance_ids): float32
        `[batch, image_size, image_size, 3]` in 0..255, and int64 `[batch]`.

    Raises:
        UsageError: If `batch_size` or `seed` is out of range.
    """
    _require_batch_size(batch_size)
    if not 0 <= seed < 2**31:
        raise UsageError(f"`seed` must be in [0, 2**31). Received: seed={seed}")
    share = share or HostShare()
    batch_size = min(batch_size, source.num_readable)
    host_batch = batch_size // share.num_hosts
    local_batch = host_batch // share.replicas

    augmented = _augment_function(augmentation)

    def read_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        skipped = tf.where(epoch == initial_epoch, skip_images, 0)
        skipped = tf.cast(skipped, tf.int64)
        steps = (source.num_readable - skipped) // batch_size

        def select(examples: tf.data.Dataset) -> tf.data.Dataset:
            # Only full global batches, so that all hosts have equally many.
            examples = examples.skip(skipped).take(steps * batch_size)
            return _take_share(examples, batch_size, host_batch, share.host)

        order = random_streams.seed_of(random_streams.EPOCH_ORDER, seed, epoch)
        examples = selected(source, order, select)
        stored = examples.element_spec["image"]
        is_encoded = stored.dtype == tf.string
        # Images of different shapes cannot be batched before they are cropped.
        crops_singly = is_encoded or None in stored.shape

        @tf.autograph.experimental.do_not_convert
        def crop(
            example: dict[str, tf.Tensor],
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            uniforms = tf.random.stateless_uniform(
                [NUM_UNIFORMS],
                random_streams.seed_of(
                    random_streams.AUGMENTATION,
                    seed,
                    example["instance_id"],
                    epoch,
                ),
            )
            image = example["image"]
            if is_encoded:
                image = decode.decode_crop(image, uniforms, augmentation)
            elif crops_singly:
                image = decode.crop_decoded(image, uniforms, augmentation)
            return decode.to_rgb(image), uniforms, example["instance_id"]

        @tf.autograph.experimental.do_not_convert
        def augment_batch(
            images: tf.Tensor, uniforms: tf.Tensor, instance_ids: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor]:
            images = augmented(images, uniforms, crop=not crops_singly)
            return images, instance_ids

        cropped = examples.map(crop, num_parallel_calls=tf.data.AUTOTUNE)
        batches = cropped.batch(
            local_batch,
            drop_remainder=True,  # Only makes the shape static.
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        return batches.map(augment_batch, num_parallel_calls=tf.data.AUTOTUNE)

    epoch_numbers = tf.data.Dataset.range(initial_epoch, epochs)
    return epoch_numbers.flat_map(read_epoch).prefetch(tf.data.AUTOTUNE)


def _augment_function(augmentation: Augmentation) -> Callable[..., tf.Tensor]:
    """Returns `augment` for these changes, compiled where that is faster."""
    is_compiled = augmentation.image_size >= _COMPILED_FROM

    @tf.function(jit_compile=is_compiled, autograph=False)
    def part(images: tf.Tensor, uniforms: tf.Tensor, crop: bool) -> tf.Tensor:
        return augment(images, uniforms, augmentation, crop=crop)

    def augmented(
        images: tf.Tensor, uniforms: tf.Tensor, crop: bool
    ) -> tf.Tensor:
        batch = images.shape[0]
        at_once = _COMPILED_IMAGES if is_compiled else batch
        parts = [
            part(
                images[first : first + at_once],
                uniforms[first : first + at_once],
                crop,
            )
            for first in range(0, batch, at_once)
        ]
        return tf.concat(parts, 0)

    return augmented


def evaluation_dataset(
    source: ImageSource,
    image_size: int,
    batch_size: int,
    crop_fraction: float = DataConfig.crop_fraction,
) -> tf.data.Dataset:
    """Returns each image once, in the order of the ids, without randomness.

    The image is resized so that its shorter side is
    `image_size / crop_fraction`, and then center-cropped.

    ```python
    source = tf_instdisc.folder_source("photos")
    dataset = tf_instdisc.evaluation_dataset(
        source, image_size=224, batch_size=64, crop_fraction=0.875
    )
    images, instance_ids, labels = next(iter(dataset))
    ```

    Args:
        source: The images.
        image_size: Side of the square output, in pixels.
        batch_size: Images in a batch.
        crop_fraction: In (0, 1]; 0.875 on ImageNet, 1 on small images.

    Returns:
        A dataset of (images, instance_ids, labels): float32
        `[batch, image_size, image_size, 3]` in 0..255, int64 `[batch]`,
        int64 `[batch]`.
    """
    examples = source.examples(None)

    @tf.autograph.experimental.do_not_convert
    def prepare(
        example: dict[str, tf.Tensor],
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        image = decode.center(example["image"], image_size, crop_fraction)
        return image, example["instance_id"], example["label"]

    images = examples.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
    batches = images.batch(batch_size, num_parallel_calls=tf.data.AUTOTUNE)
    return batches.prefetch(tf.data.AUTOTUNE)


def _take_share(
    examples: tf.data.Dataset, batch_size: int, host_batch: int, host: int
) -> tf.data.Dataset:
    """Selects the part of each batch that belongs to one host."""
    if host_batch == batch_size:
        return examples

    def is_mine(
        position: tf.Tensor, example: dict[str, tf.Tensor]
    ) -> tf.Tensor:
        del example
        return position % batch_size // host_batch == host

    mine = examples.enumerate().filter(is_mine)
    return mine.map(lambda position, example: example)
