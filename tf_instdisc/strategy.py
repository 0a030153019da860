"""Strategies: on which devices and hosts a run's replicas are."""

import tensorflow as tf

from tf_instdisc import choices, distribution


def build_strategy(name: str = "auto") -> tf.distribute.Strategy:
    """Builds the strategy that a model is created under.

    Call it before anything else touches a device.

    Args:
        name: `"one_device"`; `"mirrored"`, all GPUs of this host, or all
            logical CPU devices where there is no GPU; `"multi_worker"`, the
            hosts in the environment's `TF_CONFIG`; `"auto"`, all GPUs of
            this host if there are any.

    Returns:
        The strategy.

    Raises:
        ValueError: If the name is unknown.
    """
    choices.require("distribution", name, choices.DISTRIBUTIONS)
    if name == "multi_worker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    gpus = tf.config.list_logical_devices("GPU")
    if name == "one_device" or (name == "auto" and len(gpus) < 2):
        return tf.distribute.get_strategy()
    if gpus:
        return tf.distribute.MirroredStrategy()
    cpus = [device.name for device in tf.config.list_logical_devices("CPU")]
    return mirrored_cpus(cpus)


def mirrored_cpus(devices: list[str]) -> tf.distribute.MirroredStrategy:
    """Replicas on logical CPU devices, to try out what replicas do.

    Not with collective operations: those of TensorFlow 2.21 are numbered from
    0 in each strategy, so that two strategies of one process collide.
    """
    return tf.distribute.MirroredStrategy(
        devices, cross_device_ops=tf.distribute.ReductionToOneDevice()
    )


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the run's files."""
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
    """Sums integers over all hosts; each host must call it.

    It also waits until all hosts have called it.
    """
    per_host = strategy.num_replicas_in_sync // num_hosts(strategy)

    @tf.function
    def add(tensor):
        totals = strategy.run(distribution.sum_over_replicas, args=(tensor,))
        return distribution.first_replica(strategy, totals) // per_host

    return add(tf.constant(value, tf.int64)).numpy().tolist()


def num_hosts(strategy: tf.distribute.Strategy) -> int:
    """Number of processes that take part."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    spec = strategy.cluster_resolver.cluster_spec().as_dict()
    return sum(len(spec.get(job, ())) for job in ("chief", "worker"))
