"""Nearest neighbors and the weighted vote against NumPy loops."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tf_instdisc.retrieval import near_pairs, neighbors, votes


def unit_rows(rng, *shape):
    rows = rng.normal(size=shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def loop_accuracy(rows, row_labels, queries, labels, classes, k, temperature):
    top1 = top5 = 0
    for query, label in zip(queries, labels, strict=True):
        cosines = [float(np.dot(query, row)) for row in rows]
        nearest = sorted(range(len(rows)), key=lambda j: (-cosines[j], j))[:k]
        votes = [0.0] * classes
        for j in nearest:
            votes[row_labels[j]] += math.exp(cosines[j] / temperature)
        ranking = sorted(range(classes), key=lambda c: (-votes[c], c))
        top1 += ranking[0] == label
        voted = {row_labels[j] for j in nearest}
        top5 += label in ranking[:5] and label in voted
    return {"top1": top1 / len(queries), "top5": top5 / len(queries)}


@pytest.mark.parametrize("num_neighbors", [1, 3, 12])
@pytest.mark.parametrize("num_rows", [50, 96, 311])
def test_top_k_equals_exhaustive_search_across_chunks(
    monkeypatch, num_rows, num_neighbors
):
    # Chunks of 64 rows in 16 blocks of 4, then a rest that fills no block.
    monkeypatch.setattr(neighbors, "_BLOCK", 4)
    monkeypatch.setattr(neighbors, "_SIMILARITIES", 64 * 3)
    monkeypatch.setattr(neighbors, "_QUERY_CHUNK", 3)
    rng = np.random.default_rng(0)
    rows, queries = unit_rows(rng, num_rows, 8), unit_rows(rng, 10, 8)
    scores, positions = neighbors.top_k(queries, rows, num_neighbors)
    similarities = queries @ rows.T
    expected = np.argsort(-similarities, axis=1, kind="stable")
    expected = expected[:, :num_neighbors]
    np.testing.assert_array_equal(positions, expected)
    np.testing.assert_allclose(
        scores, np.take_along_axis(similarities, expected, 1), rtol=1e-6
    )


@pytest.mark.parametrize("form", ["array", "tensor", "float16", "strided"])
@pytest.mark.parametrize("num_queries", [1, 3, 4, 5])
def test_few_queries_equal_exhaustive_search(monkeypatch, form, num_queries):
    monkeypatch.setattr(neighbors, "_PART", 100)
    rng = np.random.default_rng(3)
    rows, queries = unit_rows(rng, 1000, 8), unit_rows(rng, num_queries, 8)
    stored = {
        "array": rows,
        "tensor": tf.constant(rows),
        "float16": rows.astype(np.float16),
        "strided": np.concatenate([rows, rows], axis=1)[:, :8],
    }[form]
    if form == "float16":
        rows = stored.astype(np.float32)
    scores, positions = neighbors.top_k(queries, stored, 7)
    similarities = queries @ rows.T
    expected = np.argsort(-similarities, axis=1, kind="stable")[:, :7]
    np.testing.assert_array_equal(positions, expected)
    np.testing.assert_allclose(
        scores, np.take_along_axis(similarities, expected, 1), rtol=1e-5
    )


def test_equal_rows_come_in_their_order_across_chunks(monkeypatch):
    monkeypatch.setattr(neighbors, "_BLOCK", 4)
    monkeypatch.setattr(neighbors, "_SIMILARITIES", 64)
    rows = np.tile(np.float32([[1, 0], [0, 1], [1, 0]]), (50, 1))
    _, positions = neighbors.top_k(rows[:1], rows, 6)
    np.testing.assert_array_equal(positions[0], [0, 2, 3, 5, 6, 8])


def test_more_neighbors_than_rows_gives_all_rows():
    rows = unit_rows(np.random.default_rng(1), 5, 4)
    scores, positions = neighbors.top_k(rows, rows, 200)
    assert scores.shape == positions.shape == (5, 5)
    np.testing.assert_array_equal(positions[:, 0], np.arange(5))


def exact_rows(rng, number, dim):
    """Few directions with exact products, for ties of cosines and of votes."""
    return np.eye(dim, dtype=np.float32)[rng.integers(0, dim, number)]


@pytest.mark.parametrize("make_rows", [unit_rows, exact_rows])
@pytest.mark.parametrize("temperature", [0.01, 0.07, 0.5, 1.0])
@pytest.mark.parametrize("k", [1, 7, 20, 500])
def test_accuracy_equals_loops(monkeypatch, make_rows, temperature, k):
    monkeypatch.setattr(votes, "_VOTING_CHUNK", 16)
    rng = np.random.default_rng(2)
    rows, queries = make_rows(rng, 60, 6), make_rows(rng, 40, 6)
    row_labels, labels = rng.integers(0, 8, 60), rng.integers(0, 8, 40)
    found = votes.knn_accuracy(
        rows, row_labels, queries, labels, 8, [k], temperature
    )
    expected = loop_accuracy(
        rows, row_labels, queries, labels, 8, k, temperature
    )
    assert found[k] == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("temperature", [1e-3, 0.07])
def test_top5_counts_no_class_without_a_vote(k, temperature):
    rng = np.random.default_rng(k)
    rows, queries = rng.normal(size=(2, 40, 4)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    row_labels, labels = rng.integers(0, 7, (2, 40))
    found = votes.knn_accuracy(
        rows, row_labels, queries, labels, 7, [k], temperature
    )[k]
    nearest = np.argsort(-(queries @ rows.T), axis=1)[:, :k]
    if k == 1:
        assert found["top5"] == found["top1"]
    if k <= 5:  # At most five classes have votes.
        among = (row_labels[nearest] == labels[:, None]).any(axis=1)
        assert found["top5"] == pytest.approx(among.mean())


def test_tied_votes_go_to_the_lower_label():
    rows = np.float32([[1, 0], [1, 0]])
    found = votes.knn_accuracy(
        rows, np.array([1, 0]), rows[:1], np.array([0]), 2, [2], 0.1
    )
    assert found[2]["top1"] == 1.0


def test_rows_and_queries_without_label_are_left_out():
    rows = np.float32([[1, 0], [1, 0], [0, 1]])
    found = votes.knn_accuracy(
        rows,
        np.array([-1, 1, 0]),
        np.float32([[1, 0], [0, 1]]),
        np.array([1, -1]),
        2,
        [1],
        0.1,
    )
    assert found[1]["top1"] == 1.0


@pytest.mark.parametrize(
    ("row_labels", "classes", "message"),
    [([-1, -1], 2, "0 labeled rows"), ([0, 5], 2, "highest label 5")],
)
def test_labels_that_do_not_fit_are_refused(row_labels, classes, message):
    rows = np.float32([[1, 0], [0, 1]])
    with pytest.raises(ValueError, match=message):
        votes.knn_accuracy(
            rows, np.array(row_labels), rows, np.array([0, 1]), classes
        )


def test_top_k_refuses_wrong_arguments():
    rows = np.zeros([3, 2], np.float32)
    with pytest.raises(ValueError, match="Received: num_neighbors=0"):
        neighbors.top_k(rows, rows, 0)
    with pytest.raises(ValueError, match=r"queries.shape=\(3, 3\)"):
        neighbors.top_k(np.zeros([3, 3], np.float32), rows, 1)


@pytest.mark.parametrize("is_allowed", [True, False])
def test_products_are_not_rounded_to_tf32(monkeypatch, is_allowed):
    setting = tf.config.experimental
    before = setting.tensor_float_32_execution_enabled()
    seen = []
    matmul = tf.matmul

    def spy(*arguments, **options):
        seen.append(setting.tensor_float_32_execution_enabled())
        return matmul(*arguments, **options)

    monkeypatch.setattr(tf, "matmul", spy)
    rows = np.random.default_rng(0).normal(size=[1200, 8]).astype(np.float32)
    try:
        setting.enable_tensor_float_32_execution(is_allowed)
        neighbors.top_k(rows, rows, 3)
        near_pairs.pairs_within(rows, np.ones(len(rows)))
        with neighbors.full_precision():
            with neighbors.full_precision():
                pass
            seen.append(setting.tensor_float_32_execution_enabled())
        assert setting.tensor_float_32_execution_enabled() == is_allowed
    finally:
        setting.enable_tensor_float_32_execution(before)
    assert len(seen) > 3
    assert not any(seen)


def test_rows_are_copied_to_a_gpu_once(monkeypatch):
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=[300, 8]), rng.integers(0, 3, 300)
    expected = votes.knn_accuracy(rows, labels, rows[:99], labels[:99], 3, 9)
    seen = []
    monkeypatch.setattr(votes, "gpus", lambda: ["/GPU:0"])
    monkeypatch.setattr(votes, "_VOTING_CHUNK", 40)
    monkeypatch.setattr(
        votes,
        "top_k",
        lambda queries, rows, k: (
            seen.append(rows) or neighbors.top_k(queries, rows, k)
        ),
    )
    found = votes.knn_accuracy(rows, labels, rows[:99], labels[:99], 3, 9)
    assert found == expected
    assert isinstance(seen[0], tf.Tensor)
    assert seen[0] is seen[1] is seen[2]
