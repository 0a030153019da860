"""The bank inside the model, compared with NumPy.

INSTDISC_BANKS lists `bank.npz` files of trained runs, separated by colons;
the fraction of their neighbors that int8 keeps is measured.
"""

import os

import numpy as np
import pytest
import tensorflow as tf

from tf_instdisc.retrieval import neighbors, votes
from tf_instdisc.runs.bank import Bank, quantize
from tf_instdisc.serving import bank_index
from tf_instdisc.serving.bank_index import BankIndex


def _unit(shape, seed=0):
    rows = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _bank(rows, labels=None, class_names=("a", "b")):
    size = len(rows)
    labels = np.arange(size) % 2 if labels is None else np.asarray(labels)
    return Bank(
        rows=rows,
        instance_ids=np.arange(size) * 10,
        names=np.array([f"é{i}.png" for i in range(size)]),
        labels=labels,
        class_names=class_names,
    )


def test_rows_are_searched_in_parts(monkeypatch):
    monkeypatch.setattr(bank_index, "_PIECE", 64)
    rows, queries = _unit([300, 16]), _unit([9, 16], seed=1)
    scores, positions = BankIndex(_bank(rows)).search(tf.constant(queries), 70)
    similarities = queries @ rows.T
    expected = np.argsort(-similarities, axis=1, kind="stable")[:, :70]
    np.testing.assert_array_equal(positions, expected)
    np.testing.assert_allclose(
        scores, np.take_along_axis(similarities, expected, 1), atol=1e-6
    )


# All cosines are kept, or those of the best blocks are recomputed; the last
# case also has an incomplete block.
@pytest.mark.parametrize(("few", "size"), [(100, 576), (1, 576), (1, 550)])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_blocks_that_are_ruled_out_hold_no_neighbor(
    monkeypatch, dtype, few, size
):
    # Each row occurs twice, and the first one wins.
    monkeypatch.setattr(bank_index, "_FEW", few)
    monkeypatch.setattr(bank_index, "_PIECE", 64)
    rows, queries = np.tile(_unit([size, 16]), (2, 1)), _unit([9, 16], seed=1)
    index = BankIndex(_bank(rows), dtype)
    scores, positions = index.search(tf.constant(queries), 3)
    levels, scales = quantize(rows, dtype)
    kept = levels.astype(np.float32)
    kept = kept if scales is None else kept * scales[:, None]
    similarities = (queries @ kept[:size].T).round(6)
    best = np.argsort(-similarities, axis=1, kind="stable")
    expected = np.stack([best[:, 0], best[:, 0] + size, best[:, 1]], axis=1)
    np.testing.assert_array_equal(positions, expected)
    np.testing.assert_allclose(
        scores,
        np.take_along_axis(similarities, expected % size, 1),
        atol=1e-5,
    )


def test_rows_without_a_label_do_not_vote():
    rows = _unit([6, 8])
    index = BankIndex(_bank(rows, labels=[-1, 0, -1, 1, 1, -1]))
    assert (index.num_rows, index.num_labeled) == (6, 3)
    scores, positions = index.search(tf.constant(rows[:1]), 5, labeled=True)
    assert positions.shape == (1, 3)
    ids = tf.gather(index.instance_ids, positions).numpy()
    assert sorted(ids[0]) == [10, 30, 40]
    shares = votes.weighted_votes(
        scores.numpy(), tf.gather(index.labels, positions).numpy(), 2, 0.07
    )
    np.testing.assert_allclose(
        index.vote(scores, positions, 0.07), shares / shares.sum(), atol=1e-6
    )
    _, everywhere = index.search(tf.constant(rows[:1]), 5)
    assert tf.gather(index.instance_ids, everywhere)[0, 0] == 0
    name = tf.gather(index.names, everywhere)[0, 0].numpy().decode()
    assert name == "é0.png"


@pytest.mark.parametrize(
    ("dtype", "share"), [("float32", 1), ("float16", 0.5), ("int8", 0.26)]
)
def test_a_bank_takes_the_bytes_of_its_type(dtype, share):
    rows = _unit([1000, 128])
    index = BankIndex(_bank(rows), dtype)
    num_bytes = index.rows.numpy().nbytes
    if index.scales is not None:
        num_bytes += index.scales.numpy().nbytes
    assert num_bytes <= share * rows.nbytes
    scores, positions = index.search(tf.constant(rows[:50]), 1)
    assert positions.numpy()[:, 0].tolist() == list(range(50))
    np.testing.assert_allclose(scores, 1, atol=1e-3)


def test_int8_of_a_row_of_zeros_is_zeros():
    levels, scales = quantize(np.zeros([1, 4], np.float32), "int8")
    assert not levels.any()
    assert np.isfinite(scales).all()


def test_a_bank_without_rows_is_refused():
    with pytest.raises(ValueError, match="0 rows"):
        BankIndex(_bank(np.zeros([0, 4], np.float32)))


def _recall_at_10(rows, queries):
    levels, scales = quantize(rows, "int8")
    _, exact = neighbors.top_k(queries, rows, 10)
    _, found = neighbors.top_k(queries, levels * scales[:, None], 10)
    hits = [len(set(a) & set(b)) for a, b in zip(exact, found, strict=True)]
    return np.mean(hits) / 10


def test_int8_keeps_the_neighbors_of_trained_banks():
    paths = os.environ.get("INSTDISC_BANKS")
    if not paths:
        pytest.skip("INSTDISC_BANKS names no bank.npz of a trained run")
    for path in paths.split(":"):
        with np.load(path) as bank:
            rows = bank["rows"]
        recall = _recall_at_10(rows, rows[:2000])
        print(f"{path}: {rows.shape}, recall@10 of int8 {recall:.4f}")
        assert recall >= 0.99
