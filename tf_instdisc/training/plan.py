"""What a run will need, counted before anything of it is started.

It imports neither TensorFlow nor Keras.
"""

import dataclasses
import math

from tf_instdisc.training.encoder_sizes import encoder_sizes

GIB = 2**30
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_ACTIVATION_BYTES = {"float32": 4, "mixed_bfloat16": 2, "mixed_float16": 2}
_SLOTS = {"sgd": 1, "adamw": 2}


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sizes in bytes.

    Attributes:
        bank_on_replica: The bank's copy on each replica.
        bank_on_host: The bank's copies in the memory of each host.
        head: What a replica's step needs beside the encoder: rows of
            negatives, logits, and their gradients.
        activations: What a replica's step holds of the encoder's layers, at
            its peak; within a quarter.
        state: Weights, their gradients and the optimizer's slots.
        checkpoint: One checkpoint.
        steps_per_epoch: Steps of an epoch.
        warnings: What will not fit.
    """

    bank_on_replica: int
    bank_on_host: int
    head: int
    activations: int
    state: int
    checkpoint: int
    steps_per_epoch: int
    warnings: tuple[str, ...]


def make_plan(
    *,
    num_instances: int,
    encoder: str,
    width: int,
    stem: str,
    embedding_dim: int,
    image_size: int,
    objective: str,
    num_negatives: int,
    negatives: str,
    bank_dtype: str,
    bank_placement: str,
    batch_size: int,
    accumulate_steps: int,
    optimizer: str,
    keep_checkpoints: int,
    precision: str = "float32",
    train_image_size: int | None = None,
    stem_width: int | None = None,
    hosts: int = 1,
    replicas_per_host: int = 1,
    device_memory: int | None = None,
    host_memory: int | None = None,
    disk: int | None = None,
) -> Plan:
    """Counts what a run needs.

    Args:
        num_instances: Images of the training set.
        encoder: Backbone.
        width: As `build_encoder` has it.
        stem: Its first layers.
        embedding_dim: Length of the embedding.
        image_size: Side of its input, in pixels.
        objective: As `InstanceDiscrimination` has it, and so the following.
        num_negatives: m.
        negatives: `"shared"` or `"per_example"`.
        bank_dtype: Of the rows.
        bank_placement: `"device"` or `"host"`.
        batch_size: Images in a global batch.
        accumulate_steps: Steps for one update.
        optimizer: `"sgd"` or `"adamw"`.
        keep_checkpoints: Checkpoints that stay.
        precision: In what the encoder computes.
        train_image_size: Side of the crops in training; None for
            `image_size`.
        stem_width: Filters of a ResNet's stem; None for `width`.
        hosts: Hosts of the run.
        replicas_per_host: Replicas on each.
        device_memory: Bytes of one replica's device, or None if the device
            is the host's CPU.
        host_memory: Bytes of a host, or None if unknown.
        disk: Free bytes where the run's directory will be, or None.

    Returns:
        The plan.
    """
    bank = num_instances * embedding_dim * _BYTES[bank_dtype]
    replicas = hosts * replicas_per_host
    local_batch = math.ceil(batch_size / replicas)
    on_device = bank_placement == "device"
    device_is_host = device_memory is None
    bank_on_replica = bank if on_device else 0
    bank_on_host = 0 if on_device else bank
    if on_device and device_is_host:
        bank_on_host = bank * replicas_per_host

    sizes = encoder_sizes(
        encoder, width, stem, embedding_dim, image_size, stem_width
    )
    weights = sizes.weights
    in_training = encoder_sizes(
        encoder,
        width,
        stem,
        embedding_dim,
        train_image_size or image_size,
        stem_width,
    )
    activations = in_training.activations * local_batch
    activations *= _ACTIVATION_BYTES[precision]
    if objective == "parametric":
        weights += num_instances * embedding_dim
    copies = 1 + _SLOTS[optimizer] + (accumulate_steps > 1)
    checkpoint = 4 * (weights * copies + sizes.statistics) + bank

    row = 4 * embedding_dim
    if objective in ("softmax", "parametric"):
        # The rows as they are read, logits, their exponentials and gradients.
        head = num_instances * row + 3 * 4 * local_batch * num_instances
    else:
        sets = 1 if negatives == "shared" else local_batch
        head = 2 * sets * num_negatives * row
        head += 3 * 4 * local_batch * num_negatives
        if negatives == "per_example":
            head += 8 * batch_size * num_negatives  # ids of all replicas
    state = 4 * weights * (copies + 1)
    step = head + activations + state
    warnings = []

    def check(what, needed, available, cure):
        if available is not None and needed > available:
            warnings.append(
                f"{what}: {needed / GIB:.2f} GiB are needed, "
                f"{available / GIB:.2f} GiB are there. {cure}"
            )

    if batch_size % replicas:
        warnings.append(
            f"--batch_size={batch_size} is not a multiple of the {replicas} "
            "replicas and will be refused."
        )
    smaller = "Use --bank_dtype=bfloat16 or --bank_placement=host"
    if objective == "softmax":
        smaller = "Use --objective=nce"
    if activations > bank_on_replica + head:
        smaller = "Use a smaller batch with --accumulate_steps"
        if precision == "float32":
            smaller += " or --precision=mixed_bfloat16"
    else:
        smaller += ", or a smaller batch"
    check("Device", bank_on_replica + step, device_memory, f"{smaller}.")
    on_host = bank_on_host
    if device_is_host:
        on_host += replicas_per_host * step
    else:
        smaller = "Use --bank_dtype=bfloat16"
    check(
        "Host, without the input pipeline's images",
        on_host,
        host_memory,
        f"{smaller}.",
    )
    check(
        "Disk, for the checkpoints that are kept and the one being written",
        (keep_checkpoints + 1) * checkpoint,
        disk,
        "Use a smaller --keep_checkpoints, or make room.",
    )
    return Plan(
        bank_on_replica,
        bank_on_host,
        head,
        activations,
        state,
        checkpoint,
        -(-num_instances // batch_size),
        tuple(warnings),
    )
