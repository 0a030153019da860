"""The resources that a run will need, computed before it starts."""

import dataclasses
import math
from collections.abc import Iterator

import keras

from tf_instdisc.config import RunConfig
from tf_instdisc.config.run import at_train_size
from tf_instdisc.method.streamed_softmax import rows_per_chunk
from tf_instdisc.training.initial_encoder import initial_encoder

GIB = 2**30
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_ACTIVATION_BYTES = {"mixed_bfloat16": 2, "mixed_float16": 2}
_SLOTS = {"sgd": 1, "adamw": 2}
# Their outputs are not kept: they are computed within the next layer, or hold
# the same values in another shape.
_NOT_KEPT = (
    keras.layers.Add,
    keras.layers.BatchNormalization,
    keras.layers.Flatten,
    keras.layers.Identity,
    keras.layers.InputLayer,
    keras.layers.Reshape,
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sizes in bytes.

    Attributes:
        bank_on_replica: The rows of the bank on each replica.
        bank_on_host: The rows of the bank in the memory of each host. Sharded
            ones are copied there as a whole to be measured and saved, once
            in their own type and once in float32 or for the checkpoint.
        head: What a replica's step needs besides the encoder: rows of
            negatives, logits, and their gradients.
        activations: The layers' values that a replica's step holds at its
            peak; accurate within a quarter.
        state: Weights, their gradients and the optimizer's slots.
        checkpoint: One checkpoint.
        steps_per_epoch: Number of steps in an epoch.
        warnings: Requirements that will not be met.
    """

    bank_on_replica: int
    bank_on_host: int
    head: int
    activations: int
    state: int
    checkpoint: int
    steps_per_epoch: int
    warnings: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Machines:
    """The machines on which a run will be trained.

    Attributes:
        hosts: Number of hosts.
        replicas_per_host: Number of replicas on each host.
        device_memory: Bytes of one replica's device, or None if the device
            is the host's CPU.
        host_memory: Bytes of a host, or None if unknown.
        disk: Free bytes at the run's directory, or None.
    """

    hosts: int = 1
    replicas_per_host: int = 1
    device_memory: int | None = None
    host_memory: int | None = None
    disk: int | None = None


def make_plan(
    config: RunConfig, machines: Machines, num_instances: int
) -> Plan:
    """Computes what a run needs."""
    method, optimizer = config.method, config.optimizer
    row = config.encoder.embedding_dim * _BYTES[method.bank_dtype]
    bank = num_instances * row
    replicas = machines.hosts * machines.replicas_per_host
    local_batch = math.ceil(optimizer.batch_size / replicas)
    bank_on_replica = 0 if method.bank_placement == "host" else bank
    bank_on_host = 0 if method.bank_placement == "device" else bank
    if method.bank_placement == "sharded":
        bank_on_replica = math.ceil(num_instances / replicas) * row
        bank_on_host += 4 * num_instances * config.encoder.embedding_dim
    if machines.device_memory is None:
        bank_on_host += bank_on_replica * machines.replicas_per_host

    encoder = initial_encoder(at_train_size(config), weights=None)
    kept = _activations(encoder) * local_batch
    kept *= _ACTIVATION_BYTES.get(config.encoder.precision, 4)
    weights = sum(math.prod(w.shape) for w in encoder.trainable_weights)
    statistics = encoder.count_params() - weights
    if method.objective == "parametric":
        weights += num_instances * config.encoder.embedding_dim
    accumulators = optimizer.accumulate_steps > 1
    copies = 1 + _SLOTS[optimizer.optimizer] + accumulators
    plan = Plan(
        bank_on_replica=bank_on_replica,
        bank_on_host=bank_on_host,
        head=_head(config, num_instances, local_batch, machines),
        activations=kept,
        state=4 * weights * (copies + 1),
        checkpoint=4 * (weights * copies + statistics) + bank,
        steps_per_epoch=max(num_instances // optimizer.batch_size, 1),
        warnings=(),
    )
    return dataclasses.replace(
        plan, warnings=tuple(_warnings(plan, config, machines))
    )


def _activations(encoder: keras.Model) -> int:
    """Returns how many values a training step holds per image at its peak.

    That is what is kept until its gradients need it, and twice the largest
    map, for gradients. It is within a quarter of what TensorFlow uses.
    """
    kept, largest = _numbers(encoder.input), 0
    for layer in encoder.layers:
        if isinstance(layer, keras.layers.MultiHeadAttention):
            kept += _attention(layer)
        elif not isinstance(layer, _NOT_KEPT):
            kept += _numbers(layer.output)
        if isinstance(layer, keras.layers.Dense | keras.layers.Conv2D):
            largest = max(largest, _numbers(layer.output))
            if getattr(layer.activation, "__name__", "") == "gelu":
                kept += _numbers(layer.output)
    return kept + 2 * largest


def _numbers(tensor: keras.KerasTensor) -> int:
    """Returns the number of values of one example."""
    return math.prod(tensor.shape[1:])


def _attention(layer: keras.layers.MultiHeadAttention) -> int:
    """Counts queries, keys, values, their products, scores and softmax."""
    _, tokens, dim = layer.output.shape
    return 5 * tokens * dim + 2 * layer.num_heads * tokens**2


def _head(
    config: RunConfig, num_instances: int, local_batch: int, machines: Machines
) -> int:
    """Returns the bytes of a replica's step besides the encoder."""
    method = config.method
    row = 4 * config.encoder.embedding_dim
    if method.objective in ("softmax", "parametric"):
        rows = num_instances
        queries = local_batch
        if method.objective == "softmax":
            # It is streamed over chunks of rows; those of a shard are compared
            # with the embeddings of all replicas.
            if method.bank_placement == "sharded":
                queries = config.optimizer.batch_size
            device = "CPU" if machines.device_memory is None else "GPU"
            rows = min(rows, int(rows_per_chunk(queries, device)))
        # The rows as read, the logits, their exponentials and gradients.
        return rows * row + 3 * 4 * queries * rows
    sets = 1 if method.negatives == "shared" else local_batch
    head = 2 * sets * method.num_negatives * row
    head += 3 * 4 * local_batch * method.num_negatives
    if method.negatives == "per_example":
        # The ids of all replicas.
        head += 8 * config.optimizer.batch_size * method.num_negatives
    return head


def _warnings(
    plan: Plan, config: RunConfig, machines: Machines
) -> Iterator[str]:
    """Returns sentences about what will be rejected, or will not fit."""
    batch_size = config.optimizer.batch_size
    replicas = machines.hosts * machines.replicas_per_host
    if batch_size % replicas:
        yield (
            f"--batch_size={batch_size} is not a multiple of the {replicas} "
            "replicas and will be rejected."
        )
    steps = plan.steps_per_epoch * config.optimizer.epochs
    accumulate_steps = config.optimizer.accumulate_steps
    if 0 < steps < accumulate_steps:
        yield (
            f"--accumulate_steps={accumulate_steps} is more than the {steps} "
            "steps of the run and will be rejected."
        )
    is_shared = config.method.negatives == "shared"
    placement = "sharded" if replicas > 1 and is_shared else "host"
    smaller = "Use --bank_dtype=bfloat16"
    if config.method.bank_placement != placement:
        smaller += f" or --bank_placement={placement}"
    if config.method.objective == "softmax" and placement == "host":
        smaller = "Use --bank_dtype=bfloat16 or --objective=nce"
    if plan.activations > plan.bank_on_replica + plan.head:
        smaller = "Use a smaller batch with --accumulate_steps"
        if config.encoder.precision not in _ACTIVATION_BYTES:
            smaller += " or --precision=mixed_bfloat16"
    else:
        smaller += ", or a smaller batch"
    step = plan.head + plan.activations + plan.state
    on_host = plan.bank_on_host
    smaller_on_host = "Use --bank_dtype=bfloat16"
    if machines.device_memory is None:
        on_host += machines.replicas_per_host * step
        smaller_on_host = smaller
    checkpoints = (config.training.keep_checkpoints + 1) * plan.checkpoint
    for what, needed, available, cure in (
        (
            "Device",
            plan.bank_on_replica + step,
            machines.device_memory,
            f"{smaller}.",
        ),
        (
            "Host, without the input pipeline's images",
            on_host,
            machines.host_memory,
            f"{smaller_on_host}.",
        ),
        (
            "Disk, for the checkpoints that are kept and the one being written",
            checkpoints,
            machines.disk,
            "Use a smaller --keep_checkpoints, or make room.",
        ),
    ):
        if available is not None and needed > available:
            yield (
                f"{what}: {needed / GIB:.2f} GiB are needed, "
                f"{available / GIB:.2f} GiB are available. {cure}"
            )
