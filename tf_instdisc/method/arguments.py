"""What `InstanceDiscrimination` accepts."""

import keras

from tf_instdisc import choices
from tf_instdisc.errors import UsageError


def validate(
    num_instances,
    objective,
    num_negatives,
    negatives,
    temperature,
    normalizer,
    normalizer_momentum,
    bank_momentum,
    proximal_weight,
    bank_dtype,
    bank_placement,
    jit_encoder,
    accumulate_steps,
    seed,
    absent_ids,
):
    """Raises ValueError unless the model's arguments are in range."""
    del jit_encoder
    choices.require("objective", objective, choices.OBJECTIVES)
    choices.require("negatives", negatives, choices.NEGATIVES)
    choices.require("normalizer", normalizer, choices.NORMALIZERS)
    if bank_dtype is not None:
        choices.require("bank_dtype", bank_dtype, choices.BANK_DTYPES)
    choices.require("bank_placement", bank_placement, choices.BANK_PLACEMENTS)
    if bank_placement == "host" and objective == "softmax":
        raise UsageError(
            "`objective` 'softmax' takes the whole bank in each step, and "
            "needs it on the device. Received: bank_placement='host'. Use "
            "'nce' or 'info_nce'."
        )
    for name, value, holds, cure in (
        ("num_instances", num_instances, num_instances >= 2, "at least 2"),
        ("num_negatives", num_negatives, num_negatives >= 1, "at least 1"),
        ("temperature", temperature, 0.01 <= temperature <= 1, "in [0.01, 1]"),
        (
            "normalizer_momentum",
            normalizer_momentum,
            0 <= normalizer_momentum < 1,
            "in [0, 1)",
        ),
        ("bank_momentum", bank_momentum, 0 <= bank_momentum < 1, "in [0, 1)"),
        ("proximal_weight", proximal_weight, proximal_weight >= 0, "0 or more"),
        (
            "accumulate_steps",
            accumulate_steps,
            accumulate_steps >= 1,
            "at least 1",
        ),
        ("seed", seed, 0 <= seed < 2**31, "in [0, 2**31)"),
    ):
        if not holds:
            raise UsageError(
                f"`{name}` must be {cure}. Received: {name}={value}"
            )
    absent = set(absent_ids)
    if not all(0 <= i < num_instances for i in absent):
        raise UsageError(
            f"`absent_ids` must be in [0, {num_instances}). Received: "
            f"absent_ids={absent_ids}"
        )
    if len(absent) > num_instances - 2:
        raise UsageError(
            "`absent_ids` must leave at least 2 instances. Received: "
            f"absent_ids={absent_ids}, num_instances={num_instances}"
        )


def require_encoder(encoder):
    """Raises UsageError unless a model maps images to embeddings."""
    wanted = (
        "`encoder` must be a functional or Sequential Keras model from images "
        "to embeddings [batch, embedding_dim] of unit length."
    )
    if not isinstance(encoder, keras.Model):
        raise UsageError(f"{wanted} Received: encoder={encoder!r}")
    inputs = getattr(encoder, "inputs", None)
    outputs = getattr(encoder, "outputs", None)
    if not inputs or not outputs:
        raise UsageError(
            f"{wanted} Received: a {type(encoder).__name__} that knows no "
            "input shape; begin it with keras.Input((size, size, 3))."
        )
    if len(inputs) != 1 or len(outputs) != 1:
        raise UsageError(
            f"{wanted} Received: {len(inputs)} inputs, {len(outputs)} outputs"
        )
    shape = tuple(outputs[0].shape)
    if len(shape) != 2 or shape[1] is None:
        raise UsageError(
            f"{wanted} Received: an output of shape {shape}. End it with "
            "pooling, keras.layers.Dense(embedding_dim) and "
            "keras.layers.UnitNormalization(), or use "
            "tf_instdisc.build_encoder(backbone)."
        )
