"""Reads the bank of an exported model."""

from typing import Any

import numpy as np
import tensorflow as tf

from tf_instdisc.errors import UsageError
from tf_instdisc.runs.bank import Bank

_SIGNATURES = ("image_bytes", "neighbors_bytes")


def read_bank(model: Any) -> Bank:
    """Returns the bank that a model was exported with.

    Rows stored as int8 or float16 are returned as float32, and have unit
    length up to the rounding.

    Args:
        model: What `tf.saved_model.load` returns.

    Raises:
        UsageError: If the model was exported without a bank, or by another
            program.
    """
    if not set(_SIGNATURES) <= set(model.signatures):
        raise UsageError(
            "`saved_model` must be exported by instdisc-export with a bank. "
            f"Received: a model with the signatures "
            f"{', '.join(model.signatures) or 'none'}"
        )
    stored = model.bank
    rows = stored.rows.numpy().astype(np.float32)
    if getattr(stored, "scales", None) is not None:
        rows *= stored.scales.numpy()[:, None]
    instance_ids = stored.instance_ids.numpy()
    # An index keeps rows without labels at the end.
    order = np.argsort(instance_ids)
    names = np.char.decode(stored.names.numpy().astype(bytes), "utf-8")
    return Bank(
        rows[order],
        instance_ids[order],
        names[order],
        stored.labels.numpy()[order],
        _class_names(model),
    )


def _class_names(model: Any) -> tuple[str, ...]:
    """Returns the names of the classes, which only a vote contains."""
    if "classify_bytes" not in model.signatures:
        return ()
    image = tf.io.encode_png(tf.zeros([8, 8, 3], tf.uint8))
    classes = model.signatures["classify_bytes"](image_bytes=image[None])
    return tuple(name.decode("utf-8") for name in classes["classes"].numpy()[0])
