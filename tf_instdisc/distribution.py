"""What crosses replicas. All else in the package is written for one device.

Replicas are those of one host (`tf.distribute.MirroredStrategy`).
"""

import tensorflow as tf


def sum_over_replicas(value: tf.Tensor) -> tf.Tensor:
    """Sums a tensor over the replicas; call it in a replica's context."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def gather_over_replicas(value: tf.Tensor) -> tf.Tensor:
    """Joins `[batch, ...]` of all replicas along the batch, in their order.

    Args:
        value: A tensor of rank 1 or more; the first dimension may differ
            between replicas.

    Returns:
        The same tensor `[global_batch, ...]` on every replica.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return value

    # Not `all_gather`: beside `all_reduce` it aborts in TensorFlow 2.21 on
    # CPU replicas ("Collective instance expected type ...").
    def merge(strategy, values):
        return tf.concat(strategy.experimental_local_results(values), axis=0)

    return context.merge_call(merge, args=(value,))


def place_in_global_batch(batch_size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Where this replica's examples stand in the global batch.

    Args:
        batch_size: int scalar, the examples of this replica; may be 0.

    Returns:
        The position of this replica's first example and the global batch
        size, int32 scalars.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return tf.constant(0), batch_size
    sizes = gather_over_replicas(batch_size[None])
    before = sizes[: context.replica_id_in_sync_group]
    return tf.reduce_sum(before), tf.reduce_sum(sizes)


def update_on_all_replicas(variable: tf.Variable, update, args: tuple) -> None:
    """Runs `update(variable, *args)` once on every replica's copy.

    The copies stay equal bit for bit only if `args` are the same on every
    replica (`gather_over_replicas`). A plain assignment in a replica's
    context would keep the first replica's rows and lose the others'.
    """

    def merge(strategy, *merged):
        merged = [_first_replica(strategy, value) for value in merged]
        strategy.extended.update(variable, update, args=merged, group=True)

    tf.distribute.get_replica_context().merge_call(merge, args=args)


def _first_replica(strategy: tf.distribute.Strategy, value):
    return strategy.experimental_local_results(value)[0]


def local_size(strategy: tf.distribute.Strategy, value) -> int:
    """Examples of one batch on this host, over all of its replicas."""
    parts = strategy.experimental_local_results(value)
    return sum(int(part.shape[0]) for part in parts)
