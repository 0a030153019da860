"""Communication between replicas; all other code is written for one device.

All replicas have equally many examples (`in_equal_parts`). They may be on one
host (`tf.distribute.MirroredStrategy`) or on many
(`tf.distribute.MultiWorkerMirroredStrategy`). Only sums over replicas are
used, because gathers abort in TensorFlow 2.21 (BUILD_NOTES.md).
"""

import concurrent.futures
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_instdisc.keras_internals import tf_variable

# === Within a step, in a replica's context ===


def num_replicas() -> int:
    """Returns the number of replicas that take part in a step."""
    return tf.distribute.get_replica_context().num_replicas_in_sync


def sum_over_replicas(value: tf.Tensor) -> tf.Tensor:
    """Sums a tensor over the replicas."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return value
    # An argument of the step has no device, but TensorFlow 2.21 requires one
    # on many hosts.
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(value))


def gather_over_replicas(value: tf.Tensor) -> tf.Tensor:
    """Concatenates `[batch, ...]` of all replicas, in their order.

    Returns:
        The tensor `[global_batch, ...]`, the same on every replica.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return value
    before = context.replica_id_in_sync_group
    after = context.num_replicas_in_sync - 1 - before
    # Each replica fills its own slot of [replicas, batch, ...].
    slots = tf.pad(value[None], [[before, after]] + [[0, 0]] * value.shape.rank)
    shape = tf.concat([[-1], tf.shape(value)[1:]], axis=0)
    return tf.reshape(sum_over_replicas(slots), shape)


def own_part(value: tf.Tensor) -> tf.Tensor:
    """Returns this replica's part, `[batch, ...]`, of `[global_batch, ...]`."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return value
    size = tf.shape(value)[0] // context.num_replicas_in_sync
    first = context.replica_id_in_sync_group * size
    return value[first : first + size]


def read_rows(variable: tf.Variable, positions: tf.Tensor) -> tf.Tensor:
    """Returns rows of this replica's copy of a variable, without a gradient.

    Positions are int32 or int64 of any shape, and in range. The rows have the
    shape `positions.shape + variable.shape[1:]`.
    """
    # In a replica, tf.gather of a distributed variable reads all of its rows,
    # which copies them if it has been scattered into (TensorFlow 2.21).
    return tf.raw_ops.ResourceGather(
        resource=variable.handle, indices=positions, dtype=variable.dtype
    )


def update_on_all_replicas(
    variable: tf.Variable, update: Callable[..., None], args: tuple
) -> None:
    """Runs `update(variable, *args)` once on every copy of a variable.

    The copies stay identical only if `args` are the same on every replica
    (`gather_over_replicas`). A plain assignment in a replica's context would
    keep the first replica's rows and lose those of the others.

    `update` returns nothing, because TensorFlow would read, and so copy, a
    returned variable.
    """

    def merge(strategy: tf.distribute.Strategy, *merged: tf.Tensor) -> None:
        values = [first_replica(strategy, value) for value in merged]
        update_copies(strategy, variable, update, values)

    tf.distribute.get_replica_context().merge_call(merge, args=args)


def update_own_copy(
    variable: tf.Variable, update: Callable[..., None], args: tuple
) -> None:
    """Runs `update(copy, *args)` on each replica's copy with its own `args`."""

    def merge(strategy: tf.distribute.Strategy, *merged: tf.Tensor) -> None:
        strategy.extended.update(variable, update, args=merged, group=True)

    tf.distribute.get_replica_context().merge_call(merge, args=args)


# === Outside a step ===


def update_copies(
    strategy: tf.distribute.Strategy,
    variable: tf.Variable,
    update: Callable[..., None],
    args: Sequence[tf.Tensor],
) -> None:
    """Works as `update_on_all_replicas`, outside a replica's context."""
    is_distributed = isinstance(variable, tf.distribute.DistributedValues)
    if not is_distributed and strategy.num_replicas_in_sync > 1:  # On the host.
        with tf.device(variable.device):
            update(variable, *args)
    else:
        strategy.extended.update(variable, update, args=args, group=True)


def create_variable(
    make: Callable[[], keras.Variable], placement: str
) -> keras.Variable:
    """Creates a weight, once on the `"host"` or else on each device.

    The replicas of one host share the copy on the host. A strategy would give
    each of them a copy; its scope applies to one thread only.
    """
    if placement != "host":
        return make()

    def create_on_cpu() -> keras.Variable:
        with tf.device("CPU:0"):
            return make()

    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(create_on_cpu).result()


def model_in_scope(model: keras.Model) -> keras.Model:
    """Returns a model, or a copy if it was built outside the scope.

    It is a functional or Sequential model.
    """
    extended = tf.distribute.get_strategy().extended
    if all(
        extended.variable_created_in_scope(tf_variable(v))
        for v in model.variables
    ):
        return model
    warnings.warn(
        f"{model.name} was built outside the scope of the strategy. A copy "
        "of it, `model.encoder`, is trained; the original keeps its weights.",
        stacklevel=3,
    )
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def first_replica(strategy: tf.distribute.Strategy, value: Any) -> Any:
    """Returns this host's first part of a result of a replica's step."""
    return strategy.experimental_local_results(value)[0]


def in_equal_parts(
    strategy: tf.distribute.Strategy, batch: Any
) -> tuple[Any, int]:
    """Divides this host's batch equally among its replicas.

    If the last batch is smaller, Keras gives the first replicas a full part
    and the others fewer examples or none. If the examples cannot be divided
    equally, the first ones are repeated with a weight of 0, and the weights
    of all others are increased so that the mean loss remains the same.

    Returns:
        The batch, unchanged if its parts are equal, and its size on all hosts,
        which have batches of the same size.
    """
    first = next(v for v in keras.tree.flatten(batch) if v is not None)
    parts = strategy.experimental_local_results(first)
    replicas, size = len(parts), sum(int(part.shape[0]) for part in parts)
    hosts = 1
    if has_many_hosts(strategy):
        hosts = strategy.num_replicas_in_sync // replicas
    if all(part.shape[0] == parts[0].shape[0] for part in parts):
        return batch, size * hosts
    part_size = -(-size // replicas)
    order = np.arange(part_size * replicas) % size

    def join(value: tf.Tensor | None) -> tf.Tensor | None:
        if value is None:
            return None
        whole = tf.concat(strategy.experimental_local_results(value), axis=0)
        return tf.gather(whole, order)

    def divide(value: tf.Tensor | None) -> tf.Tensor | None:
        if value is None:
            return None
        slices = iter(tf.split(value, replicas))
        return strategy.experimental_distribute_values_from_function(
            lambda context: next(slices)
        )

    x, ids, weights = keras.utils.unpack_x_y_sample_weight(
        keras.tree.map_structure(join, batch)
    )
    scales = np.where(np.arange(len(order)) < size, len(order) / size, 0.0)
    weights = (
        scales if weights is None else scales * tf.cast(weights, "float64")
    )
    batch = keras.tree.map_structure(divide, (x, ids, tf.constant(weights)))
    return batch, size * hosts


def has_many_hosts(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether the replicas belong to several processes."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
