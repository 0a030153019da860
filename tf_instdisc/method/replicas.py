"""What crosses replicas. All else in the package is written for one device.

Replicas may be those of one host (`tf.distribute.MirroredStrategy`) or of
many (`tf.distribute.MultiWorkerMirroredStrategy`): only sums over replicas
are used, as TensorFlow 2.21 has gathers that abort (BUILD_NOTES.md).
"""

import concurrent.futures
import warnings
from collections.abc import Callable

import keras
import tensorflow as tf


def sum_over_replicas(value: tf.Tensor) -> tf.Tensor:
    """Sums a tensor over the replicas; call it in a replica's context."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return value
    # An argument of the step has no device, which TensorFlow 2.21 asks for
    # on many hosts.
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(value))


def gather_over_replicas(*values: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Joins `[batch, ...]` of all replicas along the batch, in their order.

    Args:
        *values: Tensors of rank 1 or more with one batch size, which may
            differ between replicas.

    Returns:
        The same tensors `[global_batch, ...]` on every replica.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return values
    size = tf.shape(values[0])[:1]
    sizes = sum_over_replicas(_in_own_slot(size)[:, 0])
    # An empty tensor cannot be reduced.
    longest = tf.maximum(tf.reduce_max(sizes), 1)
    is_present = tf.sequence_mask(sizes, longest)

    def join(value):
        missing = [[0, longest - size[0]]] + [[0, 0]] * (len(value.shape) - 1)
        slots = sum_over_replicas(_in_own_slot(tf.pad(value, missing)))
        return tf.boolean_mask(slots, is_present)

    return tuple(join(value) for value in values)


def _in_own_slot(value: tf.Tensor) -> tf.Tensor:
    """`[num_replicas, ...]`, zero but for this replica's own slot."""
    context = tf.distribute.get_replica_context()
    before = context.replica_id_in_sync_group
    after = context.num_replicas_in_sync - 1 - before
    others = [[before, after]] + [[0, 0]] * len(value.shape)
    return tf.pad(value[None], others)


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
    sizes = sum_over_replicas(_in_own_slot(batch_size))
    before = sizes[: context.replica_id_in_sync_group]
    return tf.reduce_sum(before), tf.reduce_sum(sizes)


def update_on_all_replicas(variable: tf.Variable, update, args: tuple) -> None:
    """Runs `update(variable, *args)` once on every copy of a variable.

    The copies stay equal bit for bit only if `args` are the same on every
    replica (`gather_over_replicas`). A plain assignment in a replica's
    context would keep the first replica's rows and lose the others'.
    """

    def merge(strategy, *merged):
        merged = [first_replica(strategy, value) for value in merged]
        _update_copies(strategy, variable, update, merged)

    tf.distribute.get_replica_context().merge_call(merge, args=args)


def update_outside_of_steps(variable: tf.Variable, update, args: tuple) -> None:
    """The same, from a strategy's scope."""
    _update_copies(tf.distribute.get_strategy(), variable, update, args)


def _update_copies(strategy, variable, update, args):
    if _is_on_host(variable, strategy):
        with tf.device(variable.device):
            update(variable, *args)
    else:
        strategy.extended.update(variable, update, args=args, group=True)


def _is_on_host(variable, strategy):
    is_distributed = isinstance(variable, tf.distribute.DistributedValues)
    return not is_distributed and strategy.num_replicas_in_sync > 1


def on_host(create: Callable[[], tf.Variable]) -> tf.Variable:
    """Creates a variable of which the host keeps the only copy.

    Replicas of one host share it. A strategy would give each of them a copy;
    its scope holds for one thread only.
    """

    def create_on_cpu():
        with tf.device("CPU:0"):
            return create()

    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(create_on_cpu).result()


def model_in_scope(model: keras.Model) -> keras.Model:
    """A model whose variables belong to the strategy in scope.

    Args:
        model: A functional or Sequential model.

    Returns:
        The model, or a copy if it was built outside of the scope.
    """
    extended = tf.distribute.get_strategy().extended
    if all(
        extended.variable_created_in_scope(v.value) for v in model.variables
    ):
        return model
    warnings.warn(
        f"{model.name} was built outside of the scope of the strategy. A copy "
        "of it, `model.encoder`, is trained; the original keeps its weights.",
        stacklevel=3,
    )
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def first_replica(strategy: tf.distribute.Strategy, value):
    """This host's first part of a value that a replica's step returned."""
    return strategy.experimental_local_results(value)[0]


def local_size(strategy: tf.distribute.Strategy, value) -> int:
    """Examples of one batch on this host, over all of its replicas."""
    parts = strategy.experimental_local_results(value)
    return sum(int(part.shape[0]) for part in parts)
