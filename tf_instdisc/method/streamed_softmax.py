"""Exact softmax in chunks of the bank, without the [batch, n] matrix.

The gradient of log Σ_j exp(v·v_j/τ) is the softmax-weighted mean of the rows
over τ. One pass over the rows computes both, from a running maximum, the sum
of the exponentials and the sum of the rows weighted by them, as the online
softmax of Milakov and Gimelshein 2018 (arXiv 1805.02867).
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

# On a CPU, a chunk of logits (4 MiB in float32) stays in the cache. On a GPU,
# chunks are large, so that ImageNet with a batch of 256 has 10 of them.
_LOGITS_PER_CHUNK = {"CPU": 2**20, "GPU": 2**25}
_MIN_ROWS = 1024


def rows_per_chunk(batch: int | tf.Tensor, device: str) -> tf.Tensor:
    """Returns how many rows are read at a time, on a "CPU" or a "GPU"."""
    return tf.maximum(_LOGITS_PER_CHUNK[device] // batch, _MIN_ROWS)


class Sums(NamedTuple):
    """The results of one pass over the rows; l_j stands for v·v_j/τ."""

    largest: tf.Tensor  # [batch], max_j l_j; the dtype's lowest without rows
    total: tf.Tensor  # [batch], Σ_j exp(l_j - largest)
    weighted: tf.Tensor  # [batch, embedding_dim], Σ_j exp(l_j - largest) v_j


def log_sum_exp(
    embeddings: tf.Tensor,
    read_rows: Callable[[tf.Tensor], tf.Tensor],
    num_rows: int,
    temperature: float,
) -> tf.Tensor:
    """Returns log Σ_j exp(v·v_j/τ) over all rows, with its gradient.

    Only one chunk of rows and its logits are held at a time. In float32, with
    128-d rows and a batch of 256, these are about 6 MB on a CPU, and 200 MB on
    a GPU. No gradient reaches the rows.

    Args:
        embeddings: float `[batch, embedding_dim]`, v.
        read_rows: A function from positions of rows, int `[chunk]`, to the
            rows `[chunk, embedding_dim]`. It is called once per chunk, so
            the whole bank is never copied.
        num_rows: n.
        temperature: τ, above 0.

    Returns:
        `[batch]`, with the dtype of the embeddings.
    """
    return with_gradient(
        embeddings,
        lambda v: one_pass(v, read_rows, num_rows, temperature),
        temperature,
    )


def with_gradient(
    embeddings: tf.Tensor,
    sums_of: Callable[[tf.Tensor], Sums],
    temperature: float,
) -> tf.Tensor:
    """Returns log Σ_j exp(v·v_j/τ), with its gradient, from its sums."""

    @tf.custom_gradient
    def log_sum_of(
        v: tf.Tensor,
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        largest, total, weighted = sums_of(v)
        mean_row = weighted / total[:, None]  # Σ_j P(j|v) v_j

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            return upstream[:, None] * mean_row / temperature

        return largest + tf.math.log(total), gradient

    return log_sum_of(embeddings)


def one_pass(
    v: tf.Tensor,
    read_rows: Callable[[tf.Tensor], tf.Tensor],
    num_rows: int | tf.Tensor,
    temperature: float,
) -> Sums:
    """Returns the sums over the rows at positions in [0, num_rows)."""
    batch = tf.shape(v)[0]
    device = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    chunk = rows_per_chunk(batch, device)
    queries = v / temperature

    def body(
        start: tf.Tensor,
        largest: tf.Tensor,
        total: tf.Tensor,
        weighted: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        stop = tf.minimum(start + chunk, num_rows)
        rows = tf.cast(read_rows(tf.range(start, stop)), v.dtype)
        logits = tf.matmul(queries, rows, transpose_b=True)  # [batch, chunk]
        new_largest = tf.maximum(largest, tf.reduce_max(logits, axis=1))
        shrink = tf.exp(largest - new_largest)
        weights = tf.exp(logits - new_largest[:, None])
        total = total * shrink + tf.reduce_sum(weights, axis=1)
        weighted = weighted * shrink[:, None] + tf.matmul(weights, rows)
        return stop, new_largest, total, weighted

    _, largest, total, weighted = tf.while_loop(
        lambda start, *_: start < num_rows,
        body,
        (
            tf.constant(0),
            tf.fill([batch], tf.constant(v.dtype.min, v.dtype)),
            tf.zeros([batch], v.dtype),
            tf.zeros_like(v),
        ),
        # Each iteration depends on the previous one; parallel iterations
        # would only hold more chunks in memory.
        parallel_iterations=1,
    )
    return Sums(largest, total, weighted)
