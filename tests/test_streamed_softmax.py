"""The streamed softmax against the plain one and a NumPy loop."""

import numpy as np
import pytest
import tensorflow as tf

from tf_instdisc.method import streamed_softmax


def unit_rows(shape, seed):
    rows = np.random.default_rng(seed).normal(size=shape)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def loop(embeddings, rows, temperature):
    """log Σ exp and its gradient, an example at a time, in float64."""
    values, gradients = [], []
    for v in embeddings:
        logits = rows @ v / temperature
        largest = logits.max()
        weights = np.exp(logits - largest)
        values.append(largest + np.log(weights.sum()))
        gradients.append(weights @ rows / weights.sum() / temperature)
    return np.array(values), np.array(gradients)


def streamed(embeddings, rows, temperature):
    rows = tf.Variable(rows, trainable=False)

    @tf.function
    def run(v):
        with tf.GradientTape() as tape:
            tape.watch(v)
            value = streamed_softmax.log_sum_exp(
                v, lambda i: tf.gather(rows, i), rows.shape[0], temperature
            )
            # Another weight for each example: a mixed-up batch would show.
            total = tf.reduce_sum(
                value * tf.range(1, len(v) + 1, dtype=v.dtype)
            )
        return value, tape.gradient(total, v)

    value, gradient = run(tf.constant(embeddings))
    return value.numpy(), gradient.numpy()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
@pytest.mark.parametrize("num_rows", [2, 1000, 1024, 1025, 2500])
def test_value_and_gradient(monkeypatch, num_rows, temperature, dtype):
    # Chunks of 1,024 rows: 2,500 rows take two whole and one part.
    monkeypatch.setitem(streamed_softmax._LOGITS_PER_CHUNK, "CPU", 1)
    embeddings = unit_rows([5, 16], 0)
    rows = unit_rows([num_rows, 16], 1)
    value, gradient = streamed(
        embeddings.astype(dtype), rows.astype(dtype), temperature
    )
    expected, expected_gradient = loop(embeddings, rows, temperature)
    expected_gradient *= np.arange(1, 6)[:, None]
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(value, expected, rtol=tolerance)
    scale = np.abs(expected_gradient).max()
    np.testing.assert_allclose(
        gradient / scale, expected_gradient / scale, atol=tolerance
    )


def test_rows_all_equal_to_the_embedding():
    row = unit_rows([1, 8], 2).astype("float32")
    value, gradient = streamed(row, np.repeat(row, 3000, axis=0), 0.01)
    np.testing.assert_allclose(value, [100 + np.log(3000)], rtol=1e-6)
    np.testing.assert_allclose(gradient, row / 0.01, rtol=1e-4)


@pytest.mark.parametrize(
    ("device", "batch", "num_rows", "chunks"),
    [
        ("CPU", 256, 10_000, [4096, 4096, 1808]),
        ("GPU", 256, 10_000, [10_000]),
        ("GPU", 32_768, 2500, [1024, 1024, 452]),
    ],
)
def test_a_gpu_takes_larger_chunks(
    monkeypatch, device, batch, num_rows, chunks
):
    gpus = ["GPU:0"] if device == "GPU" else []
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: gpus)
    seen = []

    def read(positions):
        seen.append(len(positions))
        return tf.ones([len(positions), 1])

    value = streamed_softmax.log_sum_exp(
        tf.zeros([batch, 1]), read, num_rows, 0.1
    )
    assert seen == chunks
    assert streamed_softmax.rows_per_chunk(batch, device) >= max(chunks)
    np.testing.assert_allclose(value, np.log(num_rows), rtol=1e-6)
