"""Streams of random numbers that never share a seed.

The seed of TensorFlow's stateless generators consists of two 64-bit words.
Here the first word holds the stream, the epoch and the run's seed, each in its
own bits, and the second word holds a counter. The numbers depend only on these
four values, for any number of replicas and after a restart.
"""

from collections.abc import Callable

import tensorflow as tf

from tf_instdisc.errors import UsageError

# Never renumber them: a continued run would draw different numbers.
EPOCH_ORDER = 1
AUGMENTATION = 2
NEGATIVES = 3
BANK_ROWS = 4
CLASS_WEIGHTS = 5


def seed_of(
    stream: int,
    seed: int,
    counter: int | tf.Tensor = 0,
    epoch: int | tf.Tensor = 0,
) -> tf.Tensor:
    """Returns the seed of one draw.

    Args:
        stream: One of the constants of this module.
        seed: The run's seed, in [0, 2**31).
        counter: int scalar, at least 0; a step or an instance id.
        epoch: int scalar in [0, 2**24).

    Returns:
        int64 `[2]`, at least 0.

    Raises:
        UsageError: If the run's seed is out of range.
    """
    if not 0 <= seed < 2**31:
        raise UsageError(f"`seed` must be in [0, 2**31). Received: seed={seed}")
    first = tf.cast(epoch, tf.int64) * 2**32 + (stream * 2**56 + seed)
    return tf.stack([first, tf.cast(counter, tf.int64)])


def bank_rows(
    seed: int, part: int, shape: tuple[int, int], dtype: str
) -> tf.Tensor:
    """Returns random rows of unit length, uniform on the sphere."""
    random = tf.random.stateless_normal(
        shape, seed_of(BANK_ROWS, seed, part), dtype=dtype
    )
    return tf.math.l2_normalize(random, axis=-1)


def class_weights(seed: int, stddev: float) -> Callable[..., tf.Tensor]:
    """Returns a Keras initializer for normal numbers of this deviation."""
    return lambda shape, dtype: tf.random.stateless_normal(
        shape, seed_of(CLASS_WEIGHTS, seed), stddev=stddev, dtype=dtype
    )
