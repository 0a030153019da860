"""Batches whose size follows from measured times."""

import threading
import time

import numpy as np
import pytest

from tf_instdisc.serving.embed_batches import BatchedEmbedder, BatchSize


def settled(seconds_of):
    """The size after 40 calls, and those on the way."""
    size, seen = BatchSize(), []
    for _ in range(40):
        seen.append(size.value)
        size.record(size.value, seconds_of(size.value))
    return size.value, sorted(set(seen))


@pytest.mark.parametrize(
    ("seconds_of", "expected", "tried"),
    [
        (lambda n: 1 + 0.01 * n, 256, [8, 16, 32, 64, 128, 256]),
        (lambda n: 0.01 * n, 8, [8, 16]),
        (lambda n: 0.1 + 0.01 * n, 128, [8, 16, 32, 64, 128, 256]),
        (lambda n: 0.1 + 0.01 * n + (n > 32), 32, [8, 16, 32, 64]),
        (lambda n: 2 + 0.01 * n, 64, [8, 16, 32, 64]),
    ],
    ids=["overhead", "none", "little_overhead", "full_cache", "long_calls"],
)
def test_batches_grow_while_images_get_faster(seconds_of, expected, tried):
    assert settled(seconds_of) == (expected, tried)


def test_the_first_call_of_a_size_and_other_numbers_do_not_count():
    size = BatchSize()
    for number, seconds in [(8, 100), (5, 0.001), (8, 1), (8, 1.2)]:
        assert size.value == 8
        size.record(number, seconds)
    assert size.value == 16
    for seconds in (100, 1, 100):
        size.record(16, seconds)
    assert size.value == 32


def test_a_given_size_is_kept():
    size = BatchSize(5)
    for _ in range(10):
        size.record(5, 1)
    assert size.value == 5


def test_threads_may_share_a_size(monkeypatch):
    size, errors = BatchSize(), []

    def pause(frame, event, argument):  # At each line, to switch threads.
        time.sleep(1e-5)
        return pause

    def work():
        for _ in range(40):
            size.record(size.value, 0.1 + 0.01 * size.value)

    monkeypatch.setattr(threading, "excepthook", errors.append)
    threading.settrace(pause)
    try:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
    finally:
        threading.settrace(None)
    for thread in threads:
        thread.join()
    assert (errors, size.value) == ([], 128)


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
    embed = BatchedEmbedder(embedder_of(lengths))
    rows, valid, texts = embed((bytes(i), str(i)) for i in range(700))
    np.testing.assert_array_equal(rows[:, 0], np.arange(700))
    assert texts == [str(i) for i in range(700)]
    assert valid.sum() == 699
    assert lengths[0] == 8
    assert sum(lengths) == 700


def test_a_batch_has_at_most_64_mib():
    lengths = []
    embed = BatchedEmbedder(embedder_of(lengths), 4)
    sizes = [1, 30, 30, 10, 70, 1, 1, 1, 1, 1]
    megabyte = 2**20
    embed((bytes(n * megabyte), "") for n in sizes)
    assert lengths == [3, 1, 1, 4, 1]
