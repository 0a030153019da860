"""The instances that take part in training: all but the absent ones."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_instdisc.errors import UsageError


class Instances:
    """The ids that have an image, numbered from 0 in ascending order.

    Args:
        num_instances: Number of ids, at least 2; ids begin at 0.
        absent_ids: Ids without an image, at most `num_instances` - 2.

    Attributes:
        count: n, the number of ids that have an image.
        ids: int64 `[count]`, ascending; None if no id is absent.

    Raises:
        UsageError: If an argument is out of range.
    """

    def __init__(self, num_instances: int, absent_ids: Sequence[int] = ()):
        if not isinstance(num_instances, int | np.integer) or num_instances < 2:
            raise UsageError(
                "`num_instances` must be an integer of at least 2. Received: "
                f"num_instances={num_instances!r}"
            )
        absent = np.unique(np.asarray(absent_ids, np.int64))
        if absent.size and not 0 <= absent[0] <= absent[-1] < num_instances:
            raise UsageError(
                f"`absent_ids` must be in [0, {num_instances}). Received: "
                f"absent_ids={absent_ids}"
            )
        if absent.size > num_instances - 2:
            raise UsageError(
                "`absent_ids` must leave at least 2 instances. Received: "
                f"absent_ids={absent_ids}, num_instances={num_instances}"
            )
        self.count = num_instances - absent.size
        self.ids = None
        if absent.size:
            present = np.setdiff1d(np.arange(num_instances), absent)
            self.ids = tf.constant(present, tf.int64)

    def ids_at(self, positions: tf.Tensor) -> tf.Tensor:
        """Returns the ids at positions in [0, count)."""
        return positions if self.ids is None else tf.gather(self.ids, positions)

    def positions_of(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns positions of ids, or of the next ones that have an image."""
        if self.ids is None:
            return ids
        return tf.searchsorted(self.ids, ids, out_type=tf.int64)


def last_of_same_id(ids: tf.Tensor) -> tf.Tensor:
    """Returns, for each of the ids `[batch]`, its last position."""
    order = tf.argsort(ids, stable=True)
    behind = tf.searchsorted(tf.gather(ids, order), ids, side="right")
    return tf.gather(order, behind - 1)
