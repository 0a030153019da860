"""Batches of image files."""

import numpy as np

from tf_instdisc.serving.embedder import embed_in_batches


def embedder_of(lengths):
    def embed(contents):
        lengths.append(len(contents))
        return {
            "embedding": np.array([[len(c)] for c in contents], np.float32),
            "valid": np.array([bool(c) for c in contents]),
        }

    return embed


def test_all_files_are_embedded_in_order():
    lengths = []
    rows, valid, texts = embed_in_batches(
        ((bytes(i), str(i)) for i in range(70)), embedder_of(lengths)
    )
    np.testing.assert_array_equal(rows[:, 0], np.arange(70))
    assert texts == [str(i) for i in range(70)]
    assert valid.sum() == 69
    assert lengths == [32, 32, 6]


def test_a_batch_has_at_most_64_mib():
    lengths = []
    sizes = [1, 30, 30, 10, 70, 1, 1, 1, 1, 1]
    megabyte = 2**20
    embed_in_batches(
        ((bytes(n * megabyte), "") for n in sizes), embedder_of(lengths), 4
    )
    assert lengths == [3, 1, 1, 4, 1]
