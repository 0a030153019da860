"""Chooses the precision of a run by a short trial on its device."""

import dataclasses
import time

import tensorflow as tf

from tf_instdisc.config import RunConfig
from tf_instdisc.runs.directory import RunDirectory

_FASTER = 0.8
"""The fraction of the time from which bfloat16 is worth its rounding."""
_TRIALS = 8


def resolved(config: RunConfig, run: RunDirectory) -> RunConfig:
    """Replaces the precision `"auto"` by the one to compute in.

    A run that is continued keeps its precision. For a new one, a convolution
    of a ResNet is timed in both.
    """
    if config.encoder.precision != "auto":
        return config
    if run.settings.exists() and run.holds_results():
        chosen = run.read_config().encoder.precision
    else:
        ratio = seconds_in(tf.bfloat16) / seconds_in(tf.float32)
        chosen = "mixed_bfloat16" if ratio <= _FASTER else "float32"
        print(
            f"precision: {chosen}, because a trial in bfloat16 takes "
            f"{ratio:.2f} of the time in float32",
            flush=True,
        )
    encoder = dataclasses.replace(config.encoder, precision=chosen)
    return dataclasses.replace(config, encoder=encoder)


def seconds_in(dtype: tf.DType) -> float:
    """Returns the time of a convolution in a type, with gradients and casts."""
    shapes = [32, 24, 24, 64], [3, 3, 64, 64]
    image, kernel = (
        tf.random.stateless_normal(shape, [0, 0]) for shape in shapes
    )

    @tf.function(autograph=False)
    def run() -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch([image, kernel])
            x, w = tf.cast(image, dtype), tf.cast(kernel, dtype)
            y = tf.nn.relu(tf.nn.conv2d(x, w, 1, "SAME"))
            loss = tf.reduce_sum(tf.cast(y, tf.float32))
        return sum(map(tf.reduce_sum, tape.gradient(loss, [image, kernel])))

    seconds = []
    for _ in range(_TRIALS):
        started = time.perf_counter()
        run().numpy()  # Waits for the device.
        seconds.append(time.perf_counter() - started)
    return min(seconds)
