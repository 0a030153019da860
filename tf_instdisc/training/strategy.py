"""Strategies: the devices and hosts that hold a run's replicas."""

import contextlib
from collections.abc import Callable, Iterator

import tensorflow as tf

from tf_instdisc.config import TrainingConfig
from tf_instdisc.data.pipeline import HostShare
from tf_instdisc.errors import UsageError, WorkerLostError
from tf_instdisc.method import replicas as distribution


def build_strategy(name: str = "auto") -> tf.distribute.Strategy:
    """Builds the strategy in whose scope a model is created.

    Call it before anything else uses a device.

    Args:
        name: `"one_device"`; `"mirrored"`, all GPUs of this host, or all
            logical CPU devices if there is no GPU; `"multi_worker"`, the
            hosts in the environment variable `TF_CONFIG`; `"auto"`, all GPUs
            of this host if there are any.
    """
    if name == "multi_worker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    gpus = tf.config.list_logical_devices("GPU")
    if name == "one_device" or (name == "auto" and len(gpus) < 2):
        return tf.distribute.get_strategy()
    if gpus:
        return tf.distribute.MirroredStrategy()
    cpus = [device.name for device in tf.config.list_logical_devices("CPU")]
    return mirrored_cpus(cpus)


def strategy_of(config: TrainingConfig) -> tf.distribute.Strategy:
    """Builds the strategy of a run from its settings, as `build_strategy`."""
    name = config.distribution
    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    if name == "auto" and config.logical_cpus > 1 and not has_gpu:
        name = "mirrored"
    return build_strategy(name)


def split_cpu(num_devices: int) -> None:
    """Splits the CPU into logical devices, before anything uses it.

    Raises:
        UsageError: If TensorFlow has already begun to use it otherwise.
    """
    try:
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * num_devices,
        )
    except RuntimeError:
        found = len(tf.config.list_logical_devices("CPU"))
        if found != num_devices:
            raise UsageError(
                "`logical_cpus` must be set before TensorFlow uses the CPU. "
                f"Received: logical_cpus={num_devices}, in a process that "
                f"uses {found}. Start a new process, and train in it before "
                "anything else."
            ) from None


def mirrored_cpus(devices: list[str]) -> tf.distribute.MirroredStrategy:
    """Builds replicas on logical CPU devices, to try out distribution.

    It does not use collective operations: TensorFlow 2.21 numbers them from 0
    in each strategy, so two strategies of one process would collide.
    """
    return tf.distribute.MirroredStrategy(
        devices, cross_device_ops=tf.distribute.ReductionToOneDevice()
    )


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process writes the run's files."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    if resolver.task_type == "chief":
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return not has_chief and resolver.task_id == 0


def sum_over_hosts(
    strategy: tf.distribute.Strategy, value: list[int]
) -> list[int]:
    """Sums integers over all hosts; each host must call it."""
    if num_hosts(strategy) == 1:
        return value
    per_host = strategy.num_replicas_in_sync // num_hosts(strategy)

    @tf.function(autograph=False)
    def add(tensor: tf.Tensor) -> tf.Tensor:
        totals = strategy.run(distribution.sum_over_replicas, args=(tensor,))
        return distribution.first_replica(strategy, totals) // per_host

    return add(tf.constant(value, tf.int64)).numpy().tolist()


def num_hosts(strategy: tf.distribute.Strategy) -> int:
    """Returns the number of processes that take part."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    spec = strategy.cluster_resolver.cluster_spec().as_dict()
    return sum(len(spec.get(job, ())) for job in ("chief", "worker"))


def from_chief(strategy: tf.distribute.Strategy, value: bool) -> bool:
    """Returns the chief's value on all hosts; each host must call it.

    Raises:
        WorkerLostError: If one of them was lost.
    """
    own = int(value and is_chief(strategy))
    with raising_worker_lost(strategy):
        return sum_over_hosts(strategy, [own]) == [1]


def barrier(strategy: tf.distribute.Strategy) -> None:
    """Waits until all hosts have called it.

    Raises:
        WorkerLostError: If one of them was lost.
    """
    with raising_worker_lost(strategy):
        sum_over_hosts(strategy, [1])


@contextlib.contextmanager
def raising_worker_lost(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Converts the various errors of a broken collective operation to one.

    Raises:
        WorkerLostError: If an operation fails on one of many hosts.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if num_hosts(strategy) == 1:
            raise
        raise WorkerLostError(
            "Another host of the run was lost; this one stops as well. Start "
            "the same command again on all hosts: the run continues from its "
            f"newest checkpoint. ({type(error).__name__}: "
            f"{error.message.partition(chr(10))[0]})"
        ) from error


def distribute(
    strategy: tf.distribute.Strategy,
    dataset: Callable[[HostShare | None], tf.data.Dataset],
) -> tf.data.Dataset | tf.distribute.DistributedDataset:
    """Gives each host its own part of every batch.

    Args:
        dataset: Returns the batches of one host's replicas or, for None,
            global batches. All hosts must have equally many batches.
    """
    if strategy.num_replicas_in_sync == 1:
        return dataset(None)
    # The number of steps is known: asking all hosts whether they have a batch
    # would require communication in each step.
    strategy.extended.experimental_enable_get_next_as_optional = False
    replicas = strategy.num_replicas_in_sync // num_hosts(strategy)
    return strategy.distribute_datasets_from_function(
        lambda context: dataset(
            HostShare(
                context.input_pipeline_id,
                context.num_input_pipelines,
                replicas,
            )
        )
    )
